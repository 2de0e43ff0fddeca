/**
 * `--delta`: a stopped cluster is changed into a backup, and nothing is lost on the way: neither what fits, nor the WAL that only it has (H31), nor
 * anything outside.
 */
import {
  appendFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseControlFile } from '../../src/postgres/control-file.ts';
import { giveAway } from '../support/account.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { differences, hashFiles } from '../support/cluster-files.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { type Archived, env, keep, pushBackup, restore, startPrimary } from '../support/restoring.ts';
import { waitFor } from '../support/wait.ts';

const threads = { ...env, WALT_WORKERS: '2' };

async function fetchOver({ repository }: Archived, server: PostgresServer, words: readonly string[] = []) {
  const ended = await repository.run('basebackup-fetch', [server.dataDirectory, ...words, '--delta', '--json'], {
    env: threads,
  });
  return { ...ended, result: ended.code === 0 ? JSON.parse(ended.stdout) : undefined };
}

async function fetchPlain({ repository, primary }: Archived, words: readonly string[] = []): Promise<PostgresServer> {
  const copy = keep(primary.elsewhere());
  const ended = await repository.run('basebackup-fetch', [copy.dataDirectory, ...words], { env: threads });
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  return copy;
}

function systemIdentifierOf({ dataDirectory }: PostgresServer): string {
  const control = parseControlFile(readFileSync(join(dataDirectory, 'global/pg_control.wal-t-restore')));
  return control?.systemIdentifier ?? '';
}

/** Of table `big`: some hundreds of pages. */
const rows = 8000;

async function fill(primary: PostgresServer): Promise<void> {
  await primary.query('create table t (n int)');
  await primary.query(
    `create table big as select n, repeat(md5(n::text), 10) as word from generate_series(1, ${rows}) n`,
  );
  await primary.query('create index on big (n)');
}

