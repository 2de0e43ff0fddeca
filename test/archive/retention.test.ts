/** Retention: what stays, what goes and why, rule by rule. Its properties over random histories stand in retention-properties.test.ts. */
import { expect, it } from 'vitest';
import { planRetention } from '../../src/archive/retention.ts';
import type { Policy, RetainedBackup, RetentionState } from '../../src/archive/retention-state.ts';
import { isWalNeeded } from '../../src/archive/retention-wal.ts';

const now = new Date('2026-11-20T12:00:00Z');

/** A backup of timeline 1 that took an hour and ended on `day` at 03:00; a day is 0x100 bytes of WAL, the hour 0x10. */
function backup(id: string, day: string, changes: Partial<RetainedBackup> = {}): RetainedBackup {
  const finishedAt = new Date(`${day}T03:00:00Z`);
  const startLsn = BigInt(Math.round((finishedAt.getTime() - Date.UTC(2026, 9, 1)) / 86_400_000)) * 0x100n;
  return {
    id,
    timeline: 1,
    startLsn,
    consistentLsn: startLsn + 0x10n,
    startedAt: new Date(finishedAt.getTime() - 3_600_000),
    finishedAt,
    state: 'confirmed',
    storedBytes: 1000,
    uses: new Map([[id, [[1, 9]]]]),
    ...changes,
  };
}

function stateOf(backups: readonly RetainedBackup[], changes: Partial<RetentionState> = {}): RetentionState {
  return { backups, pins: [], forks: [], timelines: [1], ...changes };
}

/** One each night of November until the 20th. */
const nights = Array.from({ length: 20 }, (_, index) => {
  const day = String(index + 1).padStart(2, '0');
  return backup(`n${day}`, `2026-11-${day}`);
});
const names = (...days: readonly number[]) => days.map((day) => `n${String(day).padStart(2, '0')}`);

function keptBy(state: RetentionState, policy: Policy): string[] {
  return planRetention(state, policy, now).keep.map(({ id }) => id);
}

/** As text, `1: 500- 900-910`. */
function walOf(state: RetentionState, policy: Policy): string[] {
  const { walNeeded } = planRetention(state, policy, now);
  return walNeeded.map(({ timeline, startLsn, endLsn }) => {
    return `${timeline}: ${startLsn.toString(16)}-${endLsn === 'open' ? '' : endLsn.toString(16)}`;
  });
}

it.each<[string, Policy, string[], string[]]>([
  ['nothing confirmed with sweep alone', { sweep: true }, nights.map(({ id }) => id), ['1: 1f00-']],
  ['all but the newest N with retain', { retain: 3 }, names(18, 19, 20), ['1: 3000-']],
  ['nothing when there are fewer', { retain: 30 }, nights.map(({ id }) => id), ['1: 1f00-']],
  // the window begins on the 18th at 12:00: the backup of that morning is the last one before
  ['what no moment of the last days needs', { keepDays: 2 }, names(18, 19, 20), ['1: 3000-']],
  ['all but each day’s newest', { keepDaily: 2 }, names(19, 20), ['1: 3100-3110', '1: 3200-']],
  // Mondays are the 2nd, 9th and 16th
  ['all but each week’s newest', { keepWeekly: 3 }, names(8, 15, 20), ['1: 2600-2610', '1: 2d00-2d10', '1: 3200-']],
  ['all but each month’s newest', { keepMonthly: 3 }, names(20), ['1: 3200-']],
  ['all but each year’s newest', { keepYearly: 3 }, names(20), ['1: 3200-']],
  ['what finished before a date', { before: new Date('2026-11-19T03:00:00Z') }, names(19, 20), ['1: 3100-']],
  ['what is older than a backup', { before: 'n19' }, names(19, 20), ['1: 3100-']],
  ['one backup by name, even the newest', { backup: 'n20' }, nights.slice(0, 19).map(({ id }) => id), ['1: 1f00-']],
  ['what no rule keeps', { retain: 1, keepWeekly: 2 }, names(15, 20), ['1: 2d00-2d10', '1: 3200-']],
  // a closed one within the WAL of another needs nothing more
  ['no WAL of the window', { keepDays: 6, keepDaily: 2 }, names(14, 15, 16, 17, 18, 19, 20), ['1: 2c00-']],
  ['not what another rule keeps', { backup: 'n20', retain: 1 }, nights.map(({ id }) => id), ['1: 1f00-']],
  ['never the last restorable one', { before: now }, names(20), ['1: 3200-']],
])('removes %s', (_what, policy, kept, wal) => {
  const state = stateOf(nights);
  expect(keptBy(state, policy)).toEqual(kept);
  expect(walOf(state, policy)).toEqual(wal);
  const { remove } = planRetention(state, policy, now);
  expect(remove.map(({ id }) => id)).toEqual(nights.map(({ id }) => id).filter((id) => !kept.includes(id)));
});

