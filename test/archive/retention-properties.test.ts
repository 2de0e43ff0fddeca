/** Retention over random histories: whatever the policy, what it promises can still be restored, and a second run finds nothing to do. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { planRetention } from '../../src/archive/retention.ts';
import type {
  PartRange,
  Pin,
  Policy,
  RetainedBackup,
  RetentionPlan,
  RetentionState,
  TimelineFork,
} from '../../src/archive/retention-state.ts';
import { isWalNeeded } from '../../src/archive/retention-wal.ts';

const hourMs = 3_600_000;
/** The hour 0 of all histories; they last 60 days, and an hour of WAL is 10 bytes. */
const epoch = Date.UTC(2026, 0, 1);
const lastHour = 60 * 24;
const now = new Date(epoch + lastHour * hourMs);
const at = (hour: number) => new Date(epoch + hour * hourMs);
const segmentBytes = 64n;
const runs = { numRuns: process.env.TORTURE === '1' ? 20_000 : 200, endOnFailure: true };

/** A timeline's life in hours. WAL is written all the while, beginning at the switch point. */
interface Life extends TimelineFork {
  readonly bornAt: number;
  readonly diedAt: number;
}

const lsnAt = ({ switchLsn, bornAt }: Life, hour: number) => switchLsn + BigInt(Math.round((hour - bornAt) * 10));

interface History {
  readonly lives: readonly Life[];
  readonly state: RetentionState;
}

const share = fc.double({ min: 0, max: 1, noNaN: true });

/** Timelines that leave one another at any point of the parent's life, at once or long after (as a recovery to an earlier time does). */
const anyLives: fc.Arbitrary<readonly Life[]> = fc
  .array(fc.record({ parent: share, fork: share, wait: share, length: share }), { maxLength: 4, size: 'max' })
  .map((seeds) => {
    const lives: Life[] = [{ timeline: 1, parent: 0, switchLsn: 1000n, bornAt: 0, diedAt: lastHour }];
    for (const seed of seeds) {
      const parent = lives[Math.floor(seed.parent * lives.length * 0.999)] as Life;
      const leftAt = parent.bornAt + seed.fork * (parent.diedAt - parent.bornAt);
      const bornAt = leftAt + (seed.wait < 0.5 ? 0 : (seed.wait - 0.5) * 2 * (lastHour - leftAt));
      const diedAt = seed.length > 0.5 ? lastHour : bornAt + seed.length * (lastHour - bornAt);
      const timeline = lives.length + 1;
      lives.push({ timeline, parent: parent.timeline, switchLsn: lsnAt(parent, leftAt), bornAt, diedAt });
    }
    // an old primary may go on after the promotion, or die by it
    return lives.map((life) =>
      life.timeline % 2 === 0 ? life : { ...life, diedAt: Math.max(...lastForks(life, lives)) },
    );
  });

const lastForks = ({ timeline, bornAt, diedAt }: Life, lives: readonly Life[]) =>
  lives.some(({ parent }) => parent === timeline)
    ? lives.filter(({ parent }) => parent === timeline).map((child) => Math.min(diedAt, child.bornAt))
    : [Math.max(bornAt, diedAt)];

interface Seed {
  readonly timeline: number;
  readonly start: number;
  readonly length: number;
  readonly state: number;
  readonly parts: number;
  readonly parent: number | undefined;
  readonly pin: 'none' | 'for ever' | number;
  readonly skewHours: number;
}

const anySeeds = (skew: boolean): fc.Arbitrary<readonly Seed[]> =>
  fc.array(
    fc.record({
      timeline: share,
      start: share,
      length: share,
      state: fc.nat(9),
      parts: fc.nat(5),
      parent: fc.option(share, { nil: undefined }),
      pin: fc.oneof(
        { weight: 6, arbitrary: fc.constant('none' as const) },
        fc.constant('for ever' as const),
        fc.integer({ min: lastHour - 48, max: lastHour + 48 }),
      ),
      skewHours: skew ? fc.integer({ min: -300, max: 300 }) : fc.constant(0),
    }),
    { maxLength: 12, size: 'max' },
  );

