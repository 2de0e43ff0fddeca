/**
 * One cold wal-push and one cold wal-fetch of a 16 MiB segment, into and from a folder and an S3 endpoint, plain and encrypted,
 * beside what they cannot be faster than, and beside peers.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultProxy } from '../../test/support/fault-proxy.ts';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { launcher, walT } from '../../test/support/run.ts';
import { type S3Endpoint, S3Server } from '../../test/support/s3-server.ts';
import { busyServer, finishedSegments, finishSegments, letWait } from './busy-server.ts';
import { call } from './call.ts';
import { type Contender, formatResults, measure, type Result } from './measure.ts';
import { preparePgBackRest } from './pgbackrest.ts';

/** What issue and design ask for. */
const limits = { cpuAboveMs: 100, peakMiB: 120, peakS3MiB: 150 };

export interface BenchOptions {
  readonly runs: number;
  /** Undefined: the test server. */
  readonly s3: S3Endpoint | undefined;
}

export async function benchPush({
  runs,
  s3,
}: BenchOptions): Promise<{ readonly text: string; readonly results: Result[] }> {
  const folder = makeFolder('wal-t-bench');
  const server = await busyServer({ segments: 4 });
  const store = s3 === undefined ? await S3Server.start() : undefined;
  const proxy = await FaultProxy.start(s3 ?? store?.s3 ?? missing('an endpoint'), { seed: 1 });
  try {
    const segment = (await finishSegments(server, 4))[3] ?? missing('a fourth segment');
    letWait(server, []); // one file for each call is what is measured here
    const endpoint = s3 ?? store?.s3 ?? missing('an endpoint');
    const bucket = overS3(folder, server, { segment, endpoint });
    const contenders = [
      ...ours(folder, server, segment),
      ...bucket.contenders,
      ...floors(folder, server, segment),
      ...peers(folder, server, segment),
    ];
    const results = measure(contenders, runs);
    const requests = await countRequests(bucket, proxy);
    return { text: `${formatResults(results)}\n\n${verdict(results)}\n${requests}`, results };
  } finally {
    await proxy.stop();
    await store?.stop();
    await server.remove();
    removeFolder(folder);
  }
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
    enter(server, env);
  };
  const store = () => {
    enter(server, env);
    call(launcher('wal-push'), [join(server.dataDirectory, path), segment], env);
  };
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

interface S3Scene {
  readonly segment: string;
  readonly endpoint: S3Endpoint;
}

/** Each push goes under a prefix of its own, so that nothing has to be deleted in between. */
function overS3(folder: string, server: PostgresServer, { segment, endpoint }: S3Scene) {
  const identity = join(folder, 'identity');
  call(launcher('wal-t'), ['keygen', '-o', identity]);
  const recipient = /age1\w+/.exec(readFileSync(identity, 'utf8'))?.[0] ?? missing('a recipient');
  const run = Date.now().toString(36);
  let count = 0;
  const settings = (name: string, more: Readonly<Record<string, string>>): string => {
    const path = join(folder, `${name}.env`);
    count += 1;
    const lines = {
      WALT_REPO: `s3://${endpoint.bucket}/bench-${run}-${count}`,
      AWS_ENDPOINT_URL_S3: endpoint.endpoint,
      AWS_REGION: endpoint.region,
      AWS_ACCESS_KEY_ID: endpoint.accessKeyId,
      AWS_SECRET_ACCESS_KEY: endpoint.secretAccessKey,
      ...more,
    };
    writeFileSync(
      path,
      Object.entries(lines)
        .map(([key, value]) => `${key}=${value}\n`)
        .join(''),
    );
    return path;
  };
  const fresh = (name: string, more: Readonly<Record<string, string>> = {}): { WALT_CONFIG: string } => {
    const env = { WALT_CONFIG: settings(name, more) };
    call(launcher('wal-t'), ['init'], env);
    enter(server, env);
    return env;
  };
  const path = join(server.dataDirectory, 'pg_wal', segment);
  const encrypted = { WALT_AGE_RECIPIENTS: recipient, WALT_AGE_IDENTITY_FILE: identity };
  const store = (env: Readonly<Record<string, string>>) => {
    enter(server, env);
    call(launcher('wal-push'), [path], env);
  };
  const contenders: Contender[] = [];
  for (const [title, more] of [
    ['S3', {}],
    ['S3, age', encrypted],
  ] as const) {
    const name = title.replace(', ', '-');
    const env = { WALT_CONFIG: join(folder, `${name}.env`) };
    contenders.push(
      { name: `wal-push (${title})`, command: [launcher('wal-push'), path], env, before: () => void fresh(name, more) },
      {
        name: `wal-fetch (${title})`,
        command: [launcher('wal-fetch'), segment, join(folder, 'fetched')],
        env,
        before: () => store(env),
      },
    );
  }
  return { contenders: [...contenders, ...barman(path, endpoint, run)], fresh, path };
}

