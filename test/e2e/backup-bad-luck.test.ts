/** Base backups and bad luck, with real servers: each failure has its exit code, names its thing, says what to do, and leaves nothing that is believed. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { publishPlan } from '../../src/archive/deletion-plan.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { backupList } from '../../src/commands/backup-list.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { startStandby } from '../cluster/server-support.ts';
import { giveAway } from '../support/account.ts';
import { makeContext } from '../support/context.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { delayAnswer, trickleUpload } from '../support/network-faults.ts';
import { PostgresServer } from '../support/postgres.ts';
import { openProxy } from '../support/proxied.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { type Ended, type RunOptions, walT } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { accessDenied } from '../support/store-faults.ts';
import { orFailInCi } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const canMount = orFailInCi(process.getuid?.() === 0, 'mounting a small file system needs root');

/** A cluster that is archived into a repository of its own, both in one folder. */
interface Place {
  readonly folder: string;
  readonly repository: TestRepository;
  readonly server: PostgresServer;
  remove(): Promise<void>;
}

async function makePlace(settings: Readonly<Record<string, string>> = {}): Promise<Place> {
  const folder = makeFolder('bad-luck');
  const repository = await new TestRepository({ folder }).init();
  const server = PostgresServer.create({
    major: 17,
    checksums: true,
    settings: { ...repository.serverSettings, ...settings },
  });
  await server.start();
  await endSegment(server);
  await server.waitUntilAllArchived();
  const remove = async () => {
    await server.remove();
    removeFolder(folder);
  };
  return { folder, repository, server, remove };
}

interface PushOptions extends Omit<RunOptions, 'env'> {
  readonly env?: Readonly<Record<string, string>>;
  readonly words?: readonly string[];
}

/** kB/s of which the whole cluster takes many minutes: who waits for the copy's end does not end within the test. */
const veryslow = ['--max-rate', '32'];
/** Some seconds. */
const slow = ['--max-rate', '16M'];

function push({ repository, server }: Pick<Place, 'repository' | 'server'>, options: PushOptions = {}): Promise<Ended> {
  const { words = [], env = {}, ...others } = options;
  return repository.run('basebackup-push', [server.dataDirectory, ...words], {
    ...others,
    env: { PGUSER: 'postgres', WALT_WORKERS: '1', WALT_COMPRESSION_LEVEL: '1', WALT_BACKUP_WAL_TIMEOUT: '2s', ...env },
  });
}

/** Waits until a backup copies: its session has given the last proof that comes before. */
async function copying(server: PostgresServer): Promise<void> {
  const question = `select count(*) from pg_stat_activity
    where application_name = 'wal-t' and state = 'idle' and query like '%pg_control_checkpoint%'`;
  await answered(server, 'the copy to begin', question);
}

interface Row {
  readonly backup_name: string;
  readonly state: string;
  readonly checksum_failures?: number;
  readonly bad_pages?: readonly { readonly path: string; readonly block: number }[];
}

