/** A month of a sidecar in some minutes: each scheduled thing happens once, retention holds, the metrics tell it, and the memory is enough. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { build } from 'esbuild';
import { expect, it, onTestFinished } from 'vitest';
import type { BackupRow } from '../../src/commands/backup-list.ts';
import type { WalList } from '../../src/commands/wal-list.ts';
import type { AcceleratedCommand, AcceleratedOptions } from '../support/accelerated-sidecar.ts';
import { account } from '../support/account.ts';
import { temporaryFolder } from '../support/folders.ts';
import { checkout, installation } from '../support/installation.ts';
import { PostgresServer } from '../support/postgres.ts';
import { memoryOf, processTree } from '../support/process-tree.ts';
import { TestRepository } from '../support/repository.ts';
import { plainEnvironment } from '../support/run.ts';
import { orFailInCi } from '../support/tools.ts';

const days = 30;
const limitMs = days * 120_000;
const day = 24 * 3_600_000;
/** Within the month the clocks of Berlin are set forward, on March 28th at two, and half past two does not exist. */
const start = '2027-03-10T00:20:00Z';
const limitBytes = 256 * 1000 * 1000;

/** Debian's package `faketime`: backups and verifications must be dated as if the time had gone by. */
const fakeTimeLibrary = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1',
].find(existsSync);
const hasFakeTime = orFailInCi(fakeTimeLibrary !== undefined, 'libfaketime is missing');

/** The due times within the test, in UTC. */
function daily(hours: number, minutes: number): string[] {
  const first = Date.parse(start.slice(0, 10)) + hours * 3_600_000 + minutes * 60_000;
  return Array.from({ length: days }, (_, index) => new Date(first + index * day).toISOString());
}

/** From March 28th on Berlin's clocks are an hour ahead; and on that day half past two is three. */
function inBerlin(times: readonly string[], onTheDay = 60): string[] {
  return times.map((time) => {
    if (time < '2027-03-28') return time;
    const earlierMinutes = time < '2027-03-29' ? onTheDay : 60;
    return new Date(Date.parse(time) - earlierMinutes * 60_000).toISOString();
  });
}

/** The values of a metric by its labels, as they stand in the text. */
function samples(text: string, name: string): Record<string, number> {
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return Object.fromEntries(
    lines.map((line) => {
      const [, labels = '', value] = /^\w+(?:\{(.*)\})? (.*)$/.exec(line) ?? [];
      return [labels, Number(value)];
    }),
  );
}