it('says why of each backup', () => {
  const state = stateOf([...nights.slice(17), backup('lost', '2026-11-20', { state: 'failed' })], {
    pins: [{ backup: 'n18', until: new Date('2027-01-01T00:00:00Z') }],
  });
  const { keep, remove } = planRetention(state, { retain: 1, keepDaily: 1 }, now);
  expect(keep).toEqual([
    { id: 'n18', reasons: ['pinned until 2027-01-01T00:00:00.000Z'] },
    { id: 'n20', reasons: ['one of the newest 1', 'the newest of 2026-11-20'] },
  ]);
  expect(remove).toEqual([
    {
      id: 'n19',
      reasons: ['not one of the newest 1', 'not the newest of one of the last 1 days that have one'],
    },
    { id: 'lost', reasons: ['left over: it was given up, or its lease has died'] },
  ]);
});

it('counts weeks by ISO 8601: the last days of December may be of next year’s first week', () => {
  const days = ['2024-12-29', '2024-12-30', '2025-01-05', '2025-01-06', '2026-12-31', '2027-01-03'];
  const { keep } = planRetention(stateOf(days.map((day) => backup(day, day))), { keepWeekly: 10 }, now);
  expect(keep).toEqual([
    { id: '2024-12-29', reasons: ['the newest of 2024-W52'] },
    { id: '2025-01-05', reasons: ['the newest of 2025-W01'] },
    { id: '2025-01-06', reasons: ['the newest of 2025-W02'] },
    { id: '2027-01-03', reasons: ['the newest of 2026-W53'] },
  ]);
});

it('counts days, months and years that have a backup, however far they lie apart', () => {
  const days = ['2023-01-31', '2023-02-01', '2025-06-01', '2025-06-30', '2026-11-01'];
  const state = stateOf(days.map((day) => backup(day, day)));
  expect(keptBy(state, { keepDaily: 4 })).toEqual(days.slice(1));
  expect(keptBy(state, { keepMonthly: 3 })).toEqual(['2023-02-01', '2025-06-30', '2026-11-01']);
  expect(keptBy(state, { keepYearly: 2 })).toEqual(['2025-06-30', '2026-11-01']);
});

it('keeps for a window that began at the end of a backup that one, and for one that began a moment before the one before', () => {
  const state = stateOf(nights);
  const at = (time: string) => planRetention(state, { keepDays: 1 }, new Date(time)).keep.map(({ id }) => id);
  expect(at('2026-11-20T03:00:00Z')).toEqual(names(19, 20));
  expect(at('2026-11-20T02:59:59Z')).toEqual(names(18, 19, 20));
});

it('keeps all when no backup is older than the window', () => {
  expect(keptBy(stateOf(nights), { keepDays: 400 })).toHaveLength(20);
});

it.each([0, -1, 1.5, Number.NaN])('does not take %s for a count', (count) => {
  for (const name of ['retain', 'keepDays', 'keepDaily', 'keepWeekly', 'keepMonthly', 'keepYearly']) {
    expect(() => planRetention(stateOf(nights), { [name]: count }, now)).toThrow(/assert|fals/i);
  }
});

