/** The sidecar as a process: beside a real server, through its launcher, with commands that really run, fail, hang and are told to end. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BackupRow } from '../../src/commands/backup-list.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { TestSidecar } from '../support/sidecar.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';

let folder: string;
let archive: TestRepository;
let server: PostgresServer;

/** With some megabytes, and an archive of its own. */
async function start(): Promise<void> {
  folder = makeFolder('sidecar');
  archive = await new TestRepository({ folder }).init();
  server = PostgresServer.create({ major: 17, settings: archive.serverSettings });
  await server.start();
  await server.query('create table t as select n, md5(n::text) from generate_series(1, 50000) n');
  await server.query('select pg_switch_wal()');
  await server.waitUntilAllArchived();
}

async function remove(): Promise<void> {
  await server.remove();
  removeFolder(folder);
}

async function backups(): Promise<BackupRow[]> {
  const { code, stdout, stderr } = await archive.run('backup-list', ['--json', '--no-window']);
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as BackupRow[];
}

async function confirmed(): Promise<string[]> {
  return (await backups()).filter(({ state }) => state === 'confirmed').map(({ backup_name: name }) => name);
}

/** Due each minute of a day in which nothing was done yet: a backup is taken at the start, whatever the others left. */
const always = { WALT_SIDECAR_BACKUP_SCHEDULE: '* * * * *' };
/** Never due while a test runs, and not missed before: there is a backup since. */
const rarely = { WALT_SIDECAR_BACKUP_SCHEDULE: '0 0 1 1 *' };

describe('its work', () => {
  beforeAll(start);
  afterAll(remove);

  it('takes a backup at the first start, looks at it, verifies it, checks, tells all that, and ends', async () => {
    const sidecar = new TestSidecar(archive, server, {
      ...rarely,
      WALT_SIDECAR_VERIFY_SCHEDULE: '0 4 * * *',
      WALT_SIDECAR_CHECK_INTERVAL: '1h',
      WALT_SIDECAR_DELETE: '--retain 3',
    });
    for (const job of ['backup', 'delete', 'verify', 'check']) {
      await sidecar.waitForMetric(`walt_job_runs_total{task="${job}"} 1`);
    }
    await sidecar.waitForMetric('walt_backups{state="confirmed"} 1');
    await sidecar.waitForMetric('walt_verified_backups{task="verify",verdict="restorable"} 1');
    expect(await confirmed()).toHaveLength(1);

    const { text } = await sidecar.get('/metrics');
    expect(text).toMatch(/^walt_build_info\{version="\d+\.\d+\.\d+"\} 1$/m);
    expect(text).toMatch(/^walt_backup_newest_raw_bytes [1-9]/m);
    expect(text).toMatch(/^walt_restorable_from_timestamp_seconds 1/m);
    expect(text).toMatch(/^walt_wal_newest_stored_timestamp_seconds 1/m);
    expect(text).toMatch(/^walt_check_findings\{check="storage",level="ok"\} 1$/m);
    expectGoodMetrics(text);
    expect((await sidecar.get('/health')).status).toBe(200);
    const { jobs } = JSON.parse((await sidecar.get('/status')).text) as { jobs: { job: string; outcome: string }[] };
    expect(jobs.find(({ job }) => job === 'backup')).toMatchObject({ outcome: 'done', exitCode: 0 });
    expect((await sidecar.get('/')).status).toBe(404);

    const tree = sidecar.tree();
    await sidecar.stop();
    expect(tree.filter(isAlive)).toEqual([]);
    expect(sidecar.lines.at(-1)?.message).toBe('sidecar: ends');
  });

  it('takes none again after a restart: the archive tells', async () => {
    const before = await confirmed();
    const sidecar = new TestSidecar(archive, server, rarely);
    await sidecar.waitForLine(/^backup: was done since/);
    await sidecar.waitForMetric('walt_job_runs_total{task="look"} 1');
    await sidecar.stop('SIGINT');
    expect(sidecar.ended).toEqual({ code: 0, signal: null });
    expect(await confirmed()).toEqual(before);
  });

  it('does no harm beside another sidecar', async () => {
    const settings = { ...always, WALT_SIDECAR_DELETE: '--retain 1' };
    const both = [new TestSidecar(archive, server, settings), new TestSidecar(archive, server, settings)];
    for (const sidecar of both) await sidecar.waitForLine(/^delete: (?:done|ended)/);
    for (const sidecar of both) await sidecar.stop();
    const { code, stdout } = await archive.run('wal-t', ['verify', '--deep']);
    expect({ code, stdout }).toMatchObject({ code: 0 });
    expect((await confirmed()).length).toBeGreaterThan(0);
  });
});

