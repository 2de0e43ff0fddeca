/** Why a target cannot be reached, and what can. */
import { describeHole, type Hole, type Leg } from '../../archive/window.ts';
import { type CorruptError, NotFoundError, type UsageError } from '../../errors.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { formatHistoryName } from '../../postgres/wal-file-name.ts';
import type { Choice } from './choice.ts';
import type { PlanRequest } from './plan.ts';
import { earliestTime, isComplete, type Start } from './start.ts';
import { describeTarget, formatTime } from './target.ts';
import { UnknownOrigin } from './timelines.ts';

/** How far one gets, for people. */
export async function reachOf(choice: Choice, { chain }: Start): Promise<string> {
  const last = await choice.search.lastBefore(chain, chain.endLsn);
  const lsn = await choice.search.lastRecord(chain);
  return [last === undefined ? 'no transaction' : formatTime(last.time), `LSN ${formatLsn(lsn ?? chain.endLsn)}`].join(
    ', ',
  );
}

export async function tooEarly(
  choice: Choice,
  { target, backup }: PlanRequest,
  starts: readonly Start[],
): Promise<NotFoundError> {
  const first = starts.find(isComplete);
  if (first === undefined) return incomplete(starts);
  const from = `${formatTime(await earliestTime(choice, first))}, LSN ${formatLsn(first.backup.consistentLsn)}`;
  return new NotFoundError(
    `${describeTarget(target)} is before the end of ${backup === undefined ? 'the oldest backup that can be restored' : `backup ${backup}`} on this timeline`,
    {
      detail: `possible is from ${from} on`,
      hint:
        backup === undefined
          ? 'Choose a later target; "wal-t windows" shows what is possible.'
          : 'Leave --backup away, or choose an older one.',
    },
  );
}

export async function tooLate(choice: Choice, { target, timeline }: PlanRequest, start: Start): Promise<NotFoundError> {
  const { hole } = start.chain;
  const reach = await reachOf(choice, start);
  if (hole !== undefined) {
    const next = choice.backups.find(({ startLsn }) => startLsn >= hole.nextLsn);
    return new NotFoundError(`${describeTarget(target)} is behind a hole in the archived WAL: ${describeHole(hole)}`, {
      detail: `before the hole one gets to ${reach}; behind it ${next === undefined ? 'there is no backup' : `backup ${next.id} begins at ${formatLsn(next.startLsn)}`}`,
      hint: `${mendHole(hole)}; or choose a target that is possible; "wal-t windows" shows them.`,
    });
  }
  return new NotFoundError(`${describeTarget(target)} is behind the end of the archived WAL`, {
    detail: `possible is up to ${reach}${timeline === undefined ? '' : ` on timeline ${timeline}`}`,
    hint: 'Without a target recovery goes to the end of what is archived. If it must be there: is the old server still archiving?',
  });
}

export function incomplete(starts: readonly Start[]): NotFoundError {
  const newest = starts.at(-1);
  return new NotFoundError('no backup can be restored: its own WAL is not complete', {
    detail:
      newest?.chain.hole === undefined
        ? undefined
        : `${describeHole(newest.chain.hole)}, and backup ${newest.backup.id} needs it`,
    hint: '"wal-t verify" says what each backup lacks.',
  });
}

export function noHistory({ wal }: Choice, timeline: number): NotFoundError | CorruptError {
  const name = formatHistoryName(timeline);
  const cause = wal.unreadable.get(name);
  if (cause !== undefined) {
    return new UnknownOrigin(`the history of timeline ${timeline} cannot be read: nobody knows where it came from`, {
      detail: cause.message,
      hint: `${mendHistory(name)}; or choose another --target-timeline.`,
      cause,
    });
  }
  return new NotFoundError(`the history of timeline ${timeline} is not in the archive`, {
    detail: `stored are the histories of ${[...wal.histories.keys()].join(', ') || 'none'}`,
    hint: 'Choose another --target-timeline; "wal-t wal-list" shows them.',
  });
}

export function noBackup(
  choice: Choice,
  way: readonly Leg[],
  { backup, target }: PlanRequest,
): UsageError | NotFoundError {
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
        : `there are ${choice.backups.length}, on other timelines or taken after the fork`,
    hint: 'Choose another --target-timeline; "wal-t windows" shows what is possible.',
  });
}

/** What a person does about a hole. */
export function mendHole({ kind, next }: Hole): string {
  if (kind === 'unreadable') {
    return `Set the damaged file aside (wal-t wal-set-aside ${next}) and push a sound copy of it`;
  }
  return kind === 'unknown' ? mendHistory(next) : 'Find the missing segment in a pg_wal and push it';
}

function mendHistory(name: string): string {
  return `Set the damaged history aside (wal-t wal-set-aside ${name}) and push it from a server that has it (wal-push pg_wal/${name})`;
}
