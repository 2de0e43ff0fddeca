/** A bucket behind whatever a network and a store can do: many pushes, requests counted, bad settings named, a large segment in bounded memory. */
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { measure } from '../../scripts/bench/measure.ts';
import { openWalFile } from '../../src/archive/wal-archive.ts';
import { collect } from '../../src/bytes.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { init } from '../../src/commands/init.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { ConflictError, WalTError } from '../../src/errors.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { keysOf } from '../storage/conformance.ts';
import { giveAway } from '../support/account.ts';
import { makeContext, type TestContext } from '../support/context.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { temporaryFolder } from '../support/folders.ts';
import {
  delayAnswer,
  loseAnswer,
  misstateLength,
  reset,
  resetDownload,
  resetUpload,
  shorten,
  stall,
  stallDownload,
  stallUpload,
  trickleDownload,
  truncate,
} from '../support/network-faults.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher } from '../support/run.ts';
import type { Fault } from '../support/s3-exchange.ts';
import { type S3Endpoint, S3Server } from '../support/s3-server.ts';
import { awsEnvironment, openS3Storage, setAwsEnvironment } from '../support/s3-storage.ts';
import { makeControlFile, makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';
import {
  accessDenied,
  conflict,
  denyMissing,
  errorInOk,
  falsePreconditionFailed,
  gatewayError,
  ignoreIfNoneMatch,
  internalError,
  refuseIfNoneMatch,
  skewedClock,
  slowDown,
  tooManyRequests,
} from '../support/store-faults.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

let server: S3Server;
let buckets = 0;

beforeAll(async () => {
  server = await S3Server.start();
  setAwsEnvironment(server.s3);
});

afterAll(() => server.stop());

/** The name of the n-th segment of 1 MiB, in PostgreSQL's order. */
function segmentName(index: number): string {
  const hex = (number: number) => number.toString(16).toUpperCase().padStart(8, '0');
  return `00000001${hex(Math.floor(index / 4096))}${hex(index % 4096)}`;
}

interface Cluster {
  readonly folder: string;
  readonly put: (name: string, content: Buffer) => string;
  /** A place of its own in the bucket. */
  readonly prefix: string;
}

function makeCluster(): Cluster {
  const folder = temporaryFolder();
  return { folder, put: makeDataDirectory(folder), prefix: `cluster-${buckets++}` };
}

function contextOf(
  { folder, prefix }: Cluster,
  at: S3Endpoint,
  settings: Readonly<Record<string, string>> = {},
): TestContext {
  const repository = { WALT_REPO: `s3://${at.bucket}/${prefix}`, AWS_ENDPOINT_URL_S3: at.endpoint };
  return makeContext({ ...repository, ...settings }, { workingDirectory: folder });
}

/** What is stored of a segment, opened past every proxy. */
async function fetched(storage: Storage, name: string): Promise<Buffer> {
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error(name);
  const archive = { storage, systemIdentifier: testSystemIdentifier, keys: noKeys };
  return collect((await openWalFile(archive, file)).content, 2 ** 30);
}

/** Every way in which a request can fail. */
const everything: readonly Fault[] = [
  ...[reset, resetUpload(), resetUpload(-1), resetUpload(0), resetDownload(), resetDownload(0), resetDownload(-1)],
  ...[loseAnswer, truncate(), truncate(0), shorten(), misstateLength(-3), misstateLength(7)],
  ...[stall, stallUpload(), stallDownload(), trickleDownload(100_000), delayAnswer(50)],
  ...[slowDown(), slowDown(1), internalError, tooManyRequests, gatewayError, conflict, errorInOk()],
  falsePreconditionFailed,
];

describe('many pushes through a store that fails one request in five', () => {
  it.each([
    ['honoured', []],
    ['ignored', [ignoreIfNoneMatch]],
  ] as const)(
    'store what they acknowledge, and call nothing a conflict that is none: conditional writes %s',
    async (what, ways) => {
      const count = process.env.TORTURE === '1' ? (what === 'ignored' ? 100 : 1000) : what === 'ignored' ? 40 : 100;
      const cluster = makeCluster();
      const proxy = await FaultProxy.start(server.s3, { seed: 20_261_120 });
      onTestFinished(() => proxy.stop());
      const context = contextOf(cluster, proxy.s3, { WALT_IDLE_TIMEOUT: '300ms', WALT_CONNECTIONS: '64' });
      for (const way of ways) proxy.inject(way);
      await init(context, { adopt: false });
      proxy.inject(everything, { rate: 0.2 });

      const names = Array.from({ length: count }, (_, index) => segmentName(index + 1));
      const sums = new Map<string, string>();
      const failures: unknown[] = [];
      const acknowledged: string[] = [];
      const queue = names.values();
      const archiver = async () => {
        for (const name of queue) {
          // some pages of WAL and zeros, as archive_timeout leaves them: a thousand full ones would only measure zstd
          const content = makeSegment(name, { fill: 'zeros' });
          content.set(makeSegment(name, { sizeBytes: 8192 }).subarray(40), 40);
          sums.set(name, createHash('sha256').update(content).digest('hex'));
          const path = cluster.put(name, content);
          for (let attempt = 0; attempt < 10; attempt += 1) {
            const failure = await walPush(context, { path, name }).then(
              () => undefined,
              (error: unknown) => error ?? 'failed',
            );
            if (failure === undefined) {
              acknowledged.push(name);
              break;
            }
            failures.push(failure);
          }
        }
      };
      await Promise.all(Array.from({ length: 16 }, archiver));

      const hit = proxy.log.filter(({ faults }) => faults.some((name) => name !== 'If-None-Match ignored')).length;
      expect(hit / proxy.log.length).toBeGreaterThan(0.1);
      expect(
        failures.filter(
          (error) => error instanceof ConflictError || !(error instanceof WalTError) || error.exitCode !== 4,
        ),
      ).toEqual([]);
      expect(acknowledged.length).toBe(count);
      const unread = acknowledged.values();
      const reader = async () => {
        for (const name of unread) {
          const sum = createHash('sha256').update(await fetched(storage, name));
          expect({ name, sum: sum.digest('hex') }).toEqual({ name, sum: sums.get(name) });
        }
      };
      const storage = await openS3Storage(server.s3, { prefix: cluster.prefix });
      await Promise.all(Array.from({ length: 8 }, reader));
      const stored = await keysOf(storage, `${testSystemIdentifier}/wal/`);
      expect(stored.map((key) => key.split('/').at(-1))).toEqual(names);
    },
    240_000,
  );
});

describe('requests', () => {
  it.each([
    ['honoured', [], ['GetObject cluster.json', 'PutObject segment']],
    [
      'ignored',
      [ignoreIfNoneMatch],
      ['GetObject cluster.json', 'GetObject segment', 'GetObject segment', 'PutObject segment'],
    ],
    [
      'refused',
      [refuseIfNoneMatch],
      ['GetObject cluster.json', 'GetObject segment', 'GetObject segment', 'PutObject segment'],
    ],
  ] as const)('of a push are few where conditional writes are %s, and a conflict is one', async (_, ways, expected) => {
    const cluster = makeCluster();
    const proxy = await FaultProxy.start(server.s3);
    onTestFinished(() => proxy.stop());
    for (const way of ways) proxy.inject(way);
    const context = contextOf(cluster, proxy.s3);
    await init(context, { adopt: false });
    const push = (name: string, seed = '') =>
      walPush(context, { path: cluster.put(name, makeSegment(name, { seed })), name });
    await push(segmentName(1));
    for (const index of [2, 3, 4]) {
      proxy.forget();
      await push(segmentName(index));
      const sent = proxy.log.map(({ kind, key }) => `${kind} ${key.endsWith('.json') ? 'cluster.json' : 'segment'}`);
      expect(sent.sort()).toEqual(expected);
    }
    await push(segmentName(2));
    await expect(push(segmentName(2), 'other')).rejects.toMatchObject({
      exitCode: 5,
      message: expect.stringContaining('with other content'),
    });
    const storage = await openS3Storage(server.s3, { prefix: cluster.prefix });
    expect((await fetched(storage, segmentName(2))).equals(makeSegment(segmentName(2)))).toBe(true);
  });
});

describe('settings and stores that are no good', () => {
  interface Row {
    readonly what: string;
    readonly faults?: readonly Fault[];
    readonly settings?: (
      at: S3Endpoint,
    ) => Promise<Readonly<Record<string, string>>> | Readonly<Record<string, string>>;
    readonly command?: readonly [name: string, words: readonly string[]];
    readonly code: number;
    readonly says: RegExp;
    readonly hint: RegExp;
  }
  const dead = async (): Promise<string> => {
    const listener = createTcpServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => listener.once('listening', resolve));
    const { port } = listener.address() as AddressInfo;
    await new Promise((resolve) => listener.close(resolve));
    return `http://127.0.0.1:${port}`;
  };
  const short = { WALT_IDLE_TIMEOUT: '300ms', WALT_REQUEST_TIMEOUT: '400ms', WALT_WAL_PUSH_TIMEOUT: '1500ms' };
  const fetch = ['wal-fetch', [segmentName(1), 'pg_wal/RECOVERYXLOG']] as const;
  const rows: Row[] = [
    {
      what: 'a missing bucket',
      settings: () => ({ WALT_REPO: 's3://missing/prefix' }),
      code: 3,
      says: /error: the bucket "missing" does not exist/,
      hint: /Make the bucket/,
    },
    {
      what: 'no bucket',
      settings: () => ({ WALT_REPO: 's3:///prefix' }),
      code: 3,
      says: /error: WALT_REPO is not an S3 URL/,
      hint: /s3:\/\/bucket\/prefix/,
    },
    {
      what: 'a bucket whose name is too short',
      settings: () => ({ WALT_REPO: 's3://b/prefix' }),
      code: 3,
      says: /error: WALT_REPO is not an S3 URL/,
      hint: /at least two characters/,
    },
    {
      what: 'a wrong access key',
      settings: () => ({ AWS_ACCESS_KEY_ID: 'WRONG' }),
      code: 4,
      says: /error: could not get .* the access key is not known/,
      hint: /AWS_ACCESS_KEY_ID/,
    },
    {
      what: 'a wrong secret',
      settings: () => ({ AWS_SECRET_ACCESS_KEY: 'wrong' }),
      code: 4,
      says: /error: could not get .* the secret key is wrong/,
      hint: /AWS_SECRET_ACCESS_KEY/,
    },
    {
      what: 'H35: no permission to list',
      faults: [denyMissing],
      settings: ({ bucket }) => ({ WALT_REPO: `s3://${bucket}/another` }),
      command: ['wal-t', ['init']],
      code: 4,
      says: /error: could not get .* access denied/,
      hint: /s3:ListBucket/,
    },
    {
      what: 'H35: no permission to list, fetching',
      faults: [denyMissing],
      command: ['wal-fetch', [segmentName(9), 'pg_wal/RECOVERYXLOG']],
      code: 200,
      says: /error: could not get .* access denied/,
      hint: /s3:ListBucket/,
    },
    {
      what: 'no permission at all',
      faults: [accessDenied],
      code: 4,
      says: /error: could not get .* access denied/,
      hint: /s3:GetObject/,
    },
    {
      what: 'a wrong clock',
      faults: [skewedClock(7_200_000)],
      code: 4,
      says: /error: could not get .* the clocks differ/,
      hint: /chronyc/,
    },
    {
      what: 'a dead endpoint',
      settings: async () => ({ AWS_ENDPOINT_URL_S3: await dead(), ...short }),
      code: 4,
      says: /error: .*(?:connection refused|was not archived within 1.5 s)/,
      hint: /reachable|too slow or hangs/,
    },
    {
      what: 'a dead endpoint, fetching',
      settings: async () => ({ AWS_ENDPOINT_URL_S3: await dead(), ...short }),
      command: fetch,
      code: 200,
      says: /error: .*connection refused/,
      hint: /reachable/,
    },
    {
      what: 'a hanging endpoint',
      faults: [stall],
      settings: () => short,
      code: 4,
      says: /error: .*(?:no answer|was not archived within 1.5 s)/,
      hint: /hangs|reachable/,
    },
    {
      what: 'a slow endpoint',
      faults: [delayAnswer(5000)],
      settings: () => short,
      code: 4,
      says: /error: .*(?:no answer|was not archived within 1.5 s)/,
      hint: /hangs|reachable/,
    },
    {
      what: 'an endpoint that is a web page',
      faults: [gatewayError],
      settings: () => short,
      code: 4,
      says: /error: /,
      hint: /storage/,
    },
    {
      what: 'a missing CA file',
      settings: () => ({ WALT_S3_CA_FILE: '/absent.pem' }),
      code: 3,
      says: /error: could not read WALT_S3_CA_FILE "\/absent.pem"/,
      hint: /^/,
    },
    {
      what: 'a proxy that is none',
      settings: () => ({ WALT_S3_PROXY: 'socks' }),
      code: 3,
      says: /error: WALT_S3_PROXY cannot be "socks"/,
      hint: /http:\/\/proxy/,
    },
  ];

  it.each(rows)('names $what, and stores nothing', async ({ faults = [], settings, command, code, says, hint }) => {
    const cluster = makeCluster();
    await init(contextOf(cluster, server.s3), { adopt: false });
    await walPush(contextOf(cluster, server.s3), {
      path: cluster.put(segmentName(1), makeSegment(segmentName(1))),
      name: segmentName(1),
    });
    const storage = await openS3Storage(server.s3, { prefix: cluster.prefix });
    const before = await keysOf(storage, '');
    const proxy = await FaultProxy.start(server.s3);
    onTestFinished(() => proxy.stop());
    for (const one of faults) proxy.inject(one);
    const { endpoint, bucket } = proxy.s3;
    const repository = new TestRepository();
    repository.configure({
      ...awsEnvironment(server.s3),
      WALT_REPO: `s3://${bucket}/${cluster.prefix}`,
      AWS_ENDPOINT_URL_S3: endpoint,
      WALT_WAL_FETCH_TIMEOUT: '500ms',
      ...(await settings?.(proxy.s3)),
    });
    chmodSync(repository.folder, 0o755);
    const [name, words] = command ?? [
      'wal-push',
      [cluster.put(segmentName(2), makeSegment(segmentName(2))), segmentName(2)],
    ];
    const started = performance.now();
    const ended = await repository.run(name, words, { cwd: cluster.folder });
    expect({ stderr: ended.stderr, code: ended.code }).toEqual({ stderr: expect.stringMatching(says), code });
    expect(/hint: (.*)/.exec(ended.stderr)?.[1] ?? '').toMatch(hint);
    expect(ended.stderr.split('\n').every((line) => line === '' || /^wal-\w+: \w+: /.test(line))).toBe(true);
    expect(ended.stderr).not.toContain(server.s3.secretAccessKey);
    expect(performance.now() - started).toBeLessThan(60_000);
    expect(await keysOf(storage, '')).toEqual(before);
  });

  it('fails at once without keys at an endpoint that is not AWS, and asks no metadata service', async () => {
    const asked: string[] = [];
    const metadata = createServer((request, response) => {
      asked.push(request.url ?? '');
      response.writeHead(404).end();
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void metadata.close());
    await new Promise((resolve) => metadata.once('listening', resolve));
    const { port } = metadata.address() as AddressInfo;
    const repository = new TestRepository();
    repository.configure({ WALT_REPO: 's3://bucket/prefix', AWS_ENDPOINT_URL_S3: server.s3.endpoint });
    const started = performance.now();
    const env = { HOME: repository.folder, AWS_EC2_METADATA_SERVICE_ENDPOINT: `http://127.0.0.1:${port}` };
    const { code, stderr } = await repository.run('wal-t', ['init'], { env });
    expect(stderr).toMatch(/^wal-t: error: no S3 credentials were found\n/);
    expect(stderr).toMatch(/hint: Set AWS_ACCESS_KEY_ID/);
    expect(code).toBe(3);
    expect(asked).toEqual([]);
    expect(performance.now() - started).toBeLessThan(60_000);
  });

  it('finds keys, region and profile where AWS keeps them, and in the settings file', async () => {
    const { accessKeyId, secretAccessKey } = server.s3;
    const folder = temporaryFolder();
    const home = join(folder, 'home');
    mkdirSync(join(home, '.aws'), { recursive: true });
    const file = (path: string, text: string) => {
      writeFileSync(path, text);
      giveAway(path);
      return path;
    };
    const keys = (section: string) =>
      `[${section}]\naws_access_key_id=${accessKeyId}\naws_secret_access_key=${secretAccessKey}\n`;
    const wrong = '[default]\naws_access_key_id=WRONG\naws_secret_access_key=wrong\n';
    const credentials = file(join(folder, 'credentials'), `${wrong}${keys('archive')}`);
    file(join(home, '.aws/credentials'), `${wrong}${keys('archive')}`);
    const rows: [what: string, settings: Record<string, string>, env: Record<string, string>][] = [
      ['settings', { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey }, {}],
      ['environment', {}, { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey }],
      ['profile in the settings', { AWS_PROFILE: 'archive', AWS_SHARED_CREDENTIALS_FILE: credentials }, {}],
      ['profile at home', { AWS_PROFILE: 'archive' }, { HOME: home }],
      ['the environment wins', { AWS_PROFILE: 'default' }, { HOME: home, AWS_PROFILE: 'archive' }],
    ];
    for (const [what, settings, env] of rows) {
      const repository = new TestRepository({ folder: temporaryFolder() });
      repository.configure({
        WALT_REPO: `s3://${server.s3.bucket}/chain-${buckets++}`,
        AWS_ENDPOINT_URL_S3: server.s3.endpoint,
        ...settings,
      });
      const { code, stderr } = await repository.run('wal-t', ['init'], { env: { HOME: folder, ...env } });
      expect({ what, code, stderr }).toEqual({ what, code: 0, stderr: '' });
    }
  });
});

describe.runIf(process.env.TORTURE === '1')('a segment of 1 GB', () => {
  it('is pushed and fetched in bounded memory', async () => {
    const name = '000000010000000000000001';
    const sizeBytes = 2 ** 30;
    const { folder, put, prefix } = makeCluster();
    const content = makeSegment(name, { sizeBytes, fill: 'random' });
    const path = put(name, content);
    writeFileSync(join(folder, 'global/pg_control'), makeControlFile(testSystemIdentifier, sizeBytes));
    const repository = new TestRepository();
    let round = 0;
    /** Each round pushes into a place of its own: the first is not counted. */
    const before = () => {
      rmSync(join(folder, 'pg_wal/.wal-t'), { recursive: true, force: true });
      repository.configure({
        ...awsEnvironment(server.s3),
        WALT_REPO: `s3://${server.s3.bucket}/${prefix}-${round++}`,
        WALT_INIT: 'auto',
        AWS_ENDPOINT_URL_S3: server.s3.endpoint,
      });
    };
    const run = (command: string, words: readonly string[], prepare: () => void) => {
      const contender = { name: command, command: [launcher(command), ...words], cwd: folder, before: prepare };
      return measure([{ ...contender, env: { WALT_CONFIG: repository.config } }], 1)[0]?.max;
    };
    const pushed = run('wal-push', [path, name], before);
    const got = run('wal-fetch', [name, 'pg_wal/RECOVERYXLOG'], () => undefined);
    process.stderr.write(`1 GB: push ${JSON.stringify(pushed)}, fetch ${JSON.stringify(got)}\n`);
    expect(readFileSync(join(folder, 'pg_wal/RECOVERYXLOG')).equals(content)).toBe(true);
    expect(pushed?.peakMiB).toBeLessThan(350);
    expect(got?.peakMiB).toBeLessThan(350);
  }, 600_000);
});