/** Histories with pins, running and unfinished backups, increments, parts of nobody; clocks may be wrong by days. */
const anyHistory = ({ skew }: { readonly skew: boolean }): fc.Arbitrary<History> =>
  fc
    .record({
      lives: anyLives,
      seeds: anySeeds(skew),
      knowsTimes: fc.boolean(),
      knowsParts: fc.boolean(),
      lost: fc.nat(9),
    })
    .map(({ lives, seeds, knowsTimes, knowsParts, lost }) => {
      const backups: RetainedBackup[] = [];
      for (const seed of seeds) backups.push(backupOf(seed, lives, backups));
      const pins = seeds.flatMap(({ pin }, index): Pin[] =>
        pin === 'none' ? [] : [{ backup: `b${index}`, until: pin === 'for ever' ? pin : at(pin) }],
      );
      const forks = lives.slice(1).filter(({ timeline }) => timeline !== lost);
      const state: RetentionState = {
        backups,
        pins,
        forks,
        timelines: lives.map(({ timeline }) => timeline),
        ...(knowsTimes ? { lastWalAt: new Map(lives.map(({ timeline, diedAt }) => [timeline, at(diedAt)])) } : {}),
        ...(knowsParts
          ? {
              storedParts: new Map<string, readonly number[]>([
                ...backups.map(({ id }) => [id, [1, 2, 3, 4, 5, 6]] as const),
                ['nobody', [7, 3]],
              ]),
            }
          : {}),
      };
      return { lives, state };
    });

function backupOf(seed: Seed, lives: readonly Life[], before: readonly RetainedBackup[]): RetainedBackup {
  const id = `b${before.length}`;
  const life = lives[Math.floor(seed.timeline * lives.length * 0.999)] as Life;
  const start = life.bornAt + seed.start * (life.diedAt - life.bornAt);
  const end = Math.min(life.diedAt, start + seed.length * 48);
  const parent = seed.parent === undefined ? undefined : before[Math.floor(seed.parent * before.length * 0.999)];
  const uses = new Map<string, readonly PartRange[]>([[id, [[1, 1 + seed.parts]]]]);
  if (parent !== undefined) {
    // a chain: what the parent took over is taken over again, in part
    for (const [owner, ranges] of parent.uses) if ((seed.parts + owner.length) % 3 > 0) uses.set(owner, ranges);
    uses.set(parent.id, [[1 + (seed.parts % 2), 2 + seed.parts]]);
  }
  const startLsn = lsnAt(life, start);
  return {
    id,
    timeline: life.timeline,
    startLsn,
    consistentLsn: lsnAt(life, end) + 1n,
    startedAt: at(start),
    finishedAt: at(end + seed.skewHours),
    state: seed.state === 0 ? 'running' : seed.state === 1 ? 'failed' : seed.state === 2 ? 'unconfirmed' : 'confirmed',
    storedBytes: seed.parts,
    uses,
    ...(seed.state === 0 ? { walFloor: startLsn > 2000n ? startLsn - BigInt(seed.parts * 400) : 0n } : {}),
  };
}

/** One time in four: policies of few rules take most away. (fast-check's own `freq: 1` is never.) */
const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
const anyPolicy: fc.Arbitrary<Policy> = fc
  .record({
    retain: maybe(fc.integer({ min: 1, max: 6 })),
    keepDays: maybe(fc.integer({ min: 1, max: 70 })),
    keepDaily: maybe(fc.integer({ min: 1, max: 6 })),
    keepWeekly: maybe(fc.integer({ min: 1, max: 6 })),
    keepMonthly: maybe(fc.integer({ min: 1, max: 3 })),
    keepYearly: maybe(fc.integer({ min: 1, max: 2 })),
    before: maybe(
      fc.oneof(
        fc.nat(lastHour).map(at),
        fc.nat(11).map((index) => `b${index}`),
      ),
    ),
    backup: fc.option(
      fc.nat(11).map((index) => `b${index}`),
      { nil: undefined, freq: 6 },
    ),
  })
  .map(defined);

function defined(policy: { readonly [member in keyof Policy]?: Policy[member] | undefined }): Policy {
  return Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
}

