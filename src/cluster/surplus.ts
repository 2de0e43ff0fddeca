/**
 * What stands in a data directory that a backup is restored over, and is not in the backup, or is of another kind there: removed on the way
 * through the backup's list, which has the same order. A link is removed, never what it leads to.
 */
import { lstat, readdir, readlink, rmdir, unlink } from 'node:fs/promises';
import { type BytePath, toBytePath, toFilePath } from '../byte-path.ts';
import { isTablespacePath, tablespaceVersionFolder } from './exclusions.ts';
import type { OldIdentity } from './old-cluster.ts';
import { unwritable } from './restore-places.ts';
import { temporaryEnding } from './restored-file.ts';

export interface SurplusOptions extends Pick<OldIdentity, 'major' | 'catalogVersion'> {
  readonly root: string;
  /** Where the tablespaces go, by their paths in the data directory. */
  readonly places: ReadonlyMap<BytePath, BytePath>;
  /** Is `pg_wal` a link that stays? */
  readonly keepsWalLink: boolean;
}

/** What of the list is compared. */
export interface ListedEntry {
  readonly type: 'file' | 'folder' | 'tablespace';
  readonly path: BytePath;
}

interface Found {
  readonly path: BytePath;
  readonly kind: 'file' | 'folder' | 'link' | 'other';
}

export class Surplus {
  readonly #root: BytePath;
  readonly #options: SurplusOptions;
  readonly #versionFolder: BytePath;
  readonly #walk: AsyncGenerator<Found, void, boolean>;
  #next: Found | undefined;
  #hasBegun = false;
  #removed = 0;

  constructor(options: SurplusOptions) {
    this.#root = toBytePath(options.root);
    this.#options = options;
    this.#versionFolder = tablespaceVersionFolder(options.major, options.catalogVersion);
    this.#walk = this.#walkFolder('', { isPlace: false });
  }

  /** Files, links, and folders with all that they held. */
  get removed(): number {
    return this.#removed;
  }

  /** Removes what is before this entry, and what is in its place and is not of its kind. */
  async upTo(entry: ListedEntry): Promise<void> {
    await this.#removeBefore(entry.path);
    const next = this.#next;
    if (next?.path !== entry.path) return;
    const fits = await this.#fits(next, entry);
    if (!fits) await this.#remove(next);
    await this.#advance(fits);
  }

  /** Removes the rest. */
  async toEnd(): Promise<void> {
    await this.#removeBefore(undefined);
  }

  async #removeBefore(path: BytePath | undefined): Promise<void> {
    if (!this.#hasBegun) await this.#advance(false);
    this.#hasBegun = true;
    for (let next = this.#next; next !== undefined && (path === undefined || next.path < path); next = this.#next) {
      await this.#remove(next);
      await this.#advance(false);
    }
  }

  async #advance(goesInto: boolean): Promise<void> {
    const { value } = await this.#walk.next(goesInto);
    this.#next = value ?? undefined;
  }

  async #fits({ kind }: Found, { type, path }: ListedEntry): Promise<boolean> {
    if (type === 'tablespace') {
      if (kind !== 'link') return false;
      const target = await readlink(toFilePath(`${this.#root}/${path}`), { encoding: 'latin1' });
      return target === this.#options.places.get(path);
    }
    return kind === type || (path === 'pg_wal' && kind === 'link' && this.#options.keepsWalLink);
  }

  async #remove({ path }: Found): Promise<void> {
    const target = `${this.#root}/${path}`;
    try {
      await removeAll(target);
    } catch (error) {
      throw unwritable(target, error);
    }
    this.#removed += 1;
  }

  /** Yields what is in a folder in the order of the list; whether it goes into one it is told with the next request. */
  async *#walkFolder(
    prefix: BytePath,
    { isPlace }: { readonly isPlace: boolean },
  ): AsyncGenerator<Found, void, boolean> {
    const names = await this.#namesIn(prefix);
    const own = isPlace ? names.filter((name) => name === this.#versionFolder) : names; // others may share the place
    const folders = new Map<string, Found['kind']>();
    // what a folder holds comes behind what has its name and more
    for (const key of own.flatMap((name) => [name, `${name}/`]).sort()) {
      const kind = folders.get(key);
      if (kind !== undefined) yield* this.#walkFolder(`${prefix}${key}`, { isPlace: kind === 'link' });
      if (key.endsWith('/')) continue;
      const found = await this.#look(`${prefix}${key}`);
      const stays = this.#stays(found.path);
      if (stays === 'whole') continue;
      const goesInto = stays === 'above' || (yield found);
      if (goesInto && isWalked(found)) folders.set(`${key}/`, found.kind);
    }
  }

  #namesIn(prefix: BytePath): Promise<string[]> {
    const folder = `${this.#root}/${prefix}`;
    return readdir(toFilePath(folder), 'latin1').catch((error: unknown) => {
      throw unwritable(folder, error);
    });
  }

  async #look(path: BytePath): Promise<Found> {
    const target = `${this.#root}/${path}`;
    const found = await lstat(toFilePath(target)).catch((error: unknown) => {
      throw unwritable(target, error);
    });
    if (found.isSymbolicLink()) return { path, kind: 'link' };
    if (found.isDirectory()) return { path, kind: 'folder' };
    // another name of it may be in a copy elsewhere, which must not change
    return { path, kind: found.isFile() && found.nlink === 1 ? 'file' : 'other' };
  }

  /** What the restore itself needs there: as a whole, or for what lies below. */
  #stays(path: BytePath): 'whole' | 'above' | undefined {
    if (path.startsWith('.wal-t') || path === 'lost+found' || path === `global/pg_control${temporaryEnding}`)
      return 'whole';
    const target = `${this.#root}/${path}`;
    for (const place of this.#options.places.values()) {
      if (place === target) return 'whole';
      if (place.startsWith(`${target}/`)) return 'above';
    }
    return undefined;
  }
}

/** Nothing of pg_wal is in a backup: what is there was put there by this restore. */
function isWalked({ path, kind }: Found): boolean {
  return kind === 'folder' ? path !== 'pg_wal' : kind === 'link' && isTablespacePath(path);
}

async function removeAll(target: BytePath): Promise<void> {
  const path = toFilePath(target);
  const found = await lstat(path);
  if (!found.isDirectory()) return unlink(path);
  for (const name of await readdir(path, 'latin1')) await removeAll(`${target}/${name}`);
  await rmdir(path);
}
