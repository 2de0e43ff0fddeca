/**
 * A base backup and its restore, with one worker and with two, into and from a folder and an S3 endpoint, plain and encrypted,
 * beside pgBackRest, pg_basebackup and `tar | zstd`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { account, giveAway } from '../../test/support/account.ts';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { s3Settings } from '../../test/support/repository.ts';
import { launcher, plainEnvironment } from '../../test/support/run.ts';
import { type S3Endpoint, S3Server } from '../../test/support/s3-server.ts';
import { type ClusterSize, makeCluster, sizeOf } from './cluster.ts';
import { type Contender, measure, type Result } from './measure.ts';

/** What the issue asks for, at two workers. */
const limitPeakMiB = 256;

export interface BackupBenchOptions extends ClusterSize {
  readonly runs: number;
  /** Measure S3, too: a given endpoint, else the test server. */
  readonly s3: S3Endpoint | 'test server' | undefined;
}

interface Scene {
  readonly folder: string;
  readonly server: PostgresServer;
  readonly size: ReturnType<typeof sizeOf>;
  /** What each contender has stored, in bytes, by its name. */
  readonly stored: Map<string, number>;
  /** The settings that the server archives by. */
  readonly config: string;
  readonly identity: string;
}

export async function benchBackup(options: BackupBenchOptions) {
  const folder = makeFolder('wal-t-bench');
  const config = join(folder, 'settings.env');
  const identity = join(folder, 'identity');
  const command = `WALT_CONFIG=${config} ${launcher('wal-push')} %p %f`;
  const cluster = await makeCluster(options, { archive_mode: 'on', archive_command: command, archive_timeout: '0' });
  const store = options.s3 === 'test server' ? await S3Server.start() : undefined;
  try {
    call(launcher('wal-t'), ['keygen', '-o', identity]);
    const size = sizeOf(cluster.dataDirectory);
    const scene: Scene = { folder, server: cluster, size, stored: new Map(), config, identity };
    const measured = (contenders: readonly Contender[]) =>
      measure(contenders, options.runs, { warmUps: options.runs > 1 ? 1 : 0 });
    const root = join(folder, 'repository');
    const recipient = /age1\w+/.exec(readFileSync(identity, 'utf8'))?.[0] ?? '';
    const age = { WALT_AGE_RECIPIENTS: recipient, WALT_AGE_IDENTITY_FILE: identity };
    await archiveInto(scene, { WALT_REPO: `file://${root}` });
    const results = measured([...ours(scene, '', { workers: [1, 2], root }), ...peers(scene)]);
    await archiveInto(scene, { WALT_REPO: `file://${root}-age`, ...age });
    results.push(...measured(ours(scene, ', age', { workers: [2], root: `${root}-age` })));
    const endpoint = options.s3 === 'test server' ? store?.s3 : options.s3;
    if (endpoint !== undefined) {
      const run = `bench-${Date.now().toString(36)}`;
      await archiveInto(scene, s3Settings(endpoint, run));
      results.push(...measured(ours(scene, ', S3', { workers: [2] })));
      await archiveInto(scene, { ...s3Settings(endpoint, `${run}-age`), ...age });
      results.push(...measured(ours(scene, ', S3, age', { workers: [2] })));
    }
    return { text: format(scene, results), results, size, stored: Object.fromEntries(scene.stored) };
  } finally {
    await store?.stop();
    await cluster.remove();
    removeFolder(folder);
  }
}

/** From here on the server archives into another repository, and that is meant. */
async function archiveInto({ server, config }: Scene, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(config, lines.join(''));
  rmSync(join(server.dataDirectory, 'pg_wal/.wal-t'), { recursive: true, force: true });
  call(launcher('wal-t'), ['init'], { WALT_CONFIG: config });
  await server.query("select pg_logical_emit_message(true, 'bench', '')"); // so that there is something to archive
  await server.waitUntilArchived(await server.switchWal());
}

interface OurOptions {
  readonly workers: readonly number[];
  /** Of a repository in a folder: the backup before is removed, and the stored bytes are counted. */
  readonly root?: string;
}