it.each<[string, Partial<RetentionState>, Policy, RegExp]>([
  ['the last restorable one', { backups: nights.slice(0, 1) }, { backup: 'n01' }, /^"n01" is the last restorable/],
  ['an unknown one', {}, { backup: 'n31' }, /^there is no backup "n31"$/],
  ['what is older than an unknown one', {}, { before: 'n31' }, /^there is no confirmed backup "n31"$/],
  ['a pinned one', { pins: [{ backup: 'n07', until: 'for ever' }] }, { backup: 'n07' }, /^"n07" is pinned for ever$/],
  [
    'a running one',
    { backups: [...nights, backup('run', '2026-11-20', { state: 'running' })] },
    { backup: 'run' },
    /^"run" is being taken$/,
  ],
  [
    'anything while histories contradict each other',
    {
      forks: [
        { timeline: 2, parent: 1, switchLsn: 0x2000n },
        { timeline: 2, parent: 1, switchLsn: 0x2001n },
      ],
    },
    { retain: 1 },
    /^the histories contradict each other about where timeline 2 begins$/,
  ],
  [
    'anything when a timeline would descend from a later one',
    {
      forks: [
        { timeline: 2, parent: 3, switchLsn: 1n },
        { timeline: 3, parent: 2, switchLsn: 1n },
      ],
    },
    { retain: 1 },
    /contradict/,
  ],
])('refuses to remove %s, and then removes nothing at all', (_what, changes, policy, refusal) => {
  const state = stateOf([...nights, backup('lost', '2026-11-01', { state: 'failed' })], changes);
  const plan = planRetention(state, policy, now);
  expect(plan.refusal).toMatch(refusal);
  expect(plan.remove).toEqual([]);
  expect(plan.parts).toEqual(new Map());
  expect(isWalNeeded(plan, { timeline: 1, startLsn: 0n, endLsn: 0x100n })).toBe(true);
});

it('removes no WAL when no backup is confirmed, but the left-overs', () => {
  const state = stateOf([
    backup('lost', '2026-11-01', { state: 'failed' }),
    backup('open', '2026-11-02', { state: 'unconfirmed' }),
  ]);
  const { remove, walNeeded, parts } = planRetention(state, { sweep: true }, now);
  expect(remove.map(({ id }) => id)).toEqual(['lost', 'open']);
  expect([...parts.keys()]).toEqual(['lost', 'open']);
  expect(walNeeded).toEqual([{ timeline: 1, startLsn: 0n, endLsn: 'open', why: 'there is no confirmed backup' }]);
});

it('keeps a running backup with all that it has stored and uses, and WAL from the floor of its lease on', () => {
  const parent = backup('full', '2026-11-01');
  const run = backup('run', '2026-11-10', { state: 'running', walFloor: 0x2500n, uses: new Map([['full', [[2, 3]]]]) });
  const state = stateOf([parent, run, ...nights.slice(15)], {
    storedParts: new Map([
      ['full', [1, 2, 3, 4, 5, 6, 7, 8, 9]],
      ['run', [1, 2]],
      ['n20', [1, 9, 10]],
      ['nobody', [5]],
    ]),
  });
  const { remove, parts } = planRetention(state, { retain: 1 }, now);
  expect(remove.map(({ id }) => id)).toEqual(['full', ...names(16, 17, 18, 19)]);
  expect(parts).toEqual(
    new Map([
      [
        'full',
        [
          [1, 1],
          [4, 9],
        ],
      ],
      ['n20', [[10, 10]]],
      ['nobody', [[5, 5]]],
    ]),
  );
  expect(walOf(state, { retain: 1 })).toEqual(['1: 2500-']);
});

it('keeps the parts that a kept backup shares with one that goes', () => {
  const increment = backup('incr', '2026-11-20', {
    uses: new Map([
      ['n01', [[3, 4]]],
      ['incr', [[1, 1]]],
    ]),
  });
  const { parts } = planRetention(stateOf([...nights.slice(0, 1), increment]), { retain: 1 }, now);
  expect(parts).toEqual(
    new Map([
      [
        'n01',
        [
          [1, 2],
          [5, 9],
        ],
      ],
    ]),
  );
});

it('keeps a pinned backup as long as its pin says, and WAL until it is consistent', () => {
  const pinned = (until: Date | 'for ever') => stateOf(nights, { pins: [{ backup: 'n05', until }] });
  expect(keptBy(pinned('for ever'), { retain: 1 })).toEqual(names(5, 20));
  expect(walOf(pinned('for ever'), { retain: 1 })).toEqual(['1: 2300-2310', '1: 3200-']);
  expect(keptBy(pinned(new Date(now.getTime() + 1)), { retain: 1 })).toEqual(names(5, 20));
  expect(keptBy(pinned(now), { retain: 1 })).toEqual(names(20));
});

