/** The header of a segment's first page: what it says, and that nothing else is taken for one. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { longPageHeaderBytes, parseLongPageHeader } from '../../src/postgres/wal-page.ts';
import { makeSegment } from '../support/segment.ts';

const name = '000000030000000A00000007';
const sound = makeSegment(name).subarray(0, longPageHeaderBytes);

it('reads timeline, address, system identifier and segment size, for every size and identifier', () => {
  const anyIdentifier = fc.bigInt({ min: 1n, max: 2n ** 64n - 1n });
  const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  fc.assert(
    fc.property(anyIdentifier, anyLsn, fc.integer({ min: 0, max: 10 }), (identifier, lsn, power) => {
      const segmentSizeBytes = 2 ** (20 + power);
      const pageAddress = lsn - (lsn % BigInt(segmentSizeBytes));
      const page = Buffer.from(sound);
      page.writeBigUInt64LE(pageAddress, 8);
      page.writeBigUInt64LE(identifier, 24);
      page.writeUInt32LE(segmentSizeBytes, 32);
      const header = parseLongPageHeader(page);
      expect(header).toEqual({
        magic: 0xd116,
        timeline: 3,
        pageAddress,
        systemIdentifier: identifier.toString(),
        segmentSizeBytes,
        pageSizeBytes: 8192,
      });
      expect(segmentNameAt(3, pageAddress, segmentSizeBytes).startsWith('00000003')).toBe(true);
    }),
  );
});

it('reads it where the page stands inside a larger buffer', () => {
  const shifted = Buffer.concat([Buffer.alloc(13), sound, Buffer.alloc(7)]).subarray(13);
  expect(parseLongPageHeader(shifted)).toEqual(parseLongPageHeader(sound));
});

it('H17: accepts the magic of a major version that it does not know', () => {
  const page = Buffer.from(sound);
  page.writeUInt16LE(0xd1ff, 0);
  expect(parseLongPageHeader(page)?.magic).toBe(0xd1ff);
});

type Change = (page: Buffer) => unknown;
const unsound: readonly (readonly [string, Change])[] = [
  ['of zeros', (page) => page.fill(0)],
  ['with a foreign magic', (page) => page.writeUInt16LE(0x5a4d, 0)],
  ['with a short header', (page) => page.writeUInt16LE(0x0001, 2)],
  ['on timeline 0', (page) => page.writeUInt32LE(0, 4)],
  ['that begins inside a segment', (page) => page.writeBigUInt64LE(8192n, 8)],
  ['of a segment size that is no power of two', (page) => page.writeUInt32LE(3 * 2 ** 20, 32)],
  ['of a segment size below 1 MiB', (page) => page.writeUInt32LE(2 ** 19, 32)],
  ['of a segment size above 1 GiB', (page) => page.writeUInt32LE(2 ** 31, 32)],
  ['of a page size that is no power of two', (page) => page.writeUInt32LE(8191, 36)],
  ['of a page size of 0', (page) => page.writeUInt32LE(0, 36)],
  ['in the other byte order', (page) => page.swap32()],
];

it.each(unsound)('takes no page %s for the first of a segment', (_what, change) => {
  const page = Buffer.from(sound);
  change(page);
  expect(parseLongPageHeader(page)).toBeUndefined();
});

it('takes no truncated header for one', () => {
  for (let length = 0; length < longPageHeaderBytes; length += 1) {
    expect(parseLongPageHeader(sound.subarray(0, length))).toBeUndefined();
  }
});
