/** wal-t restore to a moment: exactly the rows of that moment, on every version and storage; what cannot be reached is refused before a byte of a backup is read. */
import type { ChildProcess } from 'node:child_process';
import { appendFileSync, existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { keygen } from '../../src/commands/keygen.ts';
import { formatTime } from '../../src/commands/restore/target.ts';
import type { WindowsResult } from '../../src/commands/windows.ts';
import { formatLsn, type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { giveAway } from '../support/account.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { rowsOf } from '../support/recovery.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import type { Ended } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { waitFor } from '../support/wait.ts';

const torture = process.env.TORTURE === '1';
const env = { PGUSER: 'postgres', WALT_WORKERS: '1' };

/** A row, and where its transaction ended. */
interface Row {
  readonly n: number;
  readonly xid: string;
  /** Microseconds since 1970. */
  readonly time: bigint;
  /** Where the record of its commit begins, and how far the WAL went when it had been written. */
  readonly commitLsn: string;
  readonly afterLsn: string;
}

/** A primary that is gone: one backup, and rows 1 to 8 after it, each followed by the restore point `after-<n>`. */
interface Story {
  readonly folder: string;
  readonly repository: TestRepository;
  readonly server: PostgresServer;
  readonly backup: string;
  /** In a restored cluster, before its first start. */
  readonly fileCount: number;
  readonly rows: readonly Row[];
  /** The segments that hold them, oldest first. */
  readonly segments: readonly string[];
  remove(): Promise<void>;
}

const switchesAfter = [4, 6, 8];

async function tell(major: number, settings: Readonly<Record<string, string>>, recovering = settings): Promise<Story> {
  const folder = makeFolder('restore');
  const repository = await new TestRepository({ folder, settings }).init();
  const server = PostgresServer.create({
    major,
    isSmall: true,
    settings: { ...repository.serverSettings, track_commit_timestamp: 'on' },
  });
  await server.start();
  await server.query('create table t (n int)');
  const { id: backup, statistics } = await pushBackup(repository, server);
  const rows: Row[] = [];
  const segments: string[] = [];
  for (let n = 1; n <= 8; n += 1) {
    rows.push(await commitRow(server, n));
    await server.query(`select pg_create_restore_point('after-${n}')`);
    if (switchesAfter.includes(n)) segments.push(await server.switchWal());
  }
  await server.waitUntilArchived(segments.at(-1) ?? '');
  await server.stop();
  await server.remove();
  repository.configure(recovering);
  const fileCount = statistics.files + statistics.folders;
  return { folder, repository, server, backup, fileCount, rows, segments, remove: async () => removeFolder(folder) };
}

interface Pushed {
  readonly id: string;
  readonly statistics: { readonly files: number; readonly folders: number };
}

async function pushBackup(repository: TestRepository, server: PostgresServer): Promise<Pushed> {
  const { code, stdout, stderr } = await repository.run('basebackup-push', [server.dataDirectory, '--json'], { env });
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout).manifest;
}

async function commitRow(server: PostgresServer, n: number): Promise<Row> {
  const client = await server.connect();
  try {
    await client.query('begin');
    await client.query(`insert into t values (${n})`);
    const { rows: begun } = await client.query(
      'select pg_current_xact_id()::text as xid, pg_current_wal_insert_lsn()::text as lsn',
    );
    await client.query('commit');
    const { rows: ended } = await client.query(
      `select (extract(epoch from pg_xact_commit_timestamp('${begun[0].xid}'::xid)) * 1000000)::bigint::text as time,
              pg_current_wal_insert_lsn()::text as lsn`,
    );
    return { n, xid: begun[0].xid, time: BigInt(ended[0].time), commitLsn: begun[0].lsn, afterLsn: ended[0].lsn };
  } finally {
    await client.end();
  }
}

/** Into a folder that goes with the test, as the server's account would. */
async function restore({ repository, server }: Story, words: readonly string[]) {
  const copy = server.elsewhere();
  onTestFinished(() => copy.remove());
  const ended = await repository.run('wal-t', ['restore', copy.dataDirectory, ...words], { env });
  return { copy, ended };
}

async function rowsAt(story: Story, words: readonly string[]): Promise<string> {
  const { copy, ended } = await restore(story, words);
  expect(ended).toMatchObject({ code: 0 });
  await copy.open();
  return rowsOf(copy);
}

/** Asserts that it is refused with that message, and that nothing was made or read. */
async function expectRefused(story: Story, words: readonly string[], message: RegExp): Promise<void> {
  const { copy, ended } = await withoutParts(story, () => restore(story, words));
  expect(ended.stderr).toMatch(message);
  expect(ended.code).toBe(1);
  expect(ended.stdout).toBe('');
  expect(existsSync(copy.dataDirectory)).toBe(false);
}

/** While the parts of all backups are away: whatever would read a byte of one fails otherwise than expected. */
async function withoutParts<T>({ repository }: Story, action: () => Promise<T>): Promise<T> {
  const [cluster = ''] = repository.files().filter((path) => path.includes('/part/'));
  const parts = join(repository.root, cluster.slice(0, cluster.indexOf('/part/')), 'part');
  renameSync(parts, `${parts}-away`);
  try {
    return await action();
  } finally {
    renameSync(`${parts}-away`, parts);
  }
}

async function windowsOf({ repository }: Story, words: readonly string[] = []): Promise<WindowsResult> {
  const { stdout, stderr } = await repository.run('wal-t', ['windows', '--json', ...words], { env });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout) as WindowsResult;
}

