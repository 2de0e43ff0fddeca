/**
 * The seek table that ends a streamed object: where each of its zstd frames lies, how long its content is, and its checksum. Both directions.
 * @see https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md
 */
import { CorruptError } from '../errors.ts';

/** A skippable frame: magic 4, length 4, entries, footer. */
const tableMagic = 0x184d2a5e;
const prefixBytes = 8;
/** Stored length 4, raw length 4, checksum 4: the low half of XXH64 of the content. */
const entryBytes = 12;
/** Number of frames 4, descriptor 1, magic 4. */
const footerBytes = 9;
const footerMagic = 0x8f92eab1;
const withChecksums = 0x80;
/** What XXH64 gives for no bytes: the header's frame has no content. */
const emptyChecksum = 0x51d8e999;

export interface SeekEntry {
  readonly storedBytes: number;
  readonly rawBytes: number;
  readonly checksum: number;
}

/** The entry of the frame that holds the header: it is skipped when the object is decompressed. */
export function headerEntry(storedBytes: number): SeekEntry {
  return { storedBytes, rawBytes: 0, checksum: emptyChecksum };
}

/** The length of the table of so many frames, the header's included. */
export function seekTableSize(frames: number): number {
  return prefixBytes + frames * entryBytes + footerBytes;
}

export function encodeSeekTable(entries: readonly SeekEntry[]): Buffer {
  const table = Buffer.alloc(seekTableSize(entries.length));
  table.writeUInt32LE(tableMagic, 0);
  table.writeUInt32LE(table.length - prefixBytes, 4);
  let offset = prefixBytes;
  for (const { storedBytes, rawBytes, checksum } of entries) {
    table.writeUInt32LE(storedBytes, offset);
    table.writeUInt32LE(rawBytes, offset + 4);
    table.writeUInt32LE(checksum, offset + 8);
    offset += entryBytes;
  }
  table.writeUInt32LE(entries.length, offset);
  table.writeUInt8(withChecksums, offset + 4);
  table.writeUInt32LE(footerMagic, offset + 5);
  return table;
}

/** @throws CorruptError when the bytes are not exactly one table with checksums. */
export function decodeSeekTable(table: Buffer): readonly SeekEntry[] {
  const frames = (table.length - seekTableSize(0)) / entryBytes;
  const sound =
    Number.isInteger(frames) &&
    frames >= 0 &&
    table.readUInt32LE(0) === tableMagic &&
    table.readUInt32LE(4) === table.length - prefixBytes &&
    table.readUInt32LE(table.length - footerBytes) === frames &&
    table.readUInt8(table.length - 5) === withChecksums &&
    table.readUInt32LE(table.length - 4) === footerMagic;
  if (!sound) throw new CorruptError('the seek table is damaged');
  return Array.from({ length: frames }, (_, index) => {
    const offset = prefixBytes + index * entryBytes;
    return {
      storedBytes: table.readUInt32LE(offset),
      rawBytes: table.readUInt32LE(offset + 4),
      checksum: table.readUInt32LE(offset + 8),
    };
  });
}

/** Does a frame that begins with these four bytes hold a seek table? */
export function isSeekTable(magic: Buffer): boolean {
  return magic.readUInt32LE(0) === tableMagic;
}