function ours(scene: Scene, title: string, { workers, root }: OurOptions): Contender[] {
  const { folder, server, config } = scene;
  const target = join(folder, 'restored');
  return workers.flatMap((count) => {
    const env = { WALT_CONFIG: config, WALT_WORKERS: String(count), PGUSER: 'postgres', PGHOST: server.folder };
    const names = {
      push: `push, ${count} worker${count > 1 ? 's' : ''}${title}`,
      fetch: `fetch, ${count} worker${count > 1 ? 's' : ''}${title}`,
    };
    const push: Contender = {
      name: names.push,
      command: [launcher('basebackup-push'), server.dataDirectory],
      env,
      before: () => forgetBackups(root),
      after: () => {
        if (root !== undefined) scene.stored.set(names.push, bytesIn(root, /\/part\//));
      },
    };
    const fetch: Contender = {
      name: names.fetch,
      command: [launcher('basebackup-fetch'), target, 'LATEST'],
      env,
      before: () => rmSync(target, { recursive: true, force: true }),
      after: () => expectRestored(scene, names.fetch, target),
    };
    return [push, fetch];
  });
}

function forgetBackups(root: string | undefined): void {
  if (root === undefined) return;
  for (const cluster of readdirSync(root).filter((name) => /^\d+$/.test(name))) {
    for (const kind of ['part', 'files', 'manifest', 'lease'])
      rmSync(join(root, cluster, kind), { recursive: true, force: true });
  }
}

/** Removes what was restored when it is of the right size. */
function expectRestored({ size }: Scene, name: string, target: string): void {
  const found = sizeOf(target);
  if (found.files !== size.files || found.bytes !== size.bytes) {
    throw new Error(`${name} restored ${found.files} files, ${found.bytes} bytes, not ${size.files}, ${size.bytes}`);
  }
  rmSync(target, { recursive: true, force: true });
}

function peers(scene: Scene): Contender[] {
  return [...pgBackRest(scene), ...tarAndZstd(scene), ...pgBasebackup(scene)];
}

function pgBackRest(scene: Scene): Contender[] {
  if (spawnSync('pgbackrest', ['version']).status !== 0) return [];
  const { folder, server } = scene;
  const config = join(folder, 'pgbackrest.conf');
  const repository = join(folder, 'pgbackrest');
  const target = join(folder, 'restored');
  const lines = [
    '[global]',
    `repo1-path=${repository}`,
    'repo1-retention-full=1',
    'repo1-bundle=y',
    ...['log-path', 'lock-path', 'spool-path'].map((name) => `${name}=${folder}`),
    'compress-type=zst',
    'compress-level=3',
    'process-max=2',
    'start-fast=y',
    'log-level-console=warn',
    'log-level-file=off',
    '[bench]',
    `pg1-path=${server.dataDirectory}`,
    `pg1-socket-path=${server.folder}`,
    'pg1-user=postgres',
  ];
  writeFileSync(config, `${lines.join('\n')}\n`);
  const words = [`--config=${config}`, '--stanza=bench'];
  call('pgbackrest', [...words, 'stanza-create']);
  const name = 'pgbackrest backup, 2 processes';
  return [
    {
      name,
      command: ['pgbackrest', ...words, '--type=full', '--no-archive-check', 'backup'],
      before: () => {
        for (const made of foldersIn(join(repository, 'backup/bench'))) rmSync(made, { recursive: true });
      },
      after: () => scene.stored.set(name, bytesIn(join(repository, 'backup/bench'), /\/pg_data\/|\/bundle\//)),
    },
    {
      name: 'pgbackrest restore, 2 processes',
      command: ['pgbackrest', ...words, `--pg1-path=${target}`, '--type=none', 'restore'],
      before: () => makeEmpty(target),
      after: () => expectRestored(scene, 'pgbackrest restore', target),
    },
  ];
}

function foldersIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name));
}

/** No backup, since nothing tells PostgreSQL of it, but the same bytes. What `tar` finds changed does not matter here. */
function tarAndZstd(scene: Scene): Contender[] {
  const { folder, server } = scene;
  const [stored, target] = [join(folder, 'tar.zst'), join(folder, 'restored')];
  const name = 'tar | zstd -3 -T2';
  const shell = (text: string) => ['sh', '-c', text];
  return [
    {
      name,
      command: shell(
        `tar -C ${server.dataDirectory} --warning=none --exclude='./pg_wal/*' --exclude=pg_internal.init -cf - . | zstd -q -3 -T2 -f -o ${stored} && sync ${stored}`,
      ),
      after: () => scene.stored.set(name, statSync(stored).size),
    },
    {
      name: 'zstd -d | tar x',
      command: shell(`zstd -q -d -c ${stored} | tar -C ${target} -xf -`),
      before: () => makeEmpty(target),
      after: () => expectRestored(scene, 'tar x', target),
    },
  ];
}

function pgBasebackup(scene: Scene): Contender[] {
  const bin = '/usr/lib/postgresql/15/bin/pg_basebackup';
  if (!existsSync(bin)) return [];
  const { folder, server } = scene;
  const target = join(folder, 'pg_basebackup');
  const name = 'pg_basebackup, client-zstd 3, 2';
  return [
    {
      name,
      command: [
        ...[bin, '-h', server.folder, '-U', 'postgres', '-D', target, '-Ft', '-X', 'none', '-c', 'fast'],
        '--compress=client-zstd:level=3,workers=2',
      ],
      before: () => rmSync(target, { recursive: true, force: true }),
      after: () => {
        scene.stored.set(name, bytesIn(target, /base\.tar/));
        rmSync(target, { recursive: true });
      },
    },
  ];
}

function makeEmpty(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  giveAway(folder);
}

function bytesIn(folder: string, kind: RegExp): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => kind.test(path))
    .reduce((sum, path) => sum + statSync(path).size, 0);
}