/** Damages so many pages of one in a hundred, in place. */
function damage(server: PostgresServer, files: Iterable<string>): number {
  const random = seededRandom(7);
  let count = 0;
  for (const path of files) {
    if (!/^(base|pg_tblspc)\//.test(path)) continue;
    const full = join(server.dataDirectory, path);
    const pages = Math.floor(statSync(full).size / 8192);
    const file = openSync(full, 'r+');
    for (let page = 0; page < pages; page += 1) {
      if (random(100) !== 0) continue;
      writeSync(file, Buffer.alloc(512, `damage ${page}`), 0, 512, page * 8192 + 1024);
      count += 1;
    }
  }
  return count;
}

const isTorture = process.env.TORTURE === '1';

describe.each([15, 17])('PostgreSQL %i', (major) => {
  it.runIf(isTorture || major === 17)(
    'changes a damaged cluster into the backup, and fetches what differs alone',
    { timeout: 240_000 },
    async () => {
      const archived = await startPrimary({ major });
      const { primary } = archived;
      const tablespace = join(primary.folder, 'fast disk');
      mkdirSync(tablespace);
      giveAway(tablespace);
      await primary.query(`create tablespace fast location '${tablespace}'`);
      await fill(primary);
      await primary.query('create table quick tablespace fast as select * from big');
      await insertRow(primary, 1);
      await pushBackup(archived);
      await insertRow(primary, 2);
      await primary.switchWal();
      await primary.waitUntilAllArchived();
      await primary.stop();
      const plain = await fetchPlain(archived, [
        '--tablespace-mapping',
        `${tablespace}=${join(primary.folder, 'plain')}`,
      ]);
      const expected = await hashFiles(plain.dataDirectory, major);

      const data = primary.dataDirectory;
      expect(damage(primary, expected.keys())).toBeGreaterThan(5);
      const outside = makeFolder('outside');
      writeFileSync(join(outside, 'precious'), 'kept');
      giveAway(outside);
      const relation = join(data, 'base', readdirSync(join(data, 'base'))[0] ?? '');
      const [first = '', second = '', third = '', fourth = '', fifth = ''] = readdirSync(relation).filter((name) =>
        expected.has(join('base', basename(relation), name)),
      );
      rmSync(join(relation, first)); // missing
      rmSync(join(relation, second)); // a folder instead
      mkdirSync(join(relation, second));
      writeFileSync(join(relation, second, 'x'), 'x');
      renameSync(join(relation, third), join(outside, third)); // a link out of it instead
      symlinkSync(join(outside, third), join(relation, third));
      truncateSync(join(relation, fourth), 100);
      linkSync(join(relation, fifth), join(outside, fifth)); // another name of it
      appendFileSync(join(relation, fifth), 'more');
      rmSync(join(data, 'pg_xact'), { recursive: true });
      symlinkSync(outside, join(data, 'pg_xact')); // a link instead of a folder
      symlinkSync(outside, join(data, 'stranger'));
      mkdirSync(join(data, 'log/deep'), { recursive: true });
      writeFileSync(join(data, 'log/deep/er'), 'x');
      writeFileSync(join(tablespace, 'of another'), 'kept');
      const version = readdirSync(tablespace).find((name) => name.startsWith('PG_')) ?? '';
      writeFileSync(join(tablespace, version, 'surplus'), 'x');
      for (const path of [relation, data].flatMap((folder) => [
        join(folder, second),
        join(folder, 'log/deep'),
        join(folder, 'log'),
      ])) {
        if (existsSync(path)) giveAway(path);
      }
      const before = Object.fromEntries(
        readdirSync(outside).map((name) => [name, readFileSync(join(outside, name), 'hex')]),
      );

      const { code, stderr, result } = await fetchOver(archived, primary);
      expect(code, stderr).toBe(0);
      expect(differences(expected, await hashFiles(data, major))).toEqual([]);
      expect((await verifyBackup(data)).filter((line) => !line.includes('of another'))).toEqual([]);
      const { rawBytes } = result.manifest.statistics;
      expect(result.keptBytes).toBeGreaterThan(rawBytes / 4);
      expect(
        Object.fromEntries(readdirSync(outside).map((name) => [name, readFileSync(join(outside, name), 'hex')])),
      ).toEqual(before);
      expect(existsSync(join(tablespace, 'of another'))).toBe(true);
      expect(readdirSync(join(tablespace, version))).not.toContain('surplus');
      for (const name of ['stranger', 'log', 'postmaster.opts']) expect(readdirSync(data)).not.toContain(name);

      const again = await fetchOver(archived, primary);
      // backup_label is made anew, and tablespace_map is none of what is restored
      expect(again.result.keptBytes).toBeGreaterThan(rawBytes - 1024);
      expect(again.result.fetchedBytes).toBeLessThan(3 * again.result.manifest.files.objectBytes + 2 ** 16);
      expect(differences(expected, await hashFiles(data, major))).toEqual([]);

      const ended = await archived.repository.run('wal-t', ['restore', data, '--delta', '--take-over'], {
        env: threads,
      });
      expect(ended, ended.stderr).toMatchObject({ code: 0 });
      await primary.open();
      expect(await rowsOf(primary)).toBe('1 2');
      expect(await primary.value('select count(*) from quick')).toBe(`${rows}`);
      removeFolder(outside);
    },
  );

  // where pg_wal is no link, the one that is killed does the same
  it.runIf(isTorture || major === 15)(
    'H31 brings back commits that were never archived, wherever pg_wal is',
    { timeout: 240_000 },
    async () => {
      const dead = await unarchived(major, { isLinked: major === 15 });
      const { primary, repository } = dead;
      const { dataDirectory } = primary;
      const ended = await repository.run('wal-t', ['restore', dataDirectory, '--delta'], { env: threads });
      expect(ended, ended.stderr).toMatchObject({ code: 0 });
      expect(ended.stdout).toMatch(/the old pg_wal is in "[^"]+": remove that when all is well\n$/);
      expectNothingLost(dead);
      expectOffered(dead);
      expect(lstatSync(join(dataDirectory, 'pg_wal')).isSymbolicLink()).toBe(major === 15);
      await primary.open();
      expect(await rowsOf(primary)).toBe('1 2 3 4');
    },
  );
});

/** A killed server with row 1 in the archive, 2 and 3 in full segments that are not, and 4 in one that is not full. */
async function unarchived(major: number, { isLinked = false } = {}) {
  const archived = await startPrimary({ major });
  const { primary } = archived;
  if (isLinked) {
    await primary.stop();
    const disk = join(primary.folder, 'disk');
    mkdirSync(disk);
    giveAway(disk);
    renameSync(join(primary.dataDirectory, 'pg_wal'), join(disk, 'wal'));
    symlinkSync(join(disk, 'wal'), join(primary.dataDirectory, 'pg_wal'));
    await primary.start();
  }
  await fill(primary);
  await pushBackup(archived);
  await archiveRow(primary, 1);
  await primary.query(`alter system set archive_command = 'false'`);
  await primary.query('select pg_reload_conf()');
  const full: string[] = [];
  for (const n of [2, 3]) {
    await insertRow(primary, n);
    full.push(await primary.switchWal());
  }
  await insertRow(primary, 4);
  const last = await primary.value('select pg_walfile_name(pg_current_wal_lsn())');
  await primary.stop('SIGKILL');
  const walFolder = realpathSync(join(primary.dataDirectory, 'pg_wal'));
  const wal = new Map([...full, last].map((name) => [name, readFileSync(join(walFolder, name), 'latin1')]));
  return { ...archived, walFolder, wal, full, last };
}

/** The unarchived segments are in pg_wal or where that was put. */
function expectNothingLost({ walFolder, wal, primary }: Awaited<ReturnType<typeof unarchived>>): void {
  const beside = walFolder.startsWith(primary.dataDirectory) ? primary.dataDirectory : walFolder;
  const folders = readdirSync(dirname(beside))
    .filter((name) => name.startsWith(`${basename(beside)}.wal-t-pg_wal-`))
    .map((name) => join(dirname(beside), name, 'pg_wal'));
  for (const [name, content] of wal) {
    const found = [walFolder, ...folders].map((folder) => join(folder, name)).filter((path) => existsSync(path));
    expect(
      found.some((path) => readFileSync(path, 'latin1') === content),
      name,
    ).toBe(true);
  }
}

/** What is full has been archived, what is not lies where recovery finds it. */
function expectOffered({ repository, primary, full, last }: Awaited<ReturnType<typeof unarchived>>): void {
  const stored = repository.files().map((path) => basename(path));
  expect(stored).toEqual(expect.arrayContaining(full));
  expect(stored).not.toContain(last);
  expect(readdirSync(join(primary.dataDirectory, 'pg_wal'))).toContain(last);
}

it('H31 can be killed at any moment, and does the rest when it runs again', { timeout: 240_000 }, async () => {
  const dead = await unarchived(17);
  const { primary, repository } = dead;
  const data = primary.dataDirectory;
  damage(primary, [...(await hashFiles(data, 17)).keys()]);
  const moments: (() => boolean)[] = [
    () => existsSync(join(data, '.wal-t-delta.json')),
    () => !existsSync(join(data, 'global/pg_control')),
    () => readdirSync(primary.folder).some((name) => name.startsWith('data.wal-t-pg_wal-')),
    () => dead.full.every((name) => repository.files().some((path) => path.endsWith(name))),
    () => !existsSync(join(data, 'postmaster.opts')),
    () => existsSync(join(data, 'backup_label')),
    () => existsSync(join(data, 'pg_wal', dead.last)),
    () => existsSync(join(data, 'recovery.signal')),
  ];
  let killed = 0;
  for (const [index, hasCome] of moments.entries()) {
    let pid = 0;
    let hasEnded = false;
    const running = repository.run('wal-t', ['restore', data, '--delta'], {
      env: threads,
      ownGroup: true,
      onStart: (child) => {
        pid = child.pid ?? 0;
        child.once('exit', () => {
          hasEnded = true;
        });
      },
    });
    await waitFor('the moment', () => hasCome() || hasEnded);
    if (!hasEnded) process.kill(-pid, 'SIGKILL');
    const { code } = await running;
    expectNothingLost(dead);
    if (code === 0) break;
    killed += 1;
    // when all is written, it is a cluster a moment before the command says so
    if (index < moments.length - 2) expect(existsSync(join(data, 'global/pg_control'))).toBe(false);
  }
  expect(killed).toBeGreaterThan(2);
  const ended = await repository.run('wal-t', ['restore', data, '--delta'], { env: threads });
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  expectNothingLost(dead);
  expectOffered(dead);
  expect(lstatSync(join(data, 'pg_wal')).isSymbolicLink()).toBe(false);
  await primary.open();
  expect(await rowsOf(primary)).toBe('1 2 3 4');
  expect(await primary.value('select sum(length(word)) from big')).toBe(`${rows * 320}`);
});

it('brings a copy beside up to date again, and archives nothing of its own', { timeout: 240_000 }, async () => {
  const archived = await startPrimary();
  const { primary, repository } = archived;
  await fill(primary);
  await pushBackup(archived);
  await archiveRow(primary, 1);
  const { copy, ended } = await restore(archived);
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  await copy.open();
  await copy.query('insert into t values (100)');
  await copy.switchWal();
  await copy.query('insert into t values (101)');
  await copy.query('update big set n = n + 1');
  await copy.stop('SIGKILL');
  await archiveRow(primary, 2);
  const before = repository.files();
  const second = await repository.run('wal-t', ['restore', copy.dataDirectory, '--delta'], { env: threads });
  expect(second, second.stderr).toMatchObject({ code: 0 });
  expect(repository.files()).toEqual(before);
  await copy.open();
  expect(await rowsOf(copy)).toBe('1 2');
  expect(await copy.value('select max(n) from big')).toBe(`${rows}`);
});

it('changes a cluster into an increment', { timeout: 240_000 }, async () => {
  const archived = await startPrimary({ settings: { summarize_wal: 'on' } });
  const { primary, repository } = archived;
  await fill(primary);
  await primary.query('checkpoint');
  await pushBackup(archived);
  await primary.query('update big set word = word || 1 where n % 500 = 0');
  await primary.query('checkpoint');
  const pushed = await repository.run('basebackup-push', [primary.dataDirectory, '--incremental', '--json'], { env });
  expect(pushed, pushed.stderr).toMatchObject({ code: 0 });
  const { manifest } = JSON.parse(pushed.stdout);
  expect(manifest.type).toBe('incremental');
  await primary.query('vacuum full big');
  await primary.query('create table later as select * from big');
  await primary.stop();
  const expected = await hashFiles((await fetchPlain(archived)).dataDirectory, 17);
  damage(
    primary,
    [...expected.keys()].filter((path) => existsSync(join(primary.dataDirectory, path))),
  );
  const { code, stderr, result } = await fetchOver(archived, primary);
  expect(code, stderr).toBe(0);
  expect(differences(expected, await hashFiles(primary.dataDirectory, 17))).toEqual([]);
  expect(await verifyBackup(primary.dataDirectory)).toEqual([]);
  expect(result.keptBytes).toBeGreaterThan(0);
});

describe('what is refused', () => {
  it('is a running server, another cluster, and what is no cluster: nothing is changed', {
    timeout: 240_000,
  }, async () => {
    const archived = await startPrimary();
    const { primary, repository } = archived;
    await fill(primary);
    await pushBackup(archived);
    await primary.query('checkpoint');
    const before = await hashFiles(primary.dataDirectory, 17);

    expect(await fetchOver(archived, primary)).toMatchObject({
      code: 9,
      stderr: expect.stringMatching(/a server runs on ".*"/),
    });
    const pid = readFileSync(join(primary.dataDirectory, 'postmaster.pid'));
    rmSync(join(primary.dataDirectory, 'postmaster.pid'));
    const hidden = await fetchOver(archived, primary);
    writeFileSync(join(primary.dataDirectory, 'postmaster.pid'), pid);
    giveAway(join(primary.dataDirectory, 'postmaster.pid'));
    expect(hidden.stderr).toMatch(/a server runs on ".*"\n.*process \d+ of PostgreSQL uses it/);
    expect(differences(before, await hashFiles(primary.dataDirectory, 17))).toEqual([]);
    expect(await primary.value('select count(*) from big')).toBe(`${rows}`);

    const other = keep(PostgresServer.create({ major: 17 }));
    const otherFiles = await hashFiles(other.dataDirectory, 17);
    expect((await fetchOver(archived, other)).stderr).toMatch(/is another cluster's/);
    const aim = await repository.run('wal-t', ['restore', other.dataDirectory, '--delta'], { env });
    expect(aim.stderr).toMatch(/is another cluster's/);
    expect(differences(otherFiles, await hashFiles(other.dataDirectory, 17))).toEqual([]);
    expect(existsSync(join(other.dataDirectory, 'global/pg_control'))).toBe(true);

    const foreign = join(other.dataDirectory, 'pg_wal');
    const names = readdirSync(foreign);
    await primary.stop();
    const own = join(primary.dataDirectory, 'pg_wal');
    renameSync(own, `${own}.own`);
    symlinkSync(foreign, own);
    expect((await fetchOver(archived, primary)).stderr).toMatch(/"pg_wal" leads to ".*", which is another cluster's/);
    rmSync(own);
    symlinkSync(join(primary.dataDirectory, 'base'), own);
    expect((await fetchOver(archived, primary)).stderr).toMatch(/"pg_wal" leads to ".*", which holds more than WAL/);
    rmSync(own);
    renameSync(`${own}.own`, own);
    const control = join(primary.dataDirectory, 'global/pg_control');
    renameSync(control, `${control}.wal-t-restore`);
    const aside = [{ from: foreign, to: `${foreign}.wal-t-pg_wal-20261121T000000Z/pg_wal`, isWithin: false }];
    const identity = { systemIdentifier: systemIdentifierOf(primary), major: 17, catalogVersion: 202406281 };
    const mark = join(primary.dataDirectory, '.wal-t-delta.json');
    writeFileSync(mark, JSON.stringify({ ...identity, aside, places: [] }));
    giveAway(mark);
    expect((await fetchOver(archived, primary)).stderr).toMatch(/\.wal-t-delta\.json" is damaged/);
    expect(readdirSync(foreign)).toEqual(names);
    rmSync(mark);
    renameSync(`${control}.wal-t-restore`, control);

    const none = keep(primary.elsewhere());
    mkdirSync(none.dataDirectory);
    writeFileSync(join(none.dataDirectory, 'letter'), 'dear');
    giveAway(none.dataDirectory);
    expect((await fetchOver(archived, none)).stderr).toMatch(/is not a data directory/);
    expect(readdirSync(none.dataDirectory)).toEqual(['letter']);
    rmSync(join(none.dataDirectory, 'letter'));
    expect(await fetchOver(archived, none)).toMatchObject({ code: 0 });
    expect(await verifyBackup(none.dataDirectory)).toEqual([]);

    const late = [
      'restore',
      primary.dataDirectory,
      '--delta',
      '--target-time',
      '2999-01-01 00:00:00Z',
      '--backup',
      'none',
    ];
    expect((await repository.run('wal-t', late, { env })).code).toBe(1);
    expect(existsSync(join(primary.dataDirectory, 'global/pg_control'))).toBe(true);
    expect(readdirSync(primary.folder).filter((name) => name.includes('wal-t'))).toEqual([]);
  });
});
