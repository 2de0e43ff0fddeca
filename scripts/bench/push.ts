/** One cold wal-push and one cold wal-fetch of a 16 MiB segment into and from a folder, beside what they cannot be faster than, and a peer. */
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { account } from '../../test/support/account.ts';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import { PostgresServer } from '../../test/support/postgres.ts';
import { launcher, plainEnvironment } from '../../test/support/run.ts';
import { type Contender, formatResults, measure, type Result } from './measure.ts';

/** What issue and design ask for. */
const limits = { cpuAboveMs: 100, peakMiB: 120 };

export async function benchPush(runs: number): Promise<{ readonly text: string; readonly results: Result[] }> {
  const folder = makeFolder('wal-t-bench');
  const server = await busyServer();
  try {
    const segment = readdirSync(join(server.dataDirectory, 'pg_wal'))
      .filter((name) => /^[0-9A-F]{24}$/.test(name))
      .sort()[3];
    if (segment === undefined) throw new Error('the server has written too little WAL');
    const contenders = [
      ...ours(folder, server, segment),
      ...floors(folder, server, segment),
      ...peers(folder, server, segment),
    ];
    const results = measure(contenders, runs);
    return { text: `${formatResults(results)}\n\n${verdict(results)}`, results };
  } finally {
    await server.remove();
    removeFolder(folder);
  }
}

/** PostgreSQL 15, which the peers of Debian 12 know, with full segments of realistic content: ratio near 2.5 at level 3. */
async function busyServer(): Promise<PostgresServer> {
  const server = PostgresServer.create({
    major: 15,
    walSegmentSize: 16,
    settings: { wal_keep_size: '1GB', max_wal_size: '1GB', archive_mode: 'on', archive_command: 'false' },
  });
  await server.start();
  await server.query(
    'create table t (id serial primary key, name text, mail text, at timestamptz default now(), n numeric)',
  );
  for (let round = 0; round < 8; round += 1) {
    await server.query(
      `insert into t (name, mail, n) select md5(random()::text), md5(random()::text) || '@example.com', random() * 100000
       from generate_series(1, 60000)`,
    );
  }
  return server;
}

function ours(folder: string, server: PostgresServer, segment: string): Contender[] {
  const config = join(folder, 'settings.env');
  const repository = join(folder, 'repository');
  writeFileSync(config, `WALT_REPO=file://${repository}\n`);
  const env = { WALT_CONFIG: config };
  call(launcher('wal-t'), ['init'], env);
  const path = join('pg_wal', segment);
  const push = [launcher('wal-push'), path, segment];
  const forget = () => {
    const clusters = readdirSync(repository).filter((name) => /^\d+$/.test(name));
    for (const name of clusters) rmSync(join(repository, name, 'wal'), { recursive: true, force: true });
  };
  const store = () => call(launcher('wal-push'), [join(server.dataDirectory, path), segment], env);
  const target = join(folder, 'fetched');
  return [
    { name: 'wal-push', command: push, cwd: server.dataDirectory, env, before: forget },
    {
      name: 'wal-fetch',
      command: [launcher('wal-fetch'), segment, target],
      cwd: server.dataDirectory,
      env,
      before: store,
    },
  ];
}

/** What every Node.js program and every zstd program costs, and a copy. */
function floors(folder: string, server: PostgresServer, segment: string): Contender[] {
  const path = join(server.dataDirectory, 'pg_wal', segment);
  const stored = join(folder, 'stored.zst');
  call('zstd', ['-q', '-3', '-f', path, '-o', stored]);
  return [
    { name: 'node -e 0', command: ['node', '-e', '0'] },
    { name: 'zstd -3', command: ['zstd', '-q', '-3', '-f', path, '-o', join(folder, 'floor.zst')] },
    { name: 'zstd -d', command: ['zstd', '-q', '-d', '-f', stored, '-o', join(folder, 'floor')] },
    { name: 'cp', command: ['cp', path, join(folder, 'copy')] },
  ];
}

function peers(folder: string, server: PostgresServer, segment: string): Contender[] {
  if (spawnSync('pgbackrest', ['version']).status !== 0) return [];
  const config = join(folder, 'pgbackrest.conf');
  const repository = join(folder, 'pgbackrest');
  const lines = [
    '[global]',
    `repo1-path=${repository}`,
    `log-path=${folder}`,
    `lock-path=${folder}`,
    `spool-path=${folder}`,
    'compress-type=zst',
    'compress-level=3',
    'log-level-console=warn',
    '[bench]',
    `pg1-path=${server.dataDirectory}`,
    `pg1-socket-path=${server.folder}`,
    'pg1-user=postgres',
  ];
  writeFileSync(config, `${lines.join('\n')}\n`);
  const words = [`--config=${config}`, '--stanza=bench'];
  call('pgbackrest', [...words, 'stanza-create']);
  const path = join(server.dataDirectory, 'pg_wal', segment);
  // its segments stand in folders of the names' first sixteen digits; what stanza-create made stays
  const forget = () => {
    for (const entry of readdirSync(repository, { recursive: true, withFileTypes: true })) {
      if (/^[0-9A-F]{16}$/.test(entry.name))
        rmSync(join(entry.parentPath, entry.name), { recursive: true, force: true });
    }
  };
  const push = [...words, 'archive-push', path];
  return [
    { name: 'pgbackrest archive-push (zst 3)', command: ['pgbackrest', ...push], before: forget },
    {
      name: 'pgbackrest archive-get',
      command: ['pgbackrest', ...words, 'archive-get', segment, join(folder, 'got')],
      before: () => {
        forget();
        call('pgbackrest', push);
      },
    },
  ];
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

function verdict(results: readonly Result[]): string {
  const median = (name: string) => results.find((result) => result.name === name)?.median;
  const lines = [['wal-push', 'zstd -3'] as const, ['wal-fetch', 'zstd -d'] as const].map(([name, floor]) => {
    const [own, node, zstd] = [median(name), median('node -e 0'), median(floor)];
    if (own === undefined || node === undefined || zstd === undefined) return `${name}: not measured`;
    const above = own.cpuMs - node.cpuMs - zstd.cpuMs;
    const reached = above <= limits.cpuAboveMs && own.peakMiB <= limits.peakMiB;
    return (
      `${name}: ${above.toFixed(0)} ms CPU above node and ${floor} (at most ${limits.cpuAboveMs}), ` +
      `peak ${own.peakMiB.toFixed(0)} MiB (at most ${limits.peakMiB}): ${reached ? 'reached' : 'NOT reached'}`
    );
  });
  return lines.join('\n');
}
