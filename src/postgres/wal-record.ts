/**
 * The records of a stream of WAL, cut out of its pages and proved by their CRC; what is in them is for others.
 * @see PostgreSQL `src/include/access/xlogrecord.h`, `src/backend/access/transam/xlogreader.c`
 */
import { ByteReader, type Bytes } from '../bytes.ts';
import type { Lsn } from './lsn.ts';
import { longPageHeaderBytes, parseLongPageHeader } from './wal-page.ts';
import { WalScanner } from './wal-scanner.ts';

/** `XLOG_BLCKSZ` as everyone has it: where no segment's first page tells another. */
const usualPageSizeBytes = 8192;

export interface WalRecord {
  /** Where it begins: never inside a page's header. */
  readonly lsn: Lsn;
  /** Where it ends, padding included, as PostgreSQL counts it: the edge of a page where the next one begins behind that page's header. */
  readonly endLsn: Lsn;
  /** 0 where it belongs to no transaction. */
  readonly xid: number;
  /** The number of the resource manager that wrote it. */
  readonly resourceManager: number;
  /** `xl_info` without the four bits that are the same for every resource manager. */
  readonly info: number;
  /** The magic of the page it begins on, which tells PostgreSQL's major version. */
  readonly magic: number;
  /** Its length in `xl_tot_len`, header included. */
  readonly sizeBytes: number;
  /** What stands behind its header; of a record above 1 MiB only the beginning. */
  readonly body: Buffer;
}

/** How the WAL ended in these bytes. */
export interface WalEnd {
  /** Where the next record would begin, or the record that is not whole. */
  readonly endLsn: Lsn;
  /** `no more records`: zeros, or a page or record that does not belong, such as the old content of a recycled segment. */
  readonly reason: 'end of bytes' | 'no more records';
}

export interface WalOptions {
  /** Of the first byte, a multiple of the page size. A record that continues there from the page before is passed over. */
  readonly startLsn: Lsn;
  readonly segmentSizeBytes: number;
  /** The timeline that is read: pages of later ones do not belong. Those of earlier ones do, for they are its history. */
  readonly timeline?: number;
}

/** What to make of a record of this kind; undefined for records that are only to be proved, which is quicker. */
export type ReaderOf<T> = (resourceManager: number, info: number) => ((record: WalRecord) => T | undefined) | undefined;

/** All whole records in `bytes`, in their order. The source is not asked for more once the WAL has ended. */
export function readWalRecords(bytes: Bytes, options: WalOptions): AsyncGenerator<WalRecord, WalEnd> {
  return scanWal(bytes, options, () => (record) => record);
}

/** What `readerOf` makes of the records in `bytes`, in their order. The source is not asked for more once the WAL has ended. */
export async function* scanWal<T>(bytes: Bytes, options: WalOptions, readerOf: ReaderOf<T>): AsyncGenerator<T, WalEnd> {
  const reader = new ByteReader(bytes);
  try {
    const first = parseLongPageHeader(await reader.peek(longPageHeaderBytes));
    const pageSizeBytes = first?.pageSizeBytes ?? usualPageSizeBytes;
    const scanner = new WalScanner(options, pageSizeBytes, readerOf);
    for (;;) {
      const page = await reader.readUpTo(pageSizeBytes);
      const end = scanner.readPage(page);
      yield* scanner.take();
      if (end !== undefined) return end;
    }
  } finally {
    await reader.close();
  }
}
