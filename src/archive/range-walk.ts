/** Walks through the raw content of a part, chunk by chunk, and tells what each holds of the ranges that somebody wants. Pure. */

export interface WantedRange {
  /** In the raw part. */
  readonly offset: number;
  readonly lengthBytes: number;
}

/** An array, or what needs less memory. */
export interface RangeList<Range extends WantedRange> {
  readonly length: number;
  at(index: number): Range | undefined;
}

/** Bytes `from … to` of the part are some of a range's. */
export interface Found<Range> {
  readonly range: Range;
  readonly from: number;
  readonly to: number;
}

export class RangeWalk<Range extends WantedRange> {
  readonly #ranges: RangeList<Range>;
  /** Ranges before it end before what comes. */
  #next = 0;

  /** @param ranges  ascending by their offsets; they may overlap. */
  constructor(ranges: RangeList<Range>) {
    this.#ranges = ranges;
  }

  /** What lies in the next chunk: chunks come in the order of the part, and may leave out what nobody wants. */
  *within(offset: number, lengthBytes: number): Generator<Found<Range>> {
    const end = offset + lengthBytes;
    while (isOver(this.#ranges.at(this.#next), offset)) this.#next += 1;
    for (let index = this.#next; ; index += 1) {
      const range = this.#ranges.at(index);
      if (range === undefined || range.offset >= end) return;
      const from = Math.max(offset, range.offset);
      const to = Math.min(end, range.offset + range.lengthBytes);
      if (from < to) yield { range, from, to };
    }
  }
}

function isOver(range: WantedRange | undefined, offset: number): boolean {
  return range !== undefined && range.offset + range.lengthBytes <= offset;
}