function call(command: string, words: readonly string[], env: Readonly<Record<string, string>> = {}): void {
  const { status, stdout, stderr } = spawnSync(command, words, {
    ...account,
    cwd: '/',
    env: { ...plainEnvironment(), ...env },
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${command} ended with ${status}: ${stderr}${stdout}`);
}

/** Shares are of the wall time: a thread at 100 % is what the whole waits for. */
function format({ size, stored }: Scene, results: readonly Result[]): string {
  const head = `${'median'.padEnd(32)}   wall s  min–max       MB/s    CPU s  peak MiB   main worker  pool  stored MB  ratio`;
  const rows = results.map(({ name, median, min, max }) => {
    const share = (ms: number) => `${((100 * ms) / median.wallMs).toFixed(0)} %`.padStart(6);
    const bytes = stored.get(name);
    return [
      name.padEnd(32),
      seconds(median.wallMs).padStart(8),
      `${seconds(min.wallMs)}–${seconds(max.wallMs)}`.padStart(11),
      (size.bytes / 1000 / median.wallMs).toFixed(0).padStart(8),
      seconds(median.cpuMs).padStart(8),
      max.peakMiB.toFixed(0).padStart(9),
      share(median.mainMs),
      share(median.workerMs),
      share(median.poolMs),
      (bytes === undefined ? '' : (bytes / 1e6).toFixed(0)).padStart(9),
      (bytes === undefined ? '' : (size.bytes / bytes).toFixed(2)).padStart(6),
    ].join(' ');
  });
  return [`${(size.bytes / 1e6).toFixed(0)} MB in ${size.files} files`, head, ...rows, '', verdict(results)].join('\n');
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}

function verdict(results: readonly Result[]): string {
  const own = results.filter(({ name }) => /^(push|fetch), 2/.test(name));
  const peak = Math.max(...own.map(({ max }) => max.peakMiB));
  return `peak of push and fetch with 2 workers: ${peak.toFixed(0)} MiB (at most ${limitPeakMiB}): ${peak <= limitPeakMiB ? 'reached' : 'NOT reached'}`;
}
