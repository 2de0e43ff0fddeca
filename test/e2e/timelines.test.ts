/** Promotions: every timeline's files are archived, nothing blocks, and a recovery along each timeline has its rows and no others. */
import { chmodSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

interface Started {
  readonly repository: TestRepository;
  readonly primary: PostgresServer;
  /** A cold copy of the primary, with an empty table. */
  readonly base: PostgresServer;
}

/** A primary that archives; all of it goes when the running test ends. */
async function startPrimary(options: Parameters<typeof PostgresServer.create>[0]): Promise<Started> {
  const repository = await new TestRepository({ settings: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '100ms' } }).init();
  const settings = { ...repository.serverSettings, ...options.settings };
  const primary = keep(PostgresServer.create({ ...options, settings }));
  await primary.start();
  await primary.query('create table t (n int)');
  await primary.stop();
  const base = keep(primary.copy());
  await primary.start();
  return { repository, primary, base };
}

function keep(server: PostgresServer): PostgresServer {
  onTestFinished(() => server.remove());
  return server;
}

/** A copy of `base`, recovered along `timeline` up to its end. */
async function recoverAlong(base: PostgresServer, timeline: string): Promise<PostgresServer> {
  const server = keep(base.copy());
  server.configure({ archive_mode: 'off', recovery_target_timeline: timeline });
  server.signal('recovery.signal');
  await server.open();
  expect(server.log).not.toContain('wal-fetch: error');
  return server;
}

async function promote(server: PostgresServer): Promise<void> {
  await server.query('select pg_promote(false)');
  await server.waitUntilOpen();
}

const failed = 'select failed_count from pg_stat_archiver';

