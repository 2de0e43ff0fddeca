/** wal-t check against real servers: each thing that can be wrong with one is provoked, named by its own check, and disturbs no other. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Level } from '../../src/commands/check/finding.ts';
import { check, type NamedFinding, worstOf } from '../../src/commands/check.ts';
import { keygen } from '../../src/commands/keygen.ts';
import { account, giveAway } from '../support/account.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher, run } from '../support/run.ts';
import { orFailInCi } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const healthy = {
  archive: 'ok',
  server: 'ok',
  privileges: 'ok',
  archiving: 'ok',
  'archive-command': 'ok',
  archiver: 'ok',
  backlog: 'ok',
  'pg-wal-space': 'ok',
  slots: 'ok',
  'round-trip': 'ok',
  failover: 'ok',
} as const satisfies Readonly<Record<string, Level>>;

type CheckName = keyof typeof healthy;
type Levels = Readonly<Partial<Record<CheckName, Level>>>;
const names = Object.keys(healthy) as CheckName[];
/** What says nothing where the server cannot be asked. */
const withoutServer: Levels = Object.fromEntries(
  names.filter((name) => name !== 'archive' && name !== 'server').map((name) => [name, 'skipped']),
);

/** A server that archives into a repository of its own, healthy. */
class Archived {
  readonly folder: string;
  readonly repository: TestRepository;
  readonly server: PostgresServer;

  private constructor(folder: string, repository: TestRepository, server: PostgresServer) {
    this.folder = folder;
    this.repository = repository;
    this.server = server;
  }

  static async create(
    major: number,
    settings: Readonly<Record<string, string>> = {},
    { repositorySettings = {}, prepare }: CreateOptions = {},
  ): Promise<Archived> {
    const folder = makeFolder('check');
    const repository = await new TestRepository({ folder, settings: repositorySettings }).init();
    const archiving = { ...repository.serverSettings, archive_timeout: '600s', ...settings };
    const server = PostgresServer.create({ major, settings: archiving });
    prepare?.(server);
    await server.start();
    const archived = new Archived(folder, repository, server);
    await server.switchWal();
    await server.waitUntilAllArchived();
    return archived;
  }

  async remove(): Promise<void> {
    await this.server.remove();
    removeFolder(this.folder);
  }

  /** All findings of the checks of this file, or of those named. */
  async look({
    only = names,
    libpq = { PGUSER: 'postgres' },
    dataDirectory = this.server.dataDirectory,
    settings = {},
  }: LookOptions = {}): Promise<readonly NamedFinding[]> {
    const context = makeContext(
      { WALT_REPO: `file://${this.repository.root}`, WALT_BACKUP_WAL_TIMEOUT: '60s', ...settings },
      { workingDirectory: this.folder, libpq },
    );
    const limits = { maxBackupAgeMs: 1e9, maxWalAgeMs: 1e9 };
    const given = dataDirectory === null ? undefined : dataDirectory;
    return (await check(context, { ...limits, only, skip: [], dataDirectory: given })).findings;
  }

  /** The whole command as it is called, with this repository's settings. */
  get command() {
    return [launcher('wal-t'), ['check', this.server.dataDirectory, '--only', names.join(',')]] as const;
  }
  get environment() {
    return { WALT_CONFIG: this.repository.config, PGUSER: 'postgres' };
  }

