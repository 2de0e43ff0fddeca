/**
 * The work of `wal-record.ts`, page for page: what continues from the page before, what begins on this one, and whether it belongs there.
 * @see PostgreSQL `src/include/access/xlogrecord.h`, `src/backend/access/transam/xlogreader.c`
 */
import type { Lsn } from './lsn.ts';
import { crcOf } from './wal-crc.ts';
import { longPageHeaderBytes, type PageHeader, parseLongPageHeader, parsePageHeader } from './wal-page.ts';
import type { ReaderOf, WalEnd, WalOptions, WalRecord } from './wal-record.ts';

/**
 * Little-endian: total length 4, transaction 4, begin of the record before 8, info 1, resource manager 1, padding 2, CRC 4.
 * The CRC is of all that stands behind it, then of all that stands before it.
 */
const recordHeaderBytes = 24;
const crcOffset = 20;

/** `MaxAllocSize`: PostgreSQL writes no longer ones. */
const maxRecordBytes = 2 ** 30;

/** Of a record that does not lie in one page; what is behind is proved, but not held. */
const heldBytes = 1024 * 1024;

/** A record that goes on on the next page; its bytes until now are in the scanner's buffer, as far as they are held. */
interface OpenRecord {
  readonly magic: number;
  readonly sizeBytes: number;
  gotBytes: number;
  /** Of the body as far as it was read, once more was read than is held. */
  crc?: number;
}

/** Pages in, records out. Places are counted as numbers from `startLsn`, which is much quicker than LSNs. */
export class WalScanner<T> {
  readonly #options: WalOptions;
  readonly #pageSizeBytes: number;
  readonly #readerOf: ReaderOf<T>;
  readonly #startLow: number;
  readonly #startHigh: number;
  readonly #segmentOffset: number;
  readonly #held = Buffer.allocUnsafe(heldBytes);
  #found: T[] = [];
  /** Of the page that is read. */
  #pageOffset = 0;
  #lastPage: Pick<PageHeader, 'magic' | 'timeline'> | undefined;
  #systemIdentifier: string | undefined;
  /** Where the next record begins, or the open one. */
  #next = 0;
  /** Of the last whole record: the next one names it. */
  #previous: number | undefined;
  #open: OpenRecord | undefined;
  /** What is still to come of the open record, or of one that began before `startLsn`. */
  #missing = 0;
  /** Where the record begins whose continuation a crash has lost, until the record that says so has come. */
  #lost: number | undefined;

  constructor(options: WalOptions, pageSizeBytes: number, readerOf: ReaderOf<T>) {
    this.#options = options;
    this.#pageSizeBytes = pageSizeBytes;
    this.#readerOf = readerOf;
    this.#startLow = Number(options.startLsn & 0xffff_ffffn);
    this.#startHigh = Number(options.startLsn >> 32n);
    this.#segmentOffset = Number(options.startLsn % BigInt(options.segmentSizeBytes));
  }

  /** What was made of the records until now, once. */
  take(): readonly T[] {
    const found = this.#found;
    if (found.length > 0) this.#found = [];
    return found;
  }

