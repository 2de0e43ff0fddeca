/** Base backups there and back with real servers: every byte, attribute and row of a cluster that is written to meanwhile comes back. */
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { toBytePath, toFilePath } from '../../src/byte-path.ts';
import { parseControlFile } from '../../src/postgres/control-file.ts';
import { parseLsn } from '../../src/postgres/lsn.ts';
import {
  attributesOf,
  type BackupCluster,
  checkIndexes,
  contentsOf,
  createBackupCluster,
  inDatabase,
  isPlainFolder,
  loadTables,
  oddName,
  takeConfiguration,
  WriteLoad,
} from '../support/backup-cluster.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { type Ended, run, walT } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { hasTool } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const debianVerify = '/usr/lib/postgresql/15/bin/pg_verifybackup';
const hasDebianVerify = hasTool(debianVerify);
const env = { PGUSER: 'postgres', WALT_WORKERS: '2' };

type Settings = Readonly<Record<string, string>>;

interface KeyPair {
  readonly path: string;
  readonly recipient: string;
}

async function keygen(folder: string, name: string): Promise<KeyPair> {
  const path = join(folder, name);
  const { code, stderr } = await walT('wal-t', ['keygen', '-o', path]);
  if (code !== 0) throw new Error(stderr);
  return { path, recipient: /age1[0-9a-z]+/.exec(readFileSync(path, 'utf8'))?.[0] ?? '' };
}

function succeeded({ code, stdout, stderr }: Ended): string {
  expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.not.stringContaining('error:') });
  return stdout;
}

/** What of a backup's manifest these tests read; LSNs are decimal. */
interface Pushed {
  readonly manifest: {
    readonly id: string;
    readonly timeline: number;
    readonly startLsn: string;
    readonly stopLsn: string;
    readonly consistentLsn: string;
    readonly badPages: { readonly count: number };
  };
}

const lsnOf = (text: string) => parseLsn(text) ?? 0n;

async function push(repository: TestRepository, server: PostgresServer): Promise<Pushed['manifest']> {
  const ended = await repository.run('basebackup-push', [server.dataDirectory, '--json'], { env });
  return (JSON.parse(succeeded(ended)) as Pushed).manifest;
}

async function loadedRows(server: PostgresServer): Promise<{ count: number; last: number }> {
  const [[count, last] = []] = await server.query('select count(*), coalesce(max(n), 0) from load');
  return { count: Number(count), last: Number(last) };
}

