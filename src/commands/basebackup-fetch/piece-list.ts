/**
 * Pieces of files that stand in one part, in the order of the part. A window has many thousand, and they live as long as it: as numbers in typed
 * arrays the garbage collector, which runs often there, never looks at them.
 */
import type { FileLine } from '../../archive/files-line.ts';
import type { RangeList, WantedRange } from '../../archive/range-walk.ts';

/** Bytes of a part that belong into a file, at an offset of it. */
export interface FilePiece extends WantedRange {
  readonly file: FileLine;
  readonly at: number;
}

/** What is kept of a piece: the number of its file, its place in the part, its length, its place in the file. */
const fields = 4;

export class PieceList implements RangeList<FilePiece> {
  readonly #files: readonly FileLine[];
  #numbers = new Float64Array(fields * 16);
  #length = 0;

  /** @param files  the same list for all parts. */
  constructor(files: readonly FileLine[]) {
    this.#files = files;
  }

  get length(): number {
    return this.#length;
  }

  /** @param file  its number. */
  add(file: number, { offset, lengthBytes, at }: Omit<FilePiece, 'file'>): void {
    const start = this.#length * fields;
    if (start === this.#numbers.length) {
      const larger = new Float64Array(2 * start);
      larger.set(this.#numbers);
      this.#numbers = larger;
    }
    this.#numbers.set([file, offset, lengthBytes, at], start);
    this.#length += 1;
  }

  at(index: number): FilePiece | undefined {
    if (index >= this.#length) return undefined;
    const numbers = this.#numbers;
    const start = index * fields;
    const file = this.#files[numbers[start] ?? 0];
    if (file === undefined) return undefined;
    const [offset, lengthBytes, at] = [numbers[start + 1] ?? 0, numbers[start + 2] ?? 0, numbers[start + 3] ?? 0];
    return { file, offset, lengthBytes, at };
  }

  /** They come in the order of the part, unless somebody has made the list by hand. */
  sort(): void {
    const offsetOf = (index: number) => this.#numbers[index * fields + 1] ?? 0;
    let isSorted = true;
    for (let index = 1; index < this.#length; index += 1) isSorted &&= offsetOf(index - 1) <= offsetOf(index);
    if (isSorted) return;
    const order = Uint32Array.from({ length: this.#length }, (_, index) => index);
    order.sort((a, b) => offsetOf(a) - offsetOf(b));
    const sorted = new Float64Array(this.#length * fields);
    for (const [to, from] of order.entries()) {
      sorted.set(this.#numbers.subarray(from * fields, (from + 1) * fields), to * fields);
    }
    this.#numbers = sorted;
  }
}
