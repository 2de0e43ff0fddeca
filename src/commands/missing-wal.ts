/** Which finished files of a pg_wal does PostgreSQL call archived, though the archive does not have them? Pushes nothing. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import { objectKey, walObjectName } from '../archive/keys.ts';
import { collect } from '../bytes.ts';
import { findDoneFiles } from '../cluster/archive-status.ts';
import { inspectWalFile } from '../cluster/wal-file.ts';
import { limits } from '../limits.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory } from '../postgres/timeline-history.ts';
import { parseWalFileName, segmentStart, type WalFileName } from '../postgres/wal-file-name.ts';

export interface MissingWal {
  /** Finished files in pg_wal. */
  readonly looked: number;
  /** Histories first, then in the order of their names. */
  readonly missing: readonly WalFileName[];
}

export interface MissingWalOptions {
  readonly dataDirectory: string;
  readonly segmentSizeBytes: number;
  readonly signal: AbortSignal;
}

/** @throws HostError when pg_wal cannot be read. */
export async function findMissingWal(
  archive: Pick<Archive, 'storage' | 'systemIdentifier'>,
  { dataDirectory, segmentSizeBytes, signal }: MissingWalOptions,
): Promise<MissingWal> {
  const done = await findDoneFiles(dataDirectory); // first: what is archived from now on is listed
  const stored = await readStored(archive, { signal, segmentSizeBytes });
  const unfinished = await leftSegments(dataDirectory, segmentSizeBytes);
  const missing = done.filter(
    (file) =>
      !stored.keys.has(objectKey(archive.systemIdentifier, walObjectName(file))) &&
      !unfinished(file) &&
      // what is older than all that is stored was removed on purpose
      (file.kind === 'history' ||
        stored.oldestLsn === undefined ||
        startOf(file, segmentSizeBytes) >= stored.oldestLsn),
  );
  return { looked: done.length, missing };
}

interface Stored {
  readonly keys: ReadonlySet<string>;
  /** Where the first full segment of any timeline begins. */
  readonly oldestLsn: Lsn | undefined;
}

/** One listing, and no content: this host may have no identity to read any. */
async function readStored(
  { storage, systemIdentifier }: Pick<Archive, 'storage' | 'systemIdentifier'>,
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
 * Is this a segment in which a history here leaves the timeline, whether that is archived or not? A standby that follows another's promotion
 * marks the last one that it streamed of the old timeline as done, though it is not full; and what wal-fetch has delivered ends there.
 */
async function leftSegments(dataDirectory: string, segmentSizeBytes: number): Promise<(file: WalFileName) => boolean> {
  const ends: { readonly timeline: number; readonly end: Lsn }[] = [];
  for (const file of (await readdir(join(dataDirectory, 'pg_wal'))).map(parseWalFileName)) {
    if (file?.kind !== 'history') continue;
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