describe.each([
  { major: 15, storage: 'folder', encrypted: false },
  { major: 18, storage: 'S3', encrypted: true },
  ...(isTorture
    ? [
        { major: 15, storage: 'S3', encrypted: false },
        { major: 15, storage: 'folder', encrypted: true },
        { major: 15, storage: 'S3', encrypted: true },
        { major: 17, storage: 'folder', encrypted: false },
        { major: 17, storage: 'folder', encrypted: true },
        { major: 17, storage: 'S3', encrypted: false },
        { major: 17, storage: 'S3', encrypted: true },
        { major: 18, storage: 'folder', encrypted: false },
        { major: 18, storage: 'folder', encrypted: true },
        { major: 18, storage: 'S3', encrypted: false },
      ]
    : []),
])('PostgreSQL $major, $storage, encrypted: $encrypted', ({ major, storage, encrypted }) => {
  let folder: string;
  let s3: S3Server | undefined;
  let repository: TestRepository;
  let cluster: BackupCluster;
  let copy: PostgresServer;

  beforeAll(async () => {
    folder = makeFolder('backup');
    if (storage === 'S3') s3 = await S3Server.start();
    repository = await new TestRepository({ folder, settings: await settingsFor() }).init();
    cluster = await createBackupCluster({ major, settings: repository.serverSettings });
    copy = cluster.server.elsewhere();
  });
  afterAll(async () => {
    await copy?.remove();
    await cluster?.remove();
    await s3?.stop();
    removeFolder(folder);
  });

  async function settingsFor(): Promise<Settings> {
    const place = s3 === undefined ? {} : s3Settings(s3.s3, 'base');
    if (!encrypted) return place;
    const { path, recipient } = await keygen(folder, 'identity');
    return { ...place, WALT_AGE_RECIPIENTS: recipient, WALT_AGE_IDENTITY_FILE: path };
  }

  it('H23, H24: brings back every file as it was, and every row: to the end of the backup, and to the end of the WAL', async () => {
    const { server, tablespace } = cluster;
    const load = await WriteLoad.start(server);
    await waitFor('the first commits', () => load.commits.length > 20);
    const manifest = await push(repository, server);
    await waitFor('further commits', () => (load.commits.at(-1)?.lsn ?? 0n) > lsnOf(manifest.stopLsn));
    await load.stop();
    expect(manifest.badPages.count).toBe(0);

    const mapped = join(copy.folder, 'moved');
    const words = [copy.dataDirectory, manifest.id, '--tablespace-mapping', `${tablespace}=${mapped}`];
    const asRoot = storage === 'S3'; // who may give files away
    succeeded(await repository.run('basebackup-fetch', words, { env, asRoot }));
    expectSameFiles({ owners: asRoot });
    expect(readlinkSync(linkOf(copy))).toBe(mapped);
    expect(await verifyBackup(copy.dataDirectory)).toEqual([]);
    if (major === 15 && hasDebianVerify) succeeded(await run(debianVerify, ['-n', copy.dataDirectory]));

    takeConfiguration(copy, cluster.configFolder);
    copy.signal('recovery.signal');
    copy.configure({ recovery_target: 'immediate', recovery_target_action: 'pause' });
    await copy.start();
    await waitFor(
      'the recovery to pause',
      async () => (await copy.value('select pg_get_wal_replay_pause_state()')) === 'paused',
    );
    const rows = await loadedRows(copy);
    expect(rows.last).toBeGreaterThanOrEqual(load.lastBefore(lsnOf(manifest.stopLsn)));
    expect(load.lastBefore(lsnOf(manifest.stopLsn))).toBeGreaterThan(load.lastBefore(lsnOf(manifest.startLsn)));
    expect(rows.count).toBe(rows.last);
    await copy.stop();

    const expected = await contentsOf(server);
    await server.waitUntilArchived(await server.switchWal());
    copy.configure({ recovery_target: '' });
    await copy.open();
    expect(await contentsOf(copy)).toEqual(expected);
    expect(await copy.value('select count(*) from unlogged')).toBe('0');
    expect(await checkIndexes(copy)).toBeGreaterThan(300);
    expect(realpathSync(linkOf(copy))).toBe(mapped); // and not into the place where the other server lives
    expect(copy.log).not.toContain('wal-fetch: error');
    expect(await server.value('select count(*) from in_linked')).toBe('500');
  }, 600_000); // two recoveries under load

  function linkOf({ dataDirectory }: PostgresServer): string {
    const links = readdirSync(join(dataDirectory, 'pg_tblspc'), { withFileTypes: true }).filter((one) =>
      one.isSymbolicLink(),
    );
    expect(links).toHaveLength(1);
    return join(dataDirectory, 'pg_tblspc', links[0]?.name ?? '');
  }

  /** Before the first start: what a server would make anew, or hide. */
  function expectSameFiles({ owners }: { readonly owners: boolean }): void {
    const { server, secondSegment, unlogged, configFolder } = cluster;
    const within = (of: PostgresServer, path: string) =>
      readFileSync(toFilePath(`${toBytePath(of.dataDirectory)}/${path}`));
    expect(within(copy, oddName)).toEqual(within(server, oddName));
    expect(within(copy, secondSegment)).toEqual(within(server, secondSegment));
    for (const path of ['pg_hba.conf', 'pg_ident.conf', 'postgresql.conf', 'more.conf'].map((name) =>
      join(configFolder, name),
    )) {
      expect(readFileSync(join(copy.dataDirectory, 'wal-t-config', path))).toEqual(readFileSync(path));
    }
    expect(isPlainFolder(join(copy.dataDirectory, 'pg_wal'))).toBe(true);
    const attributes = attributesOf(copy.dataDirectory, { owners });
    const paths = Object.keys(attributes);
    expect(paths).toContain(`${unlogged}_init`);
    expect(paths).not.toContain(unlogged);
    expect(paths.filter((path) => /\/t\d+_\d+$|pgsql_tmp|postmaster|\.signal$/.test(path))).toEqual([]);
    const originals = attributesOf(server.dataDirectory, { owners });
    const same = paths.filter((path) => path in originals);
    expect(same.length).toBeGreaterThan(1000);
    for (const path of same) expect({ path, is: attributes[path] }).toEqual({ path, is: originals[path] });
  }
});