it('says of each segment whether it stays: those that begin before a range and end in it do', () => {
  const plan = planRetention(stateOf(nights, { pins: [{ backup: 'n05', until: 'for ever' }] }), { retain: 1 }, now);
  const isNeeded = (startLsn: bigint, endLsn: bigint, timeline = 1) =>
    isWalNeeded(plan, { timeline, startLsn, endLsn });
  expect(isNeeded(0x22f0n, 0x2300n)).toBe(false);
  expect(isNeeded(0x22f0n, 0x2301n)).toBe(true);
  expect(isNeeded(0x230fn, 0x2400n)).toBe(true);
  expect(isNeeded(0x2310n, 0x2400n)).toBe(false);
  expect(isNeeded(0x31f0n, 0x3200n)).toBe(false);
  expect(isNeeded(0x9_0000n, 0x9_0100n)).toBe(true);
  expect(isNeeded(0n, 0x100n, 7)).toBe(true); // it was not judged
});

type Changes = { readonly [member in keyof RetentionState]?: RetentionState[member] | undefined };

/** Promoted on the 10th; two backups before, one on the old timeline after, one on the new. */
const fork = { timeline: 2, parent: 1, switchLsn: 0x2800n };
const forked = stateOf(
  [
    backup('a', '2026-11-05'),
    backup('b', '2026-11-09'),
    backup('late', '2026-11-12'),
    backup('c', '2026-11-13', { timeline: 2, startLsn: 0x2900n, consistentLsn: 0x2910n }),
  ],
  {
    timelines: [1, 2],
    forks: [fork],
    lastWalAt: new Map([
      [1, new Date('2026-11-14T00:00:00Z')],
      [2, new Date('2026-11-20T11:00:00Z')],
    ]),
  },
);

it.each<[string, Policy, Changes, string[], string[]]>([
  ['what leads to both timelines', { before: 'b' }, {}, ['b', 'late', 'c'], ['1: 2700-', '2: 2800-']],
  ['no WAL of a timeline of which nothing stays', { retain: 1 }, {}, ['c'], ['2: 2900-']],
  // WAL of timeline 1 ended on the 14th; the window begins on the 15th, the 13th at 12:00 and the 11th
  ['the window of living timelines alone', { keepDays: 5 }, {}, ['c'], ['2: 2900-']],
  ['the window of each timeline with moments in it', { keepDays: 7 }, {}, ['late', 'c'], ['1: 2a00-', '2: 2900-']],
  ['one base for the window of both', { keepDays: 9 }, {}, ['b', 'late', 'c'], ['1: 2700-', '2: 2800-']],
  [
    'the window of any timeline, not knowing when its WAL came',
    { keepDays: 1 },
    { lastWalAt: undefined },
    ['late', 'c'],
    ['1: 2a00-', '2: 2900-'],
  ],
  [
    'the window of the cluster’s timeline, though it was quiet',
    { keepDays: 1 },
    { lastWalAt: new Map([[2, new Date('2026-11-14T00:00:00Z')]]) },
    ['c'],
    ['2: 2900-'],
  ],
  [
    'a pinned one of an abandoned timeline until it is consistent',
    { retain: 1 },
    { pins: [{ backup: 'late', until: 'for ever' }] },
    ['late', 'c'],
    ['1: 2a00-2a10', '2: 2900-'],
  ],
  [
    'all WAL of a timeline without a history, while an older one stays',
    { retain: 2 },
    { forks: [] },
    ['late', 'c'],
    ['1: 2a00-', '2: 0-'],
  ],
  ['its own WAL of a timeline without a history', { retain: 1 }, { forks: [] }, ['c'], ['2: 2900-']],
  [
    'the WAL of an ancestor on which a backup’s WAL begins',
    { retain: 1 },
    { forks: [{ ...fork, switchLsn: 0x2905n }] },
    ['c'],
    ['1: 2900-2905', '2: 2900-'],
  ],
  [
    'the WAL of each of several ancestors on which it begins',
    { retain: 1 },
    {
      timelines: [1, 2, 3],
      forks: [
        { ...fork, switchLsn: 0x2905n },
        { timeline: 3, parent: 2, switchLsn: 0x2908n },
      ],
      backups: [backup('d', '2026-11-13', { timeline: 3, startLsn: 0x2900n, consistentLsn: 0x2910n })],
    },
    ['d'],
    // that of timeline 2 from where the backup begins: a segment that a switch cuts is of both
    ['1: 2900-2905', '2: 2900-2908', '3: 2900-'],
  ],
])('keeps %s', (what, policy, changes, kept, wal) => {
  const state = { ...forked, ...changes } as RetentionState;
  expect([what, keptBy(state, policy)]).toEqual([what, kept]);
  expect(walOf(state, policy)).toEqual(wal);
});