/** What backup-list says, as the command of its own that it is. */
async function listByCommand(repository: TestRepository): Promise<Row[]> {
  const { code, stdout, stderr } = await repository.run('backup-list', ['--json']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Row[];
}

/** The same in this process, of a repository in a folder: it is asked after every backup. */
async function list({ root, folder }: TestRepository): Promise<readonly Row[]> {
  const context = makeContext({ WALT_REPO: `file://${root}` }, { workingDirectory: folder });
  const { backups } = await backupList(context, { window: false });
  expect(context.lines).toEqual([]);
  return backups as readonly Row[];
}

/** Of the newest backup. */
async function newest(repository: TestRepository): Promise<Row | undefined> {
  return (await list(repository)).at(-1);
}

function nameOf({ stdout }: Ended): string {
  return /stored base backup (\S+)/.exec(stdout)?.[1] ?? '';
}

function expectDone({ code, stderr, stdout }: Ended): string {
  expect({ code, stderr: stderr.replaceAll(/^.*info: .*\n/gm, '') }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

/** The exit code, and words that all must be there; each failure says what to do. */
function expectFailure({ code, stdout, stderr }: Ended, expected: number, ...words: (string | RegExp)[]): void {
  expect({ code, stdout, stderr }).toMatchObject({
    code: expected,
    stdout: '',
    stderr: expect.stringContaining(' hint: '),
  });
  for (const word of words) expect(stderr).toMatch(word);
  expect(stderr).not.toContain('internal error');
}

describe('a server that goes away in mid-copy ends the backup at once', () => {
  let place: Place;
  beforeAll(async () => {
    place = await makePlace();
  });
  afterAll(() => place.remove());

  const terminate = `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'wal-t'`;
  it.each([
    {
      what: 'its session ended',
      work: () => place.server.query(terminate),
      words: 'terminating connection due to administrator command',
    },
    { what: 'restarted', work: () => place.server.restart(), words: 'the server has ended this one' },
    { what: 'killed', work: () => place.server.stop('SIGKILL'), words: 'was lost' },
  ])('$what', async ({ what, work, words }) => {
    const pushing = push(place, { words: veryslow });
    await copying(place.server);
    await work();
    expectFailure(await pushing, 7, 'the connection to the server at ', words, 'was given up');
    expect(await newest(place.repository)).toMatchObject({ state: 'failed' });
    if (isTorture || what === 'killed') {
      const fetched = await place.repository.run('basebackup-fetch', [join(temporaryFolder(), 'new')]);
      expectFailure(fetched, 1, 'no confirmed backup');
    }
    if (!place.server.isRunning) await place.server.start();
  });

  it('lost while it waits for WAL: told in the same words, not in those of the waiting that was broken off', async () => {
    await archiveWith(place, 'false');
    const pushing = push(place, { env: { WALT_BACKUP_WAL_TIMEOUT: '10min' } });
    await lastAsked(place.server, 'pg_switch_wal');
    await place.server.query(terminate);
    expectFailure(await pushing, 7, 'the connection to the server at ', 'take the backup again');
  });
});

describe('archiving that is broken', () => {
  let place: Place;
  beforeAll(async () => {
    place = await makePlace();
  });
  afterAll(() => place.remove());

  it('before: refused before anything is copied, the segment named', async () => {
    await archiveWith(place, 'false');
    const segment = await endSegment(place.server);
    await waitFor(
      'a failure',
      async () => (await place.server.value('select failed_count from pg_stat_archiver')) !== '0',
    );
    expectFailure(await push(place), 8, `archiving is failing: segment "${segment}" is not archived`, 'mend it');
    expect(await list(place.repository)).toEqual([]);
    await archiveAgain(place);
  });

  it('silently, by a command that does nothing: the segment that did not arrive is named, and how long it was waited for', async () => {
    await archiveWith(place, 'true');
    const segment = await write(place.server);
    const words = [
      'did not arrive in the archive',
      /waited for [23] s/,
      'nothing was copied',
      `last archived: "${segment}"`,
      'it was archived, but not into this repository',
    ];
    expectFailure(await push(place), 8, segment, ...words);
    expect(await list(place.repository)).toEqual([]);
    await archiveAgain(place);
  });

  it('by leading into another repository: refused at once', async () => {
    const other = await new TestRepository().init();
    const before = other.files();
    const env = { WALT_REPO: `file://${other.root}` };
    expectFailure(await push(place, { env }), 3, 'is another repository than the one this cluster was archived into');
    expect(other.files()).toEqual(before);
  });

  it('during the backup: the segment is named, and the backup does not count', async () => {
    const pushing = push(place, { words: slow });
    await copying(place.server);
    await archiveWith(place, 'false');
    const ended = await pushing;
    const segment = /segment "([0-9A-F]{24})"/.exec(ended.stderr)?.[1];
    expectFailure(
      ended,
      8,
      'did not arrive in the archive',
      /waited for [23] s/,
      'everything is copied, but the backup is not confirmed',
      'archive_command fails for',
      'was given up',
    );
    expect(readdirSync(join(place.server.dataDirectory, 'pg_wal/archive_status'))).toContain(`${segment}.ready`);
    expect(await newest(place.repository)).toMatchObject({ state: 'failed' });
    await archiveAgain(place);
  });

  it('a standby whose primary is idle: says where to switch WAL; H19: and with the session of the primary it is refused', async () => {
    const standby = await startStandby(place.server);
    onTestFinished(() => standby.remove());
    const at = { repository: place.repository, server: standby };
    await write(place.server);
    const written = await place.server.value('select pg_current_wal_insert_lsn()');
    const replayed = `select pg_last_wal_replay_lsn() >= '${written}'`;
    await waitFor('the standby to follow', async () => (await standby.value(replayed)) === 'true');
    expectFailure(
      await push(at),
      8,
      'run "select pg_switch_wal()" there',
      'this standby does not archive: the primary does',
    );
    const foreign = await push(at, { env: { PGHOST: place.server.folder } });
    expectFailure(foreign, 3, 'does not run on the data directory', `PGHOST=${standby.folder}`);
  });

  it('off: refused, and so is the data directory of a server that does not run', async () => {
    const server = PostgresServer.create({ major: 18, settings: { archive_mode: 'off' } });
    onTestFinished(() => server.remove());
    await server.start();
    const at = { repository: place.repository, server };
    expectFailure(await push(at), 3, 'archive_mode is off', 'archive_mode = on and archive_command');
    await server.stop();
    expectFailure(await push(at), 7, 'could not connect to ', 'Is the server running');
    expectFailure(await push(at, { env: { PGHOST: place.server.folder } }), 3, 'does not run on the data directory');
  });
});

describe('a backup and', () => {
  let place: Place;
  let tablespace: string;
  beforeAll(async () => {
    place = await makePlace();
    tablespace = makeFolder('space');
    const { server } = place;
    await server.query(`create tablespace going location '${tablespace}'`);
    await server.query('create table there tablespace going as select generate_series(1, 1000) n');
  });
  afterAll(async () => {
    await place.remove();
    removeFolder(tablespace);
  });

  it('a second one at the same time: both succeed', async () => {
    const both = await Promise.all([push(place), push(place)]);
    const names = both.map((ended) => {
      expectDone(ended);
      return nameOf(ended);
    });
    expect(await list(place.repository)).toMatchObject(
      [...names].sort().map((backup_name) => ({ backup_name, state: 'confirmed' })),
    );
  });

  it('a plan of deletion: stored, not confirmed, and it says so; its name is refused, LATEST is an older one', async () => {
    const older = (await newest(place.repository))?.backup_name;
    const plan = await planToDeleteAll(place);
    expectFailure(
      await push(place),
      8,
      'a deletion is running, or was broken off',
      'plan/2026',
      'stored, but not confirmed',
      'take the backup again',
    );
    rmSync(dirname(plan), { recursive: true });
    const unconfirmed = await newest(place.repository);
    expect(unconfirmed).toMatchObject({ state: 'unconfirmed' });
    const target = join(temporaryFolder(), 'new');
    const named = await place.repository.run('basebackup-fetch', [target, unconfirmed?.backup_name ?? '']);
    expectFailure(
      named,
      8,
      'is unconfirmed: it cannot be relied on',
      'nobody saw all of its parts and WAL',
      'backup-list shows them',
    );
    const there = ['-T', `${tablespace}=${join(dirname(target), 'space')}`];
    expect(expectDone(await place.repository.run('basebackup-fetch', [target, ...there]))).toContain(
      `fetched base backup ${older}`,
    );
  });

  it('a part that has gone before it is confirmed: the part is named, and the backup does not count', async () => {
    const hold = join(place.folder, 'hold');
    await archiveWith(
      place,
      `while test -e ${hold}; do sleep 0.1; done; ${place.repository.serverSettings.archive_command}`,
    );
    const pushing = push(place, { words: slow, env: { WALT_BACKUP_WAL_TIMEOUT: '1min' } });
    await copying(place.server);
    writeFileSync(hold, '');
    await lastAsked(place.server, 'pg_backup_stop');
    rmSync(join(systemFolder(place), 'part', (await newest(place.repository))?.backup_name ?? '', '0000001'));
    rmSync(hold);
    const ended = await pushing;
    expectFailure(
      ended,
      8,
      /part 1 of backup \S+, which the backup needs, is missing/,
      'Find out who deletes from the repository',
    );
    expect(await newest(place.repository)).toMatchObject({ state: 'unconfirmed' });
    await archiveAgain(place);
  });

  it('Ctrl-C: it dies by SIGINT, the archive knows it has failed, and the server is out of backup mode', async () => {
    const ended = await push(place, {
      words: veryslow,
      ownGroup: true,
      onStart: ({ pid = 0 }) => void copying(place.server).then(() => process.kill(-pid, 'SIGINT')),
    });
    expect(ended).toMatchObject({
      signal: 'SIGINT',
      stdout: '',
      stderr: expect.stringMatching(/was given up[\s\S]*interrupted by SIGINT/),
    });
    expect(await newest(place.repository)).toMatchObject({ state: 'failed' });
    const open = `select count(*) from pg_stat_activity where application_name = 'wal-t'`;
    await waitFor('the session to end', async () => (await place.server.value(open)) === '0');
    // a disk that is busy may keep it from removing what it had begun to write: whoever writes there next does
    await place.server.query(`select pg_logical_emit_message(true, 'test', '')`);
    await place.server.waitUntilArchived(await place.server.switchWal());
    await place.server.waitUntilAllArchived(); // which has its files there, too
    expect(readdirSync(join(place.repository.root, '.tmp'))).toEqual([]);
  });

  it('kill -9: it is running until its lease is old; dated in the future, by a clock that was set back, it is running, and never more', async () => {
    const pushing = push(place, {
      words: veryslow,
      ownGroup: true,
      onStart: ({ pid = 0 }) => void copying(place.server).then(() => process.kill(-pid, 'SIGKILL')),
    });
    expect(await pushing).toMatchObject({ signal: 'SIGKILL' });
    const { backup_name: name = '' } = (await newest(place.repository)) ?? {};
    const lease = join(systemFolder(place), 'lease', name, '000001');
    const writtenAt = statSync(lease).mtimeMs / 1000;
    const day = 24 * 60 * 60;
    for (const [seconds, state] of [
      [0, 'running'],
      [-day, 'failed'],
      [day, 'running'],
    ] as const) {
      utimesSync(lease, writtenAt + seconds, writtenAt + seconds);
      expect(await newest(place.repository)).toMatchObject({ backup_name: name, state });
      if (seconds > 0 && !isTorture) continue; // running, as before
      const fetched = await place.repository.run('basebackup-fetch', [join(temporaryFolder(), 'new'), name]);
      expectFailure(fetched, 8, `is ${state}: it cannot be relied on`);
    }
    rmSync(dirname(lease), { recursive: true });
  });

  it.skipIf(!hasFaultyFs)('a disk with errors: the file is named', async () => {
    const faulty = await FaultyFs.mount(place.server.dataDirectory);
    const ended = place.repository.run('basebackup-push', [faulty.path, ...veryslow], {
      env: { PGUSER: 'postgres', PGHOST: place.server.folder, WALT_WORKERS: '1' },
    });
    await copying(place.server);
    await faulty.set({ fail: { read: 'EIO' } });
    expectFailure(await ended, 9, /could not read "\/tmp\/faulty.*": input\/output error/, "Look at this host's disk");
    expect(await newest(place.repository)).toMatchObject({ state: 'failed' });
  });

  it('a file that may not be read: it is named before anything begins', async () => {
    const before = await list(place.repository);
    const path = join(place.server.dataDirectory, await place.server.value(`select pg_relation_filepath('pg_proc')`));
    chmodSync(path, 0);
    const ended = await push(place);
    chmodSync(path, 0o600);
    expectFailure(ended, 9, `could not read "${path}": permission denied`, /hint: .*user|account/);
    expect(await list(place.repository)).toEqual(before);
  });

  it('a page with a wrong checksum: kept, confirmed, file and block named everywhere, exit 8', async () => {
    const { server, repository } = place;
    await server.query('create table broken as select n, md5(n::text) from generate_series(1, 1000) n');
    await server.query('checkpoint');
    const path = await server.value(`select pg_relation_filepath('broken')`);
    const file = openSync(join(server.dataDirectory, path), 'r+');
    for (const block of [1, 3]) writeSync(file, 'broken', block * 8192 + 4096);
    closeSync(file);
    const { code, stdout, stderr } = await push(place);
    expect({ code, stderr }).toEqual({
      code: 8,
      stderr: expect.stringContaining(`2 pages have a wrong checksum in the cluster: ${path} block 1`),
    });
    for (const words of [`  ${path} block 1\n  ${path} block 3\n`, 'keep older backups', 'REINDEX'])
      expect(stdout).toContain(words);
    const pages = [1, 3].map((block) => ({ path, block }));
    expect((await listByCommand(repository)).at(-1)).toMatchObject({
      state: 'confirmed',
      checksum_failures: 2,
      bad_pages: pages,
    });
    expect((await repository.run('backup-list', [])).stdout).toContain(
      `2 pages with a wrong checksum: ${path} block 1 …`,
    );
    const verified = await repository.run('wal-t', ['verify', 'LATEST']);
    expect(verified.stdout).toMatch(
      new RegExp(`: restorable.*\\n.*2 pages had.*\\n +${path} block 1\\n +${path} block 3`),
    );
    await server.query('drop table broken');
  });

  it('a database and a tablespace that are dropped in mid-copy: both are gone from what is restored', async () => {
    const { server, repository } = place;
    await server.query('create database going strategy file_copy'); // little WAL, each segment of which is a command
    await server.query('checkpoint');
    const pushing = push(place, { words: slow });
    await copying(server);
    await server.query('drop database going');
    await server.query('drop table there');
    await server.query('drop tablespace going');
    expectDone(await pushing);
    const copy = server.elsewhere();
    onTestFinished(() => copy.remove());
    const there = ['-T', `${tablespace}=${join(copy.folder, 'space')}`];
    expectDone(await repository.run('basebackup-fetch', [copy.dataDirectory, 'LATEST', ...there]));
    copy.configure({ archive_mode: 'off', unix_socket_directories: copy.folder });
    copy.signal('recovery.signal');
    await copy.open();
    expect(await copy.query(`select datname from pg_database where datname = 'going'`)).toEqual([]);
    expect(await copy.query(`select spcname from pg_tablespace where spcname = 'going'`)).toEqual([]);
  });
});

describe('settings that are wrong: refused at once, with what to set', () => {
  let place: Place;
  beforeAll(async () => {
    place = await makePlace();
  });
  afterAll(() => place.remove());

  it.each([
    {
      what: 'a recipient that is none',
      env: { WALT_AGE_RECIPIENTS: 'age1nonsense' },
      code: 3,
      words: ['WALT_AGE_RECIPIENTS'],
    },
    {
      what: 'no such folder',
      env: { WALT_REPO: 'file:///nowhere/repo' },
      code: 4,
      words: [
        'in file:///nowhere/repo: no such file or directory',
        'Check that the folder is mounted and WALT_REPO is spelled right',
      ],
    },
    { what: 'no such server', env: { PGHOST: '/nowhere' }, code: 7, words: ['could not connect', 'PGHOST and PGPORT'] },
    { what: 'no such role', env: { PGUSER: 'nobody' }, code: 7, words: ['role "nobody" does not exist', 'PGUSER'] },
    // told by the server as the role is
    ...(isTorture
      ? [
          {
            what: 'no such database',
            env: { PGDATABASE: 'none' },
            code: 7,
            words: ['database "none" does not exist', 'PGDATABASE'],
          },
        ]
      : []),
  ])('$what', async ({ env, code, words }) => {
    const before = place.repository.files();
    expectFailure(await push(place, { env }), code, ...words);
    expect(place.repository.files()).toEqual(before);
  });

  it('no repository, no data directory, or a folder that is none', async () => {
    const { server, repository } = place;
    const env = { PGUSER: 'postgres', PGHOST: server.folder };
    expectFailure(
      await walT('basebackup-push', [server.dataDirectory], { env }),
      3,
      'no repository is set',
      'Set WALT_REPO=',
    );
    expectFailure(
      await repository.run('basebackup-push', [], { env }),
      2,
      'it is not clear which cluster',
      'Give its data directory',
    );
    for (const folder of isTorture ? [place.folder, '/nowhere'] : [place.folder]) {
      const ended = await repository.run('basebackup-push', [folder], { env });
      expectFailure(
        ended,
        9,
        `could not read "${folder}/global/pg_control": no such file or directory`,
        'Name the data directory',
      );
    }
  });
});

describe('a storage that', () => {
  it.skipIf(!canMount)(
    'is full: refused before where it certainly is, else ended by it, and what was begun is taken away',
    async () => {
      const root = smallFileSystem('2500k');
      const folder = temporaryFolder();
      const repository = await new TestRepository({ folder, root }).init();
      const server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
      onTestFinished(() => server.remove());
      await server.start();
      const at = { repository, server };
      expectFailure(
        await push(at),
        4,
        'no space left on device',
        /the repository has \S+ \S+ left, and the cluster has/,
        'Free space in the repository',
      );
      expect(await list(repository)).toMatchObject([{ state: 'failed' }]);
      expect(readdirSync(join(root, '.tmp'))).toEqual([]);
      const filler = join(root, 'filler');
      spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1024', 'count=1600']);
      expectFailure(
        await push(at),
        4,
        /the repository has \S+ \S+ left, and the cluster has/,
        'Free space in the repository, or enlarge it',
      );
      expect(await list(repository)).toHaveLength(1);
    },
  );

  it.skipIf(!canMount)('has room for an increment alone: takes one, and refuses a full backup', async () => {
    const root = smallFileSystem('16m');
    const repository = await new TestRepository({ folder: temporaryFolder(), root }).init();
    const server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
    onTestFinished(() => server.remove());
    await server.start();
    const at = { repository, server };
    expect(await push(at)).toMatchObject({ code: 0 });
    const { bavail, bsize } = statfsSync(root);
    writeFileSync(join(root, 'filler'), Buffer.alloc(bavail * bsize - 900 * 2 ** 10));
    expect(await push(at, { words: ['--incremental'] })).toMatchObject({ code: 0 });
    expect(await list(repository)).toMatchObject([{ type: 'full' }, { type: 'incremental', state: 'confirmed' }]);
    const refusal = /the repository has \S+ \S+ left, and the cluster has/;
    expectFailure(await push(at), 4, refusal, 'Free space in the repository, or enlarge it');
    const manifests = repository.files().filter((path) => path.includes('/manifest/'));
    for (const path of manifests) rmSync(join(repository.root, path)); // now there is no parent
    expectFailure(
      await push(at, { words: ['--incremental'] }),
      4,
      refusal,
      'Free space in the repository, or enlarge it',
    );
  });

  it.skipIf(!isTorture)('is slow is waited for; that denies ends the backup, which never counts', async () => {
    const { proxy, push, list } = await inBucket();
    const slowly = [
      proxy.inject(trickleUpload(5_000_000), { key: /\/part\// }),
      proxy.inject(delayAnswer(100), { key: /\/(lease|manifest|files)\// }),
    ];
    const sound = await push();
    expectDone(sound);
    for (const { hits } of slowly) expect(hits).toBeGreaterThan(0);
    proxy.heal();
    proxy.inject(accessDenied, { method: 'PUT', key: /\/part\// });
    expectFailure(await push(), 4, /AccessDenied|denied/, 'was given up');
    expect(await list()).toMatchObject([{ backup_name: nameOf(sound), state: 'confirmed' }, { state: 'failed' }]);
  });

  it.skipIf(!isTorture)('dies ends the backup, when its requests were tried often enough', async () => {
    const { proxy, server, push, list } = await inBucket();
    const pushing = push({ words: slow, env: { WALT_REQUEST_TIMEOUT: '2s' } });
    await copying(server);
    await proxy.down();
    expectFailure(await pushing, 4, 'connection refused', 'was given up');
    await proxy.up();
    expect(await list()).toMatchObject([{ state: 'running' }]); // nobody could be told that it failed: its lease will die
  });

  async function inBucket() {
    const s3 = await S3Server.start();
    onTestFinished(() => s3.stop());
    const proxy = await openProxy(s3.s3);
    const repository = await new TestRepository({ settings: s3Settings(proxy.s3, 'bad-luck') }).init();
    const server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
    onTestFinished(() => server.remove());
    await server.start();
    const at = { repository, server };
    return { proxy, server, push: (options?: PushOptions) => push(at, options), list: () => listByCommand(repository) };
  }
});

describe('a restore is refused before it writes anything', () => {
  let place: Place;
  let tablespaces: string[];
  let name: string;
  let home: string;
  beforeAll(async () => {
    place = await makePlace();
    home = makeFolder('home');
    tablespaces = [makeFolder('one'), makeFolder('two')];
    for (const [n, location] of tablespaces.entries()) {
      await place.server.query(`create tablespace t${n} location '${location}'`);
    }
    const ended = await push(place);
    expectDone(ended);
    name = nameOf(ended);
  });
  afterAll(async () => {
    await place.remove();
    for (const folder of [home, ...tablespaces]) removeFolder(folder);
  });

  const fetch = (words: readonly string[]) => place.repository.run('basebackup-fetch', words);
  const mapped = (one: string, two: string) => ['-T', `${tablespaces[0]}=${one}`, '-T', `${tablespaces[1]}=${two}`];
  const away = () => mapped(join(home, 'one'), join(home, 'two'));

  interface Refusal {
    readonly what: string;
    readonly words: () => readonly string[];
    readonly code: number;
    readonly says: () => readonly (string | RegExp)[];
    readonly prepare?: () => void;
  }
  const dir = (below = 'new') => join(home, below);
  const refusals: Refusal[] = [
    {
      what: 'a folder that is not empty',
      words: () => [dir('full'), ...away()],
      code: 9,
      prepare: () => put(dir('full/file')),
      says: () => [`"${dir('full')}" is not empty`, 'Give an empty folder', 'Nothing was changed'],
    },
    {
      what: 'a data directory',
      words: () => [place.server.dataDirectory, ...away()],
      code: 9,
      says: () => ['is not empty', 'it looks like the data directory of a cluster'],
    },
    {
      what: 'a file',
      words: () => [dir('file'), ...away()],
      code: 9,
      prepare: () => put(dir('file')),
      says: () => [`"${dir('file')}"`, 'not a directory'],
    },
    {
      what: 'a folder that cannot be written',
      words: () => [dir('shut/new'), ...away()],
      code: 9,
      prepare: () => shut(dir('shut')),
      says: () => ['permission denied', 'Look at the permissions'],
    },
    {
      what: 'a place of a tablespace that is not empty',
      words: () => [dir()],
      code: 9,
      says: () => [/place "\S+" is not empty/, '--tablespace-mapping'],
    },
    {
      what: 'two tablespaces in one place',
      words: () => [dir(), ...mapped(dir('one'), dir('one'))],
      code: 2,
      says: () => ['two tablespaces cannot both go to', 'Correct --tablespace-mapping'],
    },
    {
      what: 'a relative place',
      words: () => [dir(), ...mapped('one', dir('two'))],
      code: 2,
      says: () => ['=one"', 'both absolute'],
    },
    {
      what: 'a tablespace that it does not have',
      words: () => [dir(), ...away(), '-T', '/none=/new'],
      code: 2,
      says: () => ['the backup has no tablespace at "/none"', tablespaces[0] ?? '', 'OLD as it was on the server'],
    },
    {
      what: 'a tablespace in the place of the data directory',
      words: () => [dir(), ...mapped(dir(), dir('two'))],
      code: 2,
      says: () => ['the data directory', 'Correct --tablespace-mapping'],
    },
    {
      what: 'a backup that is not there',
      words: () => [dir(), 'base_none', ...away()],
      code: 1,
      says: () => ['there is no backup "base_none"', 'backup-list shows the names'],
    },
  ];
  // of a mapping that cannot be, one of each kind
  const isAlike = ({ what }: Refusal) =>
    what === 'a relative place' || what === 'a tablespace in the place of the data directory';
  it.each(refusals.filter((one) => isTorture || !isAlike(one)))('$what', async ({ words, code, says, prepare }) => {
    prepare?.();
    expectFailure(await fetch(words()), code, ...says());
    expect(existsSync(dir())).toBe(false);
    expect(existsSync(dir('one'))).toBe(false);
  });

  it.skipIf(!canMount)('too little space: both sizes are said', async () => {
    const mount = smallFileSystem('4m');
    const ended = await fetch([join(mount, 'new'), ...mapped(join(mount, 'one'), join(mount, 'two'))]);
    expectFailure(
      ended,
      9,
      /not enough space.* has \d+\S* MiB, and \S+ MiB are free/,
      'nothing was written',
      'Free space',
    );
    expect(readdirSync(mount)).toEqual([]);
  });

  it('a repository that holds no backup, and a key that is missing or wrong', async () => {
    const empty = await new TestRepository().init();
    expectFailure(
      await empty.run('basebackup-fetch', [dir(), ...away()]),
      3,
      'nothing was ever archived in',
      'archive_command',
    );
    const keys = [join(home, 'right'), join(home, 'wrong')];
    const identities = keys.map(() => generateIdentity());
    for (const [index, path] of keys.entries()) {
      writeFileSync(path, `${identities[index]}\n`, { mode: 0o600 });
      giveAway(path);
    }
    const recipient = formatRecipient(parseIdentity(identities[0] ?? ''));
    const sealed = await push(place, { env: { WALT_AGE_RECIPIENTS: recipient } });
    expectDone(sealed);
    expectFailure(await fetch([dir(), nameOf(sealed), ...away()]), 3, 'WALT_AGE_IDENTITY_FILE');
    const wrong = { WALT_AGE_IDENTITY_FILE: keys[1] ?? '', WALT_READ_PLAINTEXT: '1' };
    const ended = await place.repository.run('basebackup-fetch', [dir(), nameOf(sealed), ...away()], { env: wrong });
    expectFailure(ended, 6, `manifest/${nameOf(sealed)}`, /identity|key/);
    expect(existsSync(dir())).toBe(false);
    expect(name).not.toBe('');
  });
});

/** Waits until this was the last that a backup's session asked. */
async function lastAsked(server: PostgresServer, words: string): Promise<void> {
  const question = `select count(*) from pg_stat_activity where application_name = 'wal-t' and state = 'idle' and query like '%${words}%'`;
  await answered(server, `"${words}"`, question);
}

/** Waits until the answer is 1, over one connection. */
async function answered(server: PostgresServer, what: string, question: string): Promise<void> {
  const client = await server.connect();
  try {
    await waitFor(what, async () => String((await client.query({ text: question, rowMode: 'array' })).rows[0]) === '1');
  } finally {
    await client.end();
  }
}

/** So that there is something to switch. @returns the segment that it went into. */
function write(server: PostgresServer): Promise<string> {
  return server.value(`select pg_walfile_name(pg_logical_emit_message(false, 'test', 'written'))`);
}

async function endSegment(server: PostgresServer): Promise<string> {
  await write(server);
  return server.switchWal();
}

/** Of a running server. */
async function archiveWith({ server }: Place, command: string): Promise<void> {
  await server.query(`alter system set archive_command = '${command.replaceAll("'", "''")}'`);
  await reloaded(server, command);
}

/** By the command that it was made with. */
async function archiveAgain({ server, repository }: Place): Promise<void> {
  await server.query('alter system reset archive_command');
  await reloaded(server, repository.serverSettings.archive_command ?? '');
  await endSegment(server);
  await server.waitUntilAllArchived();
}

async function reloaded(server: PostgresServer, command: string): Promise<void> {
  await server.query('select pg_reload_conf()');
  await waitFor('the settings to be read', async () => (await server.value('show archive_command')) === command);
}

/** As of a deletion that was broken off. @returns its path. */
async function planToDeleteAll(place: Place): Promise<string> {
  const storage = new FileStorage(place.repository.root, { idleMs: 60_000, requestMs: 60_000 });
  const folder = systemFolder(place);
  const archive = { storage, systemIdentifier: basename(folder), keys: noKeys };
  const wal = [['0'.repeat(24), 'F'.repeat(24)]] as const;
  const path = join(folder, await publishPlan(archive, { parts: new Map(), wal }, { host: 'test' }));
  for (const made of [path, dirname(path)]) giveAway(made);
  return path;
}

/** Where the cluster's objects are. */
function systemFolder({ repository }: Place): string {
  const [first = ''] = readdirSync(repository.root).filter((entry) => /^\d+$/.test(entry));
  return join(repository.root, first);
}

/** Unmounted when the running test ends. */
function smallFileSystem(size: string): string {
  const path = temporaryFolder('small');
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path]);
  if (status !== 0) throw new Error('could not mount a tmpfs');
  onTestFinished(() => void spawnSync('umount', ['-l', path]));
  giveAway(path);
  return path;
}

function put(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '');
}

/** A folder into which nobody but root writes. */
function shut(path: string): void {
  mkdirSync(path, { mode: 0o555 });
}
