/** wal-t restore where a cluster has been promoted, copied or moved: the right timeline and no foreign row, and nothing of the old host is believed. */
import { existsSync, mkdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { giveAway } from '../support/account.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import {
  type Archived,
  env,
  keep,
  pushBackup,
  restore,
  rowsAt,
  type SharedPrimary,
  startPrimary as start,
  startSharedPrimary,
  withCopy,
} from '../support/restoring.ts';
import { waitFor } from '../support/wait.ts';

const torture = process.env.TORTURE === '1';

const repositorySettings = { WALT_WAL_FETCH_STANDBY_TIMEOUT: '100ms' };

/** A primary that archives, with an empty table; all of it goes when the running test ends. */
async function startPrimary(major = 17, settings: Readonly<Record<string, string>> = {}): Promise<Archived> {
  const started = await start({ major, settings, repositorySettings });
  await started.primary.query('create table t (n int)');
  return started;
}

/** A standby of it, not started. */
async function copyOf(primary: PostgresServer): Promise<PostgresServer> {
  await primary.stop();
  const standby = keep(primary.copy());
  await primary.start();
  standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres` });
  standby.signal('standby.signal');
  return standby;
}

async function expectRefused(started: Archived, words: readonly string[], message: RegExp): Promise<void> {
  const { copy, ended } = await restore(started, words);
  expect(ended).toMatchObject({ code: 1, stderr: expect.stringMatching(message) });
  expect(existsSync(copy.dataDirectory)).toBe(false);
}

/** Crashes it and opens it on the next timeline. */
async function crashOver(server: PostgresServer): Promise<void> {
  await server.stop('SIGQUIT');
  server.signal('recovery.signal');
  await server.open();
}

/** Microseconds are kept. */
const now = (server: PostgresServer) =>
  server.value(`select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'`);

const lsnOf = (server: PostgresServer) => server.value('select pg_current_wal_insert_lsn()::text');

/** The settings that count of a postgresql.auto.conf: the last of each name. */
function settingsOf({ dataDirectory }: PostgresServer): Record<string, string> {
  const text = readFileSync(join(dataDirectory, 'postgresql.auto.conf'), 'utf8');
  const lines = [...text.matchAll(/^(\w+) = '(.*)'$/gm)];
  return Object.fromEntries(lines.map(([, name = '', value = '']) => [name, value.replaceAll("''", "'")]));
}

describe.each([15, 17, 18].filter((major) => torture || major === 17))('PostgreSQL %s', (major) => {
  it('restores across promotions onto timelines 2 and 3, and along each', async () => {
    const started = await startPrimary(major);
    const { repository, primary } = started;
    const first = await pushBackup({ repository, primary });
    await archiveRow(primary, 1);
    await insertRow(primary, 2); // in the segment that the promotion cuts
    const between = await now(primary);
    await insertRow(primary, 3);
    await crashOver(primary);
    await archiveRow(primary, 4);
    const second = await pushBackup({ repository, primary });
    const onSecond = await now(primary);
    await archiveRow(primary, 5);
    await crashOver(primary);
    await archiveRow(primary, 6);
    await primary.waitUntilAllArchived();
    await primary.stop();

    expect(await rowsAt(started, ['--backup', first])).toBe('1 2 3 4 5 6');
    expect(await rowsAt(started, ['--target-timeline', '2'])).toBe('1 2 3 4 5');
    expect(await rowsAt(started, ['--target-timeline', '1'])).toBe('1 2 3');
    expect(await rowsAt(started, ['--target-time', between])).toBe('1 2');
    if (torture) {
      expect(await rowsAt(started)).toBe('1 2 3 4 5 6');
      expect(await rowsAt(started, ['--target-timeline', '1', '--target-time', between])).toBe('1 2');
      expect(await rowsAt(started, ['--target-time', onSecond])).toBe('1 2 3 4');
    }
    await expectRefused(
      started,
      ['--backup', second, '--target-timeline', '1'],
      new RegExp(`backup ${second} does not lead to timeline 1`),
    );
    await expectRefused(started, ['--backup', second, '--target-time', between], /is before the end of backup/);
  }, 600_000); // up to seven recoveries
});

describe('timelines', () => {
  it('keeps to the one that went on after an accidental promotion, and tells of the other', async () => {
    const started = await startPrimary();
    const { repository, primary } = started;
    const standby = await copyOf(primary);
    await standby.start();
    const backup = await pushBackup({ repository, primary });
    await archiveRow(primary, 1);
    await waitFor('the standby to have row 1', async () => (await rowsOf(standby)) === '1');
    await standby.query('select pg_promote(false)');
    await standby.waitUntilOpen();
    await archiveRow(standby, 20);
    const fork = await standby.value(`select pg_current_wal_lsn()::text`);
    await standby.waitUntilAllArchived();
    await standby.stop();
    for (const n of [2, 3]) await archiveRow(primary, n);
    const late = await lsnOf(primary);
    await archiveRow(primary, 4);

    const { copy, ended } = await restore(started);
    expect(ended.stderr).toContain('--target-timeline 2 follows it');
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2 3 4');
    // else the standby below has the same rows
    if (torture) expect(await rowsAt(started, ['--target-timeline', '2'])).toBe('1 20');
    expect(Number(`0x${late.split('/')[1]}`)).toBeGreaterThan(Number(`0x${fork.split('/')[1]}`));
    await expectRefused(
      started,
      ['--target-timeline', '2', '--target-lsn', late],
      /is behind the end of the archived WAL[\s\S]*on timeline 2/,
    );

    // `latest` would be the other's; a standby of the one that went on could never stream
    const conninfo = `host=${primary.folder} user=postgres`;
    const follower = await restore(started, ['--standby', '--primary-conninfo', conninfo]);
    expect(follower.ended.stderr).toContain('"latest" would lead the standby onto timeline 2: it stays on timeline 1');
    expect(settingsOf(follower.copy).recovery_target_timeline).toBe('1');
    await follower.copy.start();
    await insertRow(primary, 5);
    await waitFor('row 5 to be streamed', async () => (await rowsOf(follower.copy)) === '1 2 3 4 5');
    const other = await restore(started, ['--standby', '--target-timeline', '2']);
    expect(settingsOf(other.copy).recovery_target_timeline).toBe('2');
    await other.copy.start();
    await waitFor('the rows of timeline 2', async () => (await rowsOf(other.copy)) === '1 20');
    expect(await other.copy.value('select pg_is_in_recovery()')).toBe('true');

    const after = await pushBackup({ repository, primary });
    await expectRefused(
      started,
      ['--target-timeline', '2', '--backup', after],
      new RegExp(`backup ${after} does not lead to timeline 2`),
    );
    const dry = await restore(started, ['--target-timeline', '2', '--dry-run']);
    expect(dry.ended.stdout).toContain(`backup    ${backup}`);
  }, 600_000); // four recoveries

  describe('of a primary alone', () => {
    let started: SharedPrimary;
    /** After row 1, before row 2. */
    let fork: string;
    beforeAll(async () => {
      started = await startSharedPrimary({ repositorySettings });
      const { primary } = started;
      await primary.query('create table t (n int)');
      await pushBackup(started);
      await archiveRow(primary, 1);
      fork = await lsnOf(primary);
      await archiveRow(primary, 2);
    });
    afterAll(() => started?.remove());

    it('is not poisoned by the history of nobody', async () => {
      const own = await withCopy(started, repositorySettings);
      const { repository, primary } = own;
      const history = join(primary.dataDirectory, 'pg_wal/00000009.history');
      writeFileSync(history, `1\t${fork}\tno recovery target specified\n`);
      giveAway(history);
      const pushed = await repository.run('wal-push', ['pg_wal/00000009.history'], { cwd: primary.dataDirectory });
      rmSync(history);
      expect(pushed).toMatchObject({ code: 0 });
      const { copy, ended } = await restore(own);
      expect(ended).toMatchObject({ code: 0 });
      await copy.open();
      expect(await rowsOf(copy)).toBe('1 2');
      expect(settingsOf(copy).recovery_target_timeline).toBe('1');
      const { stdout } = await repository.run('wal-t', ['windows'], { env });
      expect(stdout).toMatch(/^timeline 1 \(restored to unless another is asked for\)$/m);
    });

    it('makes a standby that then streams', async () => {
      const { primary } = started;
      const conninfo = `host=${primary.folder} user=postgres application_name='it\\'s one'`;
      const { copy, ended } = await restore(started, ['--standby', '--primary-conninfo', conninfo]);
      expect(ended).toMatchObject({ code: 0 });
      expect(existsSync(join(copy.dataDirectory, 'standby.signal'))).toBe(true);
      expect(settingsOf(copy).recovery_target_timeline).toBe('latest'); // it has to follow promotions
      const told = await restore(started, ['--standby', '--target-timeline', '1', '--dry-run']);
      expect(told.ended.stdout).toContain(`recovery_target_timeline = '1'`);
      expect(told.ended.stderr).toContain('it stays on timeline 1, and follows no promotion');
      await copy.start();
      await insertRow(primary, 3); // in a segment that is not archived
      await waitFor('row 3 to be streamed', async () => (await rowsOf(copy)) === '1 2 3');
      expect(await copy.value('select status from pg_stat_wal_receiver')).toBe('streaming');
      expect(await copy.value('select pg_is_in_recovery()')).toBe('true');
    });
  });
});

describe('what comes along in a backup', () => {
  it('H22: of a standby, and recovery settings left in postgresql.conf, do not count', async () => {
    const started = await startPrimary();
    const { repository, primary } = started;
    const standby = await copyOf(primary);
    standby.configure({
      recovery_target_timeline: 'latest',
      recovery_target_action: 'shutdown',
      recovery_end_command: 'false',
      archive_cleanup_command: 'false',
      recovery_target_inclusive: 'off',
    });
    await standby.start();
    await standby.query(`alter system set primary_slot_name = 'leaked'`);
    await standby.query(`alter system set recovery_target_name = 'leaked'`);
    await archiveRow(primary, 1);
    await waitFor('the standby to have row 1', async () => (await rowsOf(standby)) === '1');
    const pushed = pushBackup({ repository, primary: standby });
    let ended = false;
    void pushed
      .catch(() => undefined)
      .finally(() => {
        ended = true;
      });
    await waitFor('the backup to end', async () => {
      if (!ended) await primary.query('select pg_switch_wal()'); // a standby cannot
      return ended;
    });
    await pushed;
    await archiveRow(primary, 2);
    const time = await now(primary);
    await archiveRow(primary, 3);

    const { copy, ended: restored } = await restore(started, ['--target-time', time]);
    expect(restored).toMatchObject({ code: 0 });
    expect(existsSync(join(copy.dataDirectory, 'standby.signal'))).toBe(false);
    expect(settingsOf(copy)).toMatchObject({
      primary_conninfo: '',
      primary_slot_name: '',
      recovery_target_name: '',
      recovery_target_lsn: '',
      recovery_target_xid: '',
      recovery_target: '',
      recovery_target_timeline: '1',
      recovery_target_action: 'promote',
      recovery_target_inclusive: 'on',
      recovery_end_command: '',
      archive_cleanup_command: '',
    });
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2');
    for (const name of ['primary_conninfo', 'primary_slot_name', 'recovery_target_name']) {
      expect(await copy.value(`show ${name}`)).toBe('');
    }
  });

  it('H29, H30: beside, the copy archives nothing and subscribes to nothing, its tablespaces are below it; with --take-over all is as it was', async () => {
    const started = await startPrimary(17, { synchronous_standby_names: '' });
    const { repository, primary } = started;
    const tablespace = join(primary.folder, 'space');
    mkdirSync(tablespace);
    giveAway(tablespace);
    await primary.query(`create tablespace space location '${tablespace}'`);
    await primary.query('create table s (n int) tablespace space');
    await primary.query('insert into s values (1)');
    await pushBackup({ repository, primary });
    await archiveRow(primary, 1);
    const segments = () => repository.files().filter((path) => path.includes('/wal/')).length;
    const before = segments();

    const { copy, ended } = await restore(started);
    expect(ended.stdout).toContain('this copy stands beside');
    await copy.open();
    const oid = await copy.value(`select oid from pg_tablespace where spcname = 'space'`);
    expect(readlinkSync(join(copy.dataDirectory, 'pg_tblspc', oid)).startsWith(`${copy.dataDirectory}/`)).toBe(true);
    expect(await copy.value('select n from s')).toBe('1');
    expect(await copy.value('show archive_mode')).toBe('off');
    expect(await copy.value('show max_logical_replication_workers')).toBe('0');
    await copy.query('insert into s values (2)');
    await copy.query('checkpoint');
    await copy.switchWal();
    expect(segments()).toBe(before);
    expect(await primary.value('select count(*) from s')).toBe('1');

    await primary.stop();
    const elsewhere = join(primary.folder, 'new space');
    const taken = await restore(started, ['--take-over', '-T', `${tablespace}=${elsewhere}`]);
    expect(taken.ended).toMatchObject({ code: 0 });
    expect(taken.ended.stdout).not.toContain('stands beside');
    await taken.copy.open();
    expect(await taken.copy.value('show archive_mode')).toBe('on');
    expect(readlinkSync(join(taken.copy.dataDirectory, 'pg_tblspc', oid))).toBe(elsewhere);
    await archiveRow(taken.copy, 2);
    expect(repository.files().some((path) => path.endsWith('/00000002.history'))).toBe(true);
  });

  it('names the settings that lead back to the old host, or away from this archive', async () => {
    const started = await startPrimary();
    const { repository, primary } = started;
    const hba = join(primary.dataDirectory, 'pg_hba.conf');
    primary.configure({ data_directory: primary.dataDirectory, hba_file: hba, ssl_ca_file: '/nowhere/ca.crt' });
    // it counts when it is loaded, so this server still archives
    await primary.query(`alter system set archive_command = 'another-tool %p'`);
    await pushBackup({ repository, primary });
    const { ended } = await restore(started, ['--take-over']);
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stdout).toContain(
      `look at data_directory = '${primary.dataDirectory}' in postgresql.conf: it leads out`,
    );
    expect(ended.stdout).toContain(
      `look at hba_file = '${hba}' in postgresql.conf: it leads out of the restored folder`,
    );
    expect(ended.stdout).toContain(`"/nowhere/ca.crt" does not exist on this host`);
    expect(ended.stdout).toContain(
      "look at archive_command = 'another-tool %p' in postgresql.auto.conf: it is not of WAL-T",
    );
  });
});
