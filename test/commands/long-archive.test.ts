/** Of an archive of 10,000 segments a few are read to find a moment, and one listing tells which there are. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { formatTime } from '../../src/commands/restore/target.ts';
import { restore } from '../../src/commands/restore.ts';
import { windows } from '../../src/commands/windows.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { commitLsn, commitTime, LongArchive } from '../support/long-archive.ts';

const count = 10_000;
const backups = [100, 2500, 5000, 7500, 9900];
/** Half of them look for a clock that was set back. */
const mostReads = 64;
const micros = (date: Date) => BigInt(date.getTime()) * 1000n;

async function longArchive() {
  const root = join(temporaryFolder(), 'repo');
  mkdirSync(root);
  const storage = await LongArchive.make(root, { count, backups });
  const context = makeContext({ WALT_REPO: `file://${root}` }, { workingDirectory: root, openStorage: () => storage });
  const ofWal = (keys: readonly string[]) => keys.filter((key) => key.includes('/wal/')).length;
  const used = () => ({ reads: ofWal(storage.reads), lists: ofWal(storage.lists) });
  return { context, used };
}

it.each([150, 4321, 9876])('finds the commit of segment %s for a restore', async (segment) => {
  const { context, used } = await longArchive();
  const { plan } = await restore(context, {
    dir: 'data',
    target: { time: formatTime(micros(commitTime(segment)) - 1n), immediate: false },
    inclusive: true,
    action: 'promote',
    standby: false,
    tablespaceMapping: new Map(),
    untilHole: false,
    takeOver: false,
    dryRun: true,
    scan: false,
    resume: false,
    walFetch: () => 'wal-fetch %f %p',
    again: () => 'again',
  });
  expect(used().reads).toBeLessThanOrEqual(mostReads);
  expect(used().lists).toBe(1);
  const newest = backups.findLast((one) => one < segment) ?? 0;
  expect(plan.backup.startLsn).toBeLessThan(commitLsn(newest + 1));
  expect(plan.backup.startLsn).toBeGreaterThan(commitLsn(newest));
});

it('tells the windows', async () => {
  const { context, used } = await longArchive();
  const { timelines, at } = await windows(context, { at: formatTime(micros(commitTime(4321))) });
  expect(used().reads).toBeLessThanOrEqual(mostReads);
  expect(used().lists).toBe(1);
  const [window, ...others] = timelines[0]?.windows ?? [];
  expect([timelines.length, others]).toEqual([1, []]);
  expect(window?.backups).toHaveLength(backups.length);
  expect(window?.to.time).toBe(micros(commitTime(count)));
  expect(at?.isReachable).toBe(true);
});
