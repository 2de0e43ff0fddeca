/** wal-t windows: on each timeline, which moments can be restored, from which backups, and where the holes are. */

import type { Archive } from '../archive/archive.ts';
import type { BackupManifest } from '../archive/manifest.ts';
import { type Chain, followWay, type Hole, isOnWay, wayTo } from '../archive/window.ts';
import { NotFoundError } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { formatHistoryName, parseWalFileName } from '../postgres/wal-file-name.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';
import { type Choice, choiceIn, withReadable } from './restore/choice.ts';
import { planRestore, type RestorePlan } from './restore/plan.ts';
import { earliestTime, isComplete } from './restore/start.ts';
import { parseTime } from './restore/target.ts';
import { mainTimeline, UnknownOrigin } from './restore/timelines.ts';

/** Moments that can be restored: every one from the first to the last. Times in microseconds since 1970, UTC. */
export interface Window {
  readonly from: { readonly lsn: Lsn; readonly time: bigint };
  /** The last record, and the last transaction's end. Undefined time: none ended since the oldest backup. */
  readonly to: { readonly lsn: Lsn; readonly time: bigint | undefined };
  /** Oldest first. */
  readonly backups: readonly string[];
  /** What ends it, where more WAL is stored behind. */
  readonly hole: Hole | undefined;
}

export interface TimelineWindows {
  readonly timeline: number;
  /** It is the one that is restored to unless another is asked for. */
  readonly isMain: boolean;
  readonly parent: { readonly timeline: number; readonly switchLsn: Lsn } | undefined;
  readonly windows: readonly Window[];
  /** Why there is none. */
  readonly problem: string | undefined;
}

export interface WindowsResult {
  readonly systemIdentifier: string;
  readonly timelines: readonly TimelineWindows[];
  readonly at: Reachable | undefined;
}

/** Can a moment be restored? */
export type Reachable =
  | { readonly isReachable: true; readonly plan: RestorePlan; readonly backupBytes: number; readonly walBytes: number }
  | { readonly isReachable: false; readonly reason: string; readonly detail: string | undefined };

export async function windows(context: Context, { at }: { readonly at?: string | undefined }): Promise<WindowsResult> {
  const time = at === undefined ? undefined : parseTime(at);
  if (time?.zoneTaken !== undefined) context.log.info(`"${at}" has no zone: this host's ${time.zoneTaken} was taken`);
  const archive = await openArchive(context);
  return withReadable(context, await choiceIn(context, archive), async (choice) => {
    const main = await mainOf(choice);
    const timelines: TimelineWindows[] = [];
    for (const timeline of timelinesIn(choice)) {
      timelines.push({ ...(await windowsOf(choice, timeline)), isMain: timeline === main });
    }
    return {
      systemIdentifier: archive.systemIdentifier,
      timelines,
      at: time === undefined ? undefined : await reachable(choice, time.time),
    };
  });
}

/** Undefined where there is none, or none can be told. */
async function mainOf(choice: Choice): Promise<number | undefined> {
  try {
    return await mainTimeline(choice);
  } catch (error) {
    if (error instanceof NotFoundError || error instanceof UnknownOrigin) return undefined;
    throw error;
  }
}

function timelinesIn({ wal, backups }: Choice): number[] {
  const unreadable = [...wal.unreadable.keys()].map(parseWalFileName);
  const numbers = new Set([
    ...wal.timelines.keys(),
    ...wal.histories.keys(),
    ...unreadable.flatMap((file) => (file?.kind === 'history' ? [file.timeline] : [])),
    ...backups.map(({ timeline }) => timeline),
  ]);
  return [...numbers].sort((a, b) => a - b);
}

