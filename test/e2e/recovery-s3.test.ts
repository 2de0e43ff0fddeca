/** What PostgreSQL does while an S3 server fails, all of it encrypted: nothing opens early, no standby stops, and mended, nothing is missing. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, type TestContext } from 'vitest';
import { keygen } from '../../src/commands/keygen.ts';
import { giveAway } from '../support/account.ts';
import { expectCounted } from '../support/failing-archiver.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { delayAnswer, reset, resetDownload, stall, stallDownload, truncate } from '../support/network-faults.ts';
import { PostgresServer } from '../support/postgres.ts';
import {
  type ArchivedCluster,
  allRows,
  archiveRow,
  archiveTwoTimelines,
  GatedRecovery,
  insertRow,
  type RecoveryOptions,
  rowsOf,
} from '../support/recovery.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { sendS3 } from '../support/s3-client.ts';
import { S3Server } from '../support/s3-server.ts';
import { accessDenied, gatewayError, internalError, slowDown } from '../support/store-faults.ts';
import { waitFor } from '../support/wait.ts';

type Settings = Readonly<Record<string, string>>;

const torture = process.env.TORTURE === '1';

/** Seconds that the store is out of order before it is well again by itself. */
const outageSeconds = torture ? 60 : 3;

/** How much longer than they may last attempts are let last on a host that is busy; each must end before all requests were repeated as often as they may be. */
const busyMs = 8000;

const impatient = {
  WALT_CONNECT_TIMEOUT: '1s',
  WALT_IDLE_TIMEOUT: '1s',
  WALT_REQUEST_TIMEOUT: '3s',
  WALT_WAL_FETCH_TIMEOUT: '2s',
  WALT_WAL_FETCH_STANDBY_TIMEOUT: '1s',
};
const patient = { ...impatient, WALT_WAL_FETCH_TIMEOUT: '5min', WALT_WAL_FETCH_STANDBY_TIMEOUT: '5min' };

let s3: S3Server;
let folder: string;
/** For the host that archives. */
let recipients: Settings;
/** For the host that recovers. */
let identity: Settings;
let otherIdentity: Settings;

beforeAll(async () => {
  s3 = await S3Server.start();
  folder = makeFolder('keys');
  const [own, other] = [await makeIdentity('own'), await makeIdentity('other')];
  recipients = { WALT_AGE_RECIPIENTS: own.publicKey };
  identity = { WALT_AGE_IDENTITY_FILE: own.path };
  otherIdentity = { WALT_AGE_IDENTITY_FILE: other.path };
});

afterAll(async () => {
  await s3.stop();
  removeFolder(folder);
});

async function makeIdentity(name: string) {
  const path = join(folder, name);
  const { publicKey = '', text } = await keygen({ auth: false, output: undefined });
  writeFileSync(path, text, { mode: 0o600 });
  giveAway(path);
  return { path, publicKey };
}

/** Where a fault strikes. */
interface Place {
  readonly proxy: FaultProxy;
  readonly segment: string;
  readonly configure: (settings: Settings) => void;
}

interface Fault {
  readonly what: string;
  /** How the error is put, `%s` being the segment. */
  readonly reason: string;
  readonly begin: (place: Place) => Promise<void> | void;
  readonly mend: (place: Place) => Promise<void> | void;
  /** How long one attempt may take, launcher and all. */
  readonly withinMs?: { readonly 'recovery.signal': number; readonly 'standby.signal': number };
  /** Under TORTURE alone: how an error is told is no matter of PostgreSQL's, and storage/s3-errors and e2e/s3 have each. */
  readonly seldom?: boolean;
}

const heal = ({ proxy }: Place) => proxy.heal();
const get = 'could not get ".*/%s" in s3://.*';
const waits = { 'recovery.signal': 3000, 'standby.signal': 2000 };