const ids = (decisions: readonly { readonly id: string }[]) => decisions.map(({ id }) => id);
const stayingOf = ({ backups }: RetentionState, plan: RetentionPlan) => {
  const kept = new Set(ids(plan.keep));
  return backups.filter(({ id }) => kept.has(id));
};

/** The way to a timeline's LSN from a backup on: which bytes of which timeline. Undefined when none leads there. Written apart from the code. */
function wayTo(forks: readonly TimelineFork[], backup: RetainedBackup, timeline: number, lsn: bigint) {
  const way: { timeline: number; from: bigint; to: bigint }[] = [];
  let [here, to] = [timeline, lsn];
  while (here !== backup.timeline) {
    const fork = forks.find((one) => one.timeline === here);
    if (fork === undefined) return undefined;
    if (fork.switchLsn < to) way.push({ timeline: here, from: fork.switchLsn, to });
    if (fork.switchLsn < to) to = fork.switchLsn;
    here = fork.parent;
  }
  if (to < backup.consistentLsn) return undefined;
  return [{ timeline: here, from: backup.startLsn, to }, ...way];
}

/** Every segment of it. */
function isWholeWayKept(
  plan: RetentionPlan,
  way: readonly { timeline: number; from: bigint; to: bigint }[] | undefined,
): boolean {
  if (way === undefined) return false;
  return way.every(({ timeline, from, to }) => {
    for (let start = (from / segmentBytes) * segmentBytes; start < to; start += segmentBytes) {
      if (!isWalNeeded(plan, { timeline, startLsn: start, endLsn: start + segmentBytes })) return false;
    }
    return true;
  });
}

const numbersOf = (ranges: readonly PartRange[] = []) =>
  ranges.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, index) => first + index));

it('names no part that a backup that stays needs, and each stored one that none does', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyPolicy, ({ state }, policy) => {
      const plan = planRetention(state, policy, now);
      const used = new Set<string>();
      for (const { id, uses, state: one } of stayingOf(state, plan)) {
        for (const [owner, ranges] of uses) for (const part of numbersOf(ranges)) used.add(`${owner}/${part}`);
        if (one !== 'confirmed') for (let part = 1; part <= 10; part += 1) used.add(`${id}/${part}`);
      }
      const going = [...plan.parts].flatMap(([id, ranges]) => numbersOf(ranges).map((part) => `${id}/${part}`));
      expect(going.filter((part) => used.has(part))).toEqual([]);
      if (state.storedParts === undefined || plan.refusal !== undefined) return;
      const stored = [...state.storedParts].flatMap(([id, parts]) => parts.map((part) => `${id}/${part}`));
      expect(going.sort()).toEqual(stored.filter((part) => !used.has(part)).sort());
    }),
    runs,
  );
});

it('takes with each backup that goes alone what nobody else uses, and with the last user what was left of others', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), fc.array(share, { minLength: 12, maxLength: 12 }), ({ state }, order) => {
      const stored = new Map(state.backups.map(({ id }) => [id, [1, 2, 3, 4, 5, 6, 7]]));
      let after: RetentionState = { ...state, storedParts: stored };
      for (const one of order) {
        const confirmed = after.backups.filter((backup) => backup.state === 'confirmed');
        const named = confirmed[Math.floor(one * confirmed.length * 0.999)];
        if (named === undefined) return;
        const plan = planRetention(after, { backup: named.id }, now);
        if (plan.refusal !== undefined) continue; // it is pinned, or the last one
        expect(ids(plan.keep)).not.toContain(named.id);
        const staying = stayingOf(after, plan);
        const gone = (id: string, part: number) => numbersOf(plan.parts.get(id)).includes(part);
        const left = new Map(
          [...(after.storedParts ?? [])].map(([id, parts]) => [id, parts.filter((part) => !gone(id, part))]),
        );
        after = { ...after, backups: staying, storedParts: left };
        const isUsed = (id: string, part: number) =>
          staying.some(
            (backup) =>
              numbersOf(backup.uses.get(id)).includes(part) || (backup.id === id && backup.state !== 'confirmed'),
          );
        for (const [id, parts] of stored) {
          for (const part of parts) expect(left.get(id)?.includes(part)).toBe(isUsed(id, part));
        }
      }
    }),
    runs,
  );
});

