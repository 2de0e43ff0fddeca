/** Which confirmed backups each rule keeps, and why: the policy's own rules, and those that always hold. Pure. */
import assert from 'node:assert';
import { type Forks, isBaseOf, isNewer, newestOf } from './backup-order.ts';
import type { Policy, RetainedBackup, RetentionState } from './retention-state.ts';

/** A rule: what it keeps with the reasons, and what it says of all others. */
export interface Rule {
  /** By backup id. */
  readonly keeps: ReadonlyMap<string, string>;
  readonly otherwise: string;
  /** Does it promise the moments after a backup, too? Else it needs WAL until it is consistent alone. */
  readonly isOpen: boolean;
}

interface Context {
  readonly confirmed: readonly RetainedBackup[];
  readonly forks: Forks;
  readonly state: RetentionState;
  readonly now: Date;
}

const dayMs = 24 * 60 * 60 * 1000;

/** The rules of a policy, at least one. @throws AssertionError for a count below 1 */
export function policyRules(policy: Policy, context: Context): Rule[] {
  const { retain, keepDays, keepDaily, keepWeekly, keepMonthly, keepYearly, before, backup } = policy;
  for (const count of [retain, keepDays, keepDaily, keepWeekly, keepMonthly, keepYearly]) {
    assert(count === undefined || (Number.isSafeInteger(count) && count >= 1));
  }
  const rules = [
    retain === undefined ? undefined : newest(retain, context),
    keepDays === undefined ? undefined : recoveryWindow(keepDays, context),
    keepDaily === undefined ? undefined : newestOfEach(keepDaily, 'day', context),
    keepWeekly === undefined ? undefined : newestOfEach(keepWeekly, 'week', context),
    keepMonthly === undefined ? undefined : newestOfEach(keepMonthly, 'month', context),
    keepYearly === undefined ? undefined : newestOfEach(keepYearly, 'year', context),
    before === undefined ? undefined : notOlder(before, context),
    backup === undefined ? undefined : notNamed(backup, context),
  ].filter((rule) => rule !== undefined);
  return rules.length > 0 ? rules : [rule(context.confirmed, 'only left-overs go', '', true)];
}

/**
 * What no policy can take away: something to restore, and that for the timeline on which the cluster goes on, too. A backup that is to go
 * by its name is neither, as long as there is another.
 */
export function lastRestorable({ backup }: Policy, { confirmed, forks, state }: Context): Rule {
  const newestBut = (candidates: readonly RetainedBackup[]) => {
    const others = candidates.filter(({ id }) => id !== backup);
    return newestOf(forks, others.length > 0 ? others : candidates, 1);
  };
  const current = currentTimeline(state);
  const bases = confirmed.filter((one) => isBaseOf(forks, one, current));
  const keeps = new Map<string, string>();
  for (const { id } of newestBut(bases)) keeps.set(id, `the last backup that leads to timeline ${current}`);
  for (const { id } of newestBut(confirmed)) keeps.set(id, 'the last restorable backup');
  return { keeps, otherwise: '', isOpen: true };
}

/** The ids of backups that are pinned `now`, with the reason. */
export function pinned({ pins }: Pick<RetentionState, 'pins'>, now: Date): Rule {
  const keeps = new Map<string, string>();
  for (const { backup, until } of pins) {
    if (until === 'for ever') keeps.set(backup, 'pinned for ever');
    else if (until > now) keeps.set(backup, `pinned until ${until.toISOString()}`);
  }
  return { keeps, otherwise: '', isOpen: false };
}

function newest(count: number, { confirmed, forks }: Context): Rule {
  const kept = newestOf(forks, confirmed, count);
  return rule(kept, `one of the newest ${count}`, `not one of the newest ${count}`, true);
}

/**
 * All that finished since the window began. And for each timeline that has moments in the window the newest before it: from there on
 * its moments can be restored. (The cluster's own timeline has such moments also when it has been quiet.)
 */
