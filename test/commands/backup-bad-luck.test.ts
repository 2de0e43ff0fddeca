/** Base backups over a storage that fails, in this process: what is not proved is not believed, whatever fails last. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import { type BackupState, listBackups, stateOf } from '../../src/archive/backup-catalogue.ts';
import { makeBackupId, parseBackupId } from '../../src/archive/backup-id.ts';
import { publishPlan } from '../../src/archive/deletion-plan.ts';
import { leaseName, manifestName, objectKey, partName, walObjectName } from '../../src/archive/keys.ts';
import { takeLease } from '../../src/archive/lease.ts';
import type { Bytes } from '../../src/bytes.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { chooseBackup, readCatalogue } from '../../src/commands/backups.ts';
import { expectNothingMissing } from '../../src/commands/basebackup-push/confirm.ts';
import { basebackupPush } from '../../src/commands/basebackup-push.ts';
import { CheckError, NotFoundError, StorageError } from '../../src/errors.ts';
import { leaseExpiryMs, leaseRenewalMs } from '../../src/limits.ts';
import { parseWalFileName, segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { PutOptions, Storage } from '../../src/storage/storage.ts';
import { makeContext, type TestContext } from '../support/context.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { testSystemIdentifier } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const patient = { idleMs: 60_000, requestMs: 60_000 };
const segmentSizeBytes = 1024 * 1024;
const segment = segmentNameAt(1, 0x300000n, segmentSizeBytes);

/** refused: nothing is stored; lost: it is, and the answer never comes. */
type Failure = 'refused' | 'lost';

/** A folder whose puts of some keys fail; it keeps the prefixes that were listed. */
class FailingFolder extends FileStorage {
  readonly listed: string[] = [];
  fails: { readonly key: RegExp; readonly how: Failure } | undefined;

  override async put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    const fails = this.fails?.key.test(key) === true ? this.fails.how : undefined;
    if (fails !== 'refused') await super.put(key, body, options);
    if (fails !== undefined) throw new StorageError(`could not write "${key}": it was ${fails}`);
  }

  override list(prefix: string, options?: Parameters<Storage['list']>[1]): ReturnType<FileStorage['list']> {
    this.listed.push(prefix.split('/')[1] ?? '');
    return super.list(prefix, options);
  }
}

function makeArchive() {
  const folder = temporaryFolder();
  const storage = new FailingFolder(folder, patient);
  return { folder, storage, archive: { storage, systemIdentifier: testSystemIdentifier, keys: noKeys } };
}

function newId(): string {
  return makeBackupId({ startedAt: new Date('2026-11-20T02:00:00.400Z'), segment, type: 'full' });
}

function touch(folder: string, key: string): void {
  const path = join(folder, key);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, 'something');
}

it('H26: two that begin in the same second on the same segment have two names', () => {
  const ids = Array.from({ length: 100 }, newId);
  expect(new Set(ids).size).toBe(ids.length);
  expect(new Set(ids.map((id) => id.slice(0, -8))).size).toBe(1);
  expect(parseBackupId(ids[0] ?? '')?.startedAt).toEqual(new Date('2026-11-20T02:00:00Z'));
});

describe('the confirmation', () => {
  const id = newId();
  const keyOf = (name: string) => objectKey(testSystemIdentifier, name);
  const segments = [0x300000n, 0x400000n].map((lsn) => {
    const file = parseWalFileName(segmentNameAt(1, lsn, segmentSizeBytes));
    return keyOf(file === undefined ? '' : walObjectName(file));
  });
  const needed = [keyOf(partName(id, 1)), keyOf(partName(id, 2)), ...segments];
  const wal = { timeline: 1, startLsn: 0x300028n, endLsn: 0x400100n, segmentSizeBytes };
  const manifest = { id, uses: { [id]: [[1, 2]] as const } };

  it('H27: looks for plans, then for parts, then for WAL', async () => {
    const { folder, storage, archive } = makeArchive();
    for (const key of needed) touch(folder, key);
    await expectNothingMissing(archive, manifest, wal, {});
    expect([...new Set(storage.listed)]).toEqual(['plan', 'part', 'wal']);
  });

  it.each([
    {
      what: 'the last part',
      change: (folder: string) => rmSync(join(folder, needed[1] ?? '')),
      words: `part 2 of backup ${id}`,
    },
    {
      what: 'all parts',
      change: (folder: string) => rmSync(join(folder, testSystemIdentifier, 'part'), { recursive: true }),
      words: `part 1 of backup ${id}`,
    },
    {
      what: 'the last segment',
      change: (folder: string) => rmSync(join(folder, segments[1] ?? '')),
      words: 'segment "000000010000000000000004"',
    },
    {
      what: 'no plan of deletion',
      change: (_folder: string, archive: Archive) =>
        publishPlan(archive, { parts: new Map([[id, [[2, 2]]]]), wal: [] }, { host: 'h' }),
      words: 'a deletion is running',
    },
  ])('H27: is refused without $what', async ({ change, words }) => {
    const { folder, archive } = makeArchive();
    for (const key of needed) touch(folder, key);
    await change(folder, archive);
    const failure = await expectNothingMissing(archive, manifest, wal, {}).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(CheckError);
    expect(failure).toMatchObject({
      message: expect.stringContaining(words),
      detail: expect.stringContaining('stored, but not confirmed'),
      hint: expect.stringContaining('take the backup again'),
    });
  });
});

