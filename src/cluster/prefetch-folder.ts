/**
 * Segments that were fetched ahead of PostgreSQL. bin/wal-fetch hands them out without Node.js.
 *
 *   pg_wal/.wal-t/prefetch/bound   what all of them hang on: see ahead.ts; with the words of the command line that stand before %f
 *   pg_wal/.wal-t/prefetch/<name>  a whole segment, verified and fsynced (H4)
 *   pg_wal/.wal-t/prefetch/until   a standby is not given them later than when this file was last changed, seemingly (H2)
 *   pg_wal/.wal-t/prefetch/now     when the launcher compared the two
 *   pg_wal/.wal-t/prefetch/pace    how many at a time, and when: one line
 * Further files are the reader's: see prefetch-reader.ts.
 */
import { writeFileSync } from 'node:fs';
import { readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../errors.ts';
import { ownerOf, temporarySuffix } from '../left-overs.ts';
import { type Binding, makeBoundFolder, readBinding } from './ahead.ts';
import { findReader } from './prefetch-reader.ts';
import { prefetchPath, removePrefetchFolder, segmentPattern } from './prefetched.ts';

/** What the last call left for the next one. */
export interface Pace {
  /** How many segments the next one may fetch ahead. */
  readonly depth: number;
  /** How many were there when the last one ended. */
  readonly published: number;
  /** When it ended, in epoch milliseconds. */
  readonly endedAt: number;
}

export interface FolderOptions {
  readonly dataDirectory: string;
  readonly binding: Binding;
  /** The name of the segment that PostgreSQL asks for now, and of the one behind it. */
  readonly requested: string;
  readonly next: string;
}

const pacePattern = /^(\d{1,6}) (\d{1,6}) (\d{1,15})\n$/;
const leftOverMark = '.wal-t-';

export class PrefetchFolder {
  readonly path: string;
  readonly #binding: Binding;
  /** Was the requested segment there, or promised, and did the launcher not take it? Then it would not have taken any other. */
  readonly wasRefused: boolean;
  /** Does the reader fill it with what comes next? Then it is to be left alone. */
  readonly hasReader: boolean;

  private constructor(path: string, binding: Binding, { wasRefused = false, hasReader = false } = {}) {
    this.path = path;
    this.#binding = binding;
    this.wasRefused = wasRefused;
    this.hasReader = hasReader;
  }

  /** For the reader. Undefined where the folder is no more what it was begun for. */
  static async join(dataDirectory: string, binding: Binding): Promise<PrefetchFolder | undefined> {
    const path = prefetchPath(dataDirectory);
    return (await readBinding(path)) === binding ? new PrefetchFolder(path, binding) : undefined;
  }

  /** Makes it, and removes from it what a killed process left; and with all that it holds a reader that is elsewhere in the WAL. */
  static async open({ dataDirectory, binding, requested, next }: FolderOptions): Promise<PrefetchFolder> {
    const path = prefetchPath(dataDirectory);
    const names = await list(path);
    const reader = await findReader(path);
    const isThere = (name: string) => names.includes(name) || reader?.coming.has(name) === true;
    const isBound = (await readBinding(path)) === binding;
    const wasRefused = isThere(requested);
    if (reader !== undefined && isBound && !wasRefused && isThere(next)) {
      return new PrefetchFolder(path, binding, { hasReader: true });
    }
    if (wasRefused || reader !== undefined || !isBound) await removePrefetchFolder(path);
    // anew, where it holds nothing that hangs on it: the launcher wants it newer than the settings' files
    else if (!names.some((name) => segmentPattern.test(name))) await rm(join(path, 'bound'));
    await makeBoundFolder(path, binding, join(dataDirectory, 'pg_wal'));
    const folder = new PrefetchFolder(path, binding, { wasRefused });
    await folder.#removeLeftOvers();
    return folder;
  }

  async pace(): Promise<Pace | undefined> {
    const text = await readFile(join(this.path, 'pace'), 'latin1').catch(ignoreAbsent(''));
    const [depth, published, endedAt] = pacePattern.exec(text)?.slice(1).map(Number) ?? [];
    return depth === undefined || published === undefined || endedAt === undefined
      ? undefined
      : { depth, published, endedAt };
  }

  /** At once: all threads of Node.js may hang. */
  setPace({ depth, published, endedAt }: Pace): void {
    writeFileSync(join(this.path, 'pace'), `${depth} ${published} ${endedAt}\n`, { mode: 0o600 });
  }

  /** Of what is there only these are true as far as is known now, and for a standby no longer than `lastMs`. */
  async keepOnly(names: readonly string[], lastMs: number): Promise<void> {
    for (const name of await this.published()) {
      if (!names.includes(name)) await rm(join(this.path, name), { recursive: true, force: true });
    }
    const until = join(this.path, 'until');
    await writeFile(until, '', { mode: 0o600 });
    const time = new Date((await stat(until)).mtimeMs + lastMs); // by the clock of that file system, which the launcher compares by, too
    await utimes(until, time, time);
  }

  async published(): Promise<ReadonlySet<string>> {
    return new Set((await list(this.path)).filter((name) => segmentPattern.test(name)));
  }

  /**
   * `write` makes the file, whole and durable, and says whether it may be handed out. @returns whether it is, now.
   * Not where the folder is another call's meanwhile: that one has removed all files that were there.
   */
  async publish(name: string, write: (path: string) => Promise<boolean>): Promise<boolean> {
    const path = join(this.path, `${name}${leftOverMark}${temporarySuffix()}`);
    try {
      if (!(await write(path)) || (await readBinding(this.path)) !== this.#binding) return false;
      await rename(path, join(this.path, name));
      return true;
    } finally {
      await rm(path, { force: true });
    }
  }

  async #removeLeftOvers(): Promise<void> {
    for (const name of await list(this.path)) {
      const suffix = name.split(leftOverMark)[1];
      if (suffix !== undefined && ownerOf(suffix) === 'nobody') await rm(join(this.path, name), { force: true });
    }
  }
}

async function list(folder: string): Promise<string[]> {
  return readdir(folder).catch(ignoreAbsent([]));
}

function ignoreAbsent<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (systemErrorCode(error) === 'ENOENT') return instead;
    throw error;
  };
}
