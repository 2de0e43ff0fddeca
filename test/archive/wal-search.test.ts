/** The search for a moment finds the one at which PostgreSQL stops: the first in the WAL that is too late, also where times do not ascend. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { readStoredWal } from '../../src/archive/stored-wal.ts';
import { WalSearch } from '../../src/archive/wal-search.ts';
import { followWay, wayTo } from '../../src/archive/window.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { temporaryFolder } from '../support/folders.ts';
import { commitLsn, LongArchive } from '../support/long-archive.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const begin = Date.UTC(2026, 0, 1);

/** Milliseconds since `begin` at which the commits of segments 1, 2 … ended. */
async function searchIn(times: readonly number[]) {
  const root = join(temporaryFolder(), 'repo');
  mkdirSync(root);
  const timeOf = (segment: number) => new Date(begin + (times[segment - 1] ?? 0));
  const storage = await LongArchive.make(root, { count: times.length, backups: [], timeOf });
  const archive = { storage, systemIdentifier: testSystemIdentifier, keys: noKeys };
  const wal = await readStoredWal(archive, {});
  const way = wal === undefined ? undefined : wayTo(wal, 1);
  if (wal === undefined || way === undefined) throw new Error('there is no WAL');
  const chain = followWay(wal, way, commitLsn(1));
  const search = new WalSearch(archive, wal, {});
  storage.reads.length = 0;
  const find = (time: number) => search.firstAfter(chain, BigInt(begin + time) * 1000n);
  return { find, search, storage };
}

/** One second after the other, up to 4 s out of order. */
const times = (count: number, seed: readonly number[]) =>
  Array.from({ length: count }, (_, index) => index * 1000 + ((seed[index % seed.length] ?? 0) % 4000));

const firstLater = (all: readonly number[], time: number) => {
  const index = all.findIndex((one) => one > time);
  return index < 0 ? undefined : commitLsn(index + 1);
};

const seed = fc.array(fc.nat(3999), { minLength: 5, maxLength: 17 });
const runs = { numRuns: process.env.TORTURE === '1' ? 50 : 5 } as const;

it('finds it where transactions that end together are out of order', async () => {
  const places = fc.array(fc.integer({ min: -1000, max: 125_000 }), { minLength: 3, maxLength: 3 });
  const property = fc.asyncProperty(fc.integer({ min: 1, max: 120 }), seed, places, async (count, noise, targets) => {
    const all = times(count, noise);
    const { find } = await searchIn(all);
    for (const target of targets) expect((await find(target))?.lsn).toBe(firstLater(all, target));
    const [last = 0, before = 0] = all.toReversed();
    for (const target of [last, before, Math.max(last, before) - 1])
      expect((await find(target))?.lsn).toBe(firstLater(all, target));
  });
  await fc.assert(property, runs);
}, 240_000);

it('finds it where a clock was ahead for a while, and tells of that', async () => {
  const shape = fc.record({ from: fc.integer({ min: 2, max: 60 }), length: fc.integer({ min: 16, max: 50 }) });
  const places = fc.array(fc.nat(260_000), { minLength: 3, maxLength: 3 });
  const property = fc.asyncProperty(shape, seed, places, async ({ from, length }, noise, targets) => {
    const all = times(120, noise).map((time, index) =>
      index >= from && index < from + length ? time + 100_000 : time,
    );
    const { find, search } = await searchIn(all);
    for (const target of [...targets, (from + length) * 1000, 130_000]) {
      expect((await find(target))?.lsn).toBe(firstLater(all, target));
    }
    expect(search.clockJumps.length).toBeGreaterThan(0);
  });
  await fc.assert(property, runs);
}, 240_000);

it('reads few segments of many', async () => {
  const { find, storage } = await searchIn(times(2000, [0]));
  expect((await find(1_333_000))?.lsn).toBe(commitLsn(1335));
  expect(storage.reads.length).toBeLessThan(100); // of a busy archive, in which many are looked at for being out of order
});
