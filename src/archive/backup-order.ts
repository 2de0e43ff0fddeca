/** Which of a cluster's backups is the newer one: by timelines and LSNs, and by the clock only where these say nothing. Pure. */
import type { Lsn } from '../postgres/lsn.ts';
import type { RetainedBackup, TimelineFork } from './retention-state.ts';

/** By the timeline that begins there. */
export type Forks = ReadonlyMap<number, TimelineFork>;

/** Does WAL that goes on from `lsn` on a timeline lead to the timeline `target`? Not when that was left before, nor when a history lacks. */
export function leadsTo(forks: Forks, from: { readonly timeline: number; readonly lsn: Lsn }, target: number): boolean {
  for (let at = target; at !== from.timeline; ) {
    const fork = forks.get(at);
    if (fork === undefined || fork.switchLsn < from.lsn) return false;
    at = fork.parent;
  }
  return true;
}

/** Can this backup be recovered onto the timeline? It must be consistent before that begins. */
export function isBaseOf(forks: Forks, { timeline, consistentLsn }: RetainedBackup, target: number): boolean {
  return leadsTo(forks, { timeline, lsn: consistentLsn }, target);
}

/** One of two different backups is the newer one, always: by LSN where one can be recovered past the other, by the clock across branches. */
export function isNewer(forks: Forks, a: RetainedBackup, b: RetainedBackup): boolean {
  const areInLine = isBaseOf(forks, a, b.timeline) || isBaseOf(forks, b, a.timeline);
  if (areInLine && a.consistentLsn !== b.consistentLsn) return a.consistentLsn > b.consistentLsn;
  const difference = a.finishedAt.getTime() - b.finishedAt.getTime();
  return difference === 0 ? a.id > b.id : difference > 0;
}

/**
 * The newest `count`, the newest first. It is more of them when clocks contradict LSNs, so that a is newer than b, b than c and c than a:
 * such backups come together or not at all. (The first k, by how many are newer, have nothing newer outside when these numbers sum up to
 * k(k-1)/2. @see H. G. Landau, 1953.) So nothing that was kept stops being one of the newest when others are removed.
 */
export function newestOf(forks: Forks, backups: readonly RetainedBackup[], count: number): RetainedBackup[] {
  const ranked = backups
    .map((backup) => ({ backup, rank: backups.filter((one) => one !== backup && isNewer(forks, one, backup)).length }))
    .sort((a, b) => a.rank - b.rank);
  let sum = 0;
  let taken = 0;
  for (const { rank } of ranked) {
    if (taken >= count && sum === (taken * (taken - 1)) / 2) break;
    sum += rank;
    taken += 1;
  }
  return ranked.slice(0, taken).map(({ backup }) => backup);
}
