/** Files that are taken over unread: none that could have been written to. */
import { readFileSync, renameSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type FileTimes, isSurelyUnchanged, whyTimesAreNotTrusted } from '../../src/cluster/unchanged-file.ts';
import { temporaryFolder } from '../support/folders.ts';
import { waitFor } from '../support/wait.ts';

const parentStartedAt = new Date('2026-03-01T02:00:00.000Z');
const marginMs = 5000;
const parent = { parentStartedAt, marginMs };
const latestNs = BigInt(parentStartedAt.getTime() - marginMs) * 1_000_000n;
const old: FileTimes = { sizeBytes: 8192, mtimeNs: latestNs - 1n, ctimeNs: latestNs - 1n, inode: 7n };

describe('a file is taken over unread', () => {
  it('when all is equal and older than the parent by the margin', () => {
    expect(isSurelyUnchanged(old, { ...old }, parent)).toBe(true);
    expect(isSurelyUnchanged({ ...old, mtimeNs: 0n }, { ...old, mtimeNs: 0n }, parent)).toBe(true);
  });

  it.each([
    ['another size', { sizeBytes: 8193 }],
    ['written to, and its mtime is older', { mtimeNs: old.mtimeNs - 1n }],
    ['written to, and its mtime was set back', { ctimeNs: old.ctimeNs - 1n }],
    ['H40: another file at a known path', { inode: 8n }],
  ])('never when it has %s', (_what, other) => {
    expect(isSurelyUnchanged(old, { ...old, ...other }, parent)).toBe(false);
    expect(isSurelyUnchanged({ ...old, ...other }, old, parent)).toBe(false);
  });

  it.each([
    ['mtime', { mtimeNs: latestNs }],
    ['ctime', { ctimeNs: latestNs }],
    ['mtime, in the future', { mtimeNs: latestNs * 2n }],
    ['ctime, in the future', { ctimeNs: latestNs * 2n }],
  ])('never when it may have been written to in the tick in which the parent read it: %s', (_what, young) => {
    const file = { ...old, ...young };
    expect(isSurelyUnchanged(file, { ...file }, parent)).toBe(false);
  });

  it('never for any other reason', () => {
    const time = fc.oneof(
      fc.bigInt({ min: latestNs - 3n, max: latestNs + 3n }),
      fc.bigInt({ min: 0n, max: 2n ** 63n }),
    );
    const inode = fc.constantFrom(1n, 2n);
    const file = fc.record({ sizeBytes: fc.constantFrom(0, 8192), mtimeNs: time, ctimeNs: time, inode });
    const pairs = fc.oneof(
      fc.tuple(file, file),
      file.map((one): [FileTimes, FileTimes] => [one, { ...one }]),
    );
    fc.assert(
      fc.property(pairs, ([known, now]) => {
        const isSame = (Object.keys(known) as (keyof FileTimes)[]).every((name) => known[name] === now[name]);
        const isOld = [known.mtimeNs, known.ctimeNs].every((ns) => ns < latestNs);
        expect(isSurelyUnchanged(known, now, parent)).toBe(isSame && isOld);
      }),
    );
  });
});

it('H40: sees through a real file that got other content in place, and its old mtime back', async () => {
  const path = join(temporaryFolder(), 'file');
  const look = (): FileTimes => {
    const { size, mtimeNs, ctimeNs, ino } = statSync(path, { bigint: true });
    return { sizeBytes: Number(size), mtimeNs, ctimeNs, inode: ino };
  };
  writeFileSync(path, 'one');
  utimesSync(path, 1_000_000, 1_000_000);
  const before = look();
  const tomorrow = { parentStartedAt: new Date(Date.now() + 86_400_000), marginMs };
  expect(readFileSync(path, 'utf8')).toBe('one');
  expect(isSurelyUnchanged(before, look(), tomorrow)).toBe(true);
  // the kernel's clock ticks a hundred times a second or more
  await waitFor('the clock to tick', () => {
    writeFileSync(path, 'two');
    utimesSync(path, 1_000_000, 1_000_000);
    return look().ctimeNs !== before.ctimeNs;
  });
  expect(look()).toMatchObject({ sizeBytes: before.sizeBytes, mtimeNs: before.mtimeNs, inode: before.inode });
  expect(isSurelyUnchanged(before, look(), tomorrow)).toBe(false);
  const after = look();
  writeFileSync(`${path}.new`, 'two');
  renameSync(`${path}.new`, path);
  expect(isSurelyUnchanged({ ...look(), inode: after.inode }, look(), tomorrow)).toBe(false);
});

describe('times are trusted', () => {
  const place = { host: 'db1', dataDirectory: '/data', timeline: 3 };
  const startedAt = new Date('2026-03-01T02:00:00.000Z');
  const finishedAt = new Date('2026-03-01T02:10:00.000Z');
  const then = { ...place, startedAt, finishedAt };
  const here = { ...place, now: new Date('2026-03-02T02:00:00.000Z') };

  it('on the same host, of the same directory and timeline, by a clock that goes on', () => {
    expect(whyTimesAreNotTrusted(then, here)).toBeUndefined();
    expect(whyTimesAreNotTrusted(then, { ...here, now: finishedAt })).toBeUndefined();
  });

  it.each([
    ['another host', then, { ...here, host: 'db2' }, 'the parent was taken on host "db1"'],
    ['another directory', then, { ...here, dataDirectory: '/other' }, 'the parent was taken of "/data"'],
    ['a promotion or a restore', then, { ...here, timeline: 4 }, 'the timeline was 3 and is 4'],
    ['an older timeline', then, { ...here, timeline: 2 }, 'the timeline was 3 and is 2'],
    [
      'a clock that was set back since',
      then,
      { ...here, now: new Date(finishedAt.getTime() - 1) },
      'the clock was set back',
    ],
    [
      'a clock that was set back meanwhile',
      { ...then, finishedAt: new Date(startedAt.getTime() - 1) },
      here,
      'set back',
    ],
  ])('not after %s', (_what, parentFacts, facts, reason) => {
    expect(whyTimesAreNotTrusted(parentFacts, facts)).toContain(reason);
  });
});
