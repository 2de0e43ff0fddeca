/** A worker's task: reads one part and proves that every byte, every file and every page in it is what was backed up. */
import type { Archive } from '../../archive/archive.ts';
import type { PartLine } from '../../archive/files-line.ts';
import type { BadPage } from '../../archive/manifest.ts';
import { discardContent, readStream } from '../../archive/part.ts';
import { RangeWalk, type WantedRange } from '../../archive/range-walk.ts';
import { type BytePath, formatPath, showPath } from '../../byte-path.ts';
import { CorruptError } from '../../errors.ts';
import { limits } from '../../limits.ts';
import { type FileChecksum, type ManifestChecksums, makeChecksum } from '../../postgres/file-checksum.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import type { TaskOptions } from '../basebackup-fetch/batch.ts';
import { type PageJudge, type PageRules, pageJudge } from '../page-rules.ts';

/** Bytes of a file that the part holds. */
export interface StoredPiece extends WantedRange {
  readonly path: BytePath;
  /** Where they stand in the file. */
  readonly at: number;
  /** Of the whole file, when this is it. */
  readonly checksum?: string | undefined;
}

/** Can be sent to another thread. */
export interface VerifyBatch {
  readonly part: PartLine;
  /** In any order; none where only the bytes are to be proved. */
  readonly pieces: readonly StoredPiece[];
  readonly manifestChecksums: ManifestChecksums;
  /** Undefined where the cluster has no page checksums. */
  readonly pages: PageRules | undefined;
}

/** Pages whose checksum is wrong though they are stored as they were copied, and that nobody knows of: all are counted, the first named. */
export interface VerifiedPart {
  readonly badPages: number;
  readonly badPagesNamed: readonly BadPage[];
  /** The indexes of pieces of which a page has a wrong checksum that is excused: replay writes it anew, or it is known. Another backup may not excuse it. */
  readonly excused: readonly number[];
}

/** @throws CorruptError when anything is not what the backup committed to. */
export async function verifyPart(archive: Archive, batch: VerifyBatch, options: TaskOptions): Promise<VerifiedPart> {
  const { part } = batch;
  const found = { badPages: 0, badPagesNamed: [] as BadPage[], excused: [] as number[] };
  const onBadPage = (path: BytePath, block: number) => {
    found.badPages += 1;
    if (found.badPages <= limits.badPagesNamed) found.badPagesNamed.push({ ...formatPath(path), block });
  };
  const walk = new RangeWalk(batch.pieces.toSorted((a, b) => a.offset - b.offset));
  const open = new Map<StoredPiece, PieceCheck>();
  let offset = 0;
  for await (const chunk of readStream(archive, { backup: part.backup, part: part.number }, part, options)) {
    for (const { range: piece, from, to } of walk.within(offset, chunk.length)) {
      const check = open.get(piece) ?? new PieceCheck(piece, batch, onBadPage);
      open.set(piece, check);
      check.take(chunk.subarray(from - offset, to - offset));
      if (to < piece.offset + piece.lengthBytes) continue;
      if (check.end().isExcused) found.excused.push(batch.pieces.indexOf(piece));
      open.delete(piece);
    }
    offset += chunk.length;
    options.progress(chunk.length, await discardContent(chunk, part));
  }
  return found;
}

const maxLsn: Lsn = 2n ** 64n - 1n;

/** Looks at a piece while it passes: at its whole pages, however it is cut, and at its checksum where it has one. */
class PieceCheck {
  readonly #piece: StoredPiece;
  readonly #onBadPage: (path: BytePath, block: number) => void;
  readonly #judge: PageJudge | undefined;
  /** Excuses nothing. */
  readonly #strict: PageJudge | undefined;
  readonly #checksum: FileChecksum;
  readonly #pageBytes: number;
  #rest: Buffer = Buffer.alloc(0);
  /** In the file. */
  #at: number;
  /** Of a page that begins before the piece. */
  #skip: number;
  #isExcused = false;

  constructor(
    piece: StoredPiece,
    { pages, manifestChecksums }: VerifyBatch,
    onBadPage: (path: BytePath, block: number) => void,
  ) {
    this.#piece = piece;
    this.#onBadPage = onBadPage;
    this.#judge = pageJudge(piece.path, pages);
    this.#strict = pageJudge(piece.path, pages && { ...pages, startLsn: maxLsn, badPages: { count: 0, pages: [] } });
    this.#checksum = makeChecksum(piece.checksum === undefined ? 'NONE' : manifestChecksums);
    this.#pageBytes = pages?.pageBytes ?? 1;
    this.#skip = (this.#pageBytes - (piece.at % this.#pageBytes)) % this.#pageBytes;
    this.#at = piece.at + this.#skip;
  }

  take(chunk: Uint8Array): void {
    this.#checksum.update(chunk);
    if (this.#judge === undefined) return;
    const skipped = Math.min(this.#skip, chunk.length);
    this.#skip -= skipped;
    let bytes = chunk.subarray(skipped);
    if (this.#rest.length > 0) {
      const missing = bytes.subarray(0, this.#pageBytes - this.#rest.length);
      bytes = bytes.subarray(missing.length);
      this.#rest = Buffer.concat([this.#rest, missing]);
      if (this.#rest.length < this.#pageBytes) return;
      this.#look(this.#rest, this.#judge);
    }
    const wholeBytes = bytes.length - (bytes.length % this.#pageBytes);
    this.#look(bytes.subarray(0, wholeBytes), this.#judge);
    this.#rest = Buffer.from(bytes.subarray(wholeBytes));
  }

  #look(pages: Uint8Array, judge: PageJudge): void {
    if (this.#strict?.(pages, this.#at).length !== 0) {
      this.#isExcused = true;
      for (const block of judge(pages, this.#at)) this.#onBadPage(this.#piece.path, block);
    }
    this.#at += pages.length;
  }

  end(): { readonly isExcused: boolean } {
    const { path, checksum } = this.#piece;
    if (checksum === undefined || this.#checksum.end() === checksum) return { isExcused: this.#isExcused };
    throw new CorruptError(`"${showPath(path)}" is not what was backed up: its checksum differs`);
  }
}
