/** From the words of a command line to what one call of wal-fetch is about. */
import { basename, resolve } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import { findDataDirectory, isEndingRecovery, isStandby, readControlFile } from '../../cluster/data-directory.ts';
import { removePrefetched } from '../../cluster/prefetched.ts';
import { UsageError } from '../../errors.ts';
import type { ControlFile } from '../../postgres/control-file.ts';
import { parseWalFileName, type SegmentName, type WalFileName } from '../../postgres/wal-file-name.ts';
import { type Context, storageOf } from '../context.ts';
import { loadKeys } from '../keys.ts';
import { whichCluster } from '../which-cluster.ts';
import type { Fetch, Place, StartBackground } from './fetch.ts';
import { Trying } from './trying.ts';

export interface WalFetchArguments {
  /** `%f`: the file that is wanted. */
  readonly name: string;
  /** `%p`: where it is to be put, relative to the data directory or absolute. */
  readonly path: string;
  /** The timeline that is recovered along, in decimal. */
  readonly timeline?: string | undefined;
  /** A person has decided that the WAL ends before this segment, on every timeline: there is a hole. */
  readonly endAt?: string | undefined;
  /** The copy stands on the host of the original, and must not reach into its tablespaces (H29). */
  readonly beside?: boolean;
  /**
   * The words of the command line in front of `%f` and `%p`, which stand last, with one space between each two. Given, and where PostgreSQL's
   * recovery asks, the next segments are fetched, too: see wal-fetch/ahead.ts.
   */
  readonly wordsBefore?: string | undefined;
  /** How a reader is started that goes on when the call has ended: see wal-fetch/reader.ts. */
  readonly background?: StartBackground | undefined;
}

export async function prepare(context: Context, words: WalFetchArguments): Promise<Fetch> {
  const { workingDirectory, settings, place: archive } = context;
  const { name, path, beside = false, wordsBefore, background } = words;
  const file = fileOf(name);
  const flags = { timeline: timelineOf(words), endAt: endOf(words), beside };
  const dataDirectory = await findDataDirectory(path, {
    workingDirectory,
    configured: settings.dataDirectory,
  });
  const target = resolve(workingDirectory, path);
  const ending = basename(target) === 'RECOVERYHISTORY' && (await isEndingRecovery(dataDirectory ?? '', name));
  const standby = dataDirectory !== undefined && (ending || (await isStandby(dataDirectory)));
  const place: Place = { ...context, target, dataDirectory, standby };
  const trying = new Trying(place);
  if (basename(target) === 'RECOVERYHISTORY') await beginOrEnd(place);
  // as bin/wal-fetch knows it again: relative to the data directory, in which PostgreSQL runs it
  const isAsked = path === 'pg_wal/RECOVERYXLOG' && dataDirectory === workingDirectory && archive !== undefined;
  const mayBeAhead = isAsked && settings.walFetchAhead > 0 && wordsBefore?.includes('\n') === false;
  const storage = await storageOf(context, (failure) => trying.leftInsideMs(failure));
  const ahead = { wordsBefore: mayBeAhead ? wordsBefore : undefined, background };
  return { ...place, ...flags, ...ahead, storage, keys: await loadKeys(context), file, trying };
}

/** A recovery asks for histories at its beginning and at its end: what is there is of an earlier one, or not wanted any more. */
async function beginOrEnd({ dataDirectory, log }: Place): Promise<void> {
  if (dataDirectory === undefined || (await isStandby(dataDirectory))) return;
  await removePrefetched(dataDirectory).catch((error: Error) => log.info(error.message));
}

const usage = "Set restore_command = '… wal-fetch %f %p'.";

function fileOf(name: string): WalFileName {
  if (name.includes('/')) {
    throw new UsageError(`"${name}" is a path, not a file name`, { hint: `The name stands first. ${usage}` });
  }
  const file = parseWalFileName(name);
  if (file !== undefined) return file;
  throw new UsageError(`"${name}" is not the name of a file that PostgreSQL archives`, { hint: usage });
}

function timelineOf({ timeline }: WalFetchArguments): number | undefined {
  if (timeline === undefined) return undefined;
  const number = /^\d{1,10}$/.test(timeline) ? Number(timeline) : 0;
  if (number >= 1 && number <= 0xffff_ffff) return number;
  throw new UsageError(`--timeline cannot be "${timeline}"`, {
    hint: 'Give its number, as in recovery_target_timeline.',
  });
}

function endOf({ endAt }: WalFetchArguments): SegmentName | undefined {
  if (endAt === undefined) return undefined;
  const file = parseWalFileName(endAt);
  if (file?.kind === 'segment') return file;
  throw new UsageError(`--end-at cannot be "${endAt}"`, { hint: 'Give the name of the first missing segment.' });
}

/** The archive that a file is looked for in, and what the data directory says of itself. */
export async function archiveOf(fetch: Fetch): Promise<{ archive: Archive; control: ControlFile | undefined }> {
  const { storage, keys, dataDirectory } = fetch;
  const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
  const own = control?.systemIdentifier;
  const systemIdentifier = await whichCluster(fetch, storage, { own, dataDirectory });
  return { archive: { storage, keys, systemIdentifier }, control };
}
