/** Two servers that write one timeline, and the holes that a failover leaves: what the archive refuses, what it tells, and the ways out. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { makeRepository } from '../../src/archive/repository.ts';
import { keygen } from '../../src/commands/keygen.ts';
import { walDiff } from '../../src/commands/wal-diff.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { walPushMissing } from '../../src/commands/wal-push-missing.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { parseWalFileName, segmentStart } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { giveAway } from '../support/account.ts';
import { around } from '../support/around-storage.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const mebibyte = 1024 * 1024;
const majors = process.env.TORTURE === '1' ? [15, 17, 18] : [17];

function keep(server: PostgresServer): PostgresServer {
  onTestFinished(() => server.remove());
  return server;
}

/** The first byte in which two files differ, and its LSN. */
function firstDifference(one: Buffer, other: Buffer, name: string) {
  const offset = one.findIndex((byte, at) => byte !== other[at]);
  const file = parseWalFileName(name);
  if (file === undefined || file.kind === 'history') throw new Error(`no segment: ${name}`);
  return { offset, lsn: (segmentStart(file, one.length) ?? 0n) + BigInt(offset) };
}

const stuckOn =
  'select last_failed_wal from pg_stat_archiver where last_failed_time > coalesce(last_archived_time, $$-infinity$$)';