const faults: Fault[] = [
  {
    what: 'down',
    seldom: true,
    reason: `${get}: connection refused`,
    begin: ({ proxy }) => proxy.down(),
    mend: ({ proxy }) => proxy.up(),
    withinMs: waits,
  },
  {
    what: 'hanging',
    reason: `${get}: no answer for 1 s`,
    begin: ({ proxy }) => void proxy.inject(stall),
    mend: heal,
    withinMs: waits,
  },
  {
    what: 'hanging in the middle of its answers',
    seldom: true,
    reason: `${get}: no answer for 1 s`,
    begin: ({ proxy, segment }) => void proxy.inject(stallDownload(0), { key: new RegExp(segment) }),
    mend: heal,
    withinMs: waits,
  },
  {
    what: 'denied',
    reason: `${get}: access denied`,
    begin: ({ proxy }) => void proxy.inject(accessDenied),
    mend: heal,
  },
  {
    what: 'asked with a wrong secret key',
    seldom: true,
    reason: `${get}: the secret key is wrong`,
    begin: ({ configure }) => configure({ AWS_SECRET_ACCESS_KEY: 'wrong' }),
    mend: ({ configure }) => configure({}),
  },
  {
    what: 'asked with a wrong access key',
    seldom: true,
    reason: `${get}: the access key is not known`,
    begin: ({ configure }) => configure({ AWS_ACCESS_KEY_ID: 'WRONG' }),
    mend: ({ configure }) => configure({}),
  },
  {
    what: 'resetting',
    seldom: true,
    reason: `${get}: connection reset by peer`,
    begin: ({ proxy }) => void proxy.inject(reset),
    mend: heal,
    withinMs: waits,
  },
  {
    what: 'overloaded, asking for half a minute',
    seldom: true,
    reason: `${get}: SlowDown 503`,
    begin: ({ proxy }) => void proxy.inject(slowDown(30)),
    mend: heal,
    withinMs: waits,
  },
  {
    what: 'read with an identity that does not fit',
    seldom: true,
    reason: '".*/%s" in s3://.* cannot be opened: no identity fits: .*',
    begin: ({ configure }) => configure(otherIdentity),
    mend: ({ configure }) => configure({}),
  },
];

interface Trouble {
  readonly what: string;
  readonly begin: (proxy: FaultProxy) => unknown;
  /** Under TORTURE alone. */
  readonly seldom?: boolean;
}

const troubles: Trouble[] = [
  { what: 'slow', seldom: true, begin: (proxy) => proxy.inject(delayAnswer(300)) },
  {
    what: 'failing half of the time',
    seldom: true,
    begin: (proxy) => proxy.inject([reset, resetDownload(), truncate(), internalError, gatewayError], { rate: 0.5 }),
  },
  {
    what: `out of order for ${outageSeconds} s`,
    begin: (proxy) => proxy.inject(slowDown(), { forMs: outageSeconds * 1000 }),
  },
];

