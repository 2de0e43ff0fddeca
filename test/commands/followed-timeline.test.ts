/** Which timeline a restored server is told to follow. */
import { expect, it } from 'vitest';
import type { StoredWal } from '../../src/archive/stored-wal.ts';
import { followedTimeline } from '../../src/commands/restore/followed-timeline.ts';
import { testManifest } from '../support/backups.ts';

/** An archive with the histories of these timelines. */
function storedHistories(...timelines: readonly number[]): StoredWal {
  const histories = new Map(timelines.map((timeline) => [timeline, { timeline, ancestors: [] }]));
  return { segmentSizeBytes: 2 ** 20, timelines: new Map(), histories, unreadable: new Map() };
}

it.each([
  { what: 'a recovery: the one of the plan', standby: false, backup: 1, plan: 1, stored: [2], followed: 1 },
  { what: 'a standby: the latest', standby: true, backup: 1, plan: 1, stored: [], followed: 'latest' },
  { what: 'a standby behind promotions', standby: true, backup: 1, plan: 3, stored: [2, 3], followed: 'latest' },
  { what: 'a standby beside an orphan', standby: true, backup: 1, plan: 2, stored: [2, 9], followed: 'latest' },
  {
    what: 'a standby that was told',
    standby: true,
    asked: 2,
    backup: 1,
    plan: 2,
    stored: [2],
    followed: 2,
    note: /^it stays on timeline 2, and follows no promotion/,
  },
  {
    what: 'a standby that was told an old one',
    standby: true,
    asked: 1,
    backup: 1,
    plan: 1,
    stored: [2, 3],
    followed: 1,
    note: /^"latest" would lead the standby onto timeline 3: it stays on timeline 1/,
  },
  {
    what: 'a standby after an accidental promotion',
    standby: true,
    backup: 1,
    plan: 1,
    stored: [2],
    followed: 1,
    note: /^"latest" would lead the standby onto timeline 2: it stays on timeline 1/,
  },
])('$what', ({ standby, asked, backup, plan, stored, followed, note }) => {
  const { timeline, notes } = followedTimeline(
    { wal: storedHistories(...stored) },
    { backup: { ...testManifest, timeline: backup }, timeline: plan },
    { standby, timeline: asked },
  );
  expect(timeline).toBe(followed);
  expect(notes).toEqual(note === undefined ? [] : [expect.stringMatching(note)]);
});
