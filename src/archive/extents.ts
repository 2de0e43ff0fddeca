/** Where the bytes of a file stand: extents as the list of files has them, and the same with offsets in the raw part, which can be cut and joined. Pure. */
import assert from 'node:assert';
import type { Extent } from './files-line.ts';

export interface Piece {
  readonly lengthBytes: number;
  /** The index of the part; -1: zeros. */
  readonly part: number;
  /** In the raw part. */
  readonly offset: number;
}

/** They tile the file, as the extents do. */
export function piecesOf(extents: readonly Extent[]): Piece[] {
  const stopped = new Map<number, number>();
  return extents.map(([lengthBytes, part, skipBytes]) => {
    if (part === -1) return { lengthBytes, part, offset: 0 };
    const offset = (stopped.get(part) ?? 0) + skipBytes;
    stopped.set(part, offset + lengthBytes);
    return { lengthBytes, part, offset };
  });
}

/** As few as possible. In each part the offsets must ascend. */
export function extentsOf(pieces: readonly Piece[]): Extent[] {
  const extents: [number, number, number][] = [];
  const stopped = new Map<number, number>();
  let before: Piece | undefined;
  for (const piece of pieces) {
    const { lengthBytes, part, offset } = piece;
    const end = stopped.get(part) ?? 0;
    const goesOn = before?.part === part && (part === -1 || offset === end);
    const last = extents.at(-1);
    assert(part === -1 || offset >= end);
    if (goesOn && last !== undefined) last[0] += lengthBytes;
    else extents.push([lengthBytes, part, part === -1 ? 0 : offset - end]);
    stopped.set(part, offset + lengthBytes);
    before = piece;
  }
  return extents;
}

/** Bytes of a file: from `offset` on, `lengthBytes` of them. */
export interface Range {
  readonly offset: number;
  readonly lengthBytes: number;
}

/**
 * A file of `sizeBytes` whose ranges `fresh` (ascending, none touching the next) stand one behind the other in a part from an offset on, and whose
 * other bytes are where they were.
 */
export function replaced(
  pieces: readonly Piece[],
  fresh: readonly Range[],
  { sizeBytes, part, start }: { readonly sizeBytes: number; readonly part: number; readonly start: number },
): Piece[] {
  const result: Piece[] = [];
  const old = new Cutter(pieces);
  let at = 0;
  let offset = start;
  for (const range of fresh) {
    result.push(...old.cut(at, range.offset));
    result.push({ lengthBytes: range.lengthBytes, part, offset });
    offset += range.lengthBytes;
    at = range.offset + range.lengthBytes;
  }
  result.push(...old.cut(at, sizeBytes));
  return result;
}

/** Cuts ascending ranges out of pieces. */
class Cutter {
  readonly #pieces: readonly Piece[];
  #index = 0;
  /** Where in the file the piece at the index begins. */
  #start = 0;

  constructor(pieces: readonly Piece[]) {
    this.#pieces = pieces;
  }

  *cut(from: number, to: number): Generator<Piece> {
    let at = from;
    while (at < to) {
      const piece = this.#pieces[this.#index];
      assert(piece !== undefined && at >= this.#start);
      const end = this.#start + piece.lengthBytes;
      if (at < end) {
        const lengthBytes = Math.min(to, end) - at;
        yield { lengthBytes, part: piece.part, offset: piece.part === -1 ? 0 : piece.offset + at - this.#start };
        at += lengthBytes;
      }
      if (at < end) return;
      this.#start = end;
      this.#index += 1;
    }
  }
}
