/**
 * How much of a segment belongs to the history that PostgreSQL follows (H2). Refused segment N of timeline T, it asks for N of the
 * timelines before; the server that T split off from may have gone on writing, and have archived a whole N of which T knows the beginning.
 */
import { openWalFile } from '../../archive/wal-archive.ts';
import { collect } from '../../bytes.ts';
import { isRecoveryTarget, type LastRefused, readLastRefused, rememberAbsent } from '../../cluster/last-refused.ts';
import { removePrefetched } from '../../cluster/prefetched.ts';
import {
  ConfigurationError,
  type ExitCode,
  exitCodes,
  HoleError,
  HostError,
  ObjectNotFound,
  WalTError,
} from '../../errors.ts';
import { limits } from '../../limits.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { parseTimelineHistory, type TimelineHistory } from '../../postgres/timeline-history.ts';
import { formatHistoryName, parseWalFileName, type SegmentName, segmentStart } from '../../postgres/wal-file-name.ts';
import type { Fetch, SegmentFetch } from './fetch.ts';

/**
 * `all` as far as anything is known; `none` when the timeline that is followed left this one before the segment; else the first
 * `endBytes`, which are the followed timeline's own, too.
 */
export type TruePart =
  | { readonly kind: 'all' }
  | { readonly kind: 'none' }
  | { readonly kind: 'beginning'; readonly endBytes: number };

/** The answer for an older timeline cannot be better than the one for the timeline that was asked for before. */
class RefusedBefore extends WalTError {
  readonly exitCode: ExitCode;
  constructor(file: SegmentName, { segment, exitCode }: LastRefused) {
    super(`"${file.name}" is not delivered, since "${segment}" could not be`, {
      detail:
        'PostgreSQL asks for it in the place of the other, which is of the timeline that it follows: it may hold foreign rows',
      hint: `Look at the error for "${segment}" above; a standby asks for both again.`,
    });
    this.exitCode = Object.values(exitCodes).find((code) => code === exitCode && code > 1) ?? exitCodes.bug;
  }
}

/**
 * Decided by the history that is stored, never by one that merely lies in pg_wal.
 * @throws an error with the exit code of the call before, when that one failed. @throws HoleError when the history is not stored.
 */
export async function findTruePart(fetch: SegmentFetch): Promise<TruePart> {
  const { file, control, dataDirectory } = fetch;
  const followed = await followedTimeline(fetch);
  if (followed === undefined || followed <= file.timeline) return { kind: 'all' };
  const end = (await readHistory(fetch, followed)).ancestors.find(({ timeline }) => timeline === file.timeline)?.end;
  if (end === undefined) throw notAncestor(file, followed);
  const sizeBytes = control?.segmentSizeBytes;
  const start = sizeBytes === undefined ? undefined : segmentStart(file, sizeBytes);
  if (sizeBytes === undefined || start === undefined) {
    throw new HostError(`the WAL segment size of "${dataDirectory ?? 'this cluster'}" could not be read`, {
      detail: `timeline ${followed} left timeline ${file.timeline} at ${formatLsn(end)}, perhaps within "${file.name}"`,
      hint: 'It stands in global/pg_control: run wal-fetch as the user that PostgreSQL runs as, in its data directory.',
    });
  }
  if (end <= start) return { kind: 'none' };
  const endBytes = Number(end - start);
  return endBytes >= sizeBytes ? { kind: 'all' } : { kind: 'beginning', endBytes };
}

/** Undefined where nothing is known. */
async function followedTimeline({ file, dataDirectory, target, timeline }: SegmentFetch): Promise<number | undefined> {
  if (dataDirectory === undefined || !isRecoveryTarget(target)) return timeline;
  const refused = await refusedInstead(dataDirectory, file);
  if (refused === undefined) return timeline;
  if (!refused.last.provedAbsent) throw new RefusedBefore(file, refused.last);
  return Math.max(refused.timeline, timeline ?? 0);
}

/** The same segment of a later timeline, when it was refused last. */
async function refusedInstead(dataDirectory: string, file: SegmentName) {
  const last = await readLastRefused(dataDirectory);
  const refused = parseWalFileName(last?.segment ?? '');
  if (last === undefined || refused?.kind !== 'segment') return undefined;
  if (refused.name.slice(8) !== file.name.slice(8) || refused.timeline <= file.timeline) return undefined;
  return { last, timeline: refused.timeline };
}

/**
 * What is absent on several timelines stays the latest one's: that is the one that is followed. What was fetched ahead before that counts no
 * more.
 */
export async function rememberRefusal({ file, dataDirectory, target }: Fetch): Promise<void> {
  if (file.kind !== 'segment' || dataDirectory === undefined || !isRecoveryTarget(target)) return;
  await removePrefetched(dataDirectory);
  if ((await refusedInstead(dataDirectory, file)) !== undefined) return;
  await rememberAbsent(dataDirectory, file.name);
}

/** @throws HoleError when it is not stored, CorruptError when it cannot be read */
export async function readHistory({ archive, file, signal }: SegmentFetch, timeline: number): Promise<TimelineHistory> {
  const history = parseWalFileName(formatHistoryName(timeline));
  if (history?.kind !== 'history') throw new HoleError(`there is no timeline ${timeline}`);
  try {
    const { content } = await openWalFile(archive, history, { signal });
    return parseTimelineHistory(timeline, (await collect(content, limits.smallFileBytes)).toString('utf8'));
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
    throw new HoleError(`"${history.name}" is missing, though its timeline is the one that is recovered along`, {
      detail: `it alone can tell how much of "${file.name}" is true`,
      hint: `Push it from a server that has it: wal-push pg_wal/${history.name}`,
      cause: error,
    });
  }
}

function notAncestor(file: SegmentName, followed: number): ConfigurationError {
  return new ConfigurationError(`"${file.name}" is of a timeline that timeline ${followed} does not descend from`, {
    hint: 'In restore_command, give wal-fetch the same --timeline as recovery_target_timeline, or none.',
  });
}