it('keeps what the cluster goes on from when it was set back to before its newest backup', () => {
  const state = { ...forked, backups: forked.backups.slice(0, 3) };
  const { keep } = planRetention(state, { retain: 1 }, now);
  expect(keep).toEqual([
    { id: 'b', reasons: ['the last backup that leads to timeline 2'] },
    { id: 'late', reasons: ['one of the newest 1'] },
  ]);
  expect(walOf(state, { retain: 1 })).toEqual(['1: 2700-', '2: 2800-']);
  expect(planRetention(state, { backup: 'b' }, now).remove.map(({ id }) => id)).toEqual(['b']); // a still leads there
  expect(planRetention({ ...state, backups: state.backups.slice(1) }, { backup: 'b' }, now).refusal).toBe(
    '"b" is the last backup that leads to timeline 2',
  );
});

it('orders by LSN along a timeline and its descendants, whatever names and clocks say', () => {
  const state = stateOf(
    [
      backup('z', '2026-11-19', { startLsn: 0x1000n, consistentLsn: 0x1010n }), // its clock is ahead
      backup('y', '2026-11-03', { startLsn: 0x1100n, consistentLsn: 0x1110n }),
      backup('a', '2026-11-02', { timeline: 2, startLsn: 0x1200n, consistentLsn: 0x1210n }),
    ],
    { forks: [{ timeline: 2, parent: 1, switchLsn: 0x1180n }] },
  );
  expect(keptBy(state, { retain: 1 })).toEqual(['a']);
  expect(keptBy(state, { retain: 2 })).toEqual(['y', 'a']);
  expect(keptBy(state, { before: 'y' })).toEqual(['y', 'a']);
});

it('orders by the clock across branches, where LSNs say nothing', () => {
  const branches = (day2: string, day3: string) =>
    stateOf(
      [
        backup('two', day2, { timeline: 2, startLsn: 0x9000n, consistentLsn: 0x9010n }),
        backup('three', day3, { timeline: 3, startLsn: 0x3000n, consistentLsn: 0x3010n }),
      ],
      {
        timelines: [1, 2, 3],
        forks: [
          { timeline: 2, parent: 1, switchLsn: 0x2000n },
          { timeline: 3, parent: 2, switchLsn: 0x2500n },
        ],
      },
    );
  expect(keptBy(branches('2026-11-03', '2026-11-04'), { retain: 1 })).toEqual(['three']);
  const onTwo = { ...branches('2026-11-04', '2026-11-03'), lastWalAt: new Map([[2, now]]) };
  expect(keptBy(onTwo, { retain: 1 })).toEqual(['two']);
  expect(keptBy(onTwo, { before: 'two' })).toEqual(['two']);
});

it('keeps backups together of which clocks and LSNs say in a circle that each is the newer one', () => {
  const state = stateOf(
    [
      backup('old', '2026-11-01', { startLsn: 0x1000n, consistentLsn: 0x1010n }),
      backup('x', '2026-11-05', { timeline: 2, startLsn: 0x2000n, consistentLsn: 0x2010n }),
      backup('p', '2026-11-06', { startLsn: 0x2000n, consistentLsn: 0x2010n }),
      backup('q', '2026-11-03', { startLsn: 0x2100n, consistentLsn: 0x2110n }),
    ],
    { timelines: [1, 2], forks: [{ timeline: 2, parent: 1, switchLsn: 0x1100n }] },
  );
  expect(keptBy(state, { retain: 1 })).toEqual(['x', 'p', 'q']);
  expect(keptBy(state, { retain: 4 })).toEqual(['old', 'x', 'p', 'q']);
});