describe.each(majors)('PostgreSQL %s', (major) => {
  it('H13: of two servers promoted onto one timeline the second is refused; told apart, the right one goes on by itself', async () => {
    const began = new Date();
    const repository = await new TestRepository().init();
    const primary = keep(PostgresServer.create({ major, settings: repository.serverSettings }));
    await primary.start();
    await primary.query('create table t (n int)');
    await primary.stop();
    const [first, second] = [keep(primary.copy()), keep(primary.copy())];
    await primary.start();
    for (const standby of [first, second]) {
      standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres`, restore_command: '' });
      standby.signal('standby.signal');
      await standby.start();
    }
    await archiveRow(primary, 1);
    await insertRow(primary, 2);
    for (const standby of [first, second]) await waitFor('row 2', async () => (await rowsOf(standby)) === '1 2');
    await primary.stop(); // both have all of it
    for (const standby of [first, second]) {
      await standby.query('select pg_promote(false)');
      await standby.waitUntilOpen();
    }
    await first.waitUntilAllArchived();
    const name = await archiveRow(first, 20);
    expect(name.slice(0, 8)).toBe('00000002');
    await insertRow(second, 30);
    expect(await second.switchWal()).toBe(name);
    await waitFor('the second to be stuck', async () => (await second.value(stuckOn)) === name);
    expect(second.log).toContain(`wal-push: error: "${name}" is archived already, with other content`);

    const walT = (...words: string[]) => repository.run('wal-t', words, { cwd: second.dataDirectory });
    const contentOf = ({ dataDirectory }: PostgresServer) => readFileSync(join(dataDirectory, 'pg_wal', name));
    expect((await repository.run('wal-push', [`pg_wal/${name}`], { cwd: second.dataDirectory })).code).toBe(5);
    const { offset, lsn } = firstDifference(contentOf(first), contentOf(second), name);
    const told = await walT('wal-diff', name, `pg_wal/${name}`, '--json');
    expect(told.code, told.stderr).toBe(8);
    const { stored, difference } = JSON.parse(told.stdout);
    expect({ ...stored, difference }).toMatchObject({ host: hostname(), bytes: mebibyte, difference: { offset } });
    expect(difference.lsn).toBe(formatLsn(lsn));
    expect(new Date(stored.pushedAt).getTime()).toBeGreaterThan(began.getTime());
    expect(new Date(stored.pushedAt).getTime()).toBeLessThan(Date.now());
    const words = (await walT('wal-diff', name, `pg_wal/${name}`)).stdout;
    expect(words).toContain(`pushed ${stored.pushedAt} by ${hostname()}`);
    expect(words).toContain(`they differ from byte ${offset} on, LSN ${formatLsn(lsn)}\n`);
    const same = await walT('wal-diff', name, join(first.dataDirectory, 'pg_wal', name));
    expect([same.code, same.stdout.split('\n').at(-2)]).toEqual([0, 'they are the same']);

    const [path, content] = [repository.object(name), readFileSync(repository.object(name))];
    await first.stop('SIGQUIT'); // the wrong one
    const before = repository.files();
    const history = await walT('wal-set-aside', '00000002.history', '--confirm');
    expect([history.code, history.stderr]).toEqual([2, expect.stringContaining('cannot be set aside')]);
    expect(repository.files()).toEqual(before);
    expect((await walT('wal-set-aside', name, '--confirm')).code).toBe(0);
    const aside = repository.files().filter((file) => file.includes('/set-aside/'));
    expect(aside).toEqual([expect.stringMatching(new RegExp(`^\\d+/set-aside/\\d{8}T\\d{9}Z-[0-9a-f]{8}/${name}$`))]);
    expect(readFileSync(join(repository.root, aside[0] ?? '')).equals(content)).toBe(true);
    await insertRow(second, 31);
    await second.switchWal(); // its archiver would look by itself within a minute
    await second.waitUntilAllArchived();
    expect(readFileSync(path).equals(content)).toBe(false);
    expect((await walT('wal-diff', name, `pg_wal/${name}`)).code).toBe(0);
  });

  it('H1: what nobody archived at a failover is found in the new pg_wal, and fills the hole', async () => {
    const repository = await new TestRepository().init();
    const settings = { ...repository.serverSettings, wal_keep_size: '16MB' }; // else the checkpoint of the promotion removes it
    const primary = keep(PostgresServer.create({ major, settings }));
    await primary.start();
    await primary.query('create table t (n int)');
    await primary.stop();
    const [standby, cascade] = [keep(primary.copy()), keep(primary.copy())];
    await primary.start();
    const follow = async (server: PostgresServer, source: PostgresServer) => {
      server.configure({ primary_conninfo: `host=${source.folder} user=postgres`, restore_command: '' });
      server.signal('standby.signal');
      await server.start();
    };
    await follow(standby, primary);
    await follow(cascade, standby);
    await archiveRow(primary, 1);
    await primary.query(`alter system set archive_command = 'false'`);
    await primary.query('select pg_reload_conf()');
    const lost: string[] = [];
    for (const n of [2, 3]) {
      await insertRow(primary, n);
      lost.push(await primary.switchWal());
    }
    await insertRow(primary, 4);
    for (const server of [standby, cascade]) await waitFor('row 4', async () => (await rowsOf(server)) === '1 2 3 4');
    await primary.stop('SIGQUIT');
    await standby.query('select pg_promote(false)');
    await standby.waitUntilOpen();
    const parted = `00000001${(await archiveRow(standby, 20)).slice(8)}`;
    await waitFor('row 20', async () => (await rowsOf(cascade)) === '1 2 3 4 20');
    const names = () => repository.files().map((file) => file.slice(file.lastIndexOf('/') + 1));
    for (const name of lost) expect(names()).not.toContain(name);
    expect((await repository.run('wal-t', ['wal-list'])).stdout).toContain(`HOLE of 2 segments from ${lost[0]}`);

    const pushMissing = (server: PostgresServer) =>
      repository.run('wal-push', ['--missing', server.dataDirectory], { cwd: '/' });
    const looked = (server: PostgresServer) => {
      const folder = join(server.dataDirectory, 'pg_wal');
      const marks = readdirSync(join(folder, 'archive_status')).filter((mark) => mark.endsWith('.done'));
      return marks.filter((mark) => existsSync(join(folder, mark.slice(0, -5)))).length;
    };
    const before = repository.files();
    const found = await pushMissing(standby);
    expect(found.code, found.stderr).toBe(0);
    const count = looked(standby);
    expect(found.stdout.trimEnd().split('\n')).toEqual([
      `${count} finished files in pg_wal; 2 were missing in the archive and are there now`,
      ...lost.map((name) => `  ${name}`),
    ]);
    expect(
      repository
        .files()
        .filter((file) => !before.includes(file))
        .map((file) => file.slice(-24)),
    ).toEqual(lost);
    for (const name of lost) {
      const path = join(standby.dataDirectory, 'pg_wal', name);
      expect((await repository.run('wal-t', ['wal-diff', name, path])).code).toBe(0);
    }
    expect((await repository.run('wal-t', ['wal-list'])).stdout).not.toContain('HOLE');

    // the other standby calls the segment done in which the old timeline was left, and has but a part of it
    expect(existsSync(join(cascade.dataDirectory, 'pg_wal/archive_status', `${parted}.done`))).toBe(true);
    const filled = repository.files();
    for (const server of [standby, cascade]) {
      const again = await pushMissing(server);
      expect([again.code, again.stdout]).toEqual([
        0,
        `${looked(server)} finished files in pg_wal; 0 were missing in the archive and are there now\n`,
      ]);
    }
    expect(repository.files()).toEqual(filled);
  });
});

const at = (place: number, timeline = 1) =>
  `${String(timeline).padStart(8, '0')}00000000${String(place).padStart(8, '0')}`;

/** What a server of an encrypted archive may know, and what its reader knows. */
async function makeKeys(folder: string) {
  const path = join(folder, 'identity');
  const { publicKey = '', text } = await keygen({ auth: false, output: undefined });
  writeFileSync(path, text, { mode: 0o600 });
  giveAway(path);
  return { recipients: { WALT_AGE_RECIPIENTS: publicKey }, identity: { WALT_AGE_IDENTITY_FILE: path } };
}

describe('a conflict', () => {
  let s3: S3Server;
  let folder: string;
  let keys: Awaited<ReturnType<typeof makeKeys>>;
  beforeAll(async () => {
    s3 = await S3Server.start();
    folder = makeFolder('conflict');
    keys = await makeKeys(folder);
  });
  afterAll(async () => {
    await s3.stop();
    removeFolder(folder);
  });

  it.each(['in a folder, encrypted', 'on S3'])(
    'is told and mended %s',
    async (place) => {
      const encrypted = place.endsWith('encrypted');
      const repository = new TestRepository({
        settings: encrypted ? keys.recipients : s3Settings(s3.s3, 'conflict'),
      });
      await repository.init();
      const storage: Storage = encrypted
        ? new FileStorage(repository.root, { idleMs: 10_000, requestMs: 10_000 })
        : await openS3Storage(s3.s3, { prefix: 'conflict' });
      const reading = encrypted ? { env: keys.identity } : {};
      const data = join(repository.folder, 'data');
      const write = makeDataDirectory(data);
      const [right, wrong] = [makeSegment(at(2)), makeSegment(at(2), { seed: 'copy' })];
      const push = async () => (await repository.run('wal-push', [`pg_wal/${at(2)}`, at(2)], { cwd: data })).code;
      const walT = (...words: string[]) => repository.run('wal-t', words, { cwd: data, ...reading });
      const stored = async () => {
        const found = new Map<string, Buffer>();
        for await (const { key } of storage.list(`${testSystemIdentifier}/`)) {
          const chunks: Uint8Array[] = [];
          for await (const chunk of (await storage.get(key)).body) chunks.push(chunk);
          found.set(key, Buffer.concat(chunks));
        }
        return found;
      };

      write(at(2), wrong);
      expect(await push()).toBe(0);
      write(at(2), right);
      expect(await push()).toBe(5);
      const { offset, lsn } = firstDifference(wrong, right, at(2));
      const told = await walT('wal-diff', at(2), `pg_wal/${at(2)}`);
      expect([told.code, told.stdout]).toEqual([
        8,
        expect.stringMatching(new RegExp(`by ${hostname()}[\\s\\S]*from byte ${offset} on, LSN ${formatLsn(lsn)}\n$`)),
      ]);
      if (encrypted) {
        const blind = await repository.run('wal-t', ['wal-diff', at(2), `pg_wal/${at(2)}`], { cwd: data });
        expect([blind.code, blind.stderr]).toEqual([3, expect.stringContaining('WALT_AGE_IDENTITY_FILE')]);
      }

      const before = await stored();
      const key = [...before.keys()].find((one) => one.endsWith(at(2))) ?? '';
      const asked = await walT('wal-set-aside', at(2));
      expect([asked.code, asked.stdout]).toEqual([
        0,
        expect.stringMatching(/would be moved[\s\S]*\nnothing was moved\n$/),
      ]);
      const wrongNames = [at(3), `../${at(2)}`];
      for (const [index, name] of (encrypted ? wrongNames : []).entries()) {
        expect((await walT('wal-set-aside', name, '--confirm')).code).toBe(index === 0 ? 1 : 2);
        expect((await walT('wal-diff', name, `pg_wal/${at(2)}`)).code).toBe(index === 0 ? 1 : 2);
      }
      expect(await stored()).toEqual(before);
      // the server that is stuck has no key to read with
      const moved = await repository.run('wal-t', ['wal-set-aside', at(2), '--confirm'], { cwd: data });
      expect(moved).toMatchObject({ code: 0 });
      const after = await stored();
      const [aside = '', ...others] = [...after.keys()].filter((one) => !before.has(one));
      expect([others, after.has(key), aside.split('/')[1]]).toEqual([[], false, 'set-aside']);
      expect(after.get(aside)?.equals(before.get(key) ?? Buffer.of())).toBe(true);
      expect(await push()).toBe(0);
      expect((await walT('wal-diff', at(2), `pg_wal/${at(2)}`)).code).toBe(0);
    },
    300_000,
  );
});

/** What a descriptor of this process is of. */
function linkOf(fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined; // closed since
  }
}

describe('wal-push --missing', () => {
  /** A repository that holds `stored`, and a data directory in which `done` is done and the rest is not. */
  async function place(
    files: { stored?: readonly string[]; done: readonly string[]; others?: readonly string[] },
    settings = {},
  ) {
    const folder = temporaryFolder();
    const [root, data] = [join(folder, 'repo'), join(folder, 'data')];
    mkdirSync(root);
    const write = makeDataDirectory(data);
    const storage = new FileStorage(root, { idleMs: 10_000, requestMs: 10_000 });
    await makeRepository(storage, { conditionalPut: 'honoured', delete: 'allowed' });
    const context = makeContext({ WALT_REPO: `file://${root}`, ...settings }, { workingDirectory: data });
    const content = (name: string) =>
      name.endsWith('.history') ? Buffer.from('1\t0/380000\tno recovery target specified\n') : makeSegment(name);
    for (const name of files.stored ?? []) {
      await walPush(context, { path: write(name, content(name)), name });
      rmSync(join(data, 'pg_wal', name));
    }
    for (const name of [...files.done, ...(files.others ?? [])]) write(name, content(name));
    for (const name of files.done) writeFileSync(join(data, `pg_wal/archive_status/${name}.done`), '');
    const names = async () => {
      const found: string[] = [];
      for await (const { key } of storage.list(`${testSystemIdentifier}/wal/`)) found.push(key.split('/').at(-1) ?? '');
      return found.sort();
    };
    return { root, data, context, storage, names };
  }

  const history = '00000002.history';
  it.each<readonly [what: string, stored: readonly string[], done: readonly string[], pushed: readonly string[]]>([
    ['fills a hole and what is behind it', [at(2), at(5)], [at(2), at(3), at(4), at(5), at(6)], [at(3), at(4), at(6)]],
    ['leaves alone what is older than all that is stored', [at(4)], [at(2), at(3), at(4), at(5)], [at(5)]],
    ['pushes histories first', [at(2)], [at(5, 2), history, at(2)], [history, at(5, 2)]],
    ['knows the histories that it cannot read', [at(2), history], [at(2), at(6)], [at(6)]],
    [
      'leaves a segment alone within which its timeline was left',
      [at(2), history],
      [history, at(3), at(4, 2)],
      [at(4, 2)],
    ],
  ])('%s', async (_, stored, done, pushed) => {
    const folder = temporaryFolder();
    const { recipients } = await makeKeys(folder);
    const { context, data, names } = await place({ stored, done, others: [at(7), at(8)] }, recipients);
    const result = await walPushMissing(context, { pgdata: data });
    expect(result).toEqual({ looked: done.length, pushed, failed: [] });
    expect(await names()).toEqual([...stored, ...pushed].sort());
    expect(await walPushMissing(context, { pgdata: data })).toEqual({ looked: done.length, pushed: [], failed: [] });
  });

  it('fills an archive in which there is a history alone', async () => {
    const { context, data, names } = await place({ stored: [history], done: [at(5, 2), at(6, 2)] });
    expect((await walPushMissing(context, { pgdata: data })).pushed).toEqual([at(5, 2), at(6, 2)]);
    expect(await names()).toEqual([history, at(5, 2), at(6, 2)].sort());
  });

  it('refuses another cluster, and a folder that is none', async () => {
    const { context, data, root, names } = await place({ stored: [at(2)], done: [at(3)] });
    const other = temporaryFolder();
    makeDataDirectory(other, '7000000000000000001')(
      at(4),
      makeSegment(at(4), { systemIdentifier: '7000000000000000001' }),
    );
    writeFileSync(join(other, `pg_wal/archive_status/${at(4)}.done`), '');
    const set = makeContext(
      { WALT_REPO: `file://${root}`, WALT_SYSTEM_IDENTIFIER: testSystemIdentifier },
      { workingDirectory: data },
    );
    await expect(walPushMissing(context, { pgdata: other })).rejects.toMatchObject({ exitCode: 3 });
    await expect(walPushMissing(set, { pgdata: other })).rejects.toMatchObject({ exitCode: 3 });
    await expect(walPushMissing(context, { pgdata: join(data, 'pg_wal') })).rejects.toMatchObject({ exitCode: 9 });
    expect(readdirSync(root)).not.toContain('7000000000000000001');
    makeDataDirectory(data)(at(5), makeSegment(at(5), { systemIdentifier: '7000000000000000001' }));
    writeFileSync(join(data, `pg_wal/archive_status/${at(5)}.done`), '');
    const { pushed, failed } = await walPushMissing(context, { pgdata: data });
    expect([pushed, failed.map(({ name, error }) => [name, error.exitCode])]).toEqual([[at(3)], [[at(5), 6]]]);
    expect(await names()).toEqual([at(2), at(3)]);
  });

  it('of several clusters the one is meant in whose data directory a command runs', async () => {
    const { context, data } = await place({ stored: [at(2)], done: [at(2)] });
    const other = temporaryFolder();
    const systemIdentifier = '7000000000000000001';
    makeDataDirectory(other, systemIdentifier)(at(2), makeSegment(at(2), { systemIdentifier }));
    const path = `pg_wal/${at(2)}`;
    await walPush({ ...context, workingDirectory: other }, { path });
    for (const workingDirectory of [data, other]) {
      expect((await walDiff({ ...context, workingDirectory }, { name: at(2), path })).difference).toBeUndefined();
    }
    const elsewhere = walDiff({ ...context, workingDirectory: '/' }, { name: at(2), path: join(data, path) });
    await expect(elsewhere).rejects.toMatchObject({ exitCode: 3 });
  });

  it.skipIf(process.platform !== 'linux')('does not store a segment that is recycled while it is pushed', async () => {
    const { context, data, storage, names } = await place({ stored: [at(2)], done: [at(3), at(4)] });
    const path = join(data, 'pg_wal', at(3));
    const large = { sizeBytes: 16 * mebibyte }; // reading it takes a while
    writeFileSync(path, makeSegment(at(3), large));
    const isOpen = () => readdirSync('/proc/self/fd').some((fd) => linkOf(fd) === path);
    let asked = 0;
    // the question whether the cluster is known is asked while the file is read, with this answer not before it is
    const recycling = around(storage, {
      get: async (key, options) => {
        if (key.endsWith('cluster.json')) asked += 1;
        if (key.endsWith('cluster.json') && asked === 2) {
          while (!isOpen()) await new Promise(setImmediate);
          renameSync(path, join(data, 'pg_wal', at(9)));
          writeFileSync(join(data, 'pg_wal', at(9)), makeSegment(at(9), large), { flag: 'r+' });
        }
        return storage.get(key, options);
      },
    });
    const { pushed, failed } = await walPushMissing({ ...context, openStorage: () => recycling }, { pgdata: data });
    expect([pushed, failed.map(({ name }) => name)]).toEqual([[at(4)], [at(3)]]);
    expect(await names()).toEqual([at(2), at(4)]);
  });
});
