/** H19: label from one server and files from another never make a backup. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigurationError, HostError, PostgresError } from '../../src/errors.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { waitFor } from '../support/wait.ts';
import { failureOf, openTo, startProxy, startServer, startStandby, withForgedKey } from './server-support.ts';

/** The oldest and the newest: what is asked of them did not change in between. */
const majors = process.env.TORTURE === '1' ? [15, 17, 18] : [15, 18];

describe.each(majors)('H19: PostgreSQL %i', (major) => {
  let primary: PostgresServer;
  let standbys: PostgresServer[];
  let [first, second]: PostgresServer[] = [];

  beforeAll(async () => {
    primary = PostgresServer.create({ major });
    standbys = [];
    await primary.start();
    for (const _ of [1, 2]) standbys.push(await startStandby(primary));
    [first, second] = standbys;
  });
  afterAll(() => Promise.all([...standbys, primary].map((server) => server.remove())));

  const found = (server: PostgresServer | undefined): PostgresServer => {
    if (server === undefined) throw new Error('no such server');
    return server;
  };

  it("refuses the primary's session for a lagging standby's data directory, and says where to connect", async () => {
    const standby = found(first);
    await standby.query('select pg_wal_replay_pause()');
    await primary.query('create table lag as select generate_series(1, 1000)');
    await primary.query('checkpoint');
    const { error, text } = await failureOf(openTo(standby, { PGHOST: primary.folder }));
    await standby.query('select pg_wal_replay_resume()');
    expect(error).toBeInstanceOf(ConfigurationError);
    expect(text).toContain(`PGHOST=${standby.folder} PGPORT=5432`);
    expect(text).toContain(`a primary on "${primary.dataDirectory}"`);
    expect(text).toContain(`does not run on the data directory "${standby.dataDirectory}"`);
  });

  it("refuses one standby's session for another's data directory, though their pg_control says the same", async () => {
    await primary.query('checkpoint');
    const state = `select checkpoint_lsn, redo_lsn, timeline_id from pg_control_checkpoint()`;
    await waitFor('two equal restartpoints', async () => {
      for (const standby of standbys) await standby.query('checkpoint');
      const [one, other, own] = await Promise.all([...standbys, primary].map((server) => server.query(state)));
      return String(one) === String(other) && String(one) === String(own);
    });
    for (const [server, other] of [standbys, standbys.toReversed()]) {
      const { error, text } = await failureOf(openTo(found(other), { PGHOST: found(server).folder }));
      expect(error).toBeInstanceOf(ConfigurationError);
      expect(text).toContain(`PGHOST=${found(other).folder} `);
    }
  });

  it('lets a standby be backed up by its own session', async () => {
    const session = await openTo(found(second));
    expect(session.facts.inRecovery).toBe(true);
    expect(await session.switchWal()).toBeUndefined();
    const { startLsn } = await session.startBackup({ label: 'standby', checkpoint: 'fast' });
    await session.proveSameServer(startLsn);
    const { label, stopLsn } = await session.stopBackup();
    expect(label.toString()).toContain('BACKUP FROM: standby\n');
    expect(stopLsn).toBeGreaterThanOrEqual(startLsn);
  });

  it('proves a server that is at its checkpoints all the time', async () => {
    const session = await openTo(primary);
    const { startLsn } = await session.startBackup({ label: 'busy', checkpoint: 'fast' });
    let isProved = false;
    const busy = (async () => {
      while (!isProved) await primary.query('checkpoint');
    })();
    try {
      for (let round = 0; round < 10; round += 1) await session.proveSameServer(startLsn);
    } finally {
      isProved = true;
      await busy;
    }
  });

  it('refuses a pg_control that is older than the backup, or of another state, with what both sides say', async () => {
    const folder = imageOf(primary, 'global');
    const copyOf = (server: PostgresServer): void =>
      copyFileSync(join(server.dataDirectory, 'global/pg_control'), join(folder, 'global/pg_control'));
    copyOf(primary);
    const session = await openTo({ dataDirectory: folder });
    const { startLsn } = await session.startBackup({ label: 'stale', checkpoint: 'fast' });
    expect((await failureOf(session.proveSameServer(startLsn))).text).toMatch(
      /in production, checkpoint \S+, redo \S+, timeline 1, backup started at .* in production, checkpoint/,
    );
    const redo = 'select redo_lsn from pg_control_checkpoint()';
    await waitFor('the standby to have the last checkpoint', async () => {
      await found(first).query('checkpoint');
      return (await found(first).value(redo)) === (await primary.value(redo));
    }).catch((error) => {
      throw new Error(found(first).log.slice(-3000), { cause: error });
    });
    copyOf(found(first));
    expect((await failureOf(session.proveSameServer(startLsn))).text).toContain('in archive recovery');
    copyOf(primary);
    await session.proveSameServer(startLsn);
    const ahead = startLsn + 2n ** 40n; // as if this server's last checkpoint were older than the backup's start
    expect((await failureOf(session.proveSameServer(ahead))).error).toBeInstanceOf(ConfigurationError);
  });

  it('knows the file of its session from one of the same name that another server made', async () => {
    const folder = imageOf(primary, 'pg_snapshots');
    const client = await primary.connect();
    await client.query('begin');
    const { rows } = await client.query<{ name: string }>('select pg_export_snapshot() as name');
    await client.end();
    const transaction = Number.parseInt(rows[0]?.name.split('-')[1] ?? '', 16);
    const hex = (n: number): string => n.toString(16).toUpperCase().padStart(8, '0');
    // a name is the number of the process's slot, and of its transaction: those that the next session may get
    for (let slot = 0; slot < 40; slot += 1) {
      for (let next = 0; next < 60; next += 1) {
        for (const name of [`${hex(slot)}-${hex(transaction + next)}-1`, `${hex(slot)}-${hex(next)}-1`]) {
          writeFileSync(join(folder, 'pg_snapshots', name), 'vxid:1/1\npid:1\n');
        }
      }
    }
    const { text } = await failureOf(openTo({ dataDirectory: folder }));
    const made = /has just made "(pg_snapshots\/[^"]*)"/.exec(text)?.[1] ?? 'nothing';
    expect(readFileSync(join(folder, made), 'utf8')).toContain('pid:1');
  });

  it('a standby promoted in mid-backup: PostgreSQL refuses to stop it, in its own words', async () => {
    const standby = await startStandby(primary);
    try {
      const session = await openTo(standby);
      await session.startBackup({ label: 'promoted', checkpoint: 'fast' });
      await standby.query('select pg_promote()');
      const { error, text } = await failureOf(session.stopBackup());
      expect(error).toBeInstanceOf(PostgresError);
      expect(text).toContain('could not stop the backup: the standby was promoted during online backup');
      expect(text).toContain('Try taking another online backup');
    } finally {
      await standby.remove();
    }
  });
});