/** JSON has it as text. */
const lsnOf = (text: unknown): Lsn => parseLsn(String(text)) ?? 0n;

const upTo = (n: number) => Array.from({ length: n }, (_, index) => index + 1).join(' ');

interface Case {
  readonly what: string;
  readonly words: (row: Row) => readonly string[];
  /** The last row that is there, from row 5; `null` for none. */
  readonly last: number;
  /** Where without TORTURE: of each sort one; times, LSNs and the end are met below, too, and version 15 in delta.test.ts. */
  readonly on: readonly string[];
}

const at = (time: bigint) => ['--target-time', formatTime(time)];
const cases: readonly Case[] = [
  { what: 'a time', words: ({ time }) => at(time), last: 5, on: [] },
  { what: 'the microsecond before', words: ({ time }) => at(time - 1n), last: 4, on: [] },
  { what: 'a time, exclusive', words: ({ time }) => [...at(time), '--target-exclusive'], last: 4, on: [] },
  { what: 'an LSN', words: ({ commitLsn }) => ['--target-lsn', commitLsn], last: 5, on: [] },
  {
    what: 'an LSN, exclusive',
    words: ({ commitLsn }) => ['--target-lsn', commitLsn, '--target-exclusive'],
    last: 4,
    on: ['18'],
  },
  { what: 'a restore point', words: ({ n }) => ['--target-name', `after-${n}`], last: 5, on: ['17'] },
  {
    what: 'a restore point, found beforehand',
    words: ({ n }) => ['--target-name', `after-${n}`, '--scan'],
    last: 5,
    on: ['17 S3'],
  },
  { what: 'a transaction', words: ({ xid }) => ['--target-xid', xid], last: 5, on: [] },
  {
    what: 'a transaction, exclusive, by its long id, found beforehand',
    words: ({ xid }) => ['--target-xid', String(BigInt(xid) + 2n ** 32n), '--target-exclusive', '--scan'],
    last: 4,
    on: ['17'],
  },
  { what: 'the end of the backup', words: () => ['--target-immediate'], last: 0, on: ['17'] },
  { what: 'the end', words: () => [], last: 8, on: [] },
];

interface Place {
  readonly name: string;
  readonly major: number;
  readonly s3: boolean;
}

