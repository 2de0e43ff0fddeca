/**
 * Hands out the parts of a list of files to be read, with what the list says of them, a few at a time: those of the backup itself as soon as no more is
 * to be expected of them, those of others at the end.
 */
import { piecesOf } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import { limits } from '../../limits.ts';
import type { StoredPiece } from './verify-part.ts';

export interface PartWork {
  readonly part: PartLine;
  /** What the list says that it holds; of a part that another backup has stored, what is not proved yet. */
  readonly pieces: readonly StoredPiece[];
}

export interface PartReadingOptions {
  readonly work: (work: PartWork) => Promise<void>;
  readonly atOnce: number;
  /** Is it known that this part of another backup holds this? */
  readonly isProven: (part: PartLine, piece: StoredPiece) => boolean;
}

export function nameOfPart({ backup, number }: { readonly backup: string; readonly number: number }): string {
  return `${backup}/${number}`;
}

export class PartReading {
  readonly #options: PartReadingOptions;
  readonly #running: Promise<void>[] = [];
  /** By their indexes: the parts that are there, the backup's own and those of others. */
  readonly #own = new Map<number, PartLine>();
  readonly #others = new Map<number, PartLine>();
  /** Of own parts that were not handed out, or that more is said of. */
  readonly #pieces = new Map<number, StoredPiece[]>();
  readonly #ofOthers = new Map<number, StoredPiece[]>();
  #countOfOthers = 0;

  constructor(options: PartReadingOptions) {
    this.#options = options;
  }

  /** The lines before are those of the part before: a backup fills one after the other, in the order of its list. */
  async addOwn(part: PartLine): Promise<void> {
    await this.#dispatchOwn();
    this.#own.set(part.index, part);
    this.#pieces.set(part.index, []);
  }

  addOther(part: PartLine): void {
    this.#others.set(part.index, part);
    this.#ofOthers.set(part.index, []);
  }

  async addFile({ path, sizeBytes, checksum, extents }: FileLine): Promise<void> {
    let at = 0;
    for (const { part, offset, lengthBytes } of piecesOf(extents)) {
      const isWhole = lengthBytes === sizeBytes;
      this.#add(part, { path, at, offset, lengthBytes, ...(isWhole ? { checksum } : {}) });
      at += lengthBytes;
    }
    // more than memory should hold: then a part is read once more for what comes
    if (this.#countOfOthers >= limits.verifyPieces) await this.#dispatchOthers((pieces) => pieces.length > 0);
  }

  #add(index: number, piece: StoredPiece): void {
    if (this.#own.has(index)) take(this.#pieces, index, piece);
    const other = this.#others.get(index);
    if (other === undefined || this.#options.isProven(other, piece)) return;
    take(this.#ofOthers, index, piece);
    this.#countOfOthers += 1;
  }

  /** Whatever was not handed out yet, when the list has ended. */
  async dispatch(): Promise<void> {
    await this.#dispatchOwn();
    await this.#dispatchOthers(() => true);
  }

  async #dispatchOwn(): Promise<void> {
    for (const [index, pieces] of [...this.#pieces]) {
      const part = this.#own.get(index);
      this.#pieces.delete(index);
      if (part !== undefined) await this.#start({ part, pieces });
    }
  }

  async #dispatchOthers(which: (pieces: readonly StoredPiece[]) => boolean): Promise<void> {
    for (const [index, pieces] of [...this.#ofOthers].filter(([, found]) => which(found))) {
      const part = this.#others.get(index);
      this.#ofOthers.delete(index);
      if (part !== undefined) await this.#start({ part, pieces });
    }
    this.#countOfOthers = 0;
  }

  async #start(work: PartWork): Promise<void> {
    const ended = this.#options.work(work);
    ended.catch(() => undefined); // awaited in its turn; until then a failure must not count as unhandled
    this.#running.push(ended);
    if (this.#running.length >= this.#options.atOnce) await this.#running.shift();
  }

  /** @throws what ends the command. */
  async end(): Promise<void> {
    await Promise.all(this.#running);
  }
}

function take(pieces: Map<number, StoredPiece[]>, part: number, piece: StoredPiece): void {
  const known = pieces.get(part);
  if (known === undefined) pieces.set(part, [piece]);
  else known.push(piece);
}