describe('a standby as the source', () => {
  let repository: TestRepository;
  let primary: PostgresServer;
  let standby: PostgresServer;

  beforeAll(async () => {
    repository = await new TestRepository({ folder: makeFolder('standby') }).init();
    primary = PostgresServer.create({ major: 17, isSmall: true, settings: repository.serverSettings });
    await primary.start();
    await inDatabase(primary, 'postgres', ...loadTables);
    await primary.stop();
    standby = primary.copy();
    await primary.start();
    standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres` });
    for (const name of ['standby.signal', 'recovery.signal'] as const) standby.signal(name);
    await standby.start();
  });
  afterAll(async () => {
    await standby?.remove();
    await primary?.remove();
    removeFolder(repository.folder);
  });

  /** Restored and recovered to the end of the WAL. */
  async function restore(id: string, timeline: string): Promise<PostgresServer> {
    const copy = standby.elsewhere();
    onTestFinished(() => copy.remove());
    succeeded(await repository.run('basebackup-fetch', [copy.dataDirectory, id], { env }));
    expect(await verifyBackup(copy.dataDirectory)).toEqual([]);
    expect(readdirSync(copy.dataDirectory).filter((name) => name.endsWith('.signal'))).toEqual([]);
    copy.configure({ archive_mode: 'off', primary_conninfo: '', recovery_target_timeline: timeline });
    return copy;
  }

  async function recover(copy: PostgresServer): Promise<PostgresServer> {
    copy.signal('recovery.signal');
    await copy.open();
    expect(copy.log).not.toContain('wal-fetch: error');
    return copy;
  }

  it('H20, H22: brings back a cluster whose standby was backed up, and no signal of it', async () => {
    const load = await WriteLoad.start(primary);
    const manifest = await push(repository, standby);
    await load.stop();
    const copy = await restore(manifest.id, 'latest');
    const control = parseControlFile(readFileSync(join(copy.dataDirectory, 'global/pg_control')));
    expect(control?.minRecoveryPoint).toBeGreaterThan(0n);
    expect(control?.minRecoveryPoint).toBeLessThanOrEqual(lsnOf(manifest.stopLsn));
    expect(manifest.consistentLsn).toBe(manifest.stopLsn);
    const expected = await contentsOf(primary);
    await primary.waitUntilArchived(await primary.switchWal());
    expect(await contentsOf(await recover(copy))).toEqual(expected);
  });

  it('refuses a standby that is promoted in mid-backup', async () => {
    let pid = 0;
    const running = repository.run('basebackup-push', [standby.dataDirectory, '--max-rate', '8M'], {
      env,
      ownGroup: true,
      onStart: (child) => {
        pid = child.pid ?? 0;
      },
    });
    const sizeOf = (path: string) => statSync(join(repository.root, path), { throwIfNoEntry: false })?.size ?? 0;
    const isCopying = () => repository.files().some((path) => /^\./.test(path) && sizeOf(path) > 8192);
    await waitFor('a part to be written', isCopying);
    process.kill(-pid, 'SIGSTOP'); // it goes on after the promotion, however long that takes
    try {
      await standby.query('select pg_promote(false)');
      await standby.waitUntilOpen();
    } finally {
      process.kill(-pid, 'SIGCONT');
    }
    const { code, stderr } = await running;
    expect(stderr).toMatch(/^basebackup-push: error: .*promoted/m);
    expect(code).toBe(7);
    const { stdout } = await repository.run('backup-list', ['--json'], { env });
    expect(JSON.parse(stdout)).toMatchObject([{ state: 'confirmed' }, { state: 'failed' }]);
  });

  it("H14: backs up the promoted one on its timeline, and pushes the timeline's history if it is missing", async () => {
    await primary.stop();
    await standby.waitUntilAllArchived();
    const history = repository.object('00000002.history');
    rmSync(history);
    const load = await WriteLoad.start(standby);
    const manifest = await push(repository, standby);
    await load.stop();
    expect(manifest.timeline).toBe(2);
    expect(existsSync(history)).toBe(true);
    const expected = await contentsOf(standby);
    await standby.waitUntilArchived(await standby.switchWal());
    expect(await contentsOf(await recover(await restore(manifest.id, '2')))).toEqual(expected);
  });
});

describe('hosts with other keys', () => {
  let folder: string;
  let server: PostgresServer;
  let repository: TestRepository;
  let keys: Readonly<Record<'all' | 'manifests', KeyPair>>;

  beforeAll(async () => {
    folder = makeFolder('keys');
    keys = { all: await keygen(folder, 'all'), manifests: await keygen(folder, 'manifests') };
    repository = await new TestRepository({
      folder,
      settings: {
        WALT_AGE_RECIPIENTS: keys.all.recipient,
        WALT_AGE_MANIFEST_RECIPIENTS: keys.manifests.recipient,
      },
    }).init();
    server = PostgresServer.create({ major: 17, isSmall: true, settings: repository.serverSettings });
    await server.start();
    await push(repository, server); // a host that can read nothing
  });
  afterAll(async () => {
    await server?.remove();
    removeFolder(folder);
  });

  it.each([
    { identity: 'all', sees: true, fetches: true, codes: [0, 0] },
    { identity: 'manifests', sees: true, fetches: false, codes: [8, 6] },
    { identity: undefined, sees: false, fetches: false, codes: [3, 3] },
  ] as const)(
    'lets the identity of $identity see sizes: $sees, and restore: $fetches',
    async ({ identity, sees, fetches, codes }) => {
      const settings = identity === undefined ? {} : { WALT_AGE_IDENTITY_FILE: keys[identity].path };
      const host = new TestRepository({ root: repository.root, settings });
      const listed = await host.run('backup-list', ['--json']);
      const [row] = JSON.parse(succeeded(listed)) as { readonly state: string; readonly raw_bytes?: number }[];
      expect(row?.state).toBe('confirmed');
      expect(row?.raw_bytes !== undefined).toBe(sees);
      expect(/warning: only what the keys tell is shown/.test(listed.stderr)).toBe(!sees);
      expect((await host.run('wal-t', ['verify'])).code).toBe(sees ? 0 : 3);
      const deep = await host.run('wal-t', ['verify', '--deep']);
      const target = join(host.folder, 'restored');
      const fetched = await host.run('basebackup-fetch', [target]);
      expect([deep.code, fetched.code]).toEqual(codes);
      expect(existsSync(join(target, 'global/pg_control'))).toBe(fetches);
    },
  );

  it('refuses to push for readers of manifests alone: nothing would be encrypted', async () => {
    const settings = { WALT_AGE_MANIFEST_RECIPIENTS: keys.manifests.recipient };
    const host = new TestRepository({ root: repository.root, settings });
    const before = repository.files();
    const { code, stderr } = await host.run('basebackup-push', [server.dataDirectory], { env });
    expect(stderr).toContain('WALT_AGE_MANIFEST_RECIPIENTS is set, but no recipient');
    expect(code).toBe(3);
    expect(repository.files()).toEqual(before);
  });
});