async function windowsOf(choice: Choice, timeline: number): Promise<Omit<TimelineWindows, 'isMain'>> {
  const { wal, backups } = choice;
  const way = wayTo(wal, timeline);
  if (way === undefined) {
    return {
      timeline,
      parent: undefined,
      windows: [],
      problem: wal.unreadable.has(formatHistoryName(timeline))
        ? 'its history cannot be read: nobody knows where it came from'
        : 'its history is not stored: nobody knows where it came from',
    };
  }
  const [before] = way.slice(-2, -1);
  const parent = before === undefined ? undefined : { timeline: before.timeline, switchLsn: before.endLsn ?? 0n };
  const groups = new Map<Lsn, { readonly backup: BackupManifest; readonly chain: Chain }[]>();
  for (const backup of backups.filter((one) => isOnWay(way, one.timeline, one.consistentLsn))) {
    const chain = followWay(wal, way, backup.startLsn);
    if (!isComplete({ backup, chain })) continue; // verify tells
    groups.set(chain.endLsn, [...(groups.get(chain.endLsn) ?? []), { backup, chain }]);
  }
  const found: Window[] = [];
  for (const starts of groups.values()) {
    const [first] = starts.sort((a, b) => Number(a.backup.consistentLsn - b.backup.consistentLsn));
    if (first !== undefined)
      found.push(
        await windowFrom(
          choice,
          first,
          starts.map(({ backup }) => backup.id),
        ),
      );
  }
  const problem = found.length === 0 ? 'no confirmed backup leads to it' : undefined;
  return { timeline, parent, windows: found.sort((a, b) => Number(a.from.lsn - b.from.lsn)), problem };
}

async function windowFrom(
  choice: Choice,
  start: { readonly backup: BackupManifest; readonly chain: Chain },
  backups: readonly string[],
): Promise<Window> {
  const { search } = choice;
  const { chain, backup } = start;
  const last = await search.lastBefore(chain, chain.endLsn);
  return {
    from: { lsn: backup.consistentLsn, time: await earliestTime(choice, start) },
    to: { lsn: (await search.lastRecord(chain)) ?? chain.endLsn, time: last?.time },
    backups,
    hole: chain.hole,
  };
}

async function reachable(choice: Choice, time: bigint): Promise<Reachable> {
  try {
    const plan = await planRestore(choice, {
      target: { kind: 'time', time },
      inclusive: true,
      untilHole: false,
      scan: false,
    });
    const walBytes = plan.segments * choice.wal.segmentSizeBytes;
    return { isReachable: true, plan, backupBytes: plan.backup.statistics.storedBytes, walBytes };
  } catch (error) {
    if (!(error instanceof NotFoundError || error instanceof UnknownOrigin)) throw error;
    return { isReachable: false, reason: error.message, detail: error.detail };
  }
}

/** One backup's own window, for backup-list. */
export interface BackupWindow {
  /** How far WAL leads on from it along its own timeline's later way, without a hole. */
  readonly untilLsn: Lsn;
  readonly untilTime: bigint | undefined;
  readonly hole: Hole | undefined;
}

/** By backup; those whose own WAL is not complete have none. */
export async function windowsOfBackups(context: Context, archive: Archive): Promise<ReadonlyMap<string, BackupWindow>> {
  return withReadable(context, await choiceIn(context, archive), windowsOfChoice);
}

async function windowsOfChoice(choice: Choice): Promise<ReadonlyMap<string, BackupWindow>> {
  const found = new Map<string, BackupWindow>();
  const timeline = await mainOf(choice);
  const main = (timeline === undefined ? undefined : wayTo(choice.wal, timeline)) ?? [];
  for (const backup of choice.backups) {
    const way = isOnWay(main, backup.timeline, backup.consistentLsn) ? main : wayTo(choice.wal, backup.timeline);
    if (way === undefined) continue;
    const chain = followWay(choice.wal, way, backup.startLsn);
    if (!isComplete({ backup, chain })) continue;
    const last = await choice.search.lastBefore(chain, chain.endLsn);
    found.set(backup.id, {
      untilLsn: (await choice.search.lastRecord(chain)) ?? chain.endLsn,
      untilTime: last?.time,
      hole: chain.hole,
    });
  }
  return found;
}