/** Those of 17 in a folder stand below, with all else that is asked there. */
const places: readonly Place[] = [15, 17, 18]
  .flatMap((major) => [false, true].map((s3) => ({ name: s3 ? `${major} S3` : `${major}`, major, s3 })))
  .filter(({ name }) => name !== '17');
const casesOn = (name: string) => cases.filter(({ on }) => torture || on.includes(name));

async function expectCase(story: Story, { words, last }: Case): Promise<void> {
  const [row] = story.rows.slice(4);
  expect(await rowsAt(story, words(row as Row))).toBe(last === 0 ? 'null' : upTo(last));
}

describe.each(places.filter(({ name }) => casesOn(name).length > 0))('PostgreSQL $name', ({ name, major, s3 }) => {
  let story: Story;
  let store: S3Server | undefined;
  let keys: string;

  beforeAll(async () => {
    keys = makeFolder('keys');
    if (!s3) {
      story = await tell(major, {});
      return;
    }
    store = await S3Server.start();
    const path = join(keys, 'identity');
    const { publicKey = '', text } = await keygen({ auth: false, output: undefined });
    writeFileSync(path, text, { mode: 0o600 });
    giveAway(path);
    const settings = { ...s3Settings(store.s3, `restore/${major}`), WALT_AGE_RECIPIENTS: publicKey };
    story = await tell(major, settings, { ...settings, WALT_AGE_IDENTITY_FILE: path });
  });
  afterAll(async () => {
    await story?.remove();
    await store?.stop();
    removeFolder(keys);
  });

  it.each(casesOn(name))('restores to $what', (one) => expectCase(story, one));

  it.runIf(s3)('refuses the impossible without reading a byte of the backup', async () => {
    const proxy = await FaultProxy.start((store as S3Server).s3);
    onTestFinished(() => proxy.stop());
    const before = readFileSync(story.repository.config, 'utf8');
    onTestFinished(() => story.repository.configure(settingsIn(before)));
    story.repository.configure({ ...settingsIn(before), AWS_ENDPOINT_URL_S3: proxy.s3.endpoint });
    const { copy, ended } = await restore(story, ['--target-lsn', 'FF/0']);
    expect(ended).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('is behind the end of the archived WAL'),
    });
    expect(existsSync(copy.dataDirectory)).toBe(false);
    expect(proxy.log.some(({ key }) => key.includes('/manifest/'))).toBe(true);
    expect(proxy.log.filter(({ key, kind }) => /\/(part|files)\//.test(key) && kind === 'GetObject')).toEqual([]);
  });
});

function settingsIn(text: string): Record<string, string> {
  return Object.fromEntries(
    text
      .trim()
      .split('\n')
      .map((line) => line.split(/=(.*)/).slice(0, 2)),
  );
}

