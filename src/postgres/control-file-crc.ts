/** The CRC of `global/pg_control`: was it read while PostgreSQL wrote it? In a file of its own, for `wal-push` does without its library. */
import { crc32c } from '@node-rs/crc32';
import { type ControlFile, controlFileBytes } from './control-file.ts';

/** Where `crc` stands, by `PG_CONTROL_VERSION`: behind all else that is in the file. PostgreSQL 18 put one more member before it. */
const crcOffsets: ReadonlyMap<number, number> = new Map([
  [1300, 288],
  [1700, 288],
  [1800, 292],
]);

/**
 * Is the file's CRC-32C (little-endian, of all bytes before it) right? Torn reads happen: read again, and again, before you believe in damage.
 * False also where the version is none of PostgreSQL 13 to 18, whose place of it is not known.
 */
export function isWhole(file: Uint8Array, { controlVersion }: Pick<ControlFile, 'controlVersion'>): boolean {
  const offset = crcOffsets.get(controlVersion);
  if (offset === undefined || file.length !== controlFileBytes) return false;
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length);
  return crc32c(bytes.subarray(0, offset)) === bytes.readUInt32LE(offset);
}
