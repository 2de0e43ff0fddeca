/** What an increment goes by: WAL summaries where the server has them, else times and pages. Known when `pg_backup_start` has said where it begins. */
import type { BackupManifest } from '../../archive/manifest.ts';
import type { Leg } from '../../archive/window.ts';
import { whyTimesAreNotTrusted } from '../../cluster/unchanged-file.ts';
import type { WalPiece } from '../../cluster/wal-summaries.ts';
import { CorruptError, ObjectNotFound } from '../../errors.ts';
import { summariesMs, trustedTimesMs } from '../../limits.ts';
import type { ChangedBlocks } from '../../postgres/changed-blocks.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { Increment } from './increment.ts';
import { type Parent, whyTooLate } from './parent.ts';
import type { Push } from './push.ts';

/** The parent that was chosen turned out not to be fit, for the reason that the message says: a full backup is taken instead. */
export class UnfitParent extends Error {}

export interface IncrementStart {
  readonly startLsn: Lsn;
  /** Pages in one segment file of a relation. */
  readonly segmentPages: number;
  /** That the last checkpoint was on. */
  readonly timeline: number | undefined;
}

/** @throws UnfitParent */
export async function prepareIncrement(push: Push, parent: Parent, start: IncrementStart): Promise<Increment> {
  const { archive, server, args, log, signal, startedAt } = push;
  const { checksums, pageSizeBytes } = server.facts;
  if (start.timeline !== server.facts.timeline) throw new UnfitParent('the server has just changed its timeline'); // the way to it is another now
  const tooLate = whyTooLate(parent, start.startLsn);
  if (tooLate !== undefined) throw new UnfitParent(tooLate);
  const { manifest } = parent;
  const untrusted = whyUntrusted(push, manifest);
  if (untrusted !== undefined) log.info('every file is read to find what changed', { detail: untrusted });
  const options = {
    parent: manifest,
    rules: {
      sinceLsn: manifest.startLsn,
      pageBytes: pageSizeBytes,
      segmentPages: start.segmentPages,
      checksums,
    },
    changes: await readSummaries(push, parent, start.startLsn),
    times:
      untrusted === undefined ? { parentStartedAt: new Date(manifest.startedAt), marginMs: trustedTimesMs } : undefined,
    manifestChecksums: args.manifestChecksums,
    partsSince: args.maxPartAgeMs === undefined ? undefined : new Date(startedAt.getTime() - args.maxPartAgeMs),
    signal,
  };
  try {
    return await Increment.open(archive, options);
  } catch (error) {
    if (!(error instanceof CorruptError || error instanceof ObjectNotFound)) throw error;
    throw new UnfitParent(error.message, { cause: error });
  }
}

/** Undefined where there are none, or not all that are needed. */
async function readSummaries(push: Push, { manifest, way }: Parent, endLsn: Lsn): Promise<ChangedBlocks | undefined> {
  const { server, log, signal } = push;
  if (!server.facts.summarizeWal) {
    if (server.facts.major >= 17) {
      log.info('every relation is read to find what changed: summarize_wal is off', {
        hint: 'Set summarize_wal = on: increments then read little more than what changed.',
      });
    }
    return undefined;
  }
  const history = clip(way, manifest.startLsn, endLsn);
  const found = await server.readChangedBlocks({ history, limitMs: summariesMs, signal, log });
  if ('changes' in found) return found.changes;
  log.warning('every relation is read to find what changed: WAL summaries are not complete', {
    detail: found.reason,
    hint: 'wal_summary_keep_time must be longer than the time between two backups.',
  });
  return undefined;
}

/** The way between two points, a piece of each timeline. */
function clip(way: readonly Leg[], startLsn: Lsn, endLsn: Lsn): WalPiece[] {
  return way.flatMap((leg) => {
    const from = leg.startLsn > startLsn ? leg.startLsn : startLsn;
    const to = leg.endLsn !== undefined && leg.endLsn < endLsn ? leg.endLsn : endLsn;
    return from < to ? [{ timeline: leg.timeline, startLsn: from, endLsn: to }] : [];
  });
}

function whyUntrusted(
  { args, host, dataDirectory, server, startedAt }: Push,
  { source, timeline, ...times }: BackupManifest,
): string | undefined {
  if (args.trustMtime === false) return '--no-trust-mtime';
  const parent = { ...source, timeline, startedAt: new Date(times.startedAt), finishedAt: new Date(times.finishedAt) };
  return whyTimesAreNotTrusted(parent, { host, dataDirectory, timeline: server.facts.timeline, now: startedAt });
}
