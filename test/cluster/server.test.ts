/** The SQL session of a base backup, against real servers: what it learns, what it may do, and what it brings back from pg_backup_stop. */
import { appendFileSync, chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { PostgresError } from '../../src/errors.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { account } from '../support/account.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { waitFor } from '../support/wait.ts';
import { failureOf, openTo, startProxy, startServer, startStandby } from './server-support.ts';

const servers = new Map<number, PostgresServer>();
const majors = [15, 17, 18];

beforeAll(async () => {
  await Promise.all(
    majors.map(async (major) => {
      const server = PostgresServer.create({ major, settings: { archive_mode: 'on', archive_command: 'true' } });
      servers.set(major, server);
      await server.start();
    }),
  );
});
afterAll(() => Promise.all([...servers.values()].map((server) => server.remove())));

function serverOf(major: number): PostgresServer {
  const server = servers.get(major);
  if (server === undefined) throw new Error(`no server ${major}`);
  return server;
}

describe.each(majors)('PostgreSQL %i', (major) => {
  it('tells what it is', async () => {
    const server = serverOf(major);
    const session = await openTo(server);
    const value = (question: string): Promise<string> => server.value(question);
    expect(session.facts).toMatchObject({
      version: (await value('show server_version')).split(' ')[0],
      versionNumber: Number(await value('show server_version_num')),
      major,
      inRecovery: false,
      systemIdentifier: await value('select system_identifier from pg_control_system()'),
      timeline: 1,
      segmentSizeBytes: 2 ** 20,
      pageSizeBytes: 8192,
      catalogVersion: Number(await value('select catalog_version_no from pg_control_system()')),
      checksums: (await value('show data_checksums')) === 'on',
      archiveMode: 'on',
      archiveCommand: 'true',
      archiveLibrary: '',
      summarizeWal: false,
      dataDirectory: server.dataDirectory,
      configFiles: [],
    });
  });

  it('is backed up from start to stop', async () => {
    const server = serverOf(major);
    const session = await openTo(server);
    const { startLsn } = await session.startBackup({ label: "of an operator's", checkpoint: 'fast' });
    await session.proveSameServer(startLsn);
    const { stopLsn, label, tablespaceMap } = await session.stopBackup();
    expect(stopLsn).toBeGreaterThan(startLsn);
    expect(label.toString()).toContain(`START WAL LOCATION: ${formatLsn(startLsn)} (file `);
    expect(label.toString()).toContain("LABEL: of an operator's\n");
    expect(tablespaceMap).toEqual(Buffer.alloc(0));
    expect(session.lost.aborted).toBe(false);
  });

  it('H21: ends the running segment, and names the LSN up to which WAL must arrive, also when nothing was written since', async () => {
    const server = serverOf(major);
    const session = await openTo(server);
    for (const _ of [1, 2]) {
      const end = await session.switchWal();
      if (end === undefined) throw new Error('a primary must switch');
      await server.waitUntilArchived(await server.value(`select pg_walfile_name('${formatLsn(end - 1n)}')`));
    }
    await waitFor(
      'the archiver to be counted',
      async () => (await session.archiverStatus()).lastArchived !== undefined,
    );
  });

  it('a role without privileges is told the exact GRANTs, and with these it takes a backup', async () => {
    const server = serverOf(major);
    await server.query('create role "Wal T" login noinherit');
    await server.query('create database work');
    const environment = { PGUSER: 'Wal T', PGDATABASE: 'work' };
    const { error, text } = await failureOf(openTo(server, environment));
    expect(error).toBeInstanceOf(PostgresError);
    expect(text).toContain('role "Wal T" may not take a base backup');
    expect(text).toContain('in database "work"');
    const grants = text.match(/(?:GRANT|ALTER) [^;]*;/g) ?? [];
    expect(grants.map((grant) => grant.match(/pg_\w+(?=\(| TO)/)?.[0] ?? grant)).toEqual([
      'pg_backup_start',
      'pg_backup_stop',
      'pg_switch_wal',
      'pg_read_all_settings',
      ...(major < 16 ? ['ALTER ROLE "Wal T" INHERIT;'] : []),
    ]);
    const client = new pg.Client({ ...server.connection, database: 'work' });
    await client.connect();
    for (const grant of grants) await client.query(grant);
    await client.end();

    const session = await openTo(server, environment);
    await session.switchWal();
    await session.archiverStatus();
    const { startLsn } = await session.startBackup({ label: 'least', checkpoint: 'fast' });
    await session.proveSameServer(startLsn);
    expect((await session.stopBackup()).label.toString()).toContain('LABEL: least\n');
    await session.close();
    await server.query('drop database work');
  });

  it('H24: gives the tablespace map byte for byte, whatever the encoding of the database', async () => {
    const server = serverOf(major);
    await server.query(`create database latin template template0 encoding 'LATIN1'`);
    await server.query(`create database bytes template template0 encoding 'SQL_ASCII'`);
    const folder = Buffer.from(`${temporaryFolder()}/caf\u00e9 \\ 100%`, 'latin1'); // 0xe9 is no UTF-8
    mkdirSync(folder);
    if (account.uid !== undefined && account.gid !== undefined) chownSync(folder, account.uid, account.gid);
    const client = new pg.Client({ ...server.connection, database: 'latin' });
    await client.connect();
    await client.query(`create tablespace odd location '${folder.toString('latin1')}'`);
    await client.end();
    const oid = await server.value(`select oid from pg_tablespace where spcname = 'odd'`);
    // PostgreSQL puts a backslash before a backslash and an end of line
    const expected = `${oid} ${folder.toString('latin1').replaceAll('\\', '\\\\')}\n`;
    try {
      for (const database of ['postgres', 'latin', 'bytes']) {
        const session = await openTo(server, { PGDATABASE: database });
        await session.startBackup({ label: 'odd', checkpoint: 'fast' });
        expect((await session.stopBackup()).tablespaceMap.toString('latin1')).toBe(expected);
        await session.close();
      }
    } finally {
      await server.query('drop tablespace odd');
    }
  });
});

it('on a standby, the GRANTs are to be made on the primary, and pg_switch_wal is none of them', async () => {
  const server = serverOf(17);
  await server.query('create role beside login');
  const standby = await startStandby(server);
  onTestFinished(() => standby.remove());
  const { text } = await failureOf(openTo(standby, { PGUSER: 'beside' }));
  expect(text).toContain('in database "postgres" of the primary');
  expect(text).toContain('pg_backup_stop(boolean)');
  expect(text).not.toContain('pg_switch_wal');
});

it.each([
  { num: '140019', isTaken: false },
  { num: '990000', isTaken: true },
])('a server of version $num is taken: $isTaken', async ({ num, isTaken }) => {
  const server = serverOf(17);
  const own = await server.value('show server_version_num');
  const proxy = await startProxy(server, (data) => Buffer.from(data.toString('latin1').replace(own, num), 'latin1'));
  const opened = openTo(server, proxy.environment);
  if (isTaken) return expect((await opened).facts.major).toBe(99);
  const { error, text } = await failureOf(opened);
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toContain('is too old: base backups begin with PostgreSQL 15');
});

it('names what a hardened server has taken from PUBLIC as well', async () => {
  const server = serverOf(17);
  await server.query('create database hard');
  const client = new pg.Client({ ...server.connection, database: 'hard' });
  await client.connect();
  await client.query('revoke execute on function pg_export_snapshot() from public');
  await client.end();
  await server.query('create role hardened login in role pg_monitor');
  const { error, text } = await failureOf(openTo(server, { PGUSER: 'hardened', PGDATABASE: 'hard' }));
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toContain('GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO hardened;');
  expect(text).not.toContain('pg_read_all_settings'); // pg_monitor has it
});

it('is not led astray by functions and settings of the role', async () => {
  const server = serverOf(17);
  await server.query('create schema trap');
  await server.query(`create function trap.pg_is_in_recovery() returns bool language sql as 'select true'`);
  await server.query('create role led superuser login');
  await server.query('alter role led set search_path = trap, pg_catalog');
  for (const [name, value] of [
    ['datestyle', 'German'],
    ['bytea_output', 'escape'],
    ['timezone', 'Asia/Tokyo'],
    ['default_transaction_read_only', 'on'],
    ['client_encoding', 'LATIN1'],
  ]) {
    await server.query(`alter role led set ${name} = '${value}'`);
  }
  const session = await openTo(server, { PGUSER: 'led' });
  expect(session.facts.inRecovery).toBe(false);
  const { startLsn } = await session.startBackup({ label: 'Ångström', checkpoint: 'fast' });
  await session.proveSameServer(startLsn);
  expect((await session.stopBackup()).label.toString()).toContain('LABEL: Ångström\n');
});

it('H21: sees archiving fail, is stopped all the same, and sees it work again', async () => {
  const folder = temporaryFolder();
  const settings = { archive_mode: 'on', archive_command: `test -e ${folder}/open` };
  const server = await startServer({ major: 17, settings });
  const session = await openTo(server);
  expect(await session.archiverStatus()).toEqual({
    archivedCount: 0,
    askedAt: expect.any(Date),
    failedCount: 0,
    isFailing: false,
  });
  const before = Date.now();
  const name = await server.switchWal();
  await waitFor('a failure', async () => (await session.archiverStatus()).isFailing);
  const failing = await session.archiverStatus();
  expect(failing).toMatchObject({ lastFailed: name });
  expect(failing.failedCount).toBeGreaterThan(0);
  expect(Math.abs((failing.lastFailedAt?.getTime() ?? 0) - before)).toBeLessThan(60_000);
  await session.startBackup({ label: 'unarchived', checkpoint: 'fast' });
  await session.stopBackup(); // H21: it is not this that waits for the archive
  writeFileSync(join(folder, 'open'), '');
  await server.waitUntilArchived(name);
  await waitFor('the success', async () => !(await session.archiverStatus()).isFailing);
  expect(await session.archiverStatus()).toMatchObject({ lastArchived: expect.any(String), lastFailed: name });
});

it('names the configuration files outside the data directory, those of Debian and those that they include', async () => {
  const server = PostgresServer.create({ major: 17 });
  onTestFinished(() => server.remove());
  const folder = temporaryFolder();
  const files = {
    hba: join(folder, 'pg_hba.conf'),
    more: join(folder, 'more.conf'),
    beside: `${server.dataDirectory}-more.conf`,
  };
  writeFileSync(files.hba, 'local all all trust\n');
  writeFileSync(files.more, `work_mem = '5MB'\n`);
  writeFileSync(files.beside, `maintenance_work_mem = '50MB'\n`);
  appendFileSync(
    join(server.dataDirectory, 'postgresql.conf'),
    `include '${files.more}'\ninclude '${files.beside}'\nhba_file = '${files.hba}'\n`,
  );
  await server.start();
  const { configFiles } = (await openTo(server)).facts;
  expect(configFiles).toEqual([files.hba, files.more, files.beside].toSorted());
});

it('says in the same words what a switched-off archive, a library and a summarizer are', async () => {
  const settings = { archive_library: 'basic_archive', summarize_wal: 'on', archive_mode: 'off' };
  const { facts } = await openTo(await startServer({ major: 17, settings }));
  expect(facts).toMatchObject({ archiveMode: 'off', archiveLibrary: 'basic_archive', summarizeWal: true });
});
