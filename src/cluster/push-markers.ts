/**
 * Markers: which waiting files were archived ahead of PostgreSQL's own call for them. bin/wal-push answers such a call without Node.js.
 *
 *   pg_wal/.wal-t/pushed/<fingerprint>/bound        what all of them hang on: see ahead.ts. Fingerprint: of repository, cluster, and this
 *   pg_wal/.wal-t/pushed/<fingerprint>/<name>       hard link to the file that is archived: it ties the promise to that very file
 *   pg_wal/.wal-t/pushed/<fingerprint>/<name>.stamp two seconds older than the reading of it: a file newer than that may have changed since
 *   pg_wal/.wal-t/pushed/<fingerprint>/<name>.until five minutes younger: later it is not believed, since somebody may have set aside what is stored
 *   pg_wal/.wal-t/pushed/<fingerprint>/now          when the launcher compared the two
 *
 * The link is made first, the file is read through it, and gets its name when all is durable (H10): so it is never another file than the
 * one that was read. Content is never read from a marker again: PostgreSQL writes new WAL into the same file when it recycles it.
 */
import { createHash } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { link, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { ownerOf, temporarySuffix } from '../left-overs.ts';
import { markerLastMs } from '../limits.ts';
import { type Binding, isOfSameStart, makeBoundFolder, readBinding, removeBoundFolder } from './ahead.ts';

/** Some shells compare whole seconds, and some file systems keep every second one. */
const stampAgeMs = 2000;

/** What `link` answers where there are no hard links, or not that many. */
const linkErrors = ['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'ENOSYS'];

const stampSuffix = '.stamp';
const untilSuffix = '.until';
/** Entries of the folder that are of no marker. */
const besideMarkers = ['bound', 'now'];

export interface MarkerOptions {
  readonly walFolder: string;
  readonly binding: Binding;
  /** Its id. */
  readonly repository: string;
  readonly systemIdentifier: string;
}

/** A file that is being archived ahead. */
export interface Marking {
  /** To read it by. */
  readonly path: string;
  readonly sizeBytes: number;
  /** It is durable in the archive. @returns whether the marker was set: not where the file changed meanwhile, or is another one now. */
  readonly set: () => Promise<boolean>;
  /** Lets it be. */
  readonly drop: () => Promise<void>;
}

export class PushMarkers {
  readonly #walFolder: string;
  readonly #folder: string;
  /** Was the requested file's there, and did the launcher not believe it? Then it would believe no other. */
  readonly wasRefused: boolean;

  private constructor(walFolder: string, folder: string, wasRefused: boolean) {
    this.#walFolder = walFolder;
    this.#folder = folder;
    this.wasRefused = wasRefused;
  }

  /** `requested`: what PostgreSQL calls for now. That a marker of it was not believed says that none of the besideMarkers will be. */
  static async open(options: MarkerOptions, requested: string): Promise<PushMarkers> {
    const { walFolder, binding, repository, systemIdentifier } = options;
    const hash = createHash('sha256').update(JSON.stringify([repository, systemIdentifier, binding]));
    const folder = join(pushedFolder(walFolder), hash.digest('hex').slice(0, 16));
    return keeping(folder, async () => {
      const markers = (await list(folder)).filter((name) => !besideMarkers.includes(name) && !isLeftOver(name));
      const wasRefused = markers.includes(requested);
      if (markers.length === 0 || wasRefused) await removeBoundFolder(folder);
      await makeBoundFolder(folder, binding, walFolder);
      return new PushMarkers(walFolder, folder, wasRefused);
    });
  }

  /** Is there one that the launcher will believe? @throws HostError */
  has(name: string): Promise<boolean> {
    return keeping(this.#folder, () => this.#has(name));
  }

  /**
   * Undefined where no marker could vouch for it: it was written to a moment ago, or is gone.
   * @throws HostError, also where there are no hard links.
   */
  async begin(name: string): Promise<Marking | undefined> {
    const marking = await keeping(this.#folder, () => this.#begin(name));
    return marking === undefined ? undefined : { ...marking, set: () => keeping(this.#folder, marking.set) };
  }

  async #has(name: string): Promise<boolean> {
    const marker = join(this.#folder, name);
    const [own, stamp] = [await look(marker), await look(`${marker}${stampSuffix}`)];
    const [until, file] = [await look(`${marker}${untilSuffix}`), await look(join(this.#walFolder, name))];
    if (own === undefined || stamp === undefined || until === undefined || file?.ino !== own.ino) return false;
    return isSettled(own, stamp) && Number(until.mtimeMs) - Date.now() > markerLastMs / 2;
  }

  async #begin(name: string): Promise<Marking | undefined> {
    const marker = join(this.#folder, name);
    const stampPath = `${marker}${stampSuffix}`;
    const untilPath = `${marker}${untilSuffix}`;
    const path = `${marker}.wal-t-${temporarySuffix()}`;
    const file = join(this.#walFolder, name);
    await rm(marker, { force: true }); // before there is a newer stamp, which would be believed for it
    try {
      await link(file, path);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
    const drop = async (): Promise<void> => {
      await rm(path, { force: true });
      await rm(stampPath, { force: true });
      await rm(untilPath, { force: true });
    };
    try {
      const [stamp, before] = [await makeStamp(stampPath, -stampAgeMs), await look(path)];
      await makeStamp(untilPath, markerLastMs);
      if (before === undefined || !isSettled(before, stamp)) {
        await drop();
        return undefined;
      }
      const set = async (): Promise<boolean> => {
        const [after, there] = [await look(path), await look(file)];
        const isSame = after !== undefined && after.mtimeNs === before.mtimeNs && after.size === before.size;
        if (!isSame || there?.ino !== before.ino || there.dev !== before.dev) {
          await drop();
          return false;
        }
        await rename(path, marker);
        await rm(path, { force: true }); // two names of one file: then rename does nothing
        return true;
      };
      return { path, sizeBytes: Number(before.size), set, drop };
    } catch (error) {
      await drop();
      throw error;
    }
  }
}

/**
 * Removes what nobody will be asked for: markers of another start of the server, of files that do not wait any more, and left-overs.
 * @throws HostError
 */
export function clearMarkers(walFolder: string, binding: Binding, waiting: ReadonlySet<string>): Promise<void> {
  return keeping(pushedFolder(walFolder), () => clear(walFolder, binding, waiting));
}

async function clear(walFolder: string, binding: Binding, waiting: ReadonlySet<string>): Promise<void> {
  for (const name of await list(pushedFolder(walFolder))) {
    const folder = join(pushedFolder(walFolder), name);
    const found = await readBinding(folder).catch(() => undefined); // somebody else's, who called it by hand
    if (!isOfSameStart(found, binding)) {
      await removeBoundFolder(folder).catch(() => undefined);
      continue;
    }
    for (const entry of await list(folder)) {
      const file = entry.replace(/\.(?:stamp|until)$/, '');
      const isStale = isLeftOver(entry) ? isAbandoned(entry) : !besideMarkers.includes(entry) && !waiting.has(file);
      if (isStale) await rm(join(folder, entry), { force: true });
    }
  }
}

/** For a cluster that is archived elsewhere from now on. */
export function removeMarkers(walFolder: string): Promise<void> {
  return removeBoundFolder(pushedFolder(walFolder));
}

function pushedFolder(walFolder: string): string {
  return join(walFolder, '.wal-t', 'pushed');
}

/** Nobody else tells of it: what is not marked is archived all the same, by a call of its own. */
async function keeping<T>(folder: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new HostError(`could not keep markers in "${folder}": ${systemErrorReason(error)}`, {
      hint: linkErrors.includes(systemErrorCode(error) ?? '')
        ? "It must be on pg_wal's own file system, and that must have hard links. WALT_WAL_PUSH_AHEAD=0 does without."
        : 'It must belong to the user that PostgreSQL runs as, as pg_wal does, and its disk must have room. Till then files are archived one a call.',
      cause: error,
    });
  }
}

/** By the clock of that file system, which sets the times that it is compared with. */
async function makeStamp(path: string, laterMs: number): Promise<BigIntStats> {
  await writeFile(path, '', { mode: 0o600 });
  const { mtimeMs } = await stat(path);
  const time = new Date(Math.floor(mtimeMs) + laterMs);
  await utimes(path, time, time);
  return stat(path, { bigint: true });
}

/** Was it last written to before? As the launcher compares it, if not more strictly. */
function isSettled(file: BigIntStats, stamp: BigIntStats): boolean {
  return file.mtimeNs <= stamp.mtimeNs;
}

async function look(path: string): Promise<BigIntStats | undefined> {
  return stat(path, { bigint: true }).catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  });
}

function isLeftOver(name: string): boolean {
  return name.includes('.wal-t-');
}

function isAbandoned(name: string): boolean {
  return ownerOf(name.slice(name.indexOf('.wal-t-') + '.wal-t-'.length)) === 'nobody';
}

async function list(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  });
}