async function bundleSidecar(): Promise<string> {
  const outfile = join(temporaryFolder(), 'accelerated-sidecar.mjs');
  await build({
    entryPoints: [join(checkout, 'test/support/accelerated-sidecar.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    banner: { js: 'import{createRequire}from"node:module";const require=createRequire(import.meta.url);' },
    external: ['@mongodb-js/zstd/bindings.js', '@node-rs/crc32', 'pg-native'],
    logLevel: 'error',
  });
  return outfile;
}

// ten minutes: the suite has its single steps, in test/e2e/sidecar.test.ts
it.skipIf(!hasFakeTime || process.env.TORTURE !== '1')(`runs for ${days} days`, { timeout: limitMs }, async () => {
  const repository = await new TestRepository().init();
  const server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
  onTestFinished(() => server.remove());
  await server.start();
  await server.query('create table t (n int, at timestamptz default clock_timestamp())');
  await server.waitUntilArchived(await server.switchWal()); // the archive knows the cluster from its first segment on

  const options: AcceleratedOptions = { start, days, fakeTimeLibrary };
  const child = spawn(process.execPath, [await bundleSidecar(), JSON.stringify(options)], {
    ...account,
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...plainEnvironment(),
      WAL_T_BIN: join(installation(), 'bin'),
      WALT_NODE: process.execPath,
      WALT_REPO: `file://${repository.root}`,
      WALT_PGDATA: server.dataDirectory,
      PGUSER: 'postgres',
      WALT_WORKERS: '1',
      WALT_SIDECAR_LISTEN: '127.0.0.1:0',
      WALT_SIDECAR_TIME_ZONE: 'Europe/Berlin',
      WALT_SIDECAR_BACKUP_SCHEDULE: '30 2 * * *',
      WALT_SIDECAR_DELETE: days > 7 ? '--retain 7' : '--retain 2',
      WALT_SIDECAR_VERIFY_SCHEDULE: '0 4 * * *',
      WALT_SIDECAR_VERIFY_DEEP_SCHEDULE: '0 5 * * 0',
      WALT_SIDECAR_CHECK_INTERVAL: '6h',
      WALT_SIDECAR_LOOK_INTERVAL: '12h',
    },
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  const commands: AcceleratedCommand[] = [];
  let [port, isOver, row] = [0, false, 0];
  createInterface({ input: child.stdout }).on('line', (line) => {
    const message = JSON.parse(line) as { port?: number; isOver?: boolean } & AcceleratedCommand;
    if (message.port !== undefined) port = message.port;
    else if (message.isOver === true) isOver = true;
    else commands.push(message);
  });
  const peak = { chargedBytes: 0, residentBytes: 0, own: 0 };
  while (!isOver) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(log.slice(-3000));
    const tree = processTree(child.pid ?? 0);
    const { chargedBytes, residentBytes } = memoryOf(tree);
    peak.chargedBytes = Math.max(peak.chargedBytes, chargedBytes);
    peak.residentBytes = Math.max(peak.residentBytes, residentBytes);
    peak.own = Math.max(peak.own, memoryOf(tree.slice(0, 1)).residentBytes);
    row += 1;
    if (row % 50 === 0) await server.query(`insert into t values (${row})`); // a cluster that lives
    await pause(50);
  }

  // each thing once, at its time; what was missed before the start once, at the start
  const began = (command: RegExp) => commands.filter((one) => command.test(one.command)).map(({ at }) => at);
  const atStart = new Date(start).toISOString();
  const backupTimes = inBerlin(daily(1, 30), 30);
  expect(began(/^basebackup-push/), log).toEqual([atStart, ...backupTimes]);
  expect(began(/^delete/)).toEqual([atStart, ...backupTimes]);
  expect(began(/^verify --json/)).toEqual([atStart, ...inBerlin(daily(3, 0))]);
  const sundays = inBerlin(daily(4, 0)).filter((time) => new Date(time).getUTCDay() === 0);
  expect(began(/^verify --deep/)).toEqual([atStart, ...sundays]);
  expect(new Set(began(/^check --json/)).size).toBe(days * 4 + 1);
  const failed = commands.filter(({ exitCode, command }) => exitCode !== 0 && !command.startsWith('check'));
  expect(failed, log).toEqual([]);

  // retention held: so many backups, all of them whole, and no WAL before the oldest
  const retained = days > 7 ? 7 : 2;
  const rows = JSON.parse((await repository.run('backup-list', ['--json', '--no-window'])).stdout) as BackupRow[];
  expect(rows.map(({ state }) => state)).toEqual(Array.from({ length: retained }, () => 'confirmed'));
  const dates = rows.map(({ started_at: time }) => time.slice(0, 10));
  expect(dates).toEqual(backupTimes.slice(-retained).map((time) => time.slice(0, 10)));
  expect((await repository.run('wal-t', ['verify', '--deep'])).code).toBe(0);
  const wal = JSON.parse((await repository.run('wal-t', ['wal-list', '--json'])).stdout) as WalList;
  expect(wal.timelines[0]?.ranges[0]?.first).toBe(rows[0]?.wal_file_name);

  // the metrics tell it
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(samples(text, 'walt_job_runs_total')).toMatchObject({
    'task="backup"': days + 1,
    'task="delete"': days + 1,
    'task="verify"': days + 1,
    'task="check"': days * 4 + 1,
  });
  const failures = samples(text, 'walt_job_failures_total');
  expect({ ...failures, 'task="check"': 0 }).toEqual(Object.fromEntries(Object.keys(failures).map((job) => [job, 0])));
  expect(samples(text, 'walt_backups')['state="confirmed"']).toBe(retained);
  expect(samples(text, 'walt_verified_backups')['task="verify",verdict="restorable"']).toBe(retained);
  expect(samples(text, 'walt_verified_backups')['task="verify",verdict="broken"']).toBe(0);
  expect(samples(text, 'walt_job_next_due_timestamp_seconds')['task="backup"']).toBe(
    Date.parse(backupTimes.at(-1) ?? '') / 1000 + day / 1000,
  );
  const newest = samples(text, 'walt_backup_newest_start_timestamp_seconds')[''];
  expect(Math.abs((newest ?? 0) - Date.parse(backupTimes.at(-1) ?? '') / 1000)).toBeLessThan(3600);
  expectPromtoolContent(text);
  expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);

  // enough memory, with a job of each lane at the same time
  process.stdout.write(`${JSON.stringify({ days, commands: commands.length, fakeTimeLibrary, ...peak })}\n`);
  expect(peak.chargedBytes).toBeGreaterThan(50_000_000);
  expect(peak.chargedBytes).toBeLessThan(limitBytes);
});

/** Prometheus' own judgement, where its tool is installed. */
function expectPromtoolContent(text: string): void {
  const judged = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  if (judged.error !== undefined) return;
  expect(judged.stderr + judged.stdout).toBe('');
  expect(judged.status).toBe(0);
}