describe.each(torture ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  let archived: ArchivedCluster;
  const prefix = `recovery/${major}`;

  beforeAll(async () => {
    const settings = { ...s3Settings(s3.s3, prefix), ...recipients };
    archived = await archiveTwoTimelines(major, { settings, recovering: { ...settings, ...identity } });
  });
  afterAll(() => archived.remove());

  /** A recovery that has replayed row 1, through a proxy of its own. */
  async function reach(
    { onTestFinished }: TestContext,
    { settings, signal }: Pick<RecoveryOptions, 'settings' | 'signal'>,
  ) {
    const proxy = await FaultProxy.start(s3.s3);
    onTestFinished(() => proxy.stop());
    const sound = { ...s3Settings(proxy.s3, prefix), ...settings, ...identity };
    const segment = archived.segments[2] ?? '';
    const recovery = new GatedRecovery(archived, { signal, before: segment, settings: sound });
    onTestFinished(() => recovery.remove());
    await recovery.reach();
    const configure = (changed: Settings) => recovery.repository.configure({ ...sound, ...changed });
    return { recovery, server: recovery.server, segment, proxy, configure };
  }

  /** The same, with limits so short that only a storage that is out of order is to meet them: before and after, they are as long as ever. */
  async function reachImpatient(context: TestContext, { signal }: Pick<RecoveryOptions, 'signal'>) {
    const { configure, ...reached } = await reach(context, { signal });
    const place = { ...reached, configure: (changed: Settings) => configure({ ...impatient, ...changed }) };
    return { ...place, hurry: () => place.configure({}), calm: () => configure({}) };
  }

  it('has only encrypted WAL in its archive', async () => {
    const { body } = await sendS3(s3.s3, 'GET', { query: { 'list-type': '2', prefix } });
    const keys = [...`${body}`.matchAll(/<Key>(.*?)<\/Key>/g)].map(([, key = '']) => key);
    const files = keys.filter((key) => !key.endsWith('.json'));
    expect(files.filter((key) => /\/00000002\.history$|\.partial$/.test(key))).toHaveLength(2);
    for (const key of files) {
      const object = await sendS3(s3.s3, 'GET', { key });
      expect(object.body.subarray(0, 22).toString()).toBe('age-encryption.org/v1\n');
    }
  });

  const failing = faults.filter(({ seldom }) => torture || seldom !== true);
  describe.concurrent.each(failing)('over a storage that is $what', ({ what, reason, begin, mend, withinMs }) => {
    /** How long wal-fetch took from the fault to its complaint. */
    const expectInTime = (signal: RecoveryOptions['signal'], startedMs: number) => {
      const tookMs = performance.now() - startedMs;
      if (torture) process.stderr.write(`${major}, ${what}, ${signal}: ${Math.round(tookMs)} ms\n`);
      expect(tookMs).toBeLessThan((withinMs?.[signal] ?? Number.POSITIVE_INFINITY) + busyMs);
    };

    it('stops an archive recovery instead of opening, and resumes it', async (context) => {
      const signal = 'recovery.signal';
      const { hurry, calm, ...place } = await reachImpatient(context, { signal });
      const { recovery, server, segment } = place;
      hurry();
      await begin(place);
      const startedMs = performance.now();
      recovery.letOn();
      await waitFor('the server to stop', () => !server.isRunning);
      expectInTime(signal, startedMs);
      expect(server.log).toMatch(line(`wal-fetch: error: ${reason}`, segment));
      const fatal = '.* FATAL: +could not restore file "%s" from archive: child process exited with exit code 200';
      expect(server.log).toMatch(line(fatal, segment));
      expect(server.log).not.toContain('selected new timeline');
      await mend(place);
      calm();
      server.launch();
      await nearTheEnd(server);
      await server.waitUntilOpen();
      expect(await rowsOf(server)).toBe(allRows);
    });

    it('does not stop a standby, which goes on by itself', async (context) => {
      const signal = 'standby.signal';
      const { hurry, calm, ...place } = await reachImpatient(context, { signal });
      const { recovery, server, segment } = place;
      hurry();
      await begin(place);
      const complaint = line(`wal-fetch: error: ${reason}`, segment);
      const complaints = () => server.log.match(complaint)?.length ?? 0;
      const startedMs = performance.now();
      recovery.letOn();
      await waitFor('wal-fetch to complain', () => complaints() > 0 || !server.isRunning);
      expectInTime(signal, startedMs);
      await waitFor('the standby to try again', () => complaints() > 1 || !server.isRunning);
      expect(await rowsOf(server)).not.toBe(allRows);
      await mend(place);
      calm();
      await nearTheEnd(server);
      await waitFor('the standby to catch up', async () => (await rowsOf(server)) === allRows);
      expect(await server.value('select pg_is_in_recovery()')).toBe('true');
    });
  });

  describe.concurrent.each(['recovery.signal', 'standby.signal'] as const)('with %s', (signal) => {
    it.for(troubles.filter(({ seldom }) => torture || seldom !== true))(
      'reaches the last row over a storage that is $what, without complaint',
      async ({ begin }, context) => {
        const { recovery, server, proxy } = await reach(context, { signal, settings: patient });
        begin(proxy);
        recovery.letOn();
        const rows = () => rowsOf(server).catch(() => 'none yet');
        await nearTheEnd(server, 60_000 + outageSeconds * 1000);
        await waitFor('all rows', async () => !server.isRunning || (await rows()) === allRows);
        expect(await rows()).toBe(allRows);
        expect(server.log).not.toContain('wal-fetch: error');
      },
    );
  });
});

