/** wal-t windows tells the truth: at both edges of each window a restore works, and right outside of them it is refused. */
import { existsSync, rmSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { formatTime } from '../../src/commands/restore/target.ts';
import { formatLsn, type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { loadTables, WriteLoad } from '../support/backup-cluster.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { type Archived, env, pushBackup, restore, startPrimary } from '../support/restoring.ts';
import { waitFor } from '../support/wait.ts';

const torture = process.env.TORTURE === '1';
/** Many recoveries in each. */
const longMs = 1_200_000;

interface Edge {
  readonly lsn: Lsn;
  /** Microseconds since 1970. */
  readonly time: bigint;
}

interface ToldWindow {
  readonly from: Edge;
  readonly to: Edge;
  readonly backups: readonly string[];
  readonly hole: { readonly missing: string; readonly next: string } | undefined;
}

/** By timeline, as the JSON has them. */
async function windowsOf({ repository }: Archived): Promise<Map<number, ToldWindow[]>> {
  const { stdout, stderr } = await repository.run('wal-t', ['windows', '--json'], { env });
  if (stdout === '') throw new Error(stderr);
  type Told = { lsn: string; time: string };
  const edge = ({ lsn, time }: Told): Edge => ({ lsn: parseLsn(lsn) ?? 0n, time: BigInt(time) });
  type Window = { from: Told; to: Told; backups: string[]; hole?: { missing: string; next: string } };
  const { timelines } = JSON.parse(stdout) as { timelines: { timeline: number; windows: Window[] }[] };
  return new Map(
    timelines.map(({ timeline, windows }) => [
      timeline,
      windows.map(({ from, to, backups, hole }) => ({ from: edge(from), to: edge(to), backups, hole })),
    ]),
  );
}

/** What `look` finds in the server that it makes. */
async function restored<T>(started: Archived, words: readonly string[], look: (copy: PostgresServer) => Promise<T>) {
  const { copy, ended } = await restore(started, words);
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  await copy.open();
  const found = await look(copy);
  await copy.remove();
  return found;
}

async function expectRefused(started: Archived, words: readonly string[], ...told: string[]): Promise<void> {
  const { copy, ended } = await restore(started, words);
  expect(ended).toMatchObject({ code: 1 });
  for (const one of told) expect(ended.stderr).toContain(one);
  expect(existsSync(copy.dataDirectory)).toBe(false);
}

const toLsn = (lsn: Lsn) => ['--target-lsn', formatLsn(lsn)];
const toTime = (time: bigint) => ['--target-time', formatTime(time)];
const describeEdge = ({ lsn, time }: Edge) => `${formatTime(time)}, LSN ${formatLsn(lsn)}`;

interface Probe {
  readonly timeline: number;
  readonly window: ToldWindow;
  /** The rows at both edges. */
  readonly rows: readonly [from: string, to: string];
  /** Is its beginning that of a window that was asked about before? Then it is asked again under torture alone. */
  readonly isOldBeginning?: boolean;
  /** What is said just before the window and just behind it, the edges besides. */
  readonly before: string;
  readonly behind: string;
}

/** Just inside works, just outside is refused with the range that is possible. Behind a last commit one gets to the end (H33). */
async function expectEdges(
  started: Archived,
  { timeline, window, rows, isOldBeginning = false, before, behind }: Probe,
): Promise<void> {
  const { from, to, hole } = window;
  const on = ['--target-timeline', `${timeline}`];
  if (torture || !isOldBeginning) {
    expect(await restored(started, [...on, ...toLsn(from.lsn), '--target-exclusive'], rowsOf)).toBe(rows[0]);
  }
  expect(await restored(started, [...on, ...toLsn(to.lsn)], rowsOf)).toBe(rows[1]);
  await expectRefused(started, [...on, ...toLsn(from.lsn - 1n)], before);
  await expectRefused(started, [...on, ...toLsn(to.lsn + 1n)], behind, describeEdge(to));
  if (!torture) return;
  expect(await restored(started, [...on, ...toTime(from.time)], rowsOf)).toBe(rows[0]);
  expect(await restored(started, [...on, ...toTime(to.time)], rowsOf)).toBe(rows[1]);
  await expectRefused(started, [...on, ...toTime(from.time - 1n)], before);
  const later = [...on, ...toTime(to.time + 1n)];
  if (hole === undefined) expect(await restored(started, later, rowsOf)).toBe(rows[1]);
  else await expectRefused(started, later, behind, describeEdge(to));
}

async function crashOver(server: PostgresServer): Promise<void> {
  await server.stop('SIGQUIT');
  server.signal('recovery.signal');
  await server.open();
}

describe.each(torture ? [15, 17, 18] : [17])('PostgreSQL %s: the edges of', (major) => {
  it(
    'both timelines of a fork: one ends where it was left, the other goes on through it',
    async () => {
      const started = await startPrimary({ major, settings: { track_commit_timestamp: 'on' } });
      const { primary } = started;
      await primary.query('create table t (n int)');
      const first = await pushBackup(started);
      await archiveRow(primary, 1);
      await insertRow(primary, 2); // in the segment that the promotion cuts
      await crashOver(primary);
      await archiveRow(primary, 3);
      const second = await pushBackup(started);
      await archiveRow(primary, 4);
      await primary.waitUntilAllArchived();
      const switchLsn = parseLsn(
        (await primary.value(`select pg_read_file('pg_wal/00000002.history')`)).split('\t')[1] ?? '',
      );
      await primary.stop();

      const windows = await windowsOf(started);
      const [left, ...others] = windows.get(1) ?? [];
      const [through, ...more] = windows.get(2) ?? [];
      if (left === undefined || through === undefined || switchLsn === undefined) throw new Error('there is no window');
      expect([others, more, left.hole, through.hole]).toEqual([[], [], undefined, undefined]);
      expect([left.backups, through.backups]).toEqual([[first], [first, second]]);
      expect(left.to.lsn).toBeLessThan(switchLsn);
      expect(through.from).toEqual(left.from);
      const edges = {
        before: 'is before the end of the oldest backup',
        behind: 'is behind the end of the archived WAL',
      };
      await expectEdges(started, { ...edges, timeline: 1, window: left, rows: ['null', '1 2'] });
      const rows = ['null', '1 2 3 4'] as const;
      await expectEdges(started, { ...edges, timeline: 2, window: through, rows, isOldBeginning: true });
      // the last record before the switch point is of both timelines
      const last = ['--target-timeline', '2', ...toLsn(left.to.lsn)];
      expect(await restored(started, last, rowsOf)).toBe('1 2');
    },
    longMs,
  );

  it.runIf(torture)(
    'two windows around a hole with a backup behind it',
    async () => {
      const started = await startPrimary({ major, settings: { track_commit_timestamp: 'on' } });
      const { primary, repository } = started;
      await primary.query('create table t (n int)');
      const first = await pushBackup(started);
      await archiveRow(primary, 1);
      const missing = await archiveRow(primary, 2);
      const next = await archiveRow(primary, 3);
      const second = await pushBackup(started);
      await archiveRow(primary, 4);
      await primary.waitUntilAllArchived();
      await primary.stop();
      rmSync(repository.object(missing));

      const [before, behind, ...others] = (await windowsOf(started)).get(1) ?? [];
      if (before === undefined || behind === undefined) throw new Error('there are no two windows');
      expect(others).toEqual([]);
      expect([before.backups, behind.backups]).toEqual([[first], [second]]);
      expect([before.hole, behind.hole]).toMatchObject([{ missing, next }, undefined]);
      const hole = `is behind a hole in the archived WAL: "${missing}" is missing`;
      await expectEdges(started, {
        timeline: 1,
        window: before,
        rows: ['null', '1'],
        before: 'is before the end of the oldest backup',
        behind: hole,
      });
      await expectEdges(started, {
        timeline: 1,
        window: behind,
        rows: ['1 2 3', '1 2 3 4'],
        before: hole, // what is there of the window before it, and which backup is behind
        behind: 'is behind the end of the archived WAL',
      });
      const { ended } = await restore(started, toLsn(behind.from.lsn - 1n));
      expect(ended.stderr).toContain(`before the hole one gets to ${describeEdge(before.to)}`);
      expect(ended.stderr).toContain(`behind it backup ${second} begins at`);
    },
    longMs,
  );

  it.runIf(torture)(
    'the window of a backup that was taken under load: it begins at its end',
    async () => {
      const started = await startPrimary({ major, settings: { track_commit_timestamp: 'on' } });
      const { primary } = started;
      for (const statement of loadTables) await primary.query(statement);
      const load = await WriteLoad.start(primary);
      await waitFor('the first commits', () => load.commits.length > 20);
      await pushBackup(started);
      const count = load.commits.length;
      await waitFor('further commits', () => load.commits.length > count + 20);
      await load.stop();
      await primary.waitUntilArchived(await primary.switchWal());
      const commits = (
        await primary.query(
          `select n, (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from load order by n`,
        )
      ).map(([n, time]) => ({ n: Number(n), time: BigInt(time ?? 0) }));
      await primary.stop();

      const [window] = (await windowsOf(started)).get(1) ?? [];
      if (window === undefined) throw new Error('there is no window');
      const { from, to } = window;
      const lastRow = (copy: PostgresServer) => copy.value('select max(n) || $$ of $$ || count(*) from load');
      const upTo = (n: number | undefined) => `${n} of ${n}`;
      const until = (time: bigint) => upTo(commits.findLast((commit) => commit.time <= time)?.n);
      expect(load.lastBefore(from.lsn)).toBeGreaterThan(0);
      expect(to.time).toBe(commits.at(-1)?.time);

      const atBegin = await restored(started, [...toLsn(from.lsn), '--target-exclusive'], lastRow);
      expect(atBegin).toBe(until(from.time)); // whatever ended before the backup's end, and nothing else
      expect(await restored(started, toTime(from.time), lastRow)).toBe(until(from.time));
      expect(await restored(started, toLsn(to.lsn), lastRow)).toBe(upTo(commits.at(-1)?.n));
      expect(await restored(started, toTime(to.time), lastRow)).toBe(upTo(commits.at(-1)?.n));
      const early = 'is before the end of the oldest backup';
      const range = `possible is from ${describeEdge(from)} on`;
      await expectRefused(started, toLsn(from.lsn - 1n), early, range);
      await expectRefused(started, toTime(from.time - 1n), early, range);
      await expectRefused(started, toLsn(to.lsn + 1n), 'is behind the end of the archived WAL', describeEdge(to));
    },
    longMs,
  );
});
