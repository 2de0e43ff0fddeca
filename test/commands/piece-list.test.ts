/** Pieces in typed arrays are what they would be as objects. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { FileLine } from '../../src/archive/files-line.ts';
import { PieceList } from '../../src/commands/basebackup-fetch/piece-list.ts';

const files = ['a', 'b', 'c'].map((path) => ({ path }) as FileLine);
const bytes = fc.integer({ min: 0, max: 2 ** 40 });
const piece = fc.record({ number: fc.nat(2), offset: bytes, lengthBytes: bytes, at: bytes });

it('holds what was added, in the order of the part, also of a list that somebody has made by hand', () => {
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 100 }), (pieces) => {
      const list = new PieceList(files);
      for (const { number, ...one } of pieces) list.add(number, one);
      list.sort();
      const expected = pieces.map(({ number, ...one }) => ({ ...one, file: files[number] }));
      expected.sort((a, b) => a.offset - b.offset);
      expect(Array.from({ length: list.length }, (_, index) => list.at(index))).toEqual(expected);
      expect(list.at(list.length)).toBeUndefined();
    }),
  );
});
