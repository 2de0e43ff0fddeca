/**
 * Chooses backup and timeline for a recovery target, and refuses what cannot be reached, before a byte of a backup is read. What is said to
 * be possible is what PostgreSQL does: it stops before the first transaction's end that is later than a time, and fails when WAL ends first.
 */
import type { BackupManifest } from '../../archive/manifest.ts';
import type { ClockJump, Moment } from '../../archive/wal-search.ts';
import { type Chain, describeHole, followWay, type Hole, isOnWay, type Leg, wayTo } from '../../archive/window.ts';
import { NotFoundError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import type { Choice } from './choice.ts';
import { incomplete, mendHole, noBackup, noHistory, reachOf, tooEarly, tooLate } from './refusals.ts';
import { earliestTime, isComplete, type Start } from './start.ts';
import { describeTarget, formatTime, type RecoveryTarget } from './target.ts';
import { mainTimeline, otherTimelines } from './timelines.ts';

export interface PlanRequest {
  readonly target: RecoveryTarget;
  /** Undefined: the one that WAL was last written on. */
  readonly timeline?: number | undefined;
  /** Undefined: the newest that fits. */
  readonly backup?: string | undefined;
  /** Are transactions wanted that ended at the target time itself? */
  readonly inclusive: boolean;
  /** Stop before the first hole, if there is one. */
  readonly untilHole: boolean;
  /** Read the WAL for a name or a transaction id. */
  readonly scan: boolean;
}

export interface RestorePlan {
  readonly backup: BackupManifest;
  readonly timeline: number;
  readonly way: readonly Leg[];
  /** From the backup's start. */
  readonly chain: Chain;
  /** What PostgreSQL is to be told: `end` also where a time lies behind the last transaction. */
  readonly target: RecoveryTarget;
  /** The segment before which recovery is to end, where there is a hole: PostgreSQL reads ahead, also past a target before it, and must not fail there. */
  readonly endAt: string | undefined;
  /** Segments from the backup's start to the target. */
  readonly segments: number;
  /** For people: what was decided for them. */
  readonly notes: readonly string[];
}

/** @throws NotFoundError when the target cannot be reached; it says what can. */
export async function planRestore(choice: Choice, request: PlanRequest): Promise<RestorePlan> {
  const timeline = request.timeline ?? (await mainTimeline(choice));
  const way = wayTo(choice.wal, timeline);
  if (way === undefined) throw noHistory(choice, timeline);
  const starts = startsOn(choice, way, request);
  const newest = starts.at(-1);
  if (newest === undefined) throw noBackup(choice, way, request);
  const found = await find(choice, request, { way, starts });
  const notes = [...found.notes, ...(request.timeline === undefined ? await otherTimelines(choice, timeline) : [])];
  const { backup, chain } = found.start;
  const segments =
    found.stopLsn === undefined
      ? chain.segments.length
      : chain.segments.filter(({ startLsn }) => startLsn <= (found.stopLsn ?? 0n)).length;
  return { backup, timeline, way, chain, target: found.target, endAt: chain.hole?.missing, segments, notes };
}

interface Way {
  readonly way: readonly Leg[];
  readonly starts: readonly Start[];
}

interface Found {
  readonly start: Start;
  readonly target: RecoveryTarget;
  readonly stopLsn?: Lsn;
  readonly notes: readonly string[];
}

function find(choice: Choice, request: PlanRequest, way: Way): Promise<Found> {
  switch (request.target.kind) {
    case 'time':
      return findTime(choice, request, way, request.target.time);
    case 'lsn':
      return findLsn(choice, request, way, request.target.lsn);
    case 'immediate':
      return findImmediate(request, way);
    case 'end':
      return findEnd(choice, request, way);
    default:
      return findNamed(choice, request, way);
  }
}

async function findImmediate({ target }: PlanRequest, { starts }: Way): Promise<Found> {
  const start = starts.findLast(isComplete);
  if (start === undefined) throw incomplete(starts);
  return { start, target, stopLsn: start.backup.consistentLsn, notes: [] };
}

async function findEnd(choice: Choice, request: PlanRequest, { starts }: Way): Promise<Found> {
  const start = starts.findLast(isComplete);
  if (start === undefined) throw incomplete(starts);
  const { hole } = start.chain;
  if (hole !== undefined && !request.untilHole) {
    const reach = await reachOf(choice, start);
    throw new NotFoundError(`the archived WAL has a hole: ${describeHole(hole)}`, {
      detail: `from backup ${start.backup.id} one gets to ${reach}`,
      hint: `${mendHole(hole)}; or restore to the hole with --until-hole; or choose a target before it.`,
    });
  }
  return {
    start,
    target: { kind: 'end' },
    notes: hole === undefined ? [] : [`recovery ends before the hole at "${hole.missing}"`],
  };
}

async function findLsn(choice: Choice, request: PlanRequest, { starts }: Way, lsn: Lsn): Promise<Found> {
  const start = starts.findLast((one) => one.backup.consistentLsn <= lsn && isComplete(one));
  if (start === undefined) throw await tooEarly(choice, request, starts);
  const { chain } = start;
  const last = await choice.search.lastRecord(chain);
  if (last !== undefined && lsn <= last) return { start, target: request.target, stopLsn: lsn, notes: [] };
  throw await tooLate(choice, request, start);
}

/** PostgreSQL stops at the first transaction's end that is too late; those that the backup already holds cannot be undone. */
async function findTime(choice: Choice, request: PlanRequest, { starts }: Way, time: bigint): Promise<Found> {
  const latest = request.inclusive ? time : time - 1n;
  const found = await startBefore(choice, starts, latest);
  if (found === undefined) throw await tooEarly(choice, request, starts);
  const { start, stop } = found;
  const notes = choice.search.clockJumps.map(describeJump);
  if (stop !== undefined) return { start, target: request.target, stopLsn: stop, notes };
  const { hole } = start.chain;
  const last = await choice.search.lastBefore(start.chain, start.chain.endLsn);
  const isReached = latest <= (last?.time ?? (await earliestTime(choice, start))); // the very last moment is before the hole
  if (hole !== undefined && !isReached && !request.untilHole) throw await tooLate(choice, request, start);
  return { start, target: { kind: 'end' }, notes: [...notes, describeEnd(time, hole, last)] };
}

/** PostgreSQL would look for a later transaction, and fail where the WAL ends. */
function describeEnd(time: bigint, hole: Hole | undefined, last: Moment | undefined): string {
  const where = hole === undefined ? 'the end of the archived WAL' : `the hole at "${hole.missing}"`;
  const until =
    last === undefined
      ? 'no transaction ended since the backup'
      : `the last transaction ended at ${formatTime(last.time)}`;
  return `before ${where} no transaction is later than ${formatTime(time)}: recovery goes to ${where}; ${until}`;
}

/** The newest backup that is consistent before the first transaction's end behind `latest`, and where that is, if it is there. */
async function startBefore({ search }: Choice, starts: readonly Start[], latest: bigint) {
  for (const start of starts.toReversed()) {
    if (!isComplete(start) || (await earliestTime({ search }, start)) > latest) continue;
    const stop = (await search.firstAfter(start.chain, latest))?.lsn;
    // where a clock was set back a transaction in the backup may be later than those behind it
    if (stop === undefined || stop >= start.backup.consistentLsn) return { start, stop };
  }
  return undefined;
}

function describeJump({ before, after }: ClockJump): string {
  return (
    `the server's clock went back in between: from ${formatTime(before.time)} at ${formatLsn(before.lsn)} to ${formatTime(after.time)} at ` +
    `${formatLsn(after.lsn)}. Recovery stops at the first transaction in the WAL that is later than the target; --target-lsn is exact`
  );
}

async function findNamed(choice: Choice, request: PlanRequest, { way, starts }: Way): Promise<Found> {
  const { target, scan } = request;
  const newest = starts.findLast(isComplete);
  if (newest === undefined) throw incomplete(starts);
  if (!scan) {
    const note = `only PostgreSQL can tell whether ${describeTarget(target)} comes after this backup: --scan reads the WAL beforehand`;
    return { start: newest, target, notes: [note] };
  }
  const [oldest = newest] = starts;
  const seen: Chain[] = [
    oldest.chain,
    ...starts.filter(({ backup }) => backup.startLsn >= oldest.chain.endLsn).map(({ chain }) => chain),
  ];
  for (const chain of seen) {
    for await (const event of choice.search.eventsOf(chain)) {
      const isIt =
        (target.kind === 'name' && event.kind === 'restore point' && event.name === target.name) ||
        (target.kind === 'xid' &&
          (event.kind === 'commit' || event.kind === 'abort') &&
          event.xid === transactionId(target.xid));
      if (!isIt) continue;
      const start = starts.findLast(
        ({ backup, chain: own }) => backup.consistentLsn <= event.lsn && own.endLsn > event.lsn,
      );
      if (start === undefined) throw await tooEarly(choice, request, starts);
      return { start, target, stopLsn: event.lsn, notes: [`${describeTarget(target)} is at ${formatLsn(event.lsn)}`] };
    }
  }
  throw new NotFoundError(`${describeTarget(target)} is not in the archived WAL of this timeline`, {
    detail: `timeline ${way.at(-1)?.timeline}, from ${formatLsn(oldest.backup.startLsn)} on`,
    hint: 'Look at its spelling, or choose another timeline with --target-timeline.',
  });
}

/** WAL has the lower 32 bits of what `pg_current_xact_id` tells; PostgreSQL takes those of a target, too. */
function transactionId(xid: string): number {
  return Number(BigInt.asUintN(32, BigInt(xid)));
}

/** Backups from which one gets onto the way, the oldest first. */
function startsOn({ wal, backups }: Choice, way: readonly Leg[], { backup }: PlanRequest): Start[] {
  return backups
    .filter((one) => (backup === undefined || one.id === backup) && isOnWay(way, one.timeline, one.consistentLsn))
    .map((one) => ({ backup: one, chain: followWay(wal, way, one.startLsn) }))
    .sort((a, b) => Number(a.backup.consistentLsn - b.backup.consistentLsn));
}
