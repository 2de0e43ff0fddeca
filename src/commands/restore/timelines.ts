/** Which timeline is meant when nobody says: the one on which a transaction ended last, of those that a backup leads to. */
import type { StoredWal } from '../../archive/stored-wal.ts';
import { followWay, isOnWay, type Leg, toldWayTo, wayTo } from '../../archive/window.ts';
import { CorruptError, NotFoundError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import { formatHistoryName, parseWalFileName } from '../../postgres/wal-file-name.ts';
import type { Choice } from './choice.ts';
import { formatTime } from './target.ts';

/**
 * An orphan history is none, whatever its number.
 * @throws CorruptError when a timeline's origin cannot be known, which may be the newest; NotFoundError when there is no backup.
 */
export async function mainTimeline(choice: Choice): Promise<number> {
  const { wal, backups } = choice;
  const newest = backups.at(-1);
  if (newest === undefined) {
    throw new NotFoundError('there is no confirmed backup', {
      hint: 'backup-list shows what there is; basebackup-push takes one.',
    });
  }
  const [stranger] = strangers(wal);
  if (stranger !== undefined) throw unknownOrigin(wal, stranger);
  const [best] = await activeTimelines(choice);
  return best?.timeline ?? newest.timeline;
}

/** Timelines that have WAL, or a history that cannot be read, and of which no stored history tells where they came from. */
function strangers(wal: StoredWal): number[] {
  const unread = [...wal.unreadable.keys()].map(parseWalFileName).filter((file) => file?.kind === 'history');
  const numbers = new Set([...wal.timelines.keys(), ...unread.map((file) => file?.timeline ?? 0)]);
  return [...numbers].filter((timeline) => toldWayTo(wal, timeline) === undefined);
}

/** A timeline was chosen by nobody, and of one nobody knows whether it is the newest: choose one. */
export class UnknownOrigin extends CorruptError {}

function unknownOrigin(wal: StoredWal, timeline: number): UnknownOrigin {
  const name = formatHistoryName(timeline);
  const cause = wal.unreadable.get(name);
  return new UnknownOrigin(`nobody knows where timeline ${timeline} came from: it may be the one that is wanted`, {
    detail: cause?.message ?? `"${name}" is not stored, though WAL of its timeline is`,
    hint:
      `Choose a timeline with --target-timeline: "wal-t windows" shows them. Or ${cause === undefined ? '' : `set the damaged history aside (wal-t wal-set-aside ${name}) and `}` +
      `push it from a server that has it (wal-push pg_wal/${name}).`,
    cause,
  });
}

interface Active {
  readonly timeline: number;
  /** When the last transaction ended that one gets by following it; 0 when there is none. */
  readonly lastAt: bigint;
}

/** Timelines with WAL of their own that a backup leads to, the one that was written to last first. */
async function activeTimelines(choice: Choice): Promise<readonly Active[]> {
  const { wal, backups } = choice;
  const found: Active[] = [];
  for (const { timeline, ranges } of wal.timelines.values()) {
    const way = toldWayTo(wal, timeline);
    if (way === undefined || ranges.length === 0) continue;
    if (!backups.some((one) => isOnWay(way, one.timeline, one.consistentLsn))) continue;
    found.push({ timeline, lastAt: await lastOn(choice, way) });
  }
  return found.sort((a, b) => (a.lastAt === b.lastAt ? b.timeline - a.timeline : a.lastAt < b.lastAt ? 1 : -1));
}

/** Looks into the newest WAL of the way first, and at what is before only where no transaction ended in it. */
async function lastOn({ wal, search }: Choice, way: readonly Leg[]): Promise<bigint> {
  for (const leg of way.toReversed()) {
    for (const range of (wal.timelines.get(leg.timeline)?.ranges ?? []).toReversed()) {
      const from = later(range.startLsn, leg.startLsn);
      if (from >= range.endLsn || (leg.endLsn !== undefined && from >= leg.endLsn)) continue;
      const chain = followWay(wal, way, from);
      const last = await search.lastBefore(chain, chain.endLsn);
      if (last !== undefined) return last.time;
    }
  }
  return 0n;
}

function later(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}

/** Two servers may write at the same time after an accidental promotion: whoever restores must know that there was a choice. */
export async function otherTimelines(choice: Choice, timeline: number): Promise<string[]> {
  const way = wayTo(choice.wal, timeline) ?? [];
  const isOther = (one: number) => one !== timeline && !way.some((leg) => leg.timeline === one);
  const active = await activeTimelines(choice);
  const own = active.map((one) => one.timeline);
  const empty = [...choice.wal.histories.values()].filter(
    (one) => isOther(one.timeline) && !own.includes(one.timeline),
  );
  return [
    ...active.filter((one) => isOther(one.timeline)).map(describeActive),
    ...empty.map(({ timeline: one, ancestors }) => {
      const parent = ancestors.at(-1);
      const origin = parent === undefined ? '' : ` left timeline ${parent.timeline} at ${formatLsn(parent.end)}, and`;
      return `timeline ${one}${origin} has no whole segment in the archive that a backup leads to: --target-timeline ${one} would end there`;
    }),
  ];
}

function describeActive({ timeline, lastAt }: Active): string {
  const last = lastAt === 0n ? 'no transaction ended in it' : `its last transaction at ${formatTime(lastAt)}`;
  return `timeline ${timeline} has WAL of its own, ${last}: --target-timeline ${timeline} follows it`;
}