describe('archive_command over S3', () => {
  const prefix = 'archiving';
  const home = makeFolder('archiving-s3');
  let proxy: FaultProxy;
  let repository: TestRepository;
  let server: PostgresServer;
  let n = 0;
  const configure = (changed: Settings = {}) => {
    const settings = { ...s3Settings(proxy.s3, prefix), ...recipients, ...impatient, WALT_WAL_PUSH_TIMEOUT: '2s' };
    repository.configure({ ...settings, ...changed });
  };

  beforeAll(async () => {
    proxy = await FaultProxy.start(s3.s3);
    repository = new TestRepository({ folder: home });
    configure();
    await repository.init();
    server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
    await server.start();
    await server.query('create table t (n int)');
  });
  afterAll(async () => {
    await server.remove();
    await proxy.stop();
    removeFolder(home);
  });

  interface Failure {
    readonly what: string;
    readonly reason: RegExp;
    readonly begin: () => unknown;
    readonly mend: () => unknown;
    readonly seldom?: boolean;
  }
  const failing: Failure[] = [
    {
      what: 'down',
      reason: /was not archived within 2 s\n.*wal-push: detail: could not \w+ ".*" in s3:.*: connection refused$/m,
      begin: () => proxy.down(),
      mend: () => proxy.up(),
    },
    {
      what: 'hanging',
      seldom: true,
      reason: /was not archived within 2 s\n.*wal-push: detail: could not \w+ ".*" in s3:.*: no answer for 1 s$/m,
      begin: () => proxy.inject(stall),
      mend: () => proxy.heal(),
    },
    {
      what: 'denied',
      seldom: true,
      reason: /wal-push: error: could not \w+ ".*" in s3:.*: access denied$/m,
      begin: () => proxy.inject(accessDenied),
      mend: () => proxy.heal(),
    },
    {
      what: 'denied for writing alone',
      reason: /wal-push: error: could not put ".*" in s3:.*: access denied\n.*hint: Grant s3:PutObject /m,
      begin: () => proxy.inject(accessDenied, { method: 'PUT' }),
      mend: () => proxy.heal(),
    },
    {
      what: 'asked with a wrong secret key',
      reason: /wal-push: error: could not \w+ ".*" in s3:.*: the secret key is wrong$/m,
      begin: () => configure({ AWS_SECRET_ACCESS_KEY: 'wrong' }),
      mend: () => configure(),
    },
  ];
  const rows = failing.filter(({ seldom }) => torture || seldom !== true);
  it.each(rows)(
    'counts it when the storage is $what, and goes on when that is mended',
    async ({ reason, begin, mend }) => {
      const segment = await expectCounted(server, { reason, row: ++n, begin, mend });
      expect(proxy.log.some(({ method, key, told }) => method === 'PUT' && key.endsWith(segment) && told === 200)).toBe(
        true,
      );
    },
  );
});

describe('a promotion over S3', () => {
  it('leaves its history and its .partial, encrypted, and a recovery follows it', async () => {
    const home = makeFolder('promotion-s3');
    onTestFinished(() => removeFolder(home));
    const settings = { ...s3Settings(s3.s3, 'promotion'), ...recipients };
    const repository = await new TestRepository({ folder: home, settings }).init();
    const keep = (server: PostgresServer) => {
      onTestFinished(() => server.remove());
      return server;
    };
    const kept = { wal_keep_size: '64MB' }; // the standby has nowhere else to read it
    const primary = keep(PostgresServer.create({ major: 17, settings: { ...repository.serverSettings, ...kept } }));
    await primary.start();
    await primary.query('create table t (n int)');
    await primary.stop();
    const [base, standby] = [keep(primary.copy()), keep(primary.copy())];
    // the standby may not read what it will write
    standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres`, restore_command: '' });
    standby.signal('standby.signal');
    await primary.start();
    await standby.start();
    await archiveRow(primary, 1);
    await insertRow(primary, 2);
    await waitFor('the standby to have row 2', async () => (await rowsOf(standby)) === '1 2');
    await primary.stop('SIGQUIT');
    await standby.query('select pg_promote(false)');
    await standby.waitUntilOpen();
    await archiveRow(standby, 3);
    await standby.waitUntilAllArchived();
    expect(await standby.value('select failed_count from pg_stat_archiver')).toBe('0');

    const { body } = await sendS3(s3.s3, 'GET', { query: { 'list-type': '2', prefix: 'promotion/' } });
    expect(`${body}`).toMatch(/wal\/history\/00000002\.history</);
    const [, partial = ''] = /<Key>([^<]*\.partial)</.exec(`${body}`) ?? [];
    const { body: object } = await sendS3(s3.s3, 'GET', { key: partial });
    expect(object.subarray(0, 22).toString()).toBe('age-encryption.org/v1\n');

    repository.configure({ ...settings, ...identity });
    const recoverAlong = async (timeline: string) => {
      const server = keep(base.copy());
      server.configure({ archive_mode: 'off', recovery_target_timeline: timeline });
      server.signal('recovery.signal');
      await server.open();
      expect(server.log).not.toContain('wal-fetch: error');
      return rowsOf(server);
    };
    expect(await recoverAlong('latest')).toBe('1 2 3');
    expect(await recoverAlong('1')).toBe('1 2'); // row 2 is in the .partial alone
  });
});

/** Waits for WAL of the second timeline to come, without asking the server, which costs more than all else here. */
function nearTheEnd(server: PostgresServer, limitMs?: number): Promise<void> {
  const restored = /restored log file "00000002[0-9A-F]{16}" from archive/;
  return waitFor('the second timeline', () => !server.isRunning || restored.test(server.log), limitMs);
}

/** A whole line of a log. */
function line(pattern: string, segment: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('%s', segment)}$`, 'gm');
}