it('keeps running and pinned backups, and WAL for each that stays until it is consistent', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyPolicy, ({ state }, policy) => {
      const plan = planRetention(state, policy, now);
      const kept = ids(plan.keep);
      for (const { id, state: one } of state.backups) if (one === 'running') expect(kept).toContain(id);
      for (const { backup, until } of state.pins)
        if (until === 'for ever' || until > now) expect(kept).toContain(backup);
      for (const backup of stayingOf(state, plan)) {
        const { timeline, startLsn, walFloor = startLsn, consistentLsn, state: one } = backup;
        expect(isWholeWayKept(plan, [{ timeline, from: walFloor, to: consistentLsn }])).toBe(true);
        if (one === 'running') expect(isWholeWayKept(plan, [{ timeline, from: walFloor, to: 40_000n }])).toBe(true);
        const forkOf = (child: number) => state.forks.find((other) => other.timeline === child);
        for (let fork = forkOf(timeline); fork !== undefined && fork.switchLsn > walFloor; fork = forkOf(fork.parent)) {
          expect(isWholeWayKept(plan, [{ timeline: fork.parent, from: walFloor, to: fork.switchLsn }])).toBe(true);
        }
      }
    }),
    runs,
  );
});

it('keeps each moment of the window restorable that was', () => {
  const property = fc.property(
    anyHistory({ skew: false }),
    anyPolicy,
    fc.integer({ min: 1, max: 70 }),
    fc.array(share, { minLength: 5, maxLength: 5 }),
    ({ lives, state }, policy, keepDays, moments) => {
      const plan = planRetention(state, { ...policy, keepDays }, now);
      const begin = lastHour - keepDays * 24;
      for (const life of lives) {
        const from = Math.max(begin, life.bornAt);
        for (const moment of [0, 1, ...moments].map((one) => from + one * (life.diedAt - from))) {
          if (moment < from || moment > life.diedAt) continue;
          const leads = (backup: RetainedBackup) => {
            if (backup.state !== 'confirmed' || backup.finishedAt > at(moment)) return undefined;
            return wayTo(state.forks, backup, life.timeline, lsnAt(life, moment));
          };
          const wasRestorable = state.backups.some((backup) => leads(backup) !== undefined);
          const isRestorable = stayingOf(state, plan).some((backup) => isWholeWayKept(plan, leads(backup)));
          expect(isRestorable).toBe(wasRestorable);
        }
      }
    },
  );
  fc.assert(property, { ...runs });
});

it('keeps all WAL of a timeline whose history is lost while it may descend from what stays', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyPolicy, ({ state }, policy) => {
      const plan = planRetention(state, policy, now);
      const oldest = Math.min(...stayingOf(state, plan).map(({ timeline }) => timeline));
      for (const timeline of state.timelines) {
        if (timeline <= Math.max(1, oldest) || state.forks.some((fork) => fork.timeline === timeline)) continue;
        expect(isWholeWayKept(plan, [{ timeline, from: 0n, to: 40_000n }])).toBe(true);
      }
    }),
    runs,
  );
});

it('keeps all WAL from the oldest of the newest N on, wherever it leads', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), fc.integer({ min: 1, max: 6 }), ({ lives, state }, retain) => {
      const plan = planRetention(state, { retain }, now);
      const newest = plan.keep.filter(({ reasons }) =>
        reasons.some((reason) => reason.startsWith('one of the newest')),
      );
      const confirmed = state.backups.filter((one) => one.state === 'confirmed');
      expect(newest.length).toBeGreaterThanOrEqual(Math.min(retain, confirmed.length));
      for (const backup of confirmed.filter(({ id }) => ids(newest).includes(id))) {
        for (const life of lives) {
          const way = wayTo(state.forks, backup, life.timeline, lsnAt(life, life.diedAt));
          if (way !== undefined) expect(isWholeWayKept(plan, way)).toBe(true);
        }
      }
    }),
    runs,
  );
});

/** Would take everything. */
const harsh: Policy = { before: at(2 * lastHour) };

