/**
 * Chooses backup and timeline for a recovery target, and refuses what cannot be reached, before a byte of a backup is read. What is said to
 * be possible is what PostgreSQL does: it stops before the first transaction's end that is later than a time, and fails when WAL ends first.
 */
import type { BackupManifest } from '../../archive/manifest.ts';
import type { StoredWal } from '../../archive/stored-wal.ts';
import type { WalSearch } from '../../archive/wal-search.ts';
import { type Chain, followWay, isOnWay, type Leg, wayTo } from '../../archive/window.ts';
import { NotFoundError, type UsageError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import { describeTarget, formatTime, type RecoveryTarget } from './target.ts';

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

/** What there is to choose from. */
export interface Choice {
  readonly wal: StoredWal;
  readonly search: WalSearch;
  /** The confirmed ones, oldest first. */
  readonly backups: readonly BackupManifest[];
}

/** A backup on the way, and how far one gets from it. */
interface Start {
  readonly backup: BackupManifest;
  readonly chain: Chain;
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
  const start = starts.findLast(({ backup, chain }) => chain.endLsn >= backup.consistentLsn);
  if (start === undefined) throw incomplete(starts);
  return { start, target, stopLsn: start.backup.consistentLsn, notes: [] };
}

async function findEnd(choice: Choice, request: PlanRequest, { starts }: Way): Promise<Found> {
  const start = starts.findLast(({ backup, chain }) => chain.endLsn >= backup.consistentLsn);
  if (start === undefined) throw incomplete(starts);
  const { hole } = start.chain;
  if (hole !== undefined && !request.untilHole) {
    const reach = await reachOf(choice, start);
    throw new NotFoundError(`the archived WAL has a hole: "${hole.missing}" is missing, and "${hole.next}" is there`, {
      detail: `from backup ${start.backup.id} one gets to ${reach}`,
      hint: 'Find the missing segment in a pg_wal and push it; or restore to the hole with --until-hole; or choose a target before it.',
    });
  }
  return {
    start,
    target: { kind: 'end' },
    notes: hole === undefined ? [] : [`recovery ends before the hole at "${hole.missing}"`],
  };
}

async function findLsn(choice: Choice, request: PlanRequest, { starts }: Way, lsn: Lsn): Promise<Found> {
  const start = starts.findLast(
    ({ backup, chain }) => backup.consistentLsn <= lsn && chain.endLsn >= backup.consistentLsn,
  );
  if (start === undefined) throw await tooEarly(choice, request, starts);
  const { chain } = start;
  const last = await choice.search.lastRecord(chain);
  if (last !== undefined && lsn <= last) return { start, target: request.target, stopLsn: lsn, notes: [] };
  throw await tooLate(choice, request, start);
}

/** PostgreSQL stops at the first transaction's end that is too late; those that the backup already holds cannot be undone. */
async function findTime(choice: Choice, request: PlanRequest, { starts }: Way, time: bigint): Promise<Found> {
  const latest = request.inclusive ? time : time - 1n;
  let start: Start | undefined;
  for (const one of starts.toReversed()) {
    if (one.chain.endLsn < one.backup.consistentLsn) continue;
    if ((await earliestTime(choice, one)) > latest) continue;
    start = one;
    break;
  }
  if (start === undefined) throw await tooEarly(choice, request, starts);
  const stop = await choice.search.firstAfter(start.chain, latest);
  if (stop !== undefined) return { start, target: request.target, stopLsn: stop.lsn, notes: [] };
  const { hole } = start.chain;
  if (hole !== undefined && !request.untilHole) throw await tooLate(choice, request, start);
  const last = await choice.search.lastBefore(start.chain, start.chain.endLsn);
  const until =
    last === undefined
      ? 'no transaction ended since the backup'
      : `the last transaction in it ended at ${formatTime(last.time)}`;
  const note = `no archived transaction is later than ${formatTime(time)}: recovery goes to the end of the archived WAL; ${until}`;
  return { start, target: { kind: 'end' }, notes: [note] };
}

async function findNamed(choice: Choice, request: PlanRequest, { way, starts }: Way): Promise<Found> {
  const { target, scan } = request;
  const newest = starts.findLast(({ backup, chain }) => chain.endLsn >= backup.consistentLsn);
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

/**
 * Whatever ended later is not in the backup. Where no transaction's end is in the WAL that it needs, the last one was before: when is not
 * known, and from the backup's beginning to its end others may have ended in WAL that it does not need.
 */
export async function earliestTime({ search }: Pick<Choice, 'search'>, { backup, chain }: Start): Promise<bigint> {
  const within = await search.lastBefore(chain, backup.consistentLsn);
  if (within !== undefined) return within.time;
  const finished = BigInt(Date.parse(backup.finishedAt) + 1) * 1000n; // it was cut to milliseconds
  const last = await search.lastBefore(chain, chain.endLsn);
  return last === undefined || last.time > finished ? finished : last.time;
}

/** How far one gets, for people. */
async function reachOf(choice: Choice, { chain }: Start): Promise<string> {
  const last = await choice.search.lastBefore(chain, chain.endLsn);
  const lsn = await choice.search.lastRecord(chain);
  return [last === undefined ? 'no transaction' : formatTime(last.time), `LSN ${formatLsn(lsn ?? chain.endLsn)}`].join(
    ', ',
  );
}

async function tooEarly(
  choice: Choice,
  { target, backup }: PlanRequest,
  starts: readonly Start[],
): Promise<NotFoundError> {
  const [first] = starts;
  const from =
    first === undefined
      ? 'never'
      : `${formatTime(await earliestTime(choice, first))}, LSN ${formatLsn(first.backup.consistentLsn)}`;
  return new NotFoundError(
    `${describeTarget(target)} is before the end of ${backup === undefined ? 'the oldest backup' : `backup ${backup}`} on this timeline`,
    {
      detail: `possible is from ${from} on`,
      hint:
        backup === undefined
          ? 'Choose a later target; "wal-t windows" shows what is possible.'
          : 'Leave --backup away, or choose an older one.',
    },
  );
}

async function tooLate(choice: Choice, { target, timeline }: PlanRequest, start: Start): Promise<NotFoundError> {
  const { hole } = start.chain;
  const reach = await reachOf(choice, start);
  if (hole !== undefined) {
    const next = choice.backups.find(({ startLsn }) => startLsn >= hole.nextLsn);
    return new NotFoundError(
      `${describeTarget(target)} is behind a hole in the archived WAL: "${hole.missing}" is missing`,
      {
        detail: `before the hole one gets to ${reach}; behind it ${next === undefined ? 'there is no backup' : `backup ${next.id} begins at ${formatLsn(next.startLsn)}`}; the next that is there is "${hole.next}"`,
        hint: 'Find the missing segment in a pg_wal and push it; or choose a target that is possible; "wal-t windows" shows them.',
      },
    );
  }
  return new NotFoundError(`${describeTarget(target)} is behind the end of the archived WAL`, {
    detail: `possible is up to ${reach}${timeline === undefined ? '' : ` on timeline ${timeline}`}`,
    hint: 'Without a target recovery goes to the end of what is archived. If it must be there: is the old server still archiving?',
  });
}

function incomplete(starts: readonly Start[]): NotFoundError {
  const newest = starts.at(-1);
  return new NotFoundError('no backup can be restored: its own WAL is not complete', {
    detail:
      newest?.chain.hole === undefined
        ? undefined
        : `"${newest.chain.hole.missing}" is missing, which backup ${newest.backup.id} needs`,
    hint: '"wal-t verify" says what each backup lacks.',
  });
}

function noHistory({ wal }: Choice, timeline: number): NotFoundError {
  return new NotFoundError(`the history of timeline ${timeline} is not in the archive`, {
    detail: `stored are the histories of ${[...wal.histories.keys()].join(', ') || 'none'}`,
    hint: 'Choose another --target-timeline; "wal-t wal-list" shows them.',
  });
}

function noBackup(choice: Choice, way: readonly Leg[], { backup, target }: PlanRequest): UsageError | NotFoundError {
  const timeline = way.at(-1)?.timeline;
  if (backup !== undefined) {
    return new NotFoundError(`backup ${backup} does not lead to timeline ${timeline}`, {
      detail: 'it was taken on another timeline, or after this one had left it',
      hint: 'Leave --backup or --target-timeline away; "wal-t windows" shows what belongs together.',
    });
  }
  return new NotFoundError(`no confirmed backup leads to ${describeTarget(target)} on timeline ${timeline}`, {
    detail:
      choice.backups.length === 0
        ? 'there is none at all'
        : `there are ${choice.backups.length}, all of them on other timelines or taken after the fork`,
    hint: 'Choose another --target-timeline; "wal-t windows" shows what is possible.',
  });
}

/** The timeline on which a transaction ended last, of those that a backup leads to: an orphan history is none, whatever its number. */
export async function mainTimeline(choice: Choice): Promise<number> {
  const [best] = await activeTimelines(choice);
  if (best !== undefined) return best.timeline;
  const newest = choice.backups.at(-1);
  if (newest !== undefined) return newest.timeline;
  throw new NotFoundError('there is no confirmed backup', {
    hint: 'backup-list shows what there is; basebackup-push takes one.',
  });
}

/** Timelines with WAL of their own that a backup leads to, the one that was written to last first. */
async function activeTimelines(
  choice: Choice,
): Promise<readonly { readonly timeline: number; readonly lastAt: bigint }[]> {
  const { wal, backups, search } = choice;
  const found: { timeline: number; lastAt: bigint }[] = [];
  for (const { timeline, ranges } of wal.timelines.values()) {
    const way = wayTo(wal, timeline);
    const own = ranges.at(-1);
    const isReached = way !== undefined && backups.some((one) => isOnWay(way, one.timeline, one.consistentLsn));
    if (way === undefined || own === undefined || !isReached) continue;
    const leg = way.at(-1);
    const from = [own.startLsn, leg?.startLsn ?? 0n].reduce((a, b) => (a > b ? a : b));
    const chain = followWay(wal, way, from);
    const last = await search.lastBefore(chain, chain.endLsn);
    found.push({ timeline, lastAt: last?.time ?? 0n });
  }
  return found.sort((a, b) => (a.lastAt === b.lastAt ? b.timeline - a.timeline : a.lastAt < b.lastAt ? 1 : -1));
}

/** Two servers may write at the same time after an accidental promotion: whoever restores must know that there was a choice. */
async function otherTimelines(choice: Choice, timeline: number): Promise<string[]> {
  const way = wayTo(choice.wal, timeline) ?? [];
  const others = (await activeTimelines(choice)).filter(
    (one) => one.timeline !== timeline && !way.some((leg) => leg.timeline === one.timeline),
  );
  return others.map(
    (one) =>
      `timeline ${one.timeline} has WAL of its own, its last transaction at ${formatTime(one.lastAt)}: --target-timeline ${one.timeline} follows it`,
  );
}