// the next backup is due at once, and not with the next minute
describe('of an archive without a backup', () => {
  beforeAll(start);
  afterAll(remove);

  describe('what fails', () => {
    it('goes on while the storage is away, says so, and tries again', async () => {
      const away = `${archive.root}.away`;
      renameSync(archive.root, away);
      try {
        const sidecar = new TestSidecar(archive, server, rarely);
        await sidecar.waitForMetric('walt_job_failures_total{task="backup"} 1');
        await sidecar.waitForMetric('walt_job_failures_total{task="look"} 1');
        await sidecar.waitForLine(/^backup: ended with exit code/); // comes by another way than the metric
        expect((await sidecar.get('/health')).status).toBe(200);
        expect((await sidecar.get('/status')).status).toBe(503);
        expect((await sidecar.get('/metrics')).text).not.toContain('walt_backups');
        const said = sidecar.lines.filter(({ severity }) => severity === 'error');
        expect(said.filter(({ job }) => job === 'backup').map(({ program }) => program)).toContain('basebackup-push');
        expect(said.find(({ message }) => /^backup: ended with exit code [34] /.test(message))?.hint).toMatch(
          /run again at/,
        );
        await sidecar.stop();
      } finally {
        renameSync(away, archive.root);
      }
    });

    it.each([
      [3, 'WALT_SIDECAR_BACKUP_SCHEDULE cannot be "at night"', { WALT_SIDECAR_BACKUP_SCHEDULE: 'at night' }],
      [3, 'WALT_SIDECAR_TIME_ZONE cannot be "Moon"', { WALT_SIDECAR_TIME_ZONE: 'Moon' }],
      [3, `WALT_SIDECAR_DELETE cannot be "--before 'now'"`, { WALT_SIDECAR_DELETE: "--before 'now'" }],
      [3, 'no data directory is set', { WALT_PGDATA: '' }],
      [9, 'could not listen on "192.0.2.1:1"', { WALT_SIDECAR_LISTEN: '192.0.2.1:1' }],
    ])('ends with %i at the start when %s', async (code, message, settings) => {
      const ended = await archive.run('wal-t', ['sidecar'], {
        env: { WALT_PGDATA: server.dataDirectory, WALT_LOG_FORMAT: 'json', ...settings },
      });
      expect(ended).toMatchObject({ code });
      expect((JSON.parse(ended.stderr.trim()) as { message: string }).message).toContain(message);
    });
  });

  describe('SIGTERM', () => {
    const slowly = { ...always, WALT_SIDECAR_BACKUP: '--max-rate 500k' };

    async function copying(): Promise<TestSidecar> {
      const sidecar = new TestSidecar(archive, server, slowly);
      await waitFor('a backup to be copied', async () => (await backups()).some(({ state }) => state === 'running'));
      return sidecar;
    }

    it.each(isTorture ? (['SIGTERM', 'SIGINT'] as const) : (['SIGTERM'] as const))(
      'ends by %s within ten seconds while a backup is being taken, which then counts for nothing',
      async (signal) => {
        const before = await confirmed();
        const sidecar = await copying();
        const tree = sidecar.tree();
        expect(tree.length).toBeGreaterThanOrEqual(4); // two launchers and what they run
        expect(await sidecar.stop(signal)).toBeLessThan(10_000);
        expect(sidecar.ended).toEqual({ code: 0, signal: null });
        expect(tree.filter(isAlive)).toEqual([]);
        expect(await confirmed()).toEqual(before);
        expect((await backups()).at(-1)?.state).toBe('failed'); // said by itself, and not only silent
      },
    );

    it('kills what does not end', async () => {
      const sidecar = await copying();
      const tree = sidecar.tree();
      for (const pid of tree.slice(2)) process.kill(pid, 'SIGSTOP'); // hears nothing any more
      const tookMs = await sidecar.stop();
      expect(tookMs).toBeGreaterThan(7_900);
      expect(tookMs).toBeLessThan(15_000); // ten on a host that has time
      expect(tree.filter(isAlive)).toEqual([]);
    });
  });
});

/** Is it there, and no zombie? */
function isAlive(pid: number): boolean {
  const stat = `/proc/${pid}/stat`;
  return existsSync(stat) && !/\) Z /.test(readFileSync(stat, 'latin1'));
}

/** Prometheus' own judgement, where its tool is installed. */
function expectGoodMetrics(text: string): void {
  const judged = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  if (judged.error === undefined) expect(judged).toMatchObject({ status: 0, stdout: '', stderr: '' });
}
