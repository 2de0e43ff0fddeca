/** Which WAL the backups that stay need, on which timelines. Pure. */
import type { Lsn } from '../postgres/lsn.ts';
import { type Forks, leadsTo } from './backup-order.ts';
import type { NeededWal, RetentionPlan } from './retention-state.ts';

/** WAL that is read from `startLsn` of a timeline on: to an LSN, or to wherever it leads. */
export interface WalReader extends NeededWal {}

/** Does the plan keep this segment? What lies outside of what was judged stays. */
export function isWalNeeded(
  { timelines, walNeeded }: Pick<RetentionPlan, 'timelines' | 'walNeeded'>,
  { timeline, startLsn, endLsn }: { readonly timeline: number; readonly startLsn: Lsn; readonly endLsn: Lsn },
): boolean {
  if (!timelines.includes(timeline)) return true;
  return walNeeded.some(
    (range) =>
      range.timeline === timeline && range.startLsn < endLsn && (range.endLsn === 'open' || startLsn < range.endLsn),
  );
}

/** All WAL of these timelines. */
export function allWal(timelines: readonly number[], why: string): NeededWal[] {
  return timelines.map((timeline) => ({ timeline, startLsn: 0n, endLsn: 'open', why }));
}

/** What all readers need together, by timeline and start, and that of timelines which may descend from a reader's for all one knows. */
export function walNeededBy(readers: readonly WalReader[], forks: Forks, timelines: readonly number[]): NeededWal[] {
  const needed = readers.flatMap((reader) => walOf(reader, forks, timelines));
  const oldest = Math.min(...readers.map(({ timeline }) => timeline));
  const doubtful = timelines.filter((timeline) => rootOf(timeline, forks) > Math.max(1, oldest));
  needed.push(...allWal(doubtful, 'without its history nobody knows which backups lead to it'));
  return withoutContained(needed);
}

/**
 * On its own timeline; on its ancestors, should it begin there; on the timelines that leave it after its start. (Those that leave it before it
 * is consistent are of no use to it, but for a standby that followed a promotion while it was copied: they cost little and stay.)
 */
function walOf(
  { timeline, startLsn, endLsn, why }: WalReader,
  forks: Forks,
  timelines: readonly number[],
): NeededWal[] {
  const needed: NeededWal[] = [{ timeline, startLsn, endLsn, why }];
  let fork = forks.get(timeline);
  let end = endLsn;
  while (fork !== undefined && startLsn < fork.switchLsn) {
    end = earlier(end, fork.switchLsn);
    needed.push({ timeline: fork.parent, startLsn, endLsn: end, why });
    fork = forks.get(fork.parent);
  }
  for (const child of timelines) {
    const begin = forks.get(child)?.switchLsn;
    if (child === timeline || begin === undefined || !leadsTo(forks, { timeline, lsn: startLsn }, child)) continue;
    needed.push({ timeline: child, startLsn: begin, endLsn, why });
  }
  return needed.filter((range) => range.endLsn === 'open' || range.startLsn < range.endLsn);
}

/** The first timeline that its history names; itself when there is none. */
function rootOf(timeline: number, forks: Forks): number {
  const parent = forks.get(timeline)?.parent;
  return parent === undefined ? timeline : rootOf(parent, forks);
}

function earlier(a: Lsn | 'open', b: Lsn): Lsn {
  return a === 'open' || b < a ? b : a;
}

/** Ranges that say nothing that an earlier one does not. The others may overlap: each says for itself why. */
function withoutContained(ranges: readonly NeededWal[]): NeededWal[] {
  const left: NeededWal[] = [];
  for (const range of [...ranges].sort(byStart)) {
    const isContained = left.some(
      ({ timeline, endLsn }) =>
        timeline === range.timeline && (endLsn === 'open' || (range.endLsn !== 'open' && range.endLsn <= endLsn)),
    );
    if (!isContained) left.push(range);
  }
  return left;
}

/** By timeline, then by start; of two that begin together the longer one first. */
function byStart(a: NeededWal, b: NeededWal): number {
  if (a.timeline !== b.timeline) return a.timeline - b.timeline;
  if (a.startLsn !== b.startLsn) return a.startLsn < b.startLsn ? -1 : 1;
  if (a.endLsn === b.endLsn) return 0;
  if (a.endLsn === 'open') return -1;
  return b.endLsn === 'open' || a.endLsn < b.endLsn ? 1 : -1;
}
