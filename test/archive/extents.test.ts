/** Extents: what a file is made of stays the same, however its pieces are written, cut and replaced. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { extentsOf, type Piece, piecesOf, type Range, replaced } from '../../src/archive/extents.ts';
import type { Extent } from '../../src/archive/files-line.ts';

const anyExtents = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: -1, max: 3 }), fc.integer({ min: 0, max: 9 })),
  { maxLength: 30 },
) as fc.Arbitrary<Extent[]>;

/** Each byte of the file as the place it stands at. */
function placesOf(pieces: readonly Piece[]): string[] {
  return pieces.flatMap(({ lengthBytes, part, offset }) =>
    Array.from({ length: lengthBytes }, (_, index) => (part === -1 ? 'zero' : `${part}:${offset + index}`)),
  );
}

it('the written form means the same places, and has no two extents that could be one', () => {
  fc.assert(
    fc.property(anyExtents, (extents) => {
      const pieces = piecesOf(extents);
      const written = extentsOf(pieces);
      expect(placesOf(piecesOf(written))).toEqual(placesOf(pieces));
      expect(extentsOf(piecesOf(written))).toEqual(written);
      for (const [index, [, part, skip]] of written.entries()) {
        const before = written[index - 1];
        if (before?.[1] === part) expect(part !== -1 && skip > 0).toBe(true);
      }
    }),
  );
});

it('what is replaced stands in the new part one behind the other, and all else where it was', () => {
  fc.assert(
    fc.property(anyExtents, fc.array(fc.boolean(), { maxLength: 80 }), (extents, flags) => {
      const old = placesOf(piecesOf(extents));
      const isFresh = flags.map((flag, at) => flag || at >= old.length);
      const fresh: Range[] = [];
      for (const [at, flag] of isFresh.entries()) {
        const last = fresh.at(-1);
        if (!flag) continue;
        if (last !== undefined && last.offset + last.lengthBytes === at) fresh[fresh.length - 1] = longer(last);
        else fresh.push({ offset: at, lengthBytes: 1 });
      }
      let own = 100;
      const expected = isFresh.map((flag, at) => (flag ? `9:${own++}` : old[at]));
      const pieces = replaced(piecesOf(extents), fresh, { sizeBytes: flags.length, part: 9, start: 100 });
      expect(placesOf(piecesOf(extentsOf(pieces)))).toEqual(expected);
    }),
  );
});

const longer = ({ offset, lengthBytes }: Range): Range => ({ offset, lengthBytes: lengthBytes + 1 });
