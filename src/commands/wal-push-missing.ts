/**
 * wal-push --missing [PGDATA]: after a failover the new primary's pg_wal may hold segments that PostgreSQL calls archived, since the old
 * primary was to do it, and that never arrived. They are found and pushed, while they are still there.
 */
import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import { objectKey, walObjectName } from '../archive/keys.ts';
import { collect } from '../bytes.ts';
import { readControlFile } from '../cluster/data-directory.ts';
import { inspectWalFile } from '../cluster/wal-file.ts';
import { HostError, StorageError, systemErrorReason, UsageError, WalTError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory } from '../postgres/timeline-history.ts';
import { parseWalFileName, segmentStart, type WalFileName } from '../postgres/wal-file-name.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';
import { walPush } from './wal-push.ts';

export interface MissingResult {
  readonly looked: number;
  readonly pushed: readonly string[];
  readonly failed: readonly { readonly name: string; readonly error: WalTError }[];
}

export async function walPushMissing(
  context: Context,
  { pgdata }: { readonly pgdata?: string | undefined },
): Promise<MissingResult> {
  const given = pgdata ?? context.settings.dataDirectory ?? context.libpq.PGDATA;
  if (given === undefined)
    throw new UsageError('it is not clear which cluster is meant', {
      hint: 'Give its data directory: wal-push --missing PGDATA.',
    });
  const dataDirectory = resolve(context.workingDirectory, given);
  const own = { ...context, settings: { ...context.settings, dataDirectory } };
  const segmentSizeBytes = (await readControlFile(dataDirectory))?.segmentSizeBytes;
  if (segmentSizeBytes === undefined) {
    throw new HostError(`"${dataDirectory}" is not a data directory that can be read`, {
      hint: 'Give that of a server of the cluster, and run it as the user that PostgreSQL runs as.',
    });
  }
  const archive = await openArchive(own);
  const stored = await readStored(archive, { ...context, segmentSizeBytes });
  const done = await doneFiles(dataDirectory);
  const unfinished = await leftSegments(dataDirectory, { done, segmentSizeBytes });
  const missing = done.filter(
    (file) =>
      !stored.keys.has(objectKey(archive.systemIdentifier, walObjectName(file))) &&
      !unfinished(file) &&
      // what is older than all that is stored was removed on purpose
      (file.kind === 'history' ||
        stored.oldestLsn === undefined ||
        startOf(file, segmentSizeBytes) >= stored.oldestLsn),
  );
  const pushed: string[] = [];
  const failed: { name: string; error: WalTError }[] = [];
  for (const { name } of missing) {
    try {
      await walPush(own, { path: join(dataDirectory, 'pg_wal', name), mayBeRecycled: true });
      pushed.push(name);
    } catch (error) {
      if (!(error instanceof WalTError)) throw error;
      failed.push({ name, error });
      if (error instanceof StorageError) break; // else the others may do
    }
  }
  return { looked: done.length, pushed, failed };
}

interface Stored {
  readonly keys: ReadonlySet<string>;
  /** Where the first full segment of any timeline begins. */
  readonly oldestLsn: Lsn | undefined;
}

/** One listing, and no content: this host may have no identity to read any. */
async function readStored(
  { storage, systemIdentifier }: Archive,
  { signal, segmentSizeBytes }: { readonly signal: AbortSignal; readonly segmentSizeBytes: number },
): Promise<Stored> {
  const keys = new Set<string>();
  let oldestLsn: Lsn | undefined;
  for await (const { key } of storage.list(objectKey(systemIdentifier, 'wal/'), { signal })) {
    keys.add(key);
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file?.kind !== 'segment') continue;
    const startLsn = startOf(file, segmentSizeBytes);
    if (oldestLsn === undefined || startLsn < oldestLsn) oldestLsn = startLsn;
  }
  return { keys, oldestLsn };
}

function startOf(file: Exclude<WalFileName, { kind: 'history' }>, segmentSizeBytes: number): Lsn {
  return segmentStart(file, segmentSizeBytes) ?? 0n;
}

/**
 * Is this a segment in which a history here leaves the timeline? A standby that follows another's promotion marks the last one that it
 * streamed of the old timeline as done, though it is not full.
 */
async function leftSegments(
  dataDirectory: string,
  { done, segmentSizeBytes }: { readonly done: readonly WalFileName[]; readonly segmentSizeBytes: number },
): Promise<(file: WalFileName) => boolean> {
  const ends: { readonly timeline: number; readonly end: Lsn }[] = [];
  for (const file of done) {
    if (file.kind !== 'history') continue;
    const { read } = await inspectWalFile(join(dataDirectory, 'pg_wal', file.name), file);
    const text = (await collect(read(), limits.smallFileBytes)).toString('utf8');
    ends.push(...parseTimelineHistory(file.timeline, text).ancestors);
  }
  return (file) => {
    if (file.kind !== 'segment') return false;
    const start = startOf(file, segmentSizeBytes);
    return ends.some(
      ({ timeline, end }) => timeline === file.timeline && start < end && end < start + BigInt(segmentSizeBytes),
    );
  };
}

/** Files that are finished, and that PostgreSQL will not ask for again: histories first, then in the order of their names. */
async function doneFiles(dataDirectory: string): Promise<WalFileName[]> {
  const folder = join(dataDirectory, 'pg_wal');
  try {
    const there = new Set(await readdir(folder));
    const marks = await readdir(join(folder, 'archive_status'));
    const names = marks.filter((mark) => mark.endsWith('.done')).map((mark) => mark.slice(0, -'.done'.length));
    const files = names
      .filter((name) => there.has(name))
      .sort()
      .map(parseWalFileName);
    const known = files.filter((file) => file !== undefined);
    return [...known.filter(({ kind }) => kind === 'history'), ...known.filter(({ kind }) => kind !== 'history')];
  } catch (error) {
    throw new HostError(`could not read "${folder}": ${systemErrorReason(error)}`, {
      hint: 'Run it as the user that PostgreSQL runs as.',
      cause: error,
    });
  }
}