describe('on 17, in a folder', () => {
  let story: Story;
  beforeAll(async () => {
    story = await tell(17, {});
  });
  afterAll(() => story?.remove());

  it.each(casesOn('17'))('restores to $what', (one) => expectCase(story, one));

  describe('the edges that windows tells', () => {
    it('are the first and the last moment that can be restored', async () => {
      const [window] = (await windowsOf(story)).timelines[0]?.windows ?? [];
      if (window === undefined) throw new Error('there is no window');
      const [from, to] = [window.from, window.to].map(({ lsn, time }) => ({
        lsn: lsnOf(lsn),
        time: BigInt(time ?? 0),
      }));
      if (from === undefined || to === undefined) throw new Error('it has no edges');
      expect(to.time).toBe(story.rows[7]?.time);

      expect(await rowsAt(story, at(from.time))).toBe('null');
      if (torture) {
        // as in windows.test.ts
        expect(await rowsAt(story, ['--target-lsn', formatLsn(from.lsn), '--target-exclusive'])).toBe('null');
        expect(await rowsAt(story, ['--target-lsn', formatLsn(to.lsn)])).toBe(upTo(8));
      }
      const range = `possible is from ${formatTime(from.time)}, LSN ${formatLsn(from.lsn)} on`;
      const early = new RegExp(`is before the end of the oldest backup[\\s\\S]*${literal(range)}`);
      await expectRefused(story, ['--target-lsn', formatLsn(from.lsn - 1n)], early);
      await expectRefused(story, at(from.time - 1n), early);
      const end = `possible is up to ${formatTime(to.time)}, LSN ${formatLsn(to.lsn)}`;
      const late = new RegExp(`is behind the end of the archived WAL[\\s\\S]*${literal(end)}`);
      await expectRefused(story, ['--target-lsn', formatLsn(to.lsn + 1n)], late);
    });

    it('hold for a backup that transactions went on beside', async () => {
      const { time } = story.rows[3] as Row;
      const { at: reachable } = await windowsOf(story, ['--at', formatTime(time)]);
      expect(reachable).toMatchObject({ isReachable: true, plan: { backup: { id: story.backup } } });
      const { stdout, code } = await story.repository.run('wal-t', ['windows', '--at', '2001-01-01 00:00:00Z'], {
        env,
      });
      expect(stdout).toMatch(/^not reachable: 2001-01-01 00:00:00\+00 is before the end of the oldest backup/m);
      expect(code).toBe(8);
    });
  });

  it('H33: grants a time after the last commit as "to the end", and says so', async () => {
    const last = story.rows[7] as Row;
    const { copy, ended } = await restore(story, at(last.time + 1n));
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stderr).toContain('recovery goes to the end of the archived WAL');
    expect(ended.stderr).toContain(`the last transaction ended at ${formatTime(last.time)}`);
    await copy.open();
    expect(await rowsOf(copy)).toBe(upTo(8));
  });

  it('grants a time of the last commit, exclusive, without that commit', async () => {
    const last = story.rows[7] as Row;
    expect(await rowsAt(story, [...at(last.time), '--target-exclusive'])).toBe(upTo(7));
  });

  it('takes the zone of this host where none is given, and says which', async () => {
    const { time } = story.rows[4] as Row;
    const text = formatTime(time).replace('+00', '');
    const { ended } = await restore(story, ['--target-time', text, '--dry-run']);
    expect(ended.stderr).toContain(`"${text}" has no zone: this host's +00:00 was taken, so it is ${formatTime(time)}`);
  });

  it('does nothing but print the plan with --dry-run', async () => {
    const { commitLsn } = story.rows[2] as Row;
    const { copy, ended } = await withoutParts(story, () => restore(story, ['--target-lsn', commitLsn, '--dry-run']));
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stdout).toContain(`backup    ${story.backup}`);
    expect(ended.stdout).toContain(`recovery_target_lsn = '${commitLsn}'`);
    expect(ended.stdout).toMatch(/restore_command = '.*\/bin\/wal-fetch --beside --timeline 1 %f %p'/);
    expect(ended.stdout).toMatch(/^nothing was done$/m);
    expect(existsSync(copy.dataDirectory)).toBe(false);
  });

  it.each([
    { words: ['--target-timeline', '7'], message: /the history of timeline 7 is not in the archive/ },
    { words: ['--target-name', 'nobody', '--scan'], message: /restore point "nobody" is not in the archived WAL/ },
    {
      words: ['--backup', '20200101T000000Z-000000010000000000000001-full-00000000'],
      message: /does not lead to|there is no/,
    },
    ...(torture
      ? [
          {
            words: ['--target-xid', '4000000000', '--scan'],
            message: /transaction 4000000000 is not in the archived WAL/,
          },
          { words: ['--target-lsn', 'FF/0'], message: /LSN FF\/0 is behind the end of the archived WAL/ },
        ]
      : []),
  ])('refuses $words', ({ words, message }) => expectRefused(story, words, message));

  const wrongUsages = [
    { words: ['--target-lsn', '0/1', '--target-immediate'], message: /one target only/ },
    { words: ['--target-time', 'yesterday'], message: /"yesterday" is no time/ },
    { words: ['--primary-conninfo', 'host=a'], message: /--primary-conninfo has an effect on a standby alone/ },
    { words: ['--target-inclusive', '--target-exclusive'], message: /inclusive or exclusive/ },
    { words: ['--standby', '--target-lsn', '0/1'], message: /a standby has no target/ },
    { words: ['--target-timeline', 'x'], message: /"x" is no timeline/ },
  ];
  it.each(torture ? wrongUsages : wrongUsages.slice(0, 3))('calls $words a wrong usage', async ({ words, message }) => {
    const { copy, ended } = await restore(story, words);
    expect(ended).toMatchObject({ code: 2, stderr: expect.stringMatching(message) });
    expect(existsSync(copy.dataDirectory)).toBe(false);
  });

  it.each(['pause', 'shutdown'] as const)('stops at the target to %s', async (action) => {
    const { time } = story.rows[4] as Row;
    const { copy, ended } = await restore(story, [...at(time), '--target-action', action]);
    expect(ended).toMatchObject({ code: 0 });
    copy.launch();
    if (action === 'shutdown') {
      await waitFor('the server to stop', () => !copy.isRunning);
      expect(copy.log).toContain('recovery stopping before commit of transaction');
      expect(readFileSync(join(copy.dataDirectory, 'recovery.signal'), 'utf8')).toBe('');
      return;
    }
    await waitFor('the pause', () => copy.log.includes('pausing at the end of recovery') || !copy.isRunning);
    expect(await rowsOf(copy)).toBe(upTo(5));
    expect(await copy.value('select pg_is_in_recovery()')).toBe('true');
    // a step further, and open
    await copy.stop();
    const [next] = story.rows.slice(5);
    const settings = join(copy.dataDirectory, 'postgresql.auto.conf');
    appendFileSync(settings, `recovery_target_time = '${formatTime(next?.time ?? 0n)}'\n`);
    const paused = () => copy.value('select pg_get_wal_replay_pause_state()').catch(() => 'starting');
    copy.launch();
    await waitFor('the next pause', async () => (await paused()) === 'paused' || !copy.isRunning);
    expect(await rowsOf(copy)).toBe(upTo(6));
    await copy.query('select pg_wal_replay_resume()');
    await copy.waitUntilOpen();
    expect(await rowsOf(copy)).toBe(upTo(6));
  });

  it('pauses at the end of the WAL, too, where PostgreSQL alone would promote', async () => {
    const { copy, ended } = await restore(story, ['--target-action', 'pause']);
    expect(ended).toMatchObject({ code: 0 });
    copy.launch();
    await waitFor('the pause', () => copy.log.includes('pausing at the end of recovery') || !copy.isRunning);
    expect(await rowsOf(copy)).toBe(upTo(8));
  });

  describe('with a hole', () => {
    /** The segment that begins with row 5. */
    let missing: string;
    let away: string;
    beforeAll(() => {
      missing = story.segments[1] ?? '';
      const path = story.repository.object(missing);
      away = join(story.folder, 'away');
      renameSync(path, away);
      return () => renameSync(away, path);
    });

    it.each<{ what: string; words: (row: Row) => readonly string[]; places: readonly number[] }>([
      { what: 'a time', words: ({ time }) => at(time), places: torture ? [5, 8] : [5] },
      { what: 'an LSN', words: ({ commitLsn }) => ['--target-lsn', commitLsn], places: torture ? [5, 8] : [8] },
    ])('refuses $what in it or behind it: of row $places', async ({ words, places }) => {
      for (const row of places.map((n) => story.rows[n - 1]) as Row[]) {
        const { time } = story.rows[3] as Row;
        const told = `is behind a hole in the archived WAL: "${missing}" is missing[\\s\\S]*before the hole one gets to ${literal(formatTime(time))}`;
        await expectRefused(story, words(row), new RegExp(told));
      }
    });

    it('refuses the end, and goes to the hole with --until-hole', async () => {
      const hole = new RegExp(`has a hole: "${missing}" is missing, and "${story.segments[2]}" is there`);
      await expectRefused(story, [], hole);
      expect(await rowsAt(story, ['--until-hole'])).toBe(upTo(4));
    });

    it('grants what is before it, to the last moment', async () => {
      const [window] = (await windowsOf(story)).timelines[0]?.windows ?? [];
      expect(window?.hole).toMatchObject({ missing, next: story.segments[2] });
      expect(window?.to.time).toBe(String(story.rows[3]?.time));
      const lsn = lsnOf(window?.to.lsn);
      // as at the end of the WAL, in windows.test.ts
      if (torture) expect(await rowsAt(story, ['--target-lsn', formatLsn(lsn)])).toBe(upTo(4));
      await expectRefused(story, ['--target-lsn', formatLsn(lsn + 1n)], /is behind a hole/);
      // PostgreSQL itself would look for a later transaction, and fail at the hole
      const last = BigInt(window?.to.time ?? 0);
      expect(await rowsAt(story, at(last))).toBe(upTo(4));
      await expectRefused(story, at(last + 1n), /is behind a hole/);
    });

    it('shows it in wal-list', async () => {
      const { stdout } = await story.repository.run('wal-t', ['wal-list'], { env });
      expect(stdout).toContain(`HOLE of 1 segments from ${missing}`);
    });
  });

  describe('that is killed', () => {
    const random = seededRandom(5);
    /** As shares of its files; a little above 1 is after the last of them. */
    const moments = torture ? Array.from({ length: 30 }, () => random(1030) / 1000) : [0.6];
    it.each(moments)(
      'starts no server, and is gone on with: $0 of the files',
      async (share) => {
        const { time } = story.rows[4] as Row;
        const copy = story.server.elsewhere();
        onTestFinished(() => copy.remove());
        const words = ['restore', copy.dataDirectory, ...at(time)];
        const isTime = () => count(copy.dataDirectory) >= share * story.fileCount;
        const { code, signal } = await killedWhen(story, words, isTime);
        const isCluster = existsSync(join(copy.dataDirectory, 'global/pg_control'));
        if (signal !== undefined && !isCluster) {
          if (existsSync(join(copy.dataDirectory, 'PG_VERSION'))) {
            copy.launch();
            await waitFor('the server to refuse', () => !copy.isRunning);
            expect(copy.log).not.toContain('redo starts');
          }
          const again = await story.repository.run('wal-t', [...words, '--resume'], { env });
          expect(again).toMatchObject({ code: 0 });
        } else if (signal === undefined) expect(code).toBe(0);
        const settings = readFileSync(join(copy.dataDirectory, 'postgresql.auto.conf'), 'utf8');
        expect(settings).toContain(`recovery_target_time = '${formatTime(time)}'`);
        expect(readdirSync(copy.dataDirectory)).toContain('recovery.signal');
        await copy.open();
        expect(await rowsOf(copy)).toBe(upTo(5));
      },
      300_000,
    );
  });
});

function count(folder: string): number {
  return existsSync(folder) ? readdirSync(folder, { recursive: true }).length : 0;
}

/** Kills the launcher and all that it started. */
async function killedWhen({ repository }: Story, words: readonly string[], isTime: () => boolean): Promise<Ended> {
  let child: ChildProcess | undefined;
  let ended = false;
  const running = repository.run('wal-t', words, {
    env,
    ownGroup: true,
    onStart: (started) => {
      child = started;
    },
  });
  void running.finally(() => {
    ended = true;
  });
  await waitFor('the moment', () => ended || isTime());
  if (!ended) process.kill(-(child?.pid ?? 0), 'SIGKILL');
  return running;
}

function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