  async set(settings: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, value] of Object.entries(settings)) {
      await this.server.query(`alter system set ${name} = '${value.replaceAll("'", "''")}'`);
    }
    await this.server.query('select pg_reload_conf()');
  }

  async reset(): Promise<void> {
    await this.server.query('alter system reset all');
    await this.server.query('select pg_reload_conf()');
  }

  /** As before: nothing waits, nothing is counted, nothing is missing. */
  async heal(): Promise<void> {
    await this.reset();
    await this.server.switchWal();
    await this.server.waitUntilAllArchived();
    const { code, stderr } = await this.repository.run('wal-push', ['--missing', this.server.dataDirectory]);
    expect(code, stderr).toBe(0);
    await this.server.query(`select pg_stat_reset_shared('archiver')`);
  }

  /** As if what waits had done so for so long. */
  ageWaiting(minutes: number): void {
    const folder = join(this.server.dataDirectory, 'pg_wal/archive_status');
    const then = Date.now() / 1000 - minutes * 60;
    for (const name of readdirSync(folder)) if (name.endsWith('.ready')) utimesSync(join(folder, name), then, then);
  }

  get status(): string[] {
    return readdirSync(join(this.server.dataDirectory, 'pg_wal/archive_status'));
  }

  get push(): string {
    return this.repository.serverSettings.archive_command ?? '';
  }
}

interface CreateOptions {
  readonly repositorySettings?: Readonly<Record<string, string>>;
  /** Before its first start. */
  readonly prepare?: (server: PostgresServer) => void;
}

interface LookOptions {
  readonly only?: readonly CheckName[];
  readonly libpq?: Readonly<Record<string, string>>;
  /** null: none is known. */
  readonly dataDirectory?: string | null;
  readonly settings?: Readonly<Record<string, string>>;
}

/** The worst of each check. */
function levelsOf(findings: readonly NamedFinding[]): Levels {
  const all = [...new Set(findings.map((finding) => finding.check))];
  return Object.fromEntries(all.map((name) => [name, worstOf(findings.filter((finding) => finding.check === name))]));
}

/** All that a check said. */
function said(findings: readonly NamedFinding[], name: CheckName): string {
  const own = findings.filter((finding) => finding.check === name);
  return own.flatMap(({ message, detail, hint }) => [message, detail, hint].filter(Boolean)).join('\n');
}

const isFailing = 'select last_failed_time > coalesce(last_archived_time, $$-infinity$$) from pg_stat_archiver';
const hasArchiver = `select count(*) from pg_stat_activity where backend_type = 'archiver'`;

// 17 is what all the others are
describe.each(process.env.TORTURE === '1' ? [15, 17, 18] : [15, 18])('a healthy PostgreSQL %s', (major) => {
  it('is well in every respect, and looking leaves nothing behind', async () => {
    const archived = await Archived.create(major);
    onTestFinished(() => archived.remove());
    const findings = await archived.look();
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual(healthy);
    expect(said(findings, 'server')).toContain(`PostgreSQL ${major}`);
    expect(said(findings, 'round-trip')).toMatch(
      /^segment "[0-9A-F]{24}" arrived in the archive, and is what pg_wal has$/,
    );
    const figures = Object.assign({}, ...findings.map((finding) => finding.figures));
    expect(Object.keys(figures)).toEqual(
      expect.arrayContaining(['archived_total', 'backlog_segments', 'pg_wal_bytes', 'round_trip_seconds']),
    );
    await archived.server.waitUntilAllArchived();
    const before = [archived.repository.files(), readdirSync(join(archived.server.dataDirectory, 'pg_wal'))];
    await archived.look({ only: names.filter((name) => name !== 'round-trip') });
    expect([archived.repository.files(), readdirSync(join(archived.server.dataDirectory, 'pg_wal'))]).toEqual(before);
    const left = [...archived.repository.files(), ...archived.status].filter((name) => /tmp|probe|ready/.test(name));
    expect(left).toEqual([]);
  });
});

const usualSockets = ['/var/run/postgresql/.s.PGSQL.5432', '/tmp/.s.PGSQL.5432'];
const nobodyUsual = orFailInCi(!usualSockets.some((path) => existsSync(path)), 'a server of this host is in the way');

