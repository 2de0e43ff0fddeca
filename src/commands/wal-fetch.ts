/**
 * wal-fetch %f %p: PostgreSQL's restore_command.
 *
 * PostgreSQL asks for what it needs next, and also for what may not exist: the segment behind the last one, the next timeline's history.
 *   delivered  the file stands at %p, verified and durable
 *   absent     the proved end of the WAL: in archive recovery PostgreSQL opens the database at once, without whatever else was archived
 *   an error   anything else. Each code from 1 to 125 reads as "absent" there, so bin/wal-fetch ends with 200, which stops recovery until
 *              it is started again; under standby.signal, where 200 would stop the standby, with the error's own code
 *
 * @see https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY
 */
import { open } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import pRetry from 'p-retry';
import { listClusters, noRepository, readCluster, readRepository } from '../archive/repository.ts';
import { openWalFile, type WalArchive } from '../archive/wal-archive.ts';
import { findSegmentEnd, proveHistoryAbsent, type SegmentEnd } from '../archive/wal-end.ts';
import type { Bytes } from '../bytes.ts';
import {
  findDataDirectory,
  isEndingRecovery,
  isPromoting,
  isStandby,
  readControlFile,
} from '../cluster/data-directory.ts';
import type { Keys } from '../codec/keys.ts';
import { replaceFile } from '../durable-file.ts';
import { ConfigurationError, HostError, ObjectNotFound, systemErrorReason, UsageError, WalTError } from '../errors.ts';
import { reminderMs, retryPause } from '../limits.ts';
import { parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { Storage } from '../storage/storage.ts';
import { type Context, storageOf } from './context.ts';
import { loadKeys } from './keys.ts';

export interface WalFetchArguments {
  /** `%f`: the file that is wanted. */
  readonly name: string;
  /** `%p`: where it is to be put, relative to the data directory or absolute. */
  readonly path: string;
}

export type WalFetchResult = 'delivered' | 'absent';

/** The names under which PostgreSQL itself asks; pg_rewind and people give the real one. */
const recoveryTargets: readonly string[] = ['RECOVERYXLOG', 'RECOVERYHISTORY'];

/** Keeps trying, as long as waiting may help and PostgreSQL can wait. */
export async function walFetch(context: Context, { name, path }: WalFetchArguments): Promise<WalFetchResult> {
  const fetch = await prepare(context, name, path);
  try {
    return await pRetry(() => fetchOnce(fetch), {
      ...retryPause,
      retries: Number.POSITIVE_INFINITY,
      signal: context.signal,
      shouldRetry: async ({ error }) =>
        error instanceof WalTError && error.mayPass && (await fetch.trying.leftMs(error)) > 0,
    });
  } catch (error) {
    await warnOfPromotion(fetch);
    throw error;
  }
}

/** For whom and where it is fetched. */
interface Place extends Context {
  /** `%p`, absolute. */
  readonly target: string;
  readonly dataDirectory: string | undefined;
  /** PostgreSQL goes on by itself after a failure, rather than stop. */
  readonly standby: boolean;
}

interface Fetch extends Place {
  readonly storage: Storage;
  readonly keys: Keys;
  readonly file: WalFileName;
  readonly trying: Trying;
}

async function prepare(context: Context, name: string, path: string): Promise<Fetch> {
  const { workingDirectory, settings } = context;
  const usage = "Set restore_command = '… wal-fetch %f %p'.";
  if (name.includes('/')) {
    throw new UsageError(`"${name}" is a path, not a file name`, { hint: `The name stands first. ${usage}` });
  }
  const file = parseWalFileName(name);
  if (file === undefined) {
    throw new UsageError(`"${name}" is not the name of a file that PostgreSQL archives`, { hint: usage });
  }
  const dataDirectory = await findDataDirectory(path, {
    workingDirectory,
    configured: settings.dataDirectory,
  });
  const target = resolve(workingDirectory, path);
  const ending = basename(target) === 'RECOVERYHISTORY' && (await isEndingRecovery(dataDirectory ?? '', name));
  const standby = dataDirectory !== undefined && (ending || (await isStandby(dataDirectory)));
  const place: Place = { ...context, target, dataDirectory, standby };
  const trying = new Trying(place);
  const storage = await storageOf(context, (failure) => trying.leftInsideMs(failure));
  return { ...place, storage, keys: await loadKeys(context), file, trying };
}

/** How long it is still worth trying, and a line in the log every 30 s for as long as it is. */
class Trying {
  readonly #place: Place;
  readonly #started = performance.now(); // a clock that nobody sets
  #remindedAt: number | undefined;

  constructor(place: Place) {
    this.#place = place;
  }

  /** After a failure. */
  async leftMs(failure: Error): Promise<number> {
    const leftMs = (await patienceMs(this.#place)) - (performance.now() - this.#started);
    const silentMs = performance.now() - (this.#remindedAt ?? Number.NEGATIVE_INFINITY);
    if (leftMs > 0 && silentMs >= reminderMs) this.#remind(failure);
    return leftMs;
  }

  /** After one that the storage may mend by repeating a request: it is told when it lasts. */
  leftInsideMs(failure: Error): Promise<number> {
    this.#remindedAt ??= this.#started;
    return this.leftMs(failure);
  }

  #remind({ message }: Error): void {
    this.#remindedAt = performance.now();
    const seconds = Math.round((this.#remindedAt - this.#started) / 1000);
    this.#place.log.info(`${message}; trying again`, { detail: `for ${seconds} s so far` });
  }
}

async function fetchOnce(fetch: Fetch): Promise<WalFetchResult> {
  const { file } = fetch;
  const control = fetch.dataDirectory === undefined ? undefined : await readControlFile(fetch.dataDirectory);
  const { storage, keys } = fetch;
  const archive = { storage, keys, systemIdentifier: await whichCluster(fetch, control?.systemIdentifier) };
  try {
    const { content } = await openWalFile(archive, file, fetch);
    await deliver(fetch, content);
    return 'delivered';
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
  }
  await expectCluster(fetch, archive);
  if (file.kind === 'history') {
    await proveHistoryAbsent(archive, file, { signal: fetch.signal, ownTimeline: control?.timeline });
  }
  if (file.kind !== 'segment') return 'absent';
  const segmentSizeBytes = control?.segmentSizeBytes;
  const end = await findSegmentEnd(archive, file, { signal: fetch.signal, segmentSizeBytes });
  if (end.kind === 'end') return 'absent';
  if (fetch.standby && (await hasItself(fetch, archive, end))) return 'absent';
  const { content } = await openWalFile(archive, end.file, fetch);
  await deliver(fetch, endingAt(content, end));
  return 'delivered';
}

/**
 * Does pg_wal hold all that is true in the unfinished segment? A standby may have been streamed more of its timeline than the sibling
 * that was promoted out of it: given less than it has replayed, its own promotion ends in a PANIC.
 */
async function hasItself(fetch: Fetch, archive: WalArchive, end: Extract<SegmentEnd, { kind: 'partial' }>) {
  const own = await open(join(fetch.dataDirectory ?? '', 'pg_wal', fetch.file.name)).catch(() => undefined);
  if (own === undefined) return false;
  try {
    const { content } = await openWalFile(archive, end.file, fetch);
    const length = Number(end.switchPoint - end.start);
    let offset = 0;
    for await (const chunk of content) {
      const wanted = chunk.subarray(0, Math.max(0, length - offset));
      const { buffer } = await own.read(Buffer.alloc(wanted.length), 0, wanted.length, offset);
      if (!buffer.equals(wanted)) return false;
      offset += chunk.length;
    }
    return true;
  } finally {
    await own.close();
  }
}

/** The data directory says it; else the settings; else there is only one in the repository. */
async function whichCluster(fetch: Fetch, own: string | undefined): Promise<string> {
  const configured = fetch.settings.systemIdentifier;
  if (own !== undefined && configured !== undefined && own !== configured) {
    throw new ConfigurationError('WALT_SYSTEM_IDENTIFIER is of another cluster than the data directory', {
      detail: `the setting is ${configured}, "${fetch.dataDirectory}" is of system ${own}`,
      hint: 'Correct WALT_SYSTEM_IDENTIFIER, or remove it: the data directory tells which cluster it is.',
    });
  }
  const known = own ?? configured;
  if (known !== undefined) return known;
  const [only, ...others] = await listClusters(fetch.storage, fetch);
  if (only === undefined) throw noRepository(fetch.storage);
  if (others.length === 0) return only;
  throw new ConfigurationError('it is not clear which cluster is meant', {
    detail: `${fetch.storage.url} holds systems ${[only, ...others].join(', ')}`,
    hint: 'Run it in the data directory, or set WALT_SYSTEM_IDENTIFIER.',
  });
}

/** "Not stored" means nothing where this cluster is not archived at all: an unmounted folder, a mistyped prefix (H16). */
async function expectCluster({ storage, signal }: Fetch, { systemIdentifier }: WalArchive): Promise<void> {
  try {
    await readCluster(storage, systemIdentifier, { signal });
    return;
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
  }
  await readRepository(storage, { signal }).catch((error: unknown) => {
    throw error instanceof ObjectNotFound ? noRepository(storage) : error;
  });
  throw new ConfigurationError(`nothing of this cluster is archived in ${storage.url}`, {
    detail: `system ${systemIdentifier}`,
    hint: 'Correct WALT_REPO: it is the one that this cluster archived into that is needed.',
  });
}

/** Temporary file, fsync, rename, fsync of the folder: no byte stands at `%p` before all were verified. */
async function deliver({ target }: Fetch, content: Bytes): Promise<void> {
  try {
    await replaceFile(target, content, 0o640);
  } catch (error) {
    if (error instanceof WalTError) throw error;
    throw new HostError(`could not write "${target}": ${systemErrorReason(error)}`, {
      hint: 'PostgreSQL gives the path as %p, relative to the data directory. Look at its disk and permissions.',
      cause: error,
    });
  }
}

/** What a promotion left of a segment holds true WAL up to the switch point; whatever stands behind it is nobody's. */
async function* endingAt(content: Bytes, { start, switchPoint }: Extract<SegmentEnd, { kind: 'partial' }>): Bytes {
  const end = Number(switchPoint - start);
  let offset = 0;
  for await (const chunk of content) {
    const keep = Math.max(0, Math.min(chunk.length, end - offset));
    offset += chunk.length;
    yield keep === chunk.length ? chunk : Buffer.concat([chunk.subarray(0, keep)], chunk.length);
  }
}

/** How long it is worth trying: in archive recovery an error stops the server, a standby asks again by itself. */
async function patienceMs({ settings, target, standby, dataDirectory }: Place): Promise<number> {
  const { walFetchRecoveryMs, walFetchStandbyMs, walFetchPromoteMs } = settings.times;
  if (!standby) return recoveryTargets.includes(basename(target)) ? walFetchRecoveryMs : walFetchStandbyMs;
  const promoting = dataDirectory !== undefined && (await isPromoting(dataDirectory));
  return promoting ? walFetchPromoteMs : walFetchStandbyMs;
}

/** Cannot be prevented without forbidding failover: PostgreSQL opens without what the archive may still hold (H7). */
async function warnOfPromotion({ standby, dataDirectory, file, log }: Fetch): Promise<void> {
  if (!standby || dataDirectory === undefined || !(await isPromoting(dataDirectory))) return;
  log.warning(`this standby is being promoted WITHOUT "${file.name}", which may be in the archive`, {
    detail: 'whatever was committed in it and after it will be missing, and its timeline number may be in use already',
    hint: 'If this is not meant, stop the server before it takes writes, mend the storage, and build the standby anew.',
  });
}
