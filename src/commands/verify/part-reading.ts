/** Hands out the parts of a list of files to be read, with what the list says of them, as soon as no more is to be expected; a few at a time. */
import { piecesOf } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import type { StoredPiece } from './verify-part.ts';

export interface PartWork {
  readonly part: PartLine;
  /** What the list says that it holds; undefined of a part that another backup has stored. */
  readonly pieces?: readonly StoredPiece[];
}

export function nameOfPart({ backup, number }: { readonly backup: string; readonly number: number }): string {
  return `${backup}/${number}`;
}

export class PartReading {
  readonly #work: (work: PartWork) => Promise<void>;
  readonly #atOnce: number;
  readonly #running: Promise<void>[] = [];
  /** By their indexes: the backup's own parts that are there. */
  readonly #own = new Map<number, PartLine>();
  /** Of those that were not handed out, or that more is said of. */
  readonly #pieces = new Map<number, StoredPiece[]>();

  constructor(work: (work: PartWork) => Promise<void>, atOnce: number) {
    this.#work = work;
    this.#atOnce = atOnce;
  }

  /** The lines before are those of the part before: a backup fills one after the other, in the order of its list. */
  async addOwn(part: PartLine): Promise<void> {
    await this.dispatch();
    this.#own.set(part.index, part);
    this.#pieces.set(part.index, []);
  }

  async addOther(part: PartLine): Promise<void> {
    await this.#start({ part });
  }

  addFile({ path, sizeBytes, checksum, extents }: FileLine): void {
    let at = 0;
    for (const { part, offset, lengthBytes } of piecesOf(extents)) {
      const isWhole = lengthBytes === sizeBytes;
      if (this.#own.has(part)) this.#take(part, { path, at, offset, lengthBytes, ...(isWhole ? { checksum } : {}) });
      at += lengthBytes;
    }
    const [anyPart] = this.#pieces.keys();
    if (sizeBytes === 0 && anyPart !== undefined)
      this.#take(anyPart, { path, at, offset: 0, lengthBytes: 0, checksum });
  }

  #take(part: number, piece: StoredPiece): void {
    const pieces = this.#pieces.get(part);
    if (pieces === undefined) this.#pieces.set(part, [piece]);
    else pieces.push(piece);
  }

  /** Whatever was not handed out yet. */
  async dispatch(): Promise<void> {
    for (const [index, pieces] of [...this.#pieces]) {
      const part = this.#own.get(index);
      this.#pieces.delete(index);
      if (part !== undefined) await this.#start({ part, pieces });
    }
  }

  async #start(work: PartWork): Promise<void> {
    const ended = this.#work(work);
    ended.catch(() => undefined); // awaited in its turn; until then a failure must not count as unhandled
    this.#running.push(ended);
    if (this.#running.length >= this.#atOnce) await this.#running.shift();
  }

  /** @throws what ends the command. */
  async end(): Promise<void> {
    await Promise.all(this.#running);
  }
}
