/** Which bytes of which parts are needed to write files, or pieces of files. Pure. */
import { piecesOf, type Range } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import type { WantedPart } from '../../archive/part-ranges.ts';
import { RangeWalk } from '../../archive/range-walk.ts';
import { type FilePiece, PieceList } from './piece-list.ts';

export interface WantedFile {
  readonly file: FileLine;
  /** What of it is needed, ascending, none touching the next; absent: all. */
  readonly ranges?: readonly Range[];
}

/** What is wanted of each part, in the order of the part, by the parts' indexes. */
export function wantedIn(parts: readonly PartLine[], wantedFiles: readonly WantedFile[]) {
  const files = wantedFiles.map(({ file }) => file);
  const pieces = new Map<number, PieceList>(parts.map((part) => [part.index, new PieceList(files)]));
  for (const [number, { file, ranges }] of wantedFiles.entries()) {
    for (const piece of cut(file, ranges)) if (piece.part !== -1) pieces.get(piece.part)?.add(number, piece);
  }
  const wanted = new Map<number, WantedPart & { readonly walk: RangeWalk<FilePiece> }>();
  for (const part of parts) {
    const ranges = pieces.get(part.index);
    if (ranges === undefined || ranges.length === 0) continue;
    ranges.sort();
    wanted.set(part.index, { part, ranges, walk: new RangeWalk(ranges) });
  }
  return wanted;
}

/** What of these ranges is zeros and stored nowhere. */
export function zerosIn({ file, ranges }: WantedFile): Range[] {
  return cut(file, ranges)
    .filter(({ part }) => part === -1)
    .map(({ at, lengthBytes }) => ({ offset: at, lengthBytes }));
}

/** The pieces of a file as far as they lie in the ranges; `at` is where they stand in the file. */
function cut({ sizeBytes, extents }: FileLine, ranges: readonly Range[] = [{ offset: 0, lengthBytes: sizeBytes }]) {
  const found: { readonly part: number; readonly offset: number; readonly lengthBytes: number; readonly at: number }[] =
    [];
  let next = 0;
  let start = 0;
  for (const { part, offset, lengthBytes } of piecesOf(extents)) {
    const end = start + lengthBytes;
    while (endOf(ranges[next]) <= start) next += 1;
    for (let index = next; (ranges[index]?.offset ?? end) < end; index += 1) {
      const at = Math.max(start, ranges[index]?.offset ?? 0);
      found.push({ part, offset: offset + at - start, lengthBytes: Math.min(end, endOf(ranges[index])) - at, at });
    }
    start = end;
  }
  return found;
}

function endOf(range: Range | undefined): number {
  return range === undefined ? Number.POSITIVE_INFINITY : range.offset + range.lengthBytes;
}
