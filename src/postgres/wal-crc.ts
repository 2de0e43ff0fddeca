/**
 * The CRC-32C of WAL records. Most are short, and a call of the library costs more than a hundred bytes do:
 * those are summed here, four bytes at a time, which makes reading WAL several times quicker. The long ones are left to the library.
 */
import { crc32c } from '@node-rs/crc32';

/** Where the library is as quick. */
const shortBytes = 512;

/** Castagnoli's, its bits reversed. */
const polynomial = 0x82f63b78;

/** `table[n][byte]`: the CRC of the byte and `n` zeros. */
const [table0, table1, table2, table3] = makeTables();

/** CRC-32C of `bytes[from…end)`, going on from the CRC of what stands before. */
export function crcOf(bytes: Buffer, from: number, end: number, before = 0): number {
  if (end - from > shortBytes) return crc32c(bytes.subarray(from, end), before);
  let crc = ~before;
  let at = from;
  for (; at + 4 <= end; at += 4) {
    crc ^=
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24);
    crc =
      (table3[crc & 0xff] as number) ^
      (table2[(crc >>> 8) & 0xff] as number) ^
      (table1[(crc >>> 16) & 0xff] as number) ^
      (table0[crc >>> 24] as number);
  }
  for (; at < end; at += 1) crc = (crc >>> 8) ^ (table0[(crc ^ (bytes[at] as number)) & 0xff] as number);
  return ~crc >>> 0;
}

function makeTables(): readonly [Int32Array, Int32Array, Int32Array, Int32Array] {
  const first = new Int32Array(256).map((_zero, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : polynomial);
    return crc;
  });
  const shift = (table: Int32Array) => table.map((crc) => (crc >>> 8) ^ (first[crc & 0xff] as number));
  const second = shift(first);
  const third = shift(second);
  return [first, second, third, shift(third)];
}
