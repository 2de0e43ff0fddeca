/** Which timeline PostgreSQL is told to recover along, and what is to be said of it. */
import type { StoredWal } from '../../archive/stored-wal.ts';
import type { Choice } from './choice.ts';
import type { RestorePlan } from './plan.ts';

export interface FollowedTimeline {
  /** Of `recovery_target_timeline`. */
  readonly timeline: number | 'latest';
  /** For people. */
  readonly notes: readonly string[];
}

/**
 * A number: `latest` would follow any history that lies in the archive. A standby has to follow promotions, and so has `latest`, unless it
 * was told a timeline, or would be led away at once from the one that its backup was chosen for.
 */
export function followedTimeline(
  { wal }: Pick<Choice, 'wal'>,
  { backup, timeline }: Pick<RestorePlan, 'backup' | 'timeline'>,
  asked: { readonly standby: boolean; readonly timeline?: number | undefined },
): FollowedTimeline {
  if (!asked.standby) return { timeline, notes: [] };
  const latest = latestTimeline(wal, backup.timeline);
  if (asked.timeline === undefined && latest === timeline) return { timeline: 'latest', notes: [] };
  const why = latest === timeline ? '' : `"latest" would lead the standby onto timeline ${latest}: `;
  const note = `${why}it stays on timeline ${timeline}, and follows no promotion until recovery_target_timeline is set to 'latest'`;
  return { timeline, notes: [note] };
}

/** What PostgreSQL takes `latest` for: it tries one history after the other. @see PostgreSQL `timeline.c`, `findNewestTimeLine` */
function latestTimeline({ histories }: StoredWal, from: number): number {
  let latest = from;
  while (histories.has(latest + 1)) latest += 1;
  return latest;
}