describe('the lease', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  async function take() {
    const made = makeArchive();
    const context = makeContext({}, { workingDirectory: made.folder });
    const id = newId();
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    const options = { id, walFloor: 0x300000n, timeline: 1, host: 'h', signal: context.signal, log: context.log };
    return { ...made, ...context, id, lease: await takeLease(made.archive, options) };
  }

  const state = async (archive: Parameters<typeof listBackups>[0]): Promise<BackupState | undefined> => {
    const [entry] = await listBackups(archive);
    return entry && stateOf(entry, { now: new Date(), expiryMs: leaseExpiryMs });
  };

  it('that cannot be renewed is a warning, and is tried again; after the end nothing is written', async () => {
    const { storage, archive, lease, lines } = await take();
    const records = async () => {
      const keys: string[] = [];
      for await (const { key } of storage.list(`${testSystemIdentifier}/lease/`))
        keys.push(key.slice(key.lastIndexOf('/') + 1));
      return keys;
    };
    storage.fails = { key: /lease/, how: 'refused' };
    vi.advanceTimersByTime(leaseRenewalMs);
    await waitFor('the warning', () => lines.some((line) => line.includes("could not renew the backup's lease")));
    expect(await state(archive)).toBe('running');
    storage.fails = undefined;
    vi.advanceTimersByTime(leaseRenewalMs);
    await waitFor('the next record', async () => (await records()).includes('000003'));
    await lease.close();
    vi.advanceTimersByTime(10 * leaseRenewalMs);
    expect(await records()).toEqual(['000001', '000003', 'closed']);
  });

  it('that failed on a storage that takes nothing never throws, and dies by its age', async () => {
    const { storage, archive, lease } = await take();
    storage.fails = { key: /lease/, how: 'refused' };
    await lease.fail('the storage is dead');
    const [entry] = await listBackups(archive);
    const at = (ms: number) =>
      entry && stateOf(entry, { now: new Date((entry.lastSignAt?.getTime() ?? 0) + ms), expiryMs: leaseExpiryMs });
    expect([-leaseExpiryMs, 0, leaseExpiryMs - 1, leaseExpiryMs].map(at)).toEqual([
      'running',
      'running',
      'running',
      'failed',
    ]);
  });

  it('whose closing was stored, though nobody learned of it, has confirmed', async () => {
    const { folder, storage, archive, lease, id } = await take();
    touch(folder, objectKey(testSystemIdentifier, manifestName(id)));
    expect(await state(archive)).toBe('running');
    storage.fails = { key: /closed$/, how: 'lost' };
    await expect(lease.close()).rejects.toThrow(StorageError);
    await lease.fail('lost');
    expect(await state(archive)).toBe('confirmed');
    rmSync(join(folder, objectKey(testSystemIdentifier, leaseName(id, 'closed'))));
    expect(await state(archive)).toBe('unconfirmed');
  });
});

describe('a backup whose storage fails', () => {
  let [server, repository]: [PostgresServer?, TestRepository?] = [];
  let folder: string;
  beforeAll(async () => {
    folder = makeFolder('failing');
    repository = await new TestRepository({ folder }).init();
    server = PostgresServer.create({ major: 17, settings: repository.serverSettings });
    await server.start();
    await server.switchWal();
    await server.waitUntilAllArchived();
  });
  afterAll(async () => {
    await server?.remove();
    removeFolder(folder);
  });

  function begin(fails?: FailingFolder['fails']): TestContext {
    const storage = new FailingFolder(repository?.root ?? '', patient);
    storage.fails = fails;
    const libpq = { PGHOST: server?.folder ?? '', PGUSER: 'postgres' };
    return makeContext(
      { WALT_REPO: storage.url },
      { workingDirectory: folder, libpq, openStorage: async () => storage },
    );
  }

  const push = (context: TestContext) =>
    basebackupPush(context, {
      pgdata: server?.dataDirectory,
      checkpoint: 'fast',
      annotations: {},
      manifestChecksums: 'CRC32C',
    });

  async function catalogue() {
    const context = begin();
    const storage = new FileStorage(repository?.root ?? '', patient);
    const systemIdentifier = (await server?.value('select system_identifier from pg_control_system()')) ?? '';
    return readCatalogue(context, { storage, systemIdentifier, keys: noKeys });
  }

  it.each<{ at: string; key: RegExp; how: Failure; state: BackupState | undefined }>([
    { at: 'its first sign of life', key: /\/lease\/.*\/000001$/, how: 'refused', state: undefined },
    { at: 'its first part', key: /\/part\/.*1$/, how: 'refused', state: 'failed' },
    { at: 'its last part', key: /\/part\/.*2$/, how: 'lost', state: 'failed' },
    { at: 'its list of files', key: /\/files\//, how: 'lost', state: 'failed' },
    { at: 'its manifest', key: /\/manifest\//, how: 'refused', state: 'failed' },
    { at: 'its manifest', key: /\/manifest\//, how: 'lost', state: 'unconfirmed' },
    { at: 'its confirmation', key: /\/closed$/, how: 'refused', state: 'unconfirmed' },
    { at: 'its confirmation', key: /\/closed$/, how: 'lost', state: 'confirmed' },
  ])('at $at, $how: $state', async ({ key, how, state }) => {
    const before = await catalogue();
    const context = begin({ key, how });
    await expect(push(context)).rejects.toThrow(StorageError);
    const after = await catalogue();
    const [made] = after.filter(({ id }) => !before.some((one) => one.id === id));
    expect(made?.state).toBe(state);
    if (state === 'confirmed') expect(chooseBackup(after, 'LATEST')).toBe(made);
    else expect(() => chooseBackup(after, 'LATEST')).toThrow(NotFoundError);
    if (state !== undefined) expect(context.lines.join('')).toContain(`base backup ${made?.id} was given up`);
  });
});