/** The server's own data directory in all but one folder, which is empty. */
function imageOf({ dataDirectory }: PostgresServer, other: string): string {
  const folder = temporaryFolder();
  mkdirSync(join(folder, other));
  for (const name of readdirSync(dataDirectory)) {
    if (name !== other) symlinkSync(join(dataDirectory, name), join(folder, name));
  }
  return folder;
}

describe('H19: PostgreSQL 17', () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = PostgresServer.create({ major: 17 });
    await server.start();
  });
  afterAll(() => server.remove());

  it("refuses another cluster's data directory, naming both system identifiers", async () => {
    const other = await startServer({ major: 17 });
    const { text } = await failureOf(openTo(other, { PGHOST: server.folder }));
    for (const one of [server, other]) {
      expect(text).toContain(
        `system identifier ${await one.value('select system_identifier from pg_control_system()')}`,
      );
    }
  });

  it('refuses the data directory of a server that does not run, and one that is none', async () => {
    const copy = server.copy();
    try {
      const { text } = await failureOf(openTo(copy, { PGHOST: server.folder }));
      expect(text).toContain('no postmaster.pid');
      expect(text).toContain(`name the other's: "${server.dataDirectory}"`);
    } finally {
      await copy.remove();
    }
    const nothing = await failureOf(openTo({ dataDirectory: temporaryFolder() }, { PGHOST: server.folder }));
    expect(nothing.error).toBeInstanceOf(HostError);
    expect(nothing.text).toContain('global/pg_control": no such file or directory');
  });

  it('refuses a pooler that hides the process behind it, before anything is started', async () => {
    await openTo(server, (await startProxy(server)).environment);
    const { error, text } = await failureOf(openTo(server, (await startProxy(server, withForgedKey)).environment));
    expect(error).toBeInstanceOf(ConfigurationError);
    expect(text).toContain('a connection pooler stands between');
    expect(text).toContain('connect to PostgreSQL itself');
  });

  it('refuses a pooler that changes the process in mid-backup', async () => {
    const proxy = await startProxy(server);
    const session = await openTo(server, proxy.environment);
    const { startLsn } = await session.startBackup({ label: 'pooled', checkpoint: 'fast' });
    await session.proveSameServer(startLsn);
    proxy.swap();
    const { error, text } = await failureOf(session.proveSameServer(startLsn));
    expect(error).toBeInstanceOf(ConfigurationError);
    expect(text).toMatch(/It was process \d+ and is now process \d+/);
    expect((await failureOf(session.stopBackup())).text).toContain('backup is not in progress');
  });
});
