/** What is said of a part counts as proved where a reading has proved just that, and nowhere else. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ProvenPieces } from '../../src/commands/verify/proven-pieces.ts';
import type { StoredPiece } from '../../src/commands/verify/verify-part.ts';

const checksums = [undefined, 'a', 'b'] as const;

const piece = fc
  .tuple(fc.nat(20), fc.nat(12), fc.nat(20), fc.constantFrom(...checksums), fc.constantFrom('x', 'y'))
  .map(
    ([offset, length, at, checksum, path]): StoredPiece => ({ path, offset, lengthBytes: length + 1, at, checksum }),
  );

/** Of pieces of which none overlaps: as in the list of any backup that was taken. */
const apart = fc.array(piece, { maxLength: 6 }).map((pieces) => {
  let end = 0;
  return pieces.map((one) => {
    const offset = end + (one.offset % 3);
    end = offset + one.lengthBytes;
    return { ...one, offset };
  });
});

const proves = (proven: StoredPiece, said: StoredPiece) =>
  proven.path === said.path &&
  (said.checksum === undefined
    ? proven.offset <= said.offset &&
      said.offset + said.lengthBytes <= proven.offset + proven.lengthBytes &&
      said.at - proven.at === said.offset - proven.offset
    : proven.offset === said.offset &&
      proven.lengthBytes === said.lengthBytes &&
      proven.at === said.at &&
      proven.checksum === said.checksum);

const mixed = <Item>(items: readonly Item[]) => fc.shuffledSubarray([...items], { minLength: items.length });

it('finds what is proved, and nothing else', () => {
  let found = 0;
  const property = fc.property(
    apart.chain((pieces) => fc.tuple(mixed(pieces), fc.oneof(piece, ...pieces.map(within)))),
    ([pieces, said]) => {
      const expected = pieces.some((one) => proves(one, said));
      found += expected ? 1 : 0;
      expect(new ProvenPieces(pieces).has(said)).toBe(expected);
    },
  );
  fc.assert(property, { numRuns: 2000 });
  expect(found).toBeGreaterThan(100);
});

it('never says so of overlapping pieces without reason', () => {
  const property = fc.property(fc.array(piece, { maxLength: 8 }), piece, (pieces, said) => {
    if (new ProvenPieces(pieces).has(said)) expect(pieces.some((one) => proves(one, said))).toBe(true);
  });
  fc.assert(property, { numRuns: 2000 });
});

/** The piece itself, or something near to a part of it. */
function within(whole: StoredPiece) {
  return fc.tuple(fc.nat(whole.lengthBytes - 1), fc.nat(3), fc.nat(4), fc.constantFrom(...checksums)).map(
    ([skip, more, moved, checksum]): StoredPiece =>
      more === 3
        ? whole
        : {
            path: whole.path,
            offset: whole.offset + skip,
            lengthBytes: Math.max(1, whole.lengthBytes - skip + (more === 2 ? 1 : 0)),
            at: whole.at + skip + (moved === 4 ? 1 : 0),
            checksum,
          },
  );
}
