/** `global/pg_control`: which cluster this is, and nothing said where that is not known. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { parseControlFile } from '../../src/postgres/control-file.ts';
import { makeControlFile } from '../support/segment.ts';

it('reads every system identifier digit for digit', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }), (identifier) => {
      expect(parseControlFile(makeControlFile(identifier.toString()))?.systemIdentifier).toBe(identifier.toString());
    }),
  );
});

type Change = (file: Buffer) => Buffer | number;
const foreign: readonly (readonly [string, Change])[] = [
  ['empty', () => Buffer.alloc(0)],
  ['too short', (file) => file.subarray(0, 8191)],
  ['too long', (file) => Buffer.concat([file, Buffer.alloc(1)])],
  ['all zeros', (file) => file.fill(0)],
  ['of version 0', (file) => file.writeUInt32LE(0, 8)],
  ['in the other byte order', (file) => file.swap64()],
];

it.each(foreign)('takes no file that is %s for one', (_what, change) => {
  const file = makeControlFile();
  const changed = change(file);
  expect(parseControlFile(typeof changed === 'number' ? file : changed)).toBeUndefined();
});

it.each([
  ['another layout', (file: Buffer) => file.writeDoubleLE(0, 208), undefined],
  ['an impossible size', (file: Buffer) => file.writeUInt32LE(12345, 228), 1],
] as const)('says no segment size with %s, but still which cluster it is', (_what, change, timeline) => {
  const file = makeControlFile('7312345678901234567');
  change(file);
  expect(parseControlFile(file)).toEqual({
    systemIdentifier: '7312345678901234567',
    controlVersion: 1300,
    segmentSizeBytes: undefined,
    timeline,
  });
});