function barman(path: string, { endpoint, bucket, ...s3 }: S3Endpoint, run: string): Contender[] {
  if (spawnSync('barman-cloud-wal-archive', ['--version']).status !== 0) return [];
  const env = {
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    AWS_DEFAULT_REGION: s3.region,
  };
  const words = ['--endpoint-url', endpoint, `s3://${bucket}/barman-${run}`, 'bench', path];
  return [
    { name: 'barman-cloud-wal-archive', command: ['barman-cloud-wal-archive', ...words], env },
    { name: 'barman-cloud-wal-archive -z', command: ['barman-cloud-wal-archive', '-z', ...words], env },
  ];
}

/** One push through a proxy that counts. */
async function countRequests({ fresh, path }: ReturnType<typeof overS3>, proxy: FaultProxy): Promise<string> {
  const env = fresh('counted');
  const settings = readFileSync(env.WALT_CONFIG, 'utf8'); // the proxy runs in this process: it cannot answer what is waited for in step
  writeFileSync(
    env.WALT_CONFIG,
    settings.replace(/^AWS_ENDPOINT_URL_S3=.*$/m, `AWS_ENDPOINT_URL_S3=${proxy.s3.endpoint}`),
  );
  proxy.forget();
  const { code, stderr } = await walT('wal-push', [path], { env });
  if (code !== 0) throw new Error(stderr);
  const asked = proxy.log.map(({ method, key }) => `${method} …/${key?.split('/').at(-1)}`);
  return `requests of one wal-push: ${asked.length} (${asked.join(', ')})`;
}

/** The cluster's entry is made by its first push: another segment's, not the measured one's. It has changed its repository, and that is meant. */
function enter(server: PostgresServer, env: Readonly<Record<string, string>>): void {
  rmSync(join(server.dataDirectory, 'pg_wal/.wal-t'), { recursive: true, force: true });
  call(launcher('wal-push'), [join(server.dataDirectory, 'pg_wal', firstSegment(server))], env);
}

function firstSegment(server: PostgresServer): string {
  return finishedSegments(server)[0] ?? missing('a segment');
}

function missing(what: string): never {
  throw new Error(`there is no ${what}`);
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
  const made = preparePgBackRest({ folder, server });
  if (made === undefined) return [];
  const push = [...made.command, 'archive-push', join(server.dataDirectory, 'pg_wal', segment)];
  return [
    { name: 'pgbackrest archive-push (zst 3)', command: push, before: made.forgetWal },
    {
      name: 'pgbackrest archive-get',
      command: [...made.command, 'archive-get', segment, join(folder, 'got')],
      before: () => {
        made.forgetWal();
        const [command = '', ...words] = push;
        call(command, words);
      },
    },
  ];
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
  const peak = Math.max(
    ...results.filter(({ name }) => name.includes('(S3')).map(({ median: { peakMiB } }) => peakMiB),
  );
  lines.push(
    `S3: peak ${peak.toFixed(0)} MiB (at most ${limits.peakS3MiB}): ${peak <= limits.peakS3MiB ? 'reached' : 'NOT reached'}`,
  );
  return lines.join('\n');
}
