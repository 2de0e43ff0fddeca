/** H29: a copy beside its original, with --beside in its restore_command, replays no tablespace into a folder that is the original's. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { bytesOf } from '../../src/bytes.ts';
import { type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { readWalEvents } from '../../src/postgres/wal-events.ts';
import { segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { giveAway } from '../support/account.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';

interface Original {
  readonly server: PostgresServer;
  readonly location: string;
  /** Of the tablespace's creation: between the two it stands. */
  readonly lsn: { readonly before: string; readonly after: string };
  /** From before the tablespace; recovers with --beside, and goes when the running test ends. */
  readonly copy: () => PostgresServer;
  readonly remove: () => Promise<void>;
}

/** Row 1 in one segment, then in the next row 2, a tablespace with a table in it, and row 3. */
async function startOriginal(major: number): Promise<Original> {
  const folder = makeFolder('beside');
  const repository = await new TestRepository({ folder, settings: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1s' } }).init();
  const server = PostgresServer.create({ major, settings: repository.serverSettings });
  await server.start();
  await server.query('create table t (n int)');
  await server.stop();
  const base = server.copy();
  await server.start();
  const location = join(server.folder, 'a tablespace');
  mkdirSync(location);
  giveAway(location);
  await archiveRow(server, 1);
  await insertRow(server, 2);
  const before = await server.value('select pg_current_wal_insert_lsn()');
  await server.query(`create tablespace far location '${location}'`);
  const after = await server.value('select pg_current_wal_insert_lsn()');
  await server.query('create table there tablespace far as select 1 as n');
  await archiveRow(server, 3);
  const copy = () => {
    const made = base.copy();
    onTestFinished(() => made.remove());
    const command = `WALT_CONFIG=${repository.config} ${launcher('wal-fetch')} --beside %f %p`;
    made.configure({ archive_mode: 'off', restore_command: command, recovery_target_timeline: '1' });
    return made;
  };
  const remove = async () => {
    for (const one of [server, base]) await one.remove();
    removeFolder(folder);
  };
  return { server, location, lsn: { before, after }, copy, remove };
}

const complaint = (location: string) =>
  `recovery stops before the creation of a tablespace at "${location}", which is in use on this host`;

async function untilStopped(server: PostgresServer): Promise<void> {
  server.launch();
  await waitFor('the server to stop', () => !server.isRunning);
}

/** As `restore` appends them. */
const noTarget = { recovery_target_time: '', recovery_target_lsn: '', recovery_target_inclusive: 'on' };

describe.each(process.env.TORTURE === '1' ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  let original: Original;
  beforeAll(async () => {
    original = await startOriginal(major);
  });
  afterAll(() => original.remove());

  it('H29: stops before a tablespace that exists here, says why, and opens with a target that comes before it', async () => {
    const { server, location, lsn } = original;
    const copy = original.copy();
    const files = readdirSync(location, { recursive: true });
    copy.signal('recovery.signal');
    await untilStopped(copy);
    expect(copy.log).toContain(`wal-fetch: error: ${complaint(location)}`);
    expect(copy.log).toContain('exit code 200');
    const hint = /hint: .*recovery_target_lsn = '([0-9A-F/]+)', recovery_target_inclusive = off/.exec(copy.log)?.[1];
    expect(hint).toBeDefined();

    copy.configure({ recovery_target_time: '2100-01-01 00:00:00+00' });
    await untilStopped(copy);
    expect(copy.log).toContain(`wal-fetch: warning: ${complaint(location)}`);
    expect(copy.log).toContain('recovery ended before configured recovery target was reached');

    copy.configure({ ...noTarget, recovery_target_lsn: hint ?? '', recovery_target_inclusive: 'off' });
    copy.configure({ recovery_target_action: 'promote' });
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2');
    expect(await copy.value(`select count(*) from pg_tablespace where spcname = 'far'`)).toBe('0');
    expect(await copy.value(`select '${hint}'::pg_lsn between '${lsn.before}' and '${lsn.after}'`)).toBe('true');
    expect(readdirSync(join(copy.dataDirectory, 'pg_tblspc'))).toEqual([]);
    expect(readdirSync(join(copy.dataDirectory, 'pg_wal')).filter((name) => name.includes('wal-t-'))).toEqual([]);
    expect(readdirSync(location, { recursive: true })).toEqual(files);
    expect(await server.value('select n from there')).toBe('1');
  });

  it('H29: does not stop a standby, which goes no further', async () => {
    const { location } = original;
    const copy = original.copy();
    copy.signal('standby.signal');
    await copy.start();
    await waitFor('the complaint', () => copy.log.split(complaint(location)).length > 2);
    expect(await rowsOf(copy)).toBe('1');
    expect(readdirSync(join(copy.dataDirectory, 'pg_tblspc'))).toEqual([]);
  });

  it('H29: goes on where the folder is not there, or is empty', async () => {
    const { server, location } = original;
    const copy = original.copy();
    await server.stop();
    renameSync(location, `${location}.away`);
    try {
      copy.signal('recovery.signal');
      await untilStopped(copy);
      expect(copy.log).toContain(`directory "${location}" does not exist`);
      mkdirSync(location);
      giveAway(location);
      await copy.open();
      expect(await rowsOf(copy)).toBe('1 2 3');
      expect(await copy.value('select n from there')).toBe('1');
      expect(copy.log).not.toContain('wal-fetch: error');
    } finally {
      await copy.stop('SIGQUIT');
      rmSync(location, { recursive: true, force: true });
      renameSync(`${location}.away`, location);
      await server.start();
    }
  });

  it('H29: sees a creation that begins in one segment and ends in the next', async () => {
    const repository = await new TestRepository({ settings: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms' } }).init();
    const settings = { ...repository.serverSettings, full_page_writes: 'off' };
    const server = PostgresServer.create({ major, settings });
    onTestFinished(() => server.remove());
    const copy = server.copy();
    onTestFinished(() => copy.remove());
    await server.start();
    const location = join(server.folder, 'far'.repeat(70), 'away'.repeat(60));
    mkdirSync(location, { recursive: true });
    giveAway(location);
    const create = `create tablespace far location '${location}'`;
    let crossing: Lsn | undefined;
    for (let distance = 0; crossing === undefined; ) {
      await fillUntil(server, distance + location.length / 2);
      const before = await insertLsn(server);
      await server.query(create);
      const { lsn, endLsn } = await creationBehind(server, before);
      if (lsn / segmentBytes !== endLsn / segmentBytes) crossing = lsn;
      distance = Number(lsn - before);
      if (crossing === undefined) await server.query('drop tablespace far');
    }
    await server.waitUntilArchived(await server.switchWal());
    const segment = segmentNameAt(1, crossing, Number(segmentBytes));
    const next = segmentNameAt(1, crossing + segmentBytes, Number(segmentBytes));
    const fetch = () =>
      repository.run('wal-fetch', ['--beside', segment, 'pg_wal/by-hand'], { cwd: copy.dataDirectory });
    expect(await fetch()).toMatchObject({ code: 200, stderr: expect.stringContaining(complaint(location)) });
    rmSync(repository.object(next));
    expect(await fetch()).toMatchObject({ code: 200, stderr: expect.stringContaining('a place that cannot be known') });
  });
});

const segmentBytes = 0x10_0000n;

async function insertLsn(server: PostgresServer): Promise<Lsn> {
  return parseLsn(await server.value('select pg_current_wal_insert_lsn()')) ?? 0n;
}

/** Writes WAL until so many bytes, or a few less, are left of a segment. */
async function fillUntil(server: PostgresServer, leftBytes: number): Promise<void> {
  const client = await server.connect();
  const left = async () => Number(segmentBytes - ((await insertLsn(server)) % segmentBytes)) - leftBytes;
  await server.switchWal();
  for (let missing = await left(); missing > 100; missing = await left()) {
    await client.query(`select pg_logical_emit_message(false, '', repeat('x', ${Math.min(missing, 8000) - 80}))`);
  }
  await client.end();
}

async function creationBehind(server: PostgresServer, startLsn: Lsn) {
  const wal = join(server.dataDirectory, 'pg_wal');
  const first = (startLsn / segmentBytes) * segmentBytes;
  const names = [first, first + segmentBytes].map((lsn) => segmentNameAt(1, lsn, Number(segmentBytes)));
  const files = names.map((name) => join(wal, name)).filter(existsSync);
  const bytes = bytesOf(...files.map((path) => readFileSync(path)));
  for await (const event of readWalEvents(bytes, { startLsn: first, segmentSizeBytes: Number(segmentBytes) })) {
    if (event.kind === 'tablespace create' && event.lsn >= startLsn) return event;
  }
  throw new Error('no tablespace was created');
}