  /** The next page: the bytes are not written to afterwards. A shorter one is the last, and may be empty. @returns the end, once it is there. */
  readPage(page: Buffer): WalEnd | undefined {
    const isLast = page.length < this.#pageSizeBytes;
    const goesOn = (isLast && page.length < longPageHeaderBytes) || this.#readContent(page);
    this.#pageOffset += this.#pageSizeBytes;
    if (goesOn && !isLast) return undefined;
    return { endLsn: this.#lsn(this.#lost ?? this.#next), reason: goesOn ? 'end of bytes' : 'no more records' };
  }

  #readContent(page: Buffer): boolean {
    if (this.#next >= this.#pageOffset + this.#pageSizeBytes) return true; // the rest of a segment behind a switch
    const header = this.#headerOf(page);
    if (header === undefined || !this.#continue(page, header)) return false;
    return this.#missing > 0 || this.#readRecords(page, header.magic);
  }

  /** The page's header; undefined when the page does not belong here. */
  #headerOf(page: Buffer): PageHeader | undefined {
    const header = parsePageHeader(page);
    if (header === undefined || header.pageAddress !== this.#lsn(this.#pageOffset)) return undefined;
    const last = this.#lastPage ?? header;
    if (header.magic !== last.magic || header.timeline < last.timeline) return undefined;
    if (header.timeline > (this.#options.timeline ?? header.timeline)) return undefined;
    const beginsSegment = (this.#segmentOffset + this.#pageOffset) % this.#options.segmentSizeBytes === 0;
    if (beginsSegment && !this.#beginsSegment(page)) return undefined;
    this.#lastPage = header;
    return header;
  }

  #beginsSegment(page: Buffer): boolean {
    const header = parseLongPageHeader(page);
    if (header === undefined) return false;
    const { systemIdentifier, segmentSizeBytes, pageSizeBytes } = header;
    this.#systemIdentifier ??= systemIdentifier;
    return (
      systemIdentifier === this.#systemIdentifier &&
      segmentSizeBytes === this.#options.segmentSizeBytes &&
      pageSizeBytes === this.#pageSizeBytes
    );
  }

  /** Takes what continues from the page before. @returns false when it does not belong. */
  #continue(page: Buffer, { remainingBytes, sizeBytes }: PageHeader): boolean {
    if (this.#pageOffset === 0) this.#missing = remainingBytes;
    if (remainingBytes === 0 && this.#missing > 0) this.#giveUp();
    if (this.#missing !== remainingBytes) return false;
    const piece = page.subarray(sizeBytes, sizeBytes + remainingBytes);
    this.#missing -= piece.length;
    const end = this.#pageOffset + aligned(sizeBytes + piece.length);
    if (this.#open === undefined) {
      this.#next = end;
      return true;
    }
    this.#hold(this.#open, piece);
    return this.#missing > 0 || this.#close(this.#open, end);
  }

  /** A crash has lost the open record's continuation: the record that comes now has to say so. */
  #giveUp(): void {
    if (this.#open !== undefined) this.#lost = this.#next;
    this.#open = undefined;
    this.#missing = 0;
  }

  /** The records that begin on the page, from `#next` on. @returns false when something else stands there. */
  #readRecords(page: Buffer, magic: number): boolean {
    for (;;) {
      const at = this.#next - this.#pageOffset;
      const availableBytes = page.length - at;
      if (availableBytes < 8) return true;
      const sizeBytes = page.readUInt32LE(at);
      if (sizeBytes < recordHeaderBytes || sizeBytes > maxRecordBytes) return false;
      if (sizeBytes > availableBytes && page.length < this.#pageSizeBytes) return true;
      const bytes = page.subarray(at, at + sizeBytes);
      if (bytes.length >= recordHeaderBytes && !this.#fits(bytes)) return false;
      if (sizeBytes > availableBytes) {
        this.#begin(bytes, sizeBytes, magic);
        return true;
      }
      if (!isProved(bytes)) return false;
      this.#accept(bytes, { magic, sizeBytes }, this.#next + aligned(sizeBytes));
    }
  }

  /** Does this record's header name the one before, and, while one is lost, is it the record that says so? */
  #fits(record: Buffer): boolean {
    if (this.#lost !== undefined && !this.#isOverwrite(record, this.#lost)) return false;
    if (this.#previous !== undefined) return this.#isLsn(record, 8, this.#previous);
    return record.readBigUInt64LE(8) < this.#lsn(this.#next);
  }

  /** `xl_overwrite_contrecord` begins with the LSN of the record that is lost; two bytes before it say how long it is. */
  #isOverwrite(record: Buffer, lost: number): boolean {
    const { resourceManager, info } = kindOf(record);
    if (resourceManager !== 0 || info !== 0xd0 || record.length < recordHeaderBytes + 10) return false;
    return this.#isLsn(record, recordHeaderBytes + 2, lost);
  }

  #begin(bytes: Buffer, sizeBytes: number, magic: number): void {
    this.#open = { magic, sizeBytes, gotBytes: 0 };
    this.#missing = sizeBytes - bytes.length;
    this.#hold(this.#open, bytes);
  }

  #hold(open: OpenRecord, piece: Buffer): void {
    const copied = open.gotBytes < heldBytes ? piece.copy(this.#held, open.gotBytes) : 0;
    open.gotBytes += piece.length;
    if (copied < piece.length) {
      const before = open.crc ?? crcOf(this.#held, recordHeaderBytes, heldBytes);
      open.crc = crcOf(piece, copied, piece.length, before);
    }
  }

  /** @returns false when the record that is whole now is none. */
  #close(open: OpenRecord, end: number): boolean {
    const held = this.#held.subarray(0, Math.min(open.sizeBytes, heldBytes));
    if (!isProved(held, open.crc) || !this.#fits(held)) return false;
    this.#open = undefined;
    this.#accept(held, open, end);
    return true;
  }

  #accept(bytes: Buffer, { magic, sizeBytes }: Pick<OpenRecord, 'magic' | 'sizeBytes'>, end: number): void {
    const { resourceManager, info } = kindOf(bytes);
    const isSwitch = resourceManager === 0 && info === 0x40;
    const offset = this.#next;
    this.#next = isSwitch ? this.#segmentEnd(end) : end;
    this.#previous = offset;
    this.#lost = undefined;
    const read = this.#readerOf(resourceManager, info);
    if (read === undefined) return;
    const lsn = this.#lsn(offset);
    const endLsn = this.#lsn(this.#next);
    const xid = bytes.readUInt32LE(4);
    const rest = bytes.subarray(recordHeaderBytes);
    const body = bytes.buffer === this.#held.buffer ? Buffer.from(rest) : rest;
    const found = read({ lsn, endLsn, xid, resourceManager, info, magic, sizeBytes, body });
    if (found !== undefined) this.#found.push(found);
  }

  #segmentEnd(offset: number): number {
    const { segmentSizeBytes } = this.#options;
    return Math.ceil((this.#segmentOffset + offset) / segmentSizeBytes) * segmentSizeBytes - this.#segmentOffset;
  }

  #lsn(offset: number): Lsn {
    return this.#options.startLsn + BigInt(offset);
  }

  /** Does the LSN of `offset` stand at `at`? */
  #isLsn(record: Buffer, at: number, offset: number): boolean {
    const low = this.#startLow + offset;
    const carry = Math.floor(low / 2 ** 32);
    return record.readUInt32LE(at) === low % 2 ** 32 && record.readUInt32LE(at + 4) === this.#startHigh + carry;
  }
}

/** Records begin at multiples of eight bytes. */
function aligned(offset: number): number {
  return Math.ceil(offset / 8) * 8;
}

function kindOf(record: Buffer): Pick<WalRecord, 'resourceManager' | 'info'> {
  return { resourceManager: record.readUInt8(17), info: record.readUInt8(16) & 0xf0 };
}

/** Is the CRC that stands in the record's header right? */
function isProved(record: Buffer, bodyCrc = crcOf(record, recordHeaderBytes, record.length)): boolean {
  return crcOf(record, 0, crcOffset, bodyCrc) === record.readUInt32LE(crcOffset);
}