it('never removes the last confirmed backup, nor the last that leads to the end of the cluster’s timeline', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), fc.oneof(anyPolicy, fc.constant(harsh)), ({ lives, state }, policy) => {
      const confirmed = state.backups.filter((one) => one.state === 'confirmed');
      const plan = planRetention(state, policy, now);
      const left = stayingOf(state, plan).filter((one) => one.state === 'confirmed');
      expect(left.length > 0).toBe(confirmed.length > 0);
      const lastWalAt = ({ diedAt }: Life) => Number(at(diedAt)); // in whole milliseconds, as it is known
      const lastAt = Math.max(...lives.map(lastWalAt));
      const alive = state.lastWalAt === undefined ? lives : lives.filter((life) => lastWalAt(life) === lastAt);
      const current = alive.at(-1) as Life;
      const end = lsnAt(current, current.diedAt) + 10_000n;
      const leads = (backup: RetainedBackup) => wayTo(state.forks, backup, current.timeline, end);
      if (!confirmed.some((backup) => leads(backup) !== undefined)) return;
      expect(left.some((backup) => isWholeWayKept(plan, leads(backup)))).toBe(true);
    }),
    runs,
  );
});

/** All pairs of a timeline and a segment of it. */
function* segments({ lives }: History) {
  const end = Math.max(...lives.map((life) => Number(lsnAt(life, life.diedAt))));
  for (const { timeline } of lives) {
    for (let start = 0n; start < end; start += segmentBytes) {
      yield { timeline, startLsn: start, endLsn: start + segmentBytes };
    }
  }
}

/** Segments that the first plan keeps and the second does not. (An expectation for each would take minutes.) */
function keptFirstAlone(history: History, first: RetentionPlan, second: RetentionPlan) {
  return [...segments(history)].filter((segment) => isWalNeeded(first, segment) && !isWalNeeded(second, segment));
}

it('finds nothing more to remove when it is run again', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyPolicy, (history, policy) => {
      const { state } = history;
      const first = planRetention(state, policy, now);
      const gone = (id: string) => new Set(numbersOf(first.parts.get(id)));
      const stored = [...(state.storedParts ?? [])].map(
        ([id, parts]) => [id, parts.filter((part) => !gone(id).has(part))] as const,
      );
      const left: RetentionState = {
        ...state,
        backups: stayingOf(state, first),
        ...(state.storedParts === undefined ? {} : { storedParts: new Map(stored) }),
      };
      const second = planRetention(left, policy, now);
      expect(second.remove).toEqual([]);
      expect(second.parts).toEqual(new Map());
      expect(keptFirstAlone(history, first, second)).toEqual([]);
    }),
    runs,
  );
});

it('keeps at least as much by a weaker policy', () => {
  // naming the backup that is to go is no rule that only adds: then another one is the last restorable
  const anyStrict = anyPolicy
    .map(({ backup: _, ...policy }) => policy)
    .filter((policy) => Object.keys(policy).length > 0);
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyStrict, anyStrict, fc.nat(3), (history, policy, other, more) => {
      const { before, ...counts } = policy;
      const larger = Object.fromEntries(
        Object.entries(counts).map(([name, count]) => [name, (count as number) + more]),
      );
      const weaker = { ...other, ...larger, ...(before === undefined ? {} : { before }) };
      const strictPlan = planRetention(history.state, policy, now);
      const weakPlan = planRetention(history.state, weaker, now);
      if (strictPlan.refusal !== undefined) return;
      expect(ids(weakPlan.keep)).toEqual(expect.arrayContaining(ids(strictPlan.keep)));
      expect(keptFirstAlone(history, strictPlan, weakPlan)).toEqual([]);
    }),
    runs,
  );
});

it('says the same of the same, in whatever order it is given, and leaves it as it was', () => {
  fc.assert(
    fc.property(anyHistory({ skew: true }), anyPolicy, ({ state }, policy) => {
      const copy = structuredClone(state);
      const plan = planRetention(state, policy, now);
      expect(state).toEqual(copy);
      expect(planRetention(state, policy, now)).toEqual(plan);
      const reversed = planRetention({ ...state, backups: state.backups.toReversed() }, policy, now);
      expect(ids(reversed.keep).sort()).toEqual(ids(plan.keep).sort());
      expect(reversed.parts).toEqual(plan.parts);
    }),
    runs,
  );
});
