/** What is to be done when, and what is being done: pure bookkeeping over times that it is given. Starts nothing and waits for nothing. */
import { type JobName, type JobPlan, type Lane, longestPauseMs, type Outcome, retryDelayMs } from './jobs.ts';

/** A run that is wanted. Times in milliseconds since 1970. */
export interface Wanted {
  /** The time it was due at; a retry keeps it. */
  readonly due: number;
  /** Not before that: a retry waits. */
  readonly notBefore: number;
  /** Attempts that have failed. */
  readonly failures: number;
}

interface Entry {
  readonly plan: JobPlan;
  wanted: Wanted | undefined;
  /** What is being done. */
  running: Wanted | undefined;
  /** The last due time that became a run. */
  handled: number;
  /** When it ended last: an interval begins there. */
  endedAt: number | undefined;
}

/** A clock that was set back by less than that makes nothing run twice; by more, what it said before is forgotten. */
const forgetMs = 24 * 60 * 60 * 1000;

export class Agenda {
  readonly #entries: readonly Entry[];

  constructor(plans: readonly JobPlan[], startedAt: number) {
    this.#entries = plans.map((plan) => ({
      plan,
      wanted: plan.trigger.kind === 'schedule' ? undefined : { due: startedAt, notBefore: startedAt, failures: 0 },
      running: undefined,
      handled: Number.NEGATIVE_INFINITY,
      endedAt: undefined,
    }));
  }

  /** Takes note of what has become due by `now`. Several due times of a job are one run. */
  notice(now: number): void {
    for (const entry of this.#entries) {
      const { wanted } = entry;
      // what waits longer than any pause was put off before the clock was set back
      if (wanted !== undefined && wanted.notBefore > now + longestPauseMs) entry.wanted = { ...wanted, notBefore: now };
      const due = dueOf(entry, now);
      if (due === undefined) continue;
      entry.handled = due;
      entry.wanted = { due, notBefore: due, failures: 0 };
    }
  }

  /** Takes out the runs that may begin now: of each lane at most one, and none beside one that runs. */
  take(now: number): { readonly plan: JobPlan; readonly wanted: Wanted }[] {
    const busy = new Set<Lane>(this.#entries.filter(({ running }) => running !== undefined).map(laneOf));
    const taken: { readonly plan: JobPlan; readonly wanted: Wanted }[] = [];
    for (const entry of this.#entries) {
      const { plan, wanted } = entry;
      if (wanted === undefined || wanted.notBefore > now || busy.has(plan.lane)) continue;
      busy.add(plan.lane);
      entry.running = wanted;
      entry.wanted = undefined;
      taken.push({ plan, wanted });
    }
    return taken;
  }

  /** A run has ended. @returns when it is tried again. */
  end(
    name: JobName,
    { now, outcome, exitCode }: { readonly now: number; readonly outcome: Outcome; readonly exitCode: number },
  ): number | undefined {
    const entry = this.#entry(name);
    const { running } = entry;
    entry.running = undefined;
    entry.endedAt = now;
    if (outcome === 'done') this.#wantFollowers(name, now);
    if (outcome !== 'failed' || running === undefined || entry.plan.trigger.kind === 'interval') return undefined;
    const failures = running.failures + 1;
    const delayMs = retryDelayMs(failures, exitCode);
    if (delayMs === undefined || entry.wanted !== undefined) return undefined;
    return this.#wantAgain(entry, { ...running, failures, notBefore: now + delayMs });
  }

  /** A run that was taken out turned out to be unneeded. */
  drop(name: JobName): void {
    this.#entry(name).running = undefined;
  }

  /** A run that was taken out must wait for something. */
  postpone(name: JobName, notBefore: number): void {
    const entry = this.#entry(name);
    const { running } = entry;
    entry.running = undefined;
    if (running !== undefined && entry.wanted === undefined) entry.wanted = { ...running, notBefore };
  }

  /** Wants one run of a job now, if it is one of ours: one that is wanted already, or is to be tried again later, is the same. */
  want(name: JobName, now: number): void {
    const entry = this.#entries.find(({ plan }) => plan.name === name);
    if (entry === undefined || (entry.wanted?.notBefore ?? Number.POSITIVE_INFINITY) <= now) return;
    entry.wanted = { due: now, notBefore: now, failures: 0 };
  }

  /** When the job is to run next, as far as that is known. */
  nextDue(name: JobName, now: number): number | undefined {
    const { plan, wanted, running, endedAt } = this.#entry(name);
    if (wanted !== undefined) return Math.max(wanted.notBefore, now);
    if (plan.trigger.kind === 'schedule') return plan.trigger.schedule.next(now);
    if (plan.trigger.kind === 'follows' || running !== undefined || endedAt === undefined) return undefined;
    return Math.min(endedAt, now) + plan.trigger.everyMs;
  }

  /** The next moment at which something changes by itself; undefined while only the end of a run can. */
  nextMoment(now: number): number | undefined {
    const busy = new Set(this.#entries.filter(({ running }) => running !== undefined).map(laneOf));
    const moments = this.#entries.map((entry) =>
      busy.has(entry.plan.lane) && (entry.wanted?.notBefore ?? Number.POSITIVE_INFINITY) <= now
        ? undefined
        : this.nextDue(entry.plan.name, now),
    );
    const known = moments.filter((moment) => moment !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  }

  #wantFollowers(name: JobName, now: number): void {
    for (const { plan } of this.#entries) {
      if (plan.trigger.kind === 'follows' && plan.trigger.job === name) this.want(plan.name, now);
    }
  }

  /** The next due time is an attempt of its own, and comes instead. */
  #wantAgain(entry: Entry, again: Wanted): number | undefined {
    const { trigger } = entry.plan;
    const latest = trigger.kind === 'schedule' ? trigger.schedule.latest(again.notBefore) : undefined;
    if (latest !== undefined && latest > entry.handled) return undefined;
    entry.wanted = again;
    return again.notBefore;
  }

  #entry(name: JobName): Entry {
    const found = this.#entries.find(({ plan }) => plan.name === name);
    if (found === undefined) throw new Error(`no job "${name}" is planned`);
    return found;
  }
}

const laneOf = ({ plan }: Entry): Lane => plan.lane;

/** The time that has become due and was not handled yet. */
function dueOf(entry: Entry, now: number): number | undefined {
  const { trigger } = entry.plan;
  if (trigger.kind === 'schedule') {
    const latest = trigger.schedule.latest(now);
    if (entry.handled > now + forgetMs) entry.handled = latest ?? now;
    return latest !== undefined && latest > entry.handled ? latest : undefined;
  }
  if (trigger.kind === 'follows' || entry.wanted !== undefined || entry.running !== undefined) return undefined;
  if (entry.endedAt === undefined) return undefined;
  entry.endedAt = Math.min(entry.endedAt, now); // the clock was set back
  const due = entry.endedAt + trigger.everyMs;
  return due <= now ? due : undefined;
}