describe('a primary', () => {
  let archived: Archived;
  beforeAll(async () => {
    archived = await Archived.create(17);
  });
  afterAll(() => archived.remove());

  /** The checks that must say something else than on a healthy server, and what they must say. */
  interface Provocation {
    readonly what: string;
    readonly settings?: () => Readonly<Record<string, string>>;
    /** Waits until the server shows it. */
    readonly until?: () => Promise<boolean>;
    readonly changes: Levels;
    readonly says: Readonly<Partial<Record<CheckName, readonly string[]>>>;
  }

  const provocations: readonly Provocation[] = [
    {
      what: '%f and %p the wrong way round',
      settings: () => ({ archive_command: archived.push.replace('%p %f', '%f %p') }),
      until: async () => (await archived.server.value(isFailing)) === 'true',
      changes: { 'archive-command': 'failed', archiver: 'failed', 'round-trip': 'skipped' },
      says: {
        'archive-command': ['archive_command has %p and %f the wrong way round', 'Write "… wal-push %p %f"'],
        archiver: ['archive_command fails for "', 'failures so far', `The reason is in PostgreSQL's log`],
        'round-trip': ['see "archiver"'],
      },
    },
    {
      what: 'an archive_command that always fails',
      settings: () => ({ archive_command: 'false' }),
      until: async () => (await archived.server.value(isFailing)) === 'true',
      changes: { 'archive-command': 'failed', archiver: 'failed', 'round-trip': 'skipped' },
      says: {
        'archive-command': ['archive_command always fails: it is "false"'],
        archiver: ['archive_command fails for'],
      },
    },
    {
      what: 'an archive_command that archives nothing',
      settings: () => ({ archive_command: '/bin/true' }),
      until: async () => archived.status.every((name) => !name.endsWith('.ready')),
      changes: { 'archive-command': 'failed', 'round-trip': 'failed', failover: 'failed' },
      says: {
        'archive-command': ['archive_command archives nothing: it is "/bin/true"'],
        'round-trip': ['did not arrive in the archive', 'PostgreSQL was told that it was archived, but not into this'],
        failover: ['that PostgreSQL calls archived', 'wal-push --missing '],
      },
    },
    {
      what: 'a failure that is hidden',
      settings: () => ({ archive_command: `${archived.push} || true` }),
      changes: { 'archive-command': 'failed' },
      says: { 'archive-command': ['archive_command hides how wal-push ends behind "|| true"'] },
    },
    {
      what: 'no archive_timeout',
      settings: () => ({ archive_timeout: '0' }),
      changes: { archiving: 'warning' },
      says: { archiving: ['archive_timeout is off'] },
    },
    {
      what: 'a slot that holds WAL',
      settings: () => ({ max_wal_size: '2MB', min_wal_size: '2MB' }),
      until: async () => {
        await archived.server.query(
          `select pg_create_physical_replication_slot('left_behind', true) where not exists (select from pg_replication_slots)`,
        );
        for (let n = 0; n < 5; n += 1)
          await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
        return (await archived.server.value('select wal_status from pg_replication_slots')) === 'extended';
      },
      changes: { slots: 'warning' },
      says: {
        slots: ['replication slot "left_behind", not in use, holds', `select pg_drop_replication_slot('left_behind')`],
      },
    },
  ];

  it.each(provocations.map((one) => [one.what, one] as const))('%s', async (_, { settings, until, changes, says }) => {
    onTestFinished(async () => {
      await archived.server.query('select pg_drop_replication_slot(slot_name) from pg_replication_slots');
      await archived.heal();
    });
    await archived.set(settings?.() ?? {});
    await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
    await waitFor('the server to show it', until ?? (() => true));
    const findings = await archived.look();
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ ...healthy, ...changes });
    for (const [name, words] of Object.entries(says)) {
      for (const word of words) expect(said(findings, name as CheckName)).toContain(word);
    }
  });

  it('H8: a command that is not there kills the archiver, uncounted', async () => {
    onTestFinished(async () => {
      await archived.reset();
      await archived.server.restart(); // it may take a minute until the postmaster starts another archiver
      await archived.heal();
    });
    await archived.set({ archive_command: '/nonexistent/bin/wal-push %p %f' });
    await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
    await waitFor('the archiver to die', async () => (await archived.server.value(hasArchiver)) === '0');
    const findings = await archived.look();
    const changes = { 'archive-command': 'failed', archiver: 'failed', 'round-trip': 'skipped' };
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ ...healthy, ...changes });
    expect(said(findings, 'archive-command')).toContain('cannot be run: no such file or directory');
    expect(said(findings, 'archiver')).toContain(`the archiver's process is not there, and one file waits`);
    const alone = await archived.look({ only: ['round-trip'] });
    expect(said(alone, 'round-trip')).toContain('archive_command kills the archiver');
  });

  it('H8: a command that hangs is not counted either', async () => {
    const gate = join(archived.folder, 'gate');
    const hold = join(archived.folder, 'hold');
    writeFileSync(hold, '');
    writeFileSync(gate, `while [ -e ${hold} ]; do sleep 0.05; done\n`);
    onTestFinished(async () => {
      rmSync(hold, { force: true });
      await archived.heal();
    });
    await archived.set({ archive_command: `sh ${gate} && ${archived.push}` });
    await archived.server.query(`select pg_stat_reset_shared('archiver')`);
    await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
    const young = await archived.look({ settings: { WALT_BACKUP_WAL_TIMEOUT: '1s' } });
    expect(levelsOf(young)).toEqual({ ...healthy, 'archive-command': 'warning', 'round-trip': 'failed' });
    expect(said(young, 'round-trip')).toContain('2 files wait to be archived');
    archived.ageWaiting(8);
    const findings = await archived.look();
    const changes: Levels = { 'archive-command': 'warning', archiver: 'failed', 'round-trip': 'skipped' };
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ ...healthy, ...changes });
    expect(said(findings, 'archiver')).toMatch(
      /nothing was archived for 8 min.* though 2 files wait, and no failure is counted/,
    );
    expect(said(findings, 'archiver')).toContain('archive_command hangs');
    archived.ageWaiting(20);
    expect(levelsOf(await archived.look())).toEqual({ ...healthy, ...changes, backlog: 'warning' });
    archived.ageWaiting(120);
    const old = await archived.look();
    expect(levelsOf(old)).toEqual({ ...healthy, ...changes, backlog: 'failed' });
    expect(said(old, 'backlog')).toMatch(/2 segments, 2\.0 MiB, wait to be archived, "[0-9A-F]{24}" for 2 h/);
  });

  it.each<[string, () => string, Level, string]>([
    ['empty', () => '', 'failed', 'archive_command is empty'],
    ['of another tool', () => 'pgbackrest --stanza=x archive-push %p', 'failed', 'it runs "pgbackrest"'],
    ['a bare name', () => 'wal-push %p %f', 'failed', `and the server's PATH does not have it`],
    ['a relative path', () => 'WALT_REPO=x base/wal-push %p %f', 'failed', 'cannot be run: no such file or directory'],
    ['a file without permission', () => `${archived.repository.config} %p`, 'warning', 'is not of WAL-T'],
    ['not executable', () => `${archived.folder}/wal-push %p %f`, 'failed', 'cannot be run: permission denied'],
    ['without settings', () => `${launcher('wal-push')} %p %f`, 'failed', 'archive_command is given no WALT_REPO'],
    [
      'with a settings file that is not there',
      () => `WALT_CONFIG=/nonexistent.env ${launcher('wal-push')} %p %f`,
      'failed',
      'the settings file of archive_command, "/nonexistent.env", cannot be read: no such file or directory',
    ],
    [
      'with settings that are wrong',
      () => `WALT_REPOO=x ${archived.push}`,
      'failed',
      'the settings of archive_command are wrong: unknown setting WALT_REPOO',
    ],
    [
      'into another repository',
      () => `WALT_REPO=file:///elsewhere ${archived.push}`,
      'failed',
      'archive_command uses another repository than this command',
    ],
    ['without its messages', () => `${archived.push} 2>/dev/null`, 'warning', 'throws away what wal-push says'],
    [
      'in a timeout',
      () => `WALT_CONFIG=${archived.repository.config} timeout 60 ${launcher('wal-push')} %p %f`,
      'warning',
      'wal-push is called through timeout',
    ],
  ])('an archive_command %s', async (_, command, level, message) => {
    onTestFinished(() => archived.reset());
    writeFileSync(join(archived.folder, 'wal-push'), '#!/bin/sh\n');
    chmodSync(join(archived.folder, 'wal-push'), 0o644);
    await archived.set({ archive_command: command() });
    await waitFor('it to be in force', async () => (await archived.server.value('show archive_command')) === command());
    const findings = await archived.look({ only: ['archive-command'] });
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ 'archive-command': level });
    expect(said(findings, 'archive-command')).toContain(message);
  });

  it('a role that may nothing is told its GRANTs, and nothing is said to fail for it', async () => {
    onTestFinished(() => archived.server.query('drop role if exists checker').then(() => undefined));
    await archived.server.query('create role checker login');
    const findings = await archived.look({ libpq: { PGUSER: 'checker' } });
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({
      ...healthy,
      privileges: 'failed',
      'round-trip': 'skipped',
    });
    expect(said(findings, 'privileges')).toContain(
      'GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO checker;',
    );
    expect(said(findings, 'round-trip')).toContain('see "privileges"');
    const remote = await archived.look({
      libpq: { PGUSER: 'checker', PGHOST: archived.server.folder },
      dataDirectory: null,
      settings: {
        WALT_SYSTEM_IDENTIFIER: await archived.server.value('select system_identifier from pg_control_system()'),
      },
    });
    expect(levelsOf(remote), JSON.stringify(remote, undefined, 1)).toEqual({
      ...healthy,
      privileges: 'failed',
      backlog: 'skipped',
      'pg-wal-space': 'skipped',
      'round-trip': 'skipped',
      failover: 'skipped',
    });
    expect(said(remote, 'backlog')).toContain('GRANT pg_monitor TO checker');
  });

  it('archiving that is off, or still off after a restore', async () => {
    const off: Levels = {
      archiving: 'failed',
      'archive-command': 'skipped',
      archiver: 'skipped',
      backlog: 'skipped',
      'round-trip': 'skipped',
      failover: 'skipped',
    };
    onTestFinished(async () => {
      await archived.server.query('alter system reset all');
      await archived.server.restart();
      await archived.heal();
    });
    await archived.set({ archive_mode: 'off' });
    await archived.server.restart();
    const findings = await archived.look();
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ ...healthy, ...off });
    expect(said(findings, 'archiving')).toContain('archive_mode is off: nothing is archived');

    const fetch = archived.repository.serverSettings.restore_command ?? '';
    await archived.set({ restore_command: fetch.replace('%f', '--beside --timeline 1 %f') });
    const beside = await archived.look();
    expect(levelsOf(beside)).toEqual({ ...healthy, ...off });
    expect(said(beside, 'archiving')).toContain('archiving is still off after a restore');
    expect(said(beside, 'archiving')).toContain('alter system reset archive_mode; alter system reset max_logical');

    await archived.server.query('alter system reset archive_mode');
    await archived.server.query('select pg_reload_conf()');
    expect(said(await archived.look({ only: ['archiving'] }), 'archiving')).toContain('until the server is restarted');
    await archived.server.restart();
    await archived.server.waitUntilAllArchived();
    const armed = await archived.look();
    expect(levelsOf(armed), JSON.stringify(armed, undefined, 1)).toEqual({ ...healthy, archiving: 'warning' });
    expect(said(armed, 'archiving')).toContain('alter system reset restore_command;');
  });

  it('a server that is not there, is another one, or does not answer', async () => {
    const other = PostgresServer.create({ major: 17 });
    onTestFinished(() => other.remove());
    await other.start();
    const wrong = await archived.look({ libpq: { PGUSER: 'postgres', PGHOST: other.folder } });
    expect(levelsOf(wrong)).toEqual({ ...healthy, ...withoutServer, server: 'failed' });
    expect(said(wrong, 'server')).toContain('the server that answers does not run on the data directory');
    const dead = await archived.look({ libpq: { PGUSER: 'postgres', PGHOST: join(other.folder, 'none') } });
    expect(levelsOf(dead)).toEqual({ ...healthy, ...withoutServer, server: 'failed' });
    expect(said(dead, 'server')).toContain('could not connect to socket');
    await other.stop();
    const shut = join(archived.folder, 'shut');
    mkdirSync(shut, { mode: 0o700 });
    const [wal_t, flags] = archived.command;
    const denied = await run(wal_t, flags, { env: { ...archived.environment, PGHOST: shut } });
    if (account.uid !== undefined) {
      expect(denied.code).toBe(8);
      expect(denied.stdout).toMatch(/failed +server +could not connect to socket .*shut.*: permission denied/);
      expect(denied.stdout).toContain('The socket is not open to this account: run as the account of the server.');
    }
    const stopped = await archived.look({ dataDirectory: other.dataDirectory, only: ['server', 'archiver'] });
    expect(levelsOf(stopped)).toEqual({ server: 'failed', archiver: 'skipped' });
    expect(said(stopped, 'server')).toContain(`no server runs on "${other.dataDirectory}"`);

    const { processId = 0 } = archived.server;
    process.kill(processId, 'SIGSTOP');
    onTestFinished(() => void process.kill(processId, 'SIGCONT'));
    const silent = await archived.look({ settings: { WALT_CONNECT_TIMEOUT: '300ms' } });
    expect(levelsOf(silent)).toEqual({ ...healthy, ...withoutServer, server: 'failed' });
    const [command, words] = archived.command;
    const started = run(command, words, {
      env: archived.environment,
      onStart: (child) => void setTimeout(() => child.kill('SIGINT'), 1500),
    });
    expect(await started).toMatchObject({ signal: 'SIGINT', stdout: '' });
  });

  it('a lock, and a process of the server that hangs, are waited for no longer than is bearable', async () => {
    const client = await archived.server.connect();
    let stopped = 0;
    onTestFinished(async () => {
      if (stopped !== 0) process.kill(stopped, 'SIGCONT');
      await client.end();
    });
    await client.query('begin; lock table pg_stat_archiver in access exclusive mode');
    const changes: Levels = { archiver: 'failed', 'round-trip': 'skipped' };
    const locked = await archived.look({ settings: { WALT_IDLE_TIMEOUT: '3s' } });
    expect(levelsOf(locked), JSON.stringify(locked, undefined, 1)).toEqual({ ...healthy, ...changes });
    expect(said(locked, 'archiver')).toContain('could not look at the archiver: canceling statement due to');

    const looking = archived.look({ settings: { WALT_IDLE_TIMEOUT: '6s' } });
    const waiting = `select pid from pg_stat_activity where application_name = 'wal-t' and wait_event_type = 'Lock'`;
    await waitFor('it to wait', async () => {
      stopped = (await client.query<{ pid: number }>(waiting)).rows[0]?.pid ?? 0;
      await client.query('select pg_stat_clear_snapshot()');
      return stopped !== 0;
    });
    process.kill(stopped, 'SIGSTOP');
    const hanging = await looking;
    expect(levelsOf(hanging), JSON.stringify(hanging, undefined, 1)).toEqual({
      ...healthy,
      ...changes,
      'pg-wal-space': 'skipped',
      slots: 'skipped',
    });
    expect(said(hanging, 'archiver')).toContain('does not answer: could not look at the archiver\nwaited for 6 s');
    expect(said(hanging, 'slots')).toContain('the server did not answer any more');
  });

  it('a segment that is archived with other content', async () => {
    onTestFinished(() => archived.heal());
    await archived.set({ archive_command: '/bin/true' });
    await waitFor('it to be in force', async () => {
      await archived.server.query('select txid_current()'); // else there is nothing to end
      const name = await archived.server.switchWal();
      await archived.server.waitUntilArchived(name);
      return !archived.repository.files().some((path) => path.endsWith(name));
    });
    await archived.server.query('create table written ()'); // durable, so it is in the file
    // another server of the same cluster was there first
    const name = await archived.server.value('select pg_walfile_name(pg_current_wal_lsn())');
    const other = join(archived.folder, name);
    spawnSync('cp', [join(archived.server.dataDirectory, 'pg_wal', name), other]);
    giveAway(other);
    const { code, stderr } = await archived.repository.run('wal-push', [other]);
    expect(code, stderr).toBe(0);
    const findings = await archived.look({ only: ['round-trip'] });
    expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual({ 'round-trip': 'failed' });
    expect(said(findings, 'round-trip')).toContain(`segment "${name}" is archived with other content than pg_wal has`);
  });

  it.skipIf(!nobodyUsual)('a host without a server is a warning that says how to name it', async () => {
    const findings = await archived.look({ dataDirectory: null });
    expect(levelsOf(findings)).toEqual({ ...healthy, ...withoutServer, server: 'warning' });
    expect(said(findings, 'server')).toMatch(/no server was found on this host[\s\S]*WALT_PGDATA[\s\S]*--skip server/);
  });

  it('as the server’s account, by its launcher: green, and again after all of that', async () => {
    const [command, words] = archived.command;
    const { code, stdout, stderr } = await run(command, words, { env: archived.environment });
    expect(stdout).toMatch(/^\n?11 ok$/m);
    expect([code, stderr]).toEqual([0, '']);
    const left = [...archived.repository.files(), ...archived.status].filter((name) => /tmp|probe|ready/.test(name));
    expect(left).toEqual([]);
    const ofArchiving = readdirSync(join(archived.server.dataDirectory, 'pg_wal/.wal-t'));
    expect(ofArchiving.filter((name) => name !== 'pushed')).toEqual(['repository']);
  });
});