describe.each(process.env.TORTURE === '1' ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  it('H11, H12: archives what two promotions out of one segment leave, and recovers along each timeline', async () => {
    const { repository, primary, base } = await startPrimary({ major });
    const standbys = [1, 2].map(() => {
      const standby = keep(base.copy());
      standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres` });
      standby.signal('standby.signal');
      return standby;
    });
    await Promise.all(standbys.map((standby) => standby.start()));
    await archiveRow(primary, 1);
    await insertRow(primary, 2);
    const [first, second] = standbys as [PostgresServer, PostgresServer];
    await waitFor('the first to have row 2', async () => (await rowsOf(first)) === '1 2');
    await first.query(`alter system set primary_conninfo = ''`);
    await first.query('select pg_reload_conf()');
    await waitFor(
      'it to be alone',
      async () => (await first.value('select count(*) from pg_stat_wal_receiver')) === '0',
    );
    await insertRow(primary, 3);
    await waitFor('the second to have row 3', async () => (await rowsOf(second)) === '1 2 3');
    await primary.stop('SIGQUIT');

    await promote(first);
    await first.waitUntilAllArchived();
    await promote(second);
    await second.waitUntilAllArchived();
    await archiveRow(first, 20);
    await archiveRow(second, 30);
    for (const standby of standbys) expect(await standby.value(failed)).toBe('0');

    const names = repository.files().map((path) => path.slice(path.lastIndexOf('/') + 1));
    expect(names).toEqual(expect.arrayContaining(['00000002.history', '00000003.history']));
    const partials = names.filter((name) => name.includes('.partial'));
    expect(partials).toHaveLength(2);
    expect(await rowsOf(await recoverAlong(base, '2'))).toBe('1 2 20');
    expect(await rowsOf(await recoverAlong(base, 'latest'))).toBe('1 2 3 30');
  });

  it('H14: recovers to the end of a timeline whose last segment is stored only as .partial', async () => {
    const { repository, primary, base } = await startPrimary({ major });
    await archiveRow(primary, 1);
    await insertRow(primary, 2);
    await primary.stop('SIGQUIT');
    primary.signal('recovery.signal');
    await primary.open();
    await primary.waitUntilAllArchived();
    await primary.stop('SIGKILL'); // 2/N is never archived
    const timeline2 = repository.files().filter((path) => path.includes('/wal/00000002/'));
    expect(timeline2).toEqual([]);
    expect(await rowsOf(await recoverAlong(base, 'latest'))).toBe('1 2');
    expect(await rowsOf(await recoverAlong(base, '1'))).toBe('1 2');
  });
});

describe('a new repository for a server on a later timeline', () => {
  it("H14: is given the timelines' histories by the first push, and refuses to take a hole in them for their end", async () => {
    const { repository, primary } = await startPrimary({ major: 17 });
    for (const n of [1, 2]) {
      await archiveRow(primary, n);
      await primary.stop();
      primary.signal('recovery.signal');
      await primary.open(); // on the next timeline
    }
    await primary.waitUntilAllArchived();
    const fresh = await new TestRepository({ settings: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms' } }).init();
    expect((await fresh.run('wal-t', ['init', '--adopt'], { env: { WALT_PGDATA: primary.dataDirectory } })).code).toBe(
      0,
    );
    primary.configure({ archive_command: fresh.serverSettings.archive_command ?? '' });
    await primary.query('select pg_reload_conf()');
    await archiveRow(primary, 3);
    const histories = fresh.files().filter((path) => path.endsWith('.history'));
    expect(histories.map((path) => path.slice(-16))).toEqual(['00000002.history', '00000003.history']);

    rmSync(fresh.object('00000002.history'));
    const words = ['00000002.history', join(fresh.folder, 'RECOVERYHISTORY')];
    const options = { cwd: primary.dataDirectory };
    primary.signal('recovery.signal');
    const { code, stderr } = await fresh.run('wal-fetch', words, {
      ...options,
      env: { WALT_WAL_FETCH_TIMEOUT: '1ms' },
    });
    expect(code).toBe(200);
    expect(stderr).toContain('error: "00000002.history" is missing, but "00000003.history" is archived');
    expect(repository.files()).toContain(repository.object('00000002.history').slice(repository.root.length + 1));
  });

  it('H16: is refused in the place of the known one, until it is adopted', async () => {
    const { repository, primary } = await startPrimary({ major: 17 });
    const segment = await archiveRow(primary, 1);
    const push = () => repository.run('wal-push', [`pg_wal/${segment}`], { cwd: primary.dataDirectory });
    renameSync(repository.root, `${repository.root}.away`);
    expect(await push()).toMatchObject({ code: 4, stderr: expect.stringContaining('no such file or directory') });
    repository.configure({ WALT_REPO: `file://${repository.folder}/rep` });
    expect(await push()).toMatchObject({ code: 4, stderr: expect.stringContaining('no such file or directory') });
    repository.configure({});
    await run('mkdir', [repository.root]);
    expect(await push()).toMatchObject({ code: 3, stderr: expect.stringContaining('the repository is not at') });
    expect(repository.files()).toEqual([]);
    repository.configure({ WALT_INIT: 'auto' });
    expect(await push()).toMatchObject({ code: 3, stderr: expect.stringContaining('the repository is not at') });
    expect(repository.files()).toEqual([]);
    await repository.init();
    expect(await push()).toMatchObject({ code: 3, stderr: expect.stringContaining('is another repository') });
    expect(repository.files().filter((path) => path.includes('/wal/'))).toEqual([]);
    const env = { WALT_PGDATA: primary.dataDirectory };
    expect((await repository.run('wal-t', ['init', '--adopt'], { env })).code).toBe(0);
    expect(await push()).toMatchObject({ code: 0, stderr: '' });
  });
});

const debian = '/usr/lib/postgresql/15/bin';

describe.skipIf(!hasTool(`${debian}/pg_rewind`))('pg_rewind --restore-target-wal', () => {
  it('H6: takes the WAL that it lacks through wal-fetch, and none of ours is left in pg_wal', async () => {
    const settings = { wal_log_hints: 'on', wal_keep_size: '0' };
    const { repository, primary, base } = await startPrimary({ major: 15, bin: debian, settings });
    const standby = base;
    standby.signal('standby.signal');
    await standby.start();
    const needed = await archiveRow(primary, 1);
    await waitFor('the standby to have row 1', async () => (await rowsOf(standby)) === '1');
    await promote(standby);
    await archiveRow(standby, 20);
    await standby.waitUntilAllArchived();
    for (const n of [2, 3]) await archiveRow(primary, n); // diverged
    await primary.query('checkpoint');
    await primary.stop();
    await standby.stop();
    const walFolder = join(primary.dataDirectory, 'pg_wal');
    rmSync(join(walFolder, needed), { force: true });
    const rewind = () =>
      run(
        `${debian}/pg_rewind`,
        ['-c', '-D', primary.dataDirectory, '--source-pgdata', standby.dataDirectory, '--no-sync'],
        {
          cwd: '/',
        },
      );
    chmodSync(repository.root, 0);
    expect((await rewind()).code).not.toBe(0);
    chmodSync(repository.root, 0o755);
    const { code, stderr } = await rewind();
    expect(stderr).toContain('Done!');
    expect(code).toBe(0);
    expect(readdirSync(walFolder).filter((name) => name.includes('wal-t-'))).toEqual([]);
    primary.configure({ unix_socket_directories: primary.folder });
    primary.signal('standby.signal');
    await primary.start();
    await waitFor('row 20', async () => (await rowsOf(primary)) === '1 20');
  });
});
