/** The CRC of WAL records is the library's, for every length, place and beginning. */
import { crc32c } from '@node-rs/crc32';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { crcOf } from '../../src/postgres/wal-crc.ts';

it('is CRC-32C of any part, in one or in two steps', () => {
  expect(crcOf(Buffer.from('123456789'), 0, 9)).toBe(0xe3069283); // the check value of RFC 3720's polynomial
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1200 }), fc.nat(1200), fc.nat(1200), (bytes, a, b) => {
      const buffer = Buffer.from(bytes);
      const [from = 0, end = 0] = [a, b].map((at) => Math.min(at, buffer.length)).sort((x, y) => x - y);
      const before = crc32c(buffer.subarray(0, from));
      expect(crcOf(buffer, from, end)).toBe(crc32c(buffer.subarray(from, end)));
      expect(crcOf(buffer, from, end, before)).toBe(crc32c(buffer.subarray(0, end)));
    }),
  );
});
