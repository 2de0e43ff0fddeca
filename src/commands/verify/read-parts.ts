/** The parts that were read in this run, and what is proved of each: a part is read once, however many backups use it and agree about what it holds. */
import type { PartLine } from '../../archive/files-line.ts';
import { nameOfPart } from './part-reading.ts';
import { ProvenPieces } from './proven-pieces.ts';
import type { StoredPiece } from './verify-part.ts';

interface ReadPart {
  readonly name: string;
  readonly proven: ProvenPieces[];
}

/** Where a part is used. */
export interface PartUse {
  readonly part: PartLine;
  /** Were its pages judged, or must they have been? */
  readonly hasPageChecksums: boolean;
}

export class ReadParts {
  readonly #lastUsers: ReadonlyMap<string, string>;
  readonly #parts = new Map<string, ReadPart>();
  readonly #keys = new WeakMap<PartLine, string>();

  /** @param lastUsers  of each part that an increment uses, by `<backup>/<number>`: the last backup that is judged and uses it. */
  constructor(lastUsers: ReadonlyMap<string, string>) {
    this.#lastUsers = lastUsers;
  }

  /** Was it read, and found to be what was committed to? */
  has(use: PartUse): boolean {
    return this.#parts.has(this.#keyOf(use));
  }

  hasProved(use: PartUse, piece: StoredPiece): boolean {
    return this.#parts.get(this.#keyOf(use))?.proven.some((proven) => proven.has(piece)) ?? false;
  }

  /** Kept for those that are judged after `user`. */
  add(use: PartUse, pieces: readonly StoredPiece[], user: string): void {
    const name = nameOfPart(use.part);
    const lastUser = this.#lastUsers.get(name);
    if (lastUser === undefined || lastUser === user) return;
    const key = this.#keyOf(use);
    const known = this.#parts.get(key) ?? { name, proven: [] };
    known.proven.push(new ProvenPieces(pieces));
    this.#parts.set(key, known);
  }

  /** What nobody uses after this backup. */
  forget(user: string): void {
    for (const [key, { name }] of this.#parts) if (this.#lastUsers.get(name) === user) this.#parts.delete(key);
  }

  /** Two lists may commit to different bytes under one name. */
  #keyOf({ part, hasPageChecksums }: PartUse): string {
    let key = this.#keys.get(part);
    if (key === undefined) {
      const { type: _, index: __, last: ___, ...committed } = part;
      key = JSON.stringify(Object.entries(committed).sort());
      this.#keys.set(part, key);
    }
    return `${hasPageChecksums} ${key}`;
  }
}
