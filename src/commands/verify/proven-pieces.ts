/**
 * What a reading of one part has proved: that these bytes of it are such a file, or pages of such a place. What the list of another backup says of
 * the part is held against it, so that the part need not be read once more.
 */
import type { BytePath } from '../../byte-path.ts';
import type { StoredPiece } from './verify-part.ts';

export class ProvenPieces {
  /** Of each piece, ascending by where they stand in the part: in typed arrays, since a part may hold many thousands, and there are many parts. */
  readonly #offsets: Float64Array;
  readonly #lengths: Float64Array;
  readonly #places: Float64Array;
  /** A page is one of its relation and of its file: no other has its checksum. */
  readonly #paths: readonly BytePath[];
  readonly #checksums: readonly (string | undefined)[];

  constructor(pieces: readonly StoredPiece[]) {
    const sorted = pieces.toSorted((a, b) => a.offset - b.offset);
    this.#offsets = Float64Array.from(sorted, ({ offset }) => offset);
    this.#lengths = Float64Array.from(sorted, ({ lengthBytes }) => lengthBytes);
    this.#places = Float64Array.from(sorted, ({ at }) => at);
    this.#paths = sorted.map(({ path }) => path);
    this.#checksums = sorted.map(({ checksum }) => checksum);
  }

  /** No, where it is not known: pieces that overlap are not all looked at. */
  has({ path, offset, lengthBytes, at, checksum }: StoredPiece): boolean {
    for (let index = this.#lastUpTo(offset); index >= 0; index -= 1) {
      const start = this.#offsets[index] ?? 0;
      const length = this.#lengths[index] ?? 0;
      if (start !== offset && start + length < offset + lengthBytes) return false;
      const isPlace = this.#paths[index] === path && this.#places[index] === at - (offset - start);
      const isThere = isPlace && start + length >= offset + lengthBytes;
      const isWhole = start === offset && length === lengthBytes && this.#checksums[index] === checksum;
      if (isThere && (checksum === undefined || isWhole)) return true;
    }
    return false;
  }

  /** The index of the last piece that does not begin behind `offset`; -1 if there is none. */
  #lastUpTo(offset: number): number {
    let [from, to] = [0, this.#offsets.length];
    while (from < to) {
      const middle = (from + to) >>> 1;
      if ((this.#offsets[middle] ?? 0) <= offset) from = middle + 1;
      else to = middle;
    }
    return from - 1;
  }
}
