/** The headers of WAL pages: the long one that opens a segment, the short one of the others. @see PostgreSQL `src/include/access/xlog_internal.h` */
import type { Lsn } from './lsn.ts';
import { isSegmentSize } from './wal-file-name.ts';

/**
 * Little-endian, as on every platform that WAL-T runs on:
 * magic 2, info 2, timeline 4, page address 8, remaining length 4, padding 4, system identifier 8, segment size 4, block size 4.
 */
export const longPageHeaderBytes = 40;

/** The first members of the long one, and all that the other pages of a segment have. */
export const shortPageHeaderBytes = 24;

/** `XLP_FIRST_IS_CONTRECORD` and `XLP_LONG_HEADER` in `info`. */
const continuationFlag = 0x0001;
const longHeaderFlag = 0x0002;

export interface LongPageHeader {
  readonly magic: number;
  readonly timeline: number;
  readonly pageAddress: Lsn;
  readonly systemIdentifier: string;
  readonly segmentSizeBytes: number;
  /** `XLOG_BLCKSZ` */
  readonly pageSizeBytes: number;
}

/**
 * The header at the beginning of `page`; undefined when no segment begins like this.
 * The magic is not compared with a list: a new major version's is unknown today, and refusing it would stop archiving.
 */
export function parseLongPageHeader(page: Uint8Array): LongPageHeader | undefined {
  if (page.length < longPageHeaderBytes) return undefined;
  const view = new DataView(page.buffer, page.byteOffset, longPageHeaderBytes);
  const magic = view.getUint16(0, true);
  const timeline = view.getUint32(4, true);
  const pageAddress = view.getBigUint64(8, true);
  const segmentSizeBytes = view.getUint32(32, true);
  const pageSizeBytes = view.getUint32(36, true);
  const sound =
    magic >> 12 === 0xd && // every magic since PostgreSQL 7.1
    (view.getUint16(2, true) & longHeaderFlag) !== 0 &&
    timeline > 0 &&
    isSegmentSize(segmentSizeBytes) &&
    pageAddress % BigInt(segmentSizeBytes) === 0n &&
    pageSizeBytes >= 1024 &&
    pageSizeBytes <= 65536 &&
    Number.isInteger(Math.log2(pageSizeBytes));
  if (!sound) return undefined;
  const systemIdentifier = view.getBigUint64(24, true).toString();
  return { magic, timeline, pageAddress, systemIdentifier, segmentSizeBytes, pageSizeBytes };
}

export interface PageHeader {
  readonly magic: number;
  readonly timeline: number;
  readonly pageAddress: Lsn;
  /** Of the record that continues on this page from the one before: what is still missing of it; 0 when a record begins here. */
  readonly remainingBytes: number;
  /** Where the page's content begins. */
  readonly sizeBytes: number;
}

/** The header at the beginning of any page; undefined when no page begins like this, as where nothing was written yet. */
export function parsePageHeader(page: Buffer): PageHeader | undefined {
  if (page.length < shortPageHeaderBytes) return undefined;
  const magic = page.readUInt16LE(0);
  const info = page.readUInt16LE(2);
  const isLong = (info & longHeaderFlag) !== 0;
  const isContinued = (info & continuationFlag) !== 0;
  const remainingBytes = page.readUInt32LE(16);
  const timeline = page.readUInt32LE(4);
  const sound = magic >> 12 === 0xd && info < 0x0010 && timeline > 0 && isContinued === remainingBytes > 0;
  if (!sound) return undefined;
  const sizeBytes = isLong ? longPageHeaderBytes : shortPageHeaderBytes;
  return { magic, timeline, pageAddress: page.readBigUInt64LE(8), remainingBytes, sizeBytes };
}