function recoveryWindow(days: number, { confirmed, forks, state, now }: Context): Rule {
  const begin = new Date(now.getTime() - days * dayMs);
  const current = currentTimeline(state);
  const older = confirmed.filter(({ finishedAt }) => finishedAt <= begin);
  const keeps = new Map<string, string>();
  for (const timeline of timelinesOf(state)) {
    const last = state.lastWalAt === undefined ? begin : state.lastWalAt.get(timeline);
    if (timeline !== current && (last === undefined || last < begin)) continue;
    const bases = older.filter((one) => isBaseOf(forks, one, timeline));
    for (const { id } of newestOf(forks, bases, 1)) {
      keeps.set(id, `the last ${days} days begin with it on timeline ${timeline}`);
    }
  }
  for (const { id, finishedAt } of confirmed) if (finishedAt > begin) keeps.set(id, `of the last ${days} days`);
  return { keeps, otherwise: `not needed for any moment of the last ${days} days`, isOpen: true };
}

const periods = {
  day: (time: Date) => time.toISOString().slice(0, 10),
  week: isoWeek,
  month: (time: Date) => time.toISOString().slice(0, 7),
  year: (time: Date) => time.toISOString().slice(0, 4),
} as const;

function newestOfEach(count: number, period: keyof typeof periods, { confirmed, forks }: Context): Rule {
  const periodOf = ({ finishedAt }: RetainedBackup) => periods[period](finishedAt);
  const keeps = new Map<string, string>();
  for (const name of [...new Set(confirmed.map(periodOf))].sort().reverse().slice(0, count)) {
    const within = confirmed.filter((one) => periodOf(one) === name);
    for (const { id } of newestOf(forks, within, 1)) keeps.set(id, `the newest of ${name}`);
  }
  return { keeps, otherwise: `not the newest of one of the last ${count} ${period}s that have one`, isOpen: false };
}

/** A week belongs to the year of its Thursday. @see ISO 8601 */
function isoWeek(time: Date): string {
  const thursday = new Date(time);
  thursday.setUTCDate(time.getUTCDate() + 3 - ((time.getUTCDay() + 6) % 7));
  const year = thursday.getUTCFullYear();
  const week = 1 + Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / (7 * dayMs));
  return `${year}-W${String(week).padStart(2, '0')}`;
}

function notOlder(before: Date | string, { confirmed, forks }: Context): Rule {
  const edge = typeof before === 'string' ? confirmed.find(({ id }) => id === before) : undefined;
  const isOlder = (one: RetainedBackup) =>
    typeof before === 'string'
      ? edge !== undefined && one !== edge && isNewer(forks, edge, one)
      : one.finishedAt < before;
  const name = typeof before === 'string' ? before : before.toISOString();
  const kept = confirmed.filter((one) => !isOlder(one));
  return rule(kept, `not older than ${name}`, `older than ${name}`, true);
}

function notNamed(name: string, { confirmed }: Context): Rule {
  const kept = confirmed.filter(({ id }) => id !== name);
  return rule(kept, 'not the one that is to go', 'the one that is to go', true);
}

function rule(kept: readonly RetainedBackup[], reason: string, otherwise: string, isOpen: boolean): Rule {
  return { keeps: new Map(kept.map(({ id }) => [id, reason])), otherwise, isOpen };
}

/** Where the cluster writes now: the timeline whose WAL came last, or the highest. */
function currentTimeline({ timelines, backups, lastWalAt = new Map() }: RetentionState): number {
  let [current, at] = [0, Number.NEGATIVE_INFINITY];
  for (const [timeline, date] of lastWalAt) {
    if (date.getTime() < at || (date.getTime() === at && timeline < current)) continue;
    [current, at] = [timeline, date.getTime()];
  }
  return current > 0 ? current : Math.max(0, ...timelinesOf({ timelines, backups }));
}

/** All that have WAL or a backup. */
function timelinesOf({ timelines, backups }: Pick<RetentionState, 'timelines' | 'backups'>): Set<number> {
  return new Set([...timelines, ...backups.map(({ timeline }) => timeline)]);
}