it('a standby is not asked for what its primary does; its restore_command is', async () => {
  const archived = await Archived.create(17);
  onTestFinished(() => archived.remove());
  await archived.server.stop();
  const standby = archived.server.copy();
  onTestFinished(() => standby.remove());
  await archived.server.start();
  standby.configure({ primary_conninfo: `host=${archived.server.folder} user=postgres` });
  standby.signal('standby.signal');
  await standby.start();
  const look = () => archived.look({ dataDirectory: standby.dataDirectory });
  const ofStandby: Levels = {
    ...healthy,
    archiver: 'skipped',
    backlog: 'skipped',
    'round-trip': 'skipped',
    failover: 'skipped',
  };
  const findings = await look();
  expect(levelsOf(findings), JSON.stringify(findings, undefined, 1)).toEqual(ofStandby);
  expect(said(findings, 'server')).toContain('runs as a standby');
  const fetch = archived.repository.serverSettings.restore_command ?? '';
  standby.configure({ restore_command: `${fetch} || cp /mnt/%f %p`, archive_command: '/bin/true' });
  await standby.query('select pg_reload_conf()');
  await waitFor('it to be in force', async () => (await standby.value('show archive_command')) === '/bin/true');
  const wrapped = await look();
  expect(levelsOf(wrapped)).toEqual({ ...ofStandby, 'archive-command': 'failed' });
  const own = wrapped.filter((finding) => finding.check === 'archive-command');
  expect(own.map(({ level, message }) => `${level} ${message}`)).toEqual([
    expect.stringMatching(/^warning archive_command archives nothing/),
    expect.stringMatching(/^failed restore_command hides how wal-fetch ends behind "\|\| cp/),
  ]);
});

it('an encrypted segment is read back, or compared by what its header says where no identity is', async () => {
  const { publicKey = '', text } = await keygen({ auth: false, output: undefined });
  const [identity = ''] = /^AGE-SECRET-KEY-1.*$/m.exec(text) ?? [];
  const settings = { WALT_AGE_RECIPIENTS: publicKey };
  const archived = await Archived.create(17, {}, { repositorySettings: settings });
  onTestFinished(() => archived.remove());
  const only: CheckName[] = ['archive-command', 'round-trip', 'failover'];
  const allOk = { 'archive-command': 'ok', 'round-trip': 'ok', failover: 'ok' };
  const opened = await archived.look({ only, settings: { ...settings, WALT_AGE_IDENTITY: identity } });
  expect(levelsOf(opened), JSON.stringify(opened, undefined, 1)).toEqual(allOk);
  expect(said(opened, 'round-trip')).toMatch(/arrived in the archive, and is what pg_wal has$/);
  const closed = await archived.look({ only, settings });
  expect(levelsOf(closed), JSON.stringify(closed, undefined, 1)).toEqual(allOk);
  expect(said(closed, 'round-trip')).toMatch(
    /says that it holds what pg_wal has\nit was not read back: this host has no/,
  );
});

const mayMount = orFailInCi(process.getuid?.() === 0, 'mounting needs root');

it.skipIf(!mayMount)('pg_wal that fills is told before it is full', async () => {
  const disk = join(makeFolder('disk'), 'pg_wal');
  mkdirSync(disk);
  const mount = (...words: string[]) => spawnSync(words[0] ?? '', words.slice(1), { encoding: 'utf8' });
  const owner = `uid=${account.uid},gid=${account.gid},mode=700`;
  expect(mount('mount', '-t', 'tmpfs', '-o', `size=24m,${owner}`, 'tmpfs', disk).stderr).toBe('');
  onTestFinished(() => {
    mount('umount', '-l', disk);
    removeFolder(join(disk, '..'));
  });
  const prepare = ({ dataDirectory }: PostgresServer) => {
    const own = join(dataDirectory, 'pg_wal');
    spawnSync('sh', ['-c', `cp -a ${own}/. ${disk}/ && rm -r ${own}`]);
    symlinkSync(disk, own);
    giveAway(disk);
  };
  const archived = await Archived.create(17, { max_wal_size: '8MB', min_wal_size: '2MB' }, { prepare });
  onTestFinished(() => archived.remove());
  const only: CheckName[] = ['server', 'archiver', 'pg-wal-space'];
  expect(levelsOf(await archived.look({ only }))).toEqual({ server: 'ok', archiver: 'ok', 'pg-wal-space': 'ok' });
  await archived.set({ max_wal_size: '1GB' });
  await waitFor('it to be in force', async () => (await archived.server.value('show max_wal_size')) === '1GB');
  const small = await archived.look({ only });
  expect(levelsOf(small)).toEqual({ server: 'ok', archiver: 'ok', 'pg-wal-space': 'warning' });
  expect(said(small, 'pg-wal-space')).toContain('less than max_wal_size lets it grow to');
  await archived.set({ archive_command: 'false' });
  for (let n = 0; n < 8; n += 1)
    await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
  await waitFor('it to fail', async () => (await archived.server.value(isFailing)) === 'true');
  const filling = await archived.look({ only });
  expect(levelsOf(filling)).toEqual({ server: 'ok', archiver: 'failed', 'pg-wal-space': 'failed' });
  expect(said(filling, 'pg-wal-space')).toMatch(/WAL is not archived, and pg_wal has .* are free: full in \d+ min/);
  await waitFor('it to be full', async () => {
    if ((await archived.look({ only: ['pg-wal-space'] })).some(({ message }) => message.startsWith('pg_wal is full')))
      return true;
    await archived.server.query('select pg_logical_emit_message(false, $$t$$, $$t$$), pg_switch_wal()');
    return false;
  });
});
