/** The folder storage: the contract, and what it promises of a real file system: durable names, one winner, no absence out of a failure. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { collect } from '../../src/bytes.ts';
import { ObjectExists, ObjectNotFound, StorageError } from '../../src/errors.ts';
import { FileStorage, makeRoot } from '../../src/storage/file.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { giveAway } from '../support/account.ts';
import { type Behaviour, FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { suffixOf } from '../support/left-overs.ts';
import { TestRepository } from '../support/repository.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';
import { orFailInCi } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';
import { contentOf, describeStorage, keysOf, pattern, streamOf } from './conformance.ts';

const isTorture = process.env.TORTURE === '1';
const patient = { idleMs: 60_000, requestMs: 60_000 };

describeStorage('a folder', async () => new FileStorage(temporaryFolder(), patient), { manyKeys: 200 });

describe.skipIf(!hasFaultyFs)('a folder without hard links', () => {
  let backing: string;
  let mounted: FaultyFs;
  beforeAll(async () => {
    backing = makeFolder();
    mounted = await FaultyFs.start(backing, { cacheSeconds: 1 });
    await mounted.set({ fail: { link: 'EPERM' } });
  });
  afterAll(async () => {
    await mounted.unmount();
    removeFolder(backing);
  });
  describeStorage('on FUSE', async () => new FileStorage(mkdtempSync(join(mounted.path, 'root-')), patient), {
    manyKeys: 40,
    oneIn: 40,
    isBrief: true,
  });
});

const verbs: readonly [name: string, call: (storage: Storage) => Promise<unknown>][] = [
  ['put', (storage) => storage.put('a/new', Buffer.from('x'), { ifAbsent: true })],
  ['get', (storage) => storage.get('a/key')],
  ['get of what is absent', (storage) => storage.get('a/absent')],
  ['list', (storage) => keysOf(storage, '')],
  ['list below a folder', (storage) => keysOf(storage, 'a/')],
];

/** A storage with the object `a/key`. */
async function filled(root: string, times = patient): Promise<FileStorage> {
  const storage = new FileStorage(root, times);
  await storage.put('a/key', Buffer.from('content'), { ifAbsent: true });
  return storage;
}

function temporaryFiles(root: string): string[] {
  return readdirSync(join(root, '.tmp'));
}

/** The id of a process that has ended. */
function deadProcess(): number {
  return spawnSync('true').pid;
}

describe('a folder', () => {
  it.each(verbs)('H16: %s: a root that is gone is an error, never an absence, and is not made', async (_, call) => {
    const root = temporaryFolder();
    const storage = await filled(root);
    renameSync(root, `${root}-away`);
    onTestFinished(() => removeFolder(`${root}-away`));
    await expect(call(storage)).rejects.toBeInstanceOf(StorageError);
    expect(existsSync(root)).toBe(false);
  });

  it('H16: delete reports every key when the root is gone', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    rmSync(root, { recursive: true });
    const { failed } = await storage.delete(['a/key', 'b']);
    expect(failed.map(({ key, error }) => [key, error.exitCode])).toEqual([
      ['a/key', 4],
      ['b', 4],
    ]);
  });

  it('keeps no temporary file, whether the put succeeds, is refused or fails', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    await expect(storage.put('a/key', Buffer.from('other'))).rejects.toBeInstanceOf(ObjectExists);
    const broken = async function* () {
      yield pattern(100_000);
      throw new Error('broken');
    };
    await expect(storage.put('b', broken())).rejects.toThrow('broken');
    await expect(storage.put('a/key/below', Buffer.from('x'))).rejects.toBeInstanceOf(StorageError);
    expect(temporaryFiles(root)).toEqual([]);
  });

  it('closes and removes the temporary file of a put that is given up while its body does not come', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    const controller = new AbortController();
    const body = async function* () {
      yield pattern(1000);
      queueMicrotask(() => controller.abort(new Error('enough')));
      await new Promise(() => undefined);
    };
    await expect(storage.put('b', body(), { signal: controller.signal })).rejects.toThrow('enough');
    await waitFor('it to be removed', () => temporaryFiles(root).length === 0, 5000);
  });

  it('H47: leaves the object alone that another has named meanwhile', async () => {
    const root = temporaryFolder();
    await expectFirstStays(new FileStorage(root, patient), new FileStorage(root, patient));
    expect(temporaryFiles(root)).toEqual([]);
  });

  it('removes what killed processes left behind, and nothing of a living one', async () => {
    const root = temporaryFolder();
    mkdirSync(join(root, '.tmp'));
    const yesterday = Date.now() / 1000 - 25 * 3600;
    const names: [name: string, stays: boolean, modified?: number][] = [
      [`${hostname()}~${suffixOf(deadProcess())}`, false],
      [`${hostname()}~${suffixOf(process.pid)}`, false], // an earlier process of the same id
      [`${hostname()}~${suffixOf(deadProcess())}~${'0'.repeat(32)}`, false],
      [`${hostname()}~${suffixOf(process.ppid)}`, true],
      [`other-host~${suffixOf(deadProcess())}`, true],
      [`other-host~${suffixOf(deadProcess())}`, false, yesterday],
      [`${hostname()}~${suffixOf(deadProcess(), '1')}`, true], // of another container: its processes cannot be seen
      [`${hostname()}~${suffixOf(deadProcess(), '2')}`, false, yesterday],
      ['thesis.doc', true, yesterday], // nobody knows whose
    ];
    for (const [name, , modified] of names) {
      writeFileSync(join(root, '.tmp', name), 'left over');
      if (modified !== undefined) utimesSync(join(root, '.tmp', name), modified, modified);
    }
    await filled(root);
    expect(temporaryFiles(root).sort()).toEqual(names.flatMap(([name, stays]) => (stays ? [name] : [])).sort());
  });

  it.each([
    ['a pipe', (path: string) => spawnSync('mkfifo', [path]), ['a/key', 'a/odd']],
    ['a folder', (path: string) => mkdirSync(path), ['a/key']],
    ['a link to an object', (path: string) => symlinkSync('key', path), ['a/key', 'a/odd']],
    ['a link to nothing', (path: string) => symlinkSync('nothing', path), ['a/key', 'a/odd']],
  ] as const)('takes %s under a key neither for an object nor for its absence', async (_, make, listed) => {
    const root = temporaryFolder();
    const storage = await filled(root, { idleMs: 5000, requestMs: 5000 });
    make(join(root, 'a/odd'));
    const refused = { constructor: StorageError, message: expect.stringMatching(/"a\/odd" .* is not a regular file$/) };
    await expect(storage.get('a/odd')).rejects.toMatchObject(refused);
    await expect(storage.put('a/odd', Buffer.from('content'), { ifAbsent: true })).rejects.toMatchObject(refused);
    expect(await keysOf(storage, '')).toEqual(listed);
  });

  it('names a key that cannot be deleted, and deletes the others', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    mkdirSync(join(root, 'a/folder'));
    await storage.put('b', Buffer.from('b'));
    const { failed } = await storage.delete(['a/key', 'a/folder', 'b']);
    expect(failed).toMatchObject([{ key: 'a/folder', error: { exitCode: 4 } }]);
    expect(await keysOf(storage, '')).toEqual([]);
  });

  it('calls an object absent that is deleted before its first byte is read, and a root that is gone a failure', async () => {
    const root = temporaryFolder();
    const storage = new FileStorage(root, patient);
    for (const key of ['one', 'two']) await storage.put(key, Buffer.from(key));
    const [one, two] = [await storage.get('one'), await storage.get('two')];
    await storage.delete(['one']);
    await expect(collect(one.body, 100)).rejects.toBeInstanceOf(ObjectNotFound);
    rmSync(root, { recursive: true });
    await expect(collect(two.body, 100)).rejects.toBeInstanceOf(StorageError);
  });

  it('lists no hidden files, such as snapshots of the file system', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    for (const folder of ['.snapshot', 'a/.hidden']) {
      mkdirSync(join(root, folder));
      writeFileSync(join(root, folder, 'file'), '');
    }
    writeFileSync(join(root, 'a/.nfs0001'), '');
    expect(await keysOf(storage, '')).toEqual(['a/key']);
  });

  it('H1: lists what is in a folder that was moved to another disk and linked, as it gives it', async () => {
    const root = temporaryFolder();
    const elsewhere = temporaryFolder();
    const storage = await filled(root);
    renameSync(join(root, 'a'), join(elsewhere, 'a'));
    symlinkSync(join(elsewhere, 'a'), join(root, 'a'));
    expect((await contentOf(storage, 'a/key')).length).toBeGreaterThan(0);
    expect(await keysOf(storage, '')).toEqual(['a/key']);
    expect(await keysOf(storage, 'a/k')).toEqual(['a/key']);
  });

  it('does not follow a link to a folder above for ever', async () => {
    const root = temporaryFolder();
    const storage = await filled(root);
    symlinkSync('..', join(root, 'a/above'));
    await expect(keysOf(storage, '')).rejects.toBeInstanceOf(StorageError);
  });

  it('H16: takes nothing into a root that became another folder since it was read', async () => {
    const [root, other] = [join(temporaryFolder(), 'root'), temporaryFolder()];
    mkdirSync(root);
    const storage = await filled(root);
    await contentOf(storage, 'a/key');
    const swap = () => {
      renameSync(root, `${root}.mounted`);
      renameSync(other, root);
    };
    async function* body() {
      yield pattern(70_000);
      swap(); // as an unmount would
      yield pattern(70_000);
    }
    await expect(storage.put('a/new', body(), { ifAbsent: true })).rejects.toBeInstanceOf(StorageError);
    expect(readdirSync(root).filter((name) => name !== '.tmp')).toEqual([]);
    await expect(storage.put('a/new', pattern(10), { ifAbsent: true })).rejects.toMatchObject({
      message: expect.stringContaining('another folder'),
    });
    await expect(storage.get('a/absent')).rejects.toBeInstanceOf(ObjectNotFound); // nothing is known of this one yet
  });
});

/** While the first object is written, `other` puts one under the same key. */
async function expectFirstStays(storage: Storage, other: Storage): Promise<void> {
  const body = async function* () {
    yield pattern(70_000);
    await other.put('a/b/key', Buffer.from('first'), { ifAbsent: true });
    yield pattern(70_000);
  };
  await expect(storage.put('a/b/key', body(), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
  expect((await contentOf(storage, 'a/b/key')).toString()).toBe('first');
}

/** A folder of a faulty file system, which is shared; what it is asked elsewhere is not told. */
interface Corner extends Pick<FaultyFs, 'path' | 'set' | 'calls'> {
  /** The folder behind it. */
  readonly backing: string;
}

/** One mount for all tests of a group, each in a corner of its own: its calls are told as from there. */
function shareFaultyFs(): () => Promise<Corner> {
  let backing: string;
  let mounted: FaultyFs;
  let corners = 0;
  beforeAll(async () => {
    backing = makeFolder();
    mounted = await FaultyFs.start(backing);
  });
  afterAll(async () => {
    await mounted.unmount();
    removeFolder(backing);
  });
  return async () => {
    const name = `${++corners}`;
    mkdirSync(join(backing, name));
    giveAway(join(backing, name));
    onTestFinished(() => mounted.set({}));
    await mounted.set({});
    return {
      path: join(mounted.path, name),
      backing: join(backing, name),
      set: (behaviour) => mounted.set(behaviour),
      calls: async () => {
        const own = (await mounted.calls())
          .map((call) => `${call} `)
          .filter((call) => /^\w+ \/(\d+)/.exec(call)?.[1] === name);
        return own.map((call) => call.replaceAll(` /${name} `, ' / ').replaceAll(` /${name}/`, ' /').trimEnd());
      },
    };
  };
}

describe.skipIf(!hasFaultyFs)('a folder on a faulty file system', () => {
  const corner = shareFaultyFs();

  interface Place {
    readonly fs: Corner;
    /** The folder behind the mount point. */
    readonly backing: string;
    readonly storage: FileStorage;
    /** A storage as another process would open it. */
    readonly another: (times?: typeof patient) => FileStorage;
  }

  async function place(times = patient): Promise<Place> {
    const fs = await corner();
    const another = (other = times) => new FileStorage(fs.path, other);
    return { fs, backing: fs.backing, storage: another(), another };
  }

  /** The calls that change something or make it durable, temporary names as `<tmp>`, one write for several. */
  async function steps(fs: Corner): Promise<string[]> {
    const calls = (await fs.calls()).map((call) => call.replaceAll(/\/\.tmp\/\S+/g, '<tmp>'));
    return calls.filter(
      (call, index) =>
        /^(create|write|fsync|fsyncdir|link|rename|unlink|mkdir) /.test(call) &&
        !(call.startsWith('write') && calls[index - 1] === call),
    );
  }

  it('H47: makes an object durable before its name, and its name and every folder before it says so', async () => {
    const { fs, storage, another } = await place();
    await storage.put('a/b/one', streamOf([pattern(100_000), pattern(100_000)]), { ifAbsent: true });
    const object = (name: string, ...folders: string[]) => [
      'create <tmp>',
      'write <tmp>',
      'fsync <tmp>',
      ...folders.map((folder) => `mkdir ${folder}`),
      `link ${name} <tmp>`,
    ];
    expect(await steps(fs)).toEqual([
      'mkdir /.tmp',
      ...object('/a/b/one', '/a', '/a/b'),
      'fsyncdir /a/b',
      'fsyncdir /a',
      'fsyncdir /',
      'unlink <tmp>',
    ]);
    await storage.put('a/b/two', Buffer.from('two'), { ifAbsent: true });
    expect(await steps(fs)).toEqual([...object('/a/b/two'), 'fsyncdir /a/b', 'unlink <tmp>']);
    // folders made by another process, which may have died before its fsync
    await another().put('a/b/three', Buffer.from('three'), { ifAbsent: true });
    expect(await steps(fs)).toEqual([
      ...object('/a/b/three'),
      'fsyncdir /a/b',
      'fsyncdir /a',
      'fsyncdir /',
      'unlink <tmp>',
    ]);
  });

  it('H15: makes an object that is already there durable before it says so', async () => {
    const { fs, storage, another } = await place();
    await storage.put('a/key', Buffer.from('x'), { ifAbsent: true });
    await fs.calls();
    await expect(another().put('a/key', Buffer.from('x'), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
    expect(await steps(fs)).toEqual(['fsync /a/key', 'fsyncdir /a', 'fsyncdir /']);
    for (const fail of [{ fsync: 'EIO' }, { fsyncdir: 'EIO' }]) {
      await fs.set({ fail });
      await expect(another().put('a/key', Buffer.from('x'), { ifAbsent: true })).rejects.toBeInstanceOf(StorageError);
    }
  });

  it('H47: makes a new root and the folders above it durable', async () => {
    const { fs } = await place();
    await makeRoot(join(fs.path, 'x/y/z'));
    expect(await steps(fs)).toEqual([
      'mkdir /x',
      'fsyncdir /',
      'mkdir /x/y',
      'fsyncdir /x',
      'mkdir /x/y/z',
      'fsyncdir /x/y',
    ]);
    await makeRoot(join(fs.path, 'x/y/z'));
    expect(await steps(fs)).toEqual([]);
    await fs.set({ fail: { fsyncdir: 'EIO' } });
    await expect(makeRoot(join(fs.path, 'other'))).rejects.toBeInstanceOf(StorageError);
  });

  it('H47: takes EEXIST for success when the link is its own, whose first answer was lost', async () => {
    const { fs, storage } = await place();
    await fs.set({ lostReply: ['link'] });
    await storage.put('a/key', Buffer.from('content'), { ifAbsent: true });
    expect((await steps(fs)).slice(-4)).toEqual(['link /a/key <tmp>', 'fsyncdir /a', 'fsyncdir /', 'unlink <tmp>']);
    expect((await contentOf(storage, 'a/key')).toString()).toBe('content');
  });

  it('H47: takes EEXIST for a refusal when the link is another’s', async () => {
    const { fs, storage, another } = await place();
    await fs.set({ fail: { link: 'EEXIST' } });
    const body = async function* () {
      await fs.set({});
      await another().put('a/key', Buffer.from('content'), { ifAbsent: true });
      await fs.set({ fail: { link: 'EEXIST' } });
      yield Buffer.from('content');
    };
    await expect(storage.put('a/key', body(), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
  });

  it.each(['EPERM', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'])(
    'H47: replaces nothing where there are no hard links: %s',
    async (code) => {
      const { fs, backing, storage, another } = await place();
      await fs.set({ fail: { link: code } });
      await storage.put('a/key', Buffer.from('content'), { ifAbsent: true });
      const taken = await steps(fs);
      const renamed = taken.indexOf('rename <tmp> /a/key');
      expect(taken.indexOf('fsync <tmp>')).toBeLessThan(renamed);
      expect(taken.indexOf('fsyncdir /a')).toBeGreaterThan(renamed);
      await expectFirstStays(storage, another());
      expect(temporaryFiles(backing)).toEqual([]);
    },
  );

  it('H47: has one winner without hard links also where a dead process left its lock', async () => {
    const { fs, backing, another } = await place();
    await fs.set({ fail: { link: 'EPERM' } });
    mkdirSync(join(backing, '.tmp'));
    for (let round = 0; round < 5; round += 1) {
      const key = `race/${round}`;
      writeFileSync(lockOf(fs, backing, key, deadProcess()), '');
      const bodies = Array.from({ length: 8 }, (_, racer) => Buffer.from(`racer ${racer}`));
      const answers = await Promise.allSettled(bodies.map((body) => another().put(key, body, { ifAbsent: true })));
      const winners = bodies.filter((_, racer) => answers[racer]?.status === 'fulfilled');
      expect(winners).toHaveLength(1);
      expect(await contentOf(another(), key)).toEqual(winners[0]);
    }
    expect(temporaryFiles(backing)).toEqual([]);
  });

  it.each([
    ['has done so', (_: ChildProcess, lock: string) => rmSync(lock)],
    ['is killed', (owner: ChildProcess) => owner.kill('SIGKILL')],
  ])('waits without hard links while a living process names the same object, until it %s', async (_, end) => {
    const { fs, backing, storage } = await place();
    await fs.set({ fail: { link: 'EPERM' } });
    mkdirSync(join(backing, '.tmp'));
    const owner = spawn('sleep', ['60']);
    onTestFinished(() => void owner.kill('SIGKILL'));
    const lock = lockOf(fs, backing, 'key', owner.pid ?? 0);
    writeFileSync(lock, '');
    const putting = storage.put('key', Buffer.from('content'), { ifAbsent: true });
    let looks = 0;
    await waitFor('it to look for locks again', async () => {
      looks += (await fs.calls()).filter((call) => call === 'readdir /.tmp').length;
      return looks > 4;
    });
    expect(existsSync(join(backing, 'key'))).toBe(false);
    end(owner, lock);
    await putting;
    expect((await contentOf(storage, 'key')).toString()).toBe('content');
  });

  /** The lock that a process of this host would have made. */
  function lockOf(fs: Corner, backing: string, key: string, processId: number): string {
    const object = createHash('sha256').update(join(fs.path, key)).digest('hex').slice(0, 32);
    return join(backing, '.tmp', `${hostname()}~${suffixOf(processId)}~${object}`);
  }

  it('H47: gives no name to a file whose fsync failed, and never tries that fsync again', async () => {
    const { fs, backing, storage } = await place();
    await fs.set({ fail: { fsync: 'EIO' } });
    const put = () => storage.put('a/key', Buffer.from('content'), { ifAbsent: true });
    await expect(put()).rejects.toMatchObject({
      constructor: StorageError,
      message: expect.stringMatching(/input\/output error$/),
    });
    const calls = await fs.calls();
    expect(calls.filter((call) => call.startsWith('fsync '))).toHaveLength(1);
    expect(calls.filter((call) => /^(link|rename) /.test(call))).toEqual([]);
    expect(existsSync(join(backing, 'a'))).toBe(false);
    expect(temporaryFiles(backing)).toEqual([]);
    await fs.set({});
    await put();
    const again = (await fs.calls()).filter((call) => call.startsWith('fsync '));
    expect(again).toHaveLength(1);
    expect(calls).not.toContain(again[0]); // another file
  });

  it('H47: believes a folder to be durable where its file system has no fsync for folders, and nowhere else', async () => {
    const { fs, storage } = await place();
    await fs.set({ fail: { fsyncdir: 'EIO' } });
    await expect(storage.put('a/b/key', Buffer.from('x'), { ifAbsent: true })).rejects.toBeInstanceOf(StorageError);
    await fs.set({ fail: { fsyncdir: 'EINVAL' } });
    await storage.put('a/b/other', Buffer.from('x'), { ifAbsent: true });
    expect(await keysOf(storage, 'a/b/o')).toEqual(['a/b/other']);
  });

  it('tries a folder’s failed fsync again with the next object', async () => {
    const { fs, storage } = await place();
    await fs.set({ fail: { fsyncdir: 'EIO' } });
    await expect(storage.put('a/one', Buffer.from('x'))).rejects.toBeInstanceOf(StorageError);
    await fs.set({});
    await fs.calls();
    await storage.put('a/two', Buffer.from('x'));
    expect((await steps(fs)).filter((step) => step.startsWith('fsyncdir'))).toEqual(['fsyncdir /a', 'fsyncdir /']);
  });

  it.each([0, 1, 70_000])('keeps nothing of an object when the space ends after %i bytes', async (spaceBytes) => {
    const { fs, backing, storage } = await place();
    await fs.set({ spaceBytes });
    await expect(storage.put('a/key', pattern(200_000), { ifAbsent: true })).rejects.toMatchObject({
      constructor: StorageError,
      message: expect.stringMatching(/no space left on device$/),
      hint: expect.stringContaining('Free space'),
    });
    expect(await keysOf(storage, '')).toEqual([]);
    expect(temporaryFiles(backing)).toEqual([]);
  });

  it('writes on where a write takes only a part', async () => {
    const { fs, storage } = await place();
    await fs.set({ writeBytes: 1000 });
    await storage.put('key', pattern(12_345));
    expect((await contentOf(storage, 'key')).equals(pattern(12_345))).toBe(true);
  });

  it.each([
    ['create', 'EACCES', 'permission denied'],
    ['create', 'EROFS', 'read-only file system'],
    ['write', 'EDQUOT', 'disk quota exceeded'],
    ['mkdir', 'EACCES', 'permission denied'],
    ['getattr', 'ESTALE', 'stale file handle'],
    ['create', 'EUCLEAN', 'E117'],
  ] as const)('says in words why it cannot write: %s %s', async (call, code, words) => {
    const { fs, backing, storage } = await place();
    mkdirSync(join(backing, '.tmp'));
    await fs.set({ fail: { [call]: code } });
    const failed = { constructor: StorageError, message: expect.stringContaining(words), hint: expect.anything() };
    await expect(storage.put('a/key', Buffer.from('x'))).rejects.toMatchObject(failed);
    expect(existsSync(join(backing, 'a/key'))).toBe(false);
  });

  it('reports a failed read, also in the middle, and gives no byte for it', async () => {
    const { fs, storage } = await place();
    await storage.put('key', pattern(3_000_000));
    const { body } = await storage.get('key');
    let sizeBytes = 0;
    const read = async () => {
      for await (const chunk of body) {
        sizeBytes += chunk.length;
        await fs.set({ fail: { read: 'EIO' } });
      }
    };
    await expect(read()).rejects.toBeInstanceOf(StorageError);
    expect(sizeBytes).toBe(1024 * 1024);
    await expect(contentOf(storage, 'key')).rejects.toThrow('input/output error');
  });

  describe('whose server is gone', () => {
    let backing: string;
    let mounted: FaultyFs;
    let storage: FileStorage;
    beforeAll(async () => {
      backing = makeFolder();
      mounted = await FaultyFs.start(backing);
      storage = await filled(mounted.path);
      await mounted.crash();
    });
    afterAll(async () => {
      await mounted.unmount();
      removeFolder(backing);
    });

    it.each(verbs)('%s: is an error, never an absence', async (_, call) => {
      await expect(call(storage)).rejects.toMatchObject({
        constructor: StorageError,
        message: expect.stringContaining('transport endpoint is not connected'),
      });
    });
  });

  describe('that hangs', () => {
    const hasty = { idleMs: 200, requestMs: 400 };
    const noAnswer = { constructor: StorageError, message: expect.stringMatching(/no answer for 0\.[24] s$/) };

    it.each(verbs)('%s is given up in time, and works again when the file system does', async (_, call) => {
      const { fs, storage, another } = await place();
      await storage.put('a/key', Buffer.from('content'));
      await fs.set({ hang: ['*'] });
      await expect(call(another(hasty))).rejects.toMatchObject(noAnswer);
      await fs.set({});
      await contentOf(storage, 'a/key');
    });

    it('delete is given up in time, for each key', async () => {
      const { fs, storage, another } = await place();
      await storage.put('a/key', Buffer.from('content'));
      await fs.set({ hang: ['unlink'] });
      const { failed } = await another(hasty).delete(['a/key', 'b']);
      expect(failed.map(({ key }) => key)).toEqual(['a/key', 'b']);
    });

    it('a read that hangs in the middle is given up in time', async () => {
      const { fs, storage, another } = await place();
      await storage.put('key', pattern(3_000_000));
      const { body } = await another(hasty).get('key');
      const read = async () => {
        for await (const _ of body) await fs.set({ hang: ['read'] });
      };
      await expect(read()).rejects.toMatchObject(noAnswer);
    });

    it('takes no second thread for it, and goes on when it answers', async () => {
      const { fs, storage, another } = await place();
      await storage.put('a/key', Buffer.from('content'));
      const hanging = another(hasty);
      await fs.set({ hang: ['readdir'] });
      await expect(keysOf(hanging, '')).rejects.toMatchObject(noAnswer);
      await fs.calls();
      for (let attempt = 0; attempt < 8; attempt += 1) {
        await expect(hanging.get('a/key')).rejects.toThrow('an earlier request still has no answer');
        await expect(hanging.put('b', Buffer.from('b'))).rejects.toBeInstanceOf(StorageError);
      }
      expect(await fs.calls()).toEqual([]);
      await fs.set({});
      await waitFor('the hanging call to end', () =>
        keysOf(hanging, '').then(
          (keys) => keys.length === 1,
          () => false,
        ),
      );
    });

    it.each(['write', 'fsync', 'mkdir'] as const)(
      'a put that was given up in %s names nothing when the file system wakes up',
      async (call) => {
        const { fs, backing, storage } = await place(hasty);
        await fs.set({ hang: [call] });
        mkdirSync(join(backing, '.tmp'));
        await expect(storage.put('a/key', Buffer.from('late'), { ifAbsent: true })).rejects.toMatchObject(noAnswer);
        await fs.set({});
        await waitFor('its end', () => temporaryFiles(backing).length === 0);
        expect(await keysOf(storage, '')).toEqual([]);
      },
    );

    it('is only slow: everything is waited for', async () => {
      const { fs, storage } = await place();
      await fs.set({ delayMs: { readdir: 100, '*': 5 } });
      await storage.put('a/key', Buffer.from('content'), { ifAbsent: true });
      expect(await keysOf(storage, '')).toEqual(['a/key']);
    });
  });
});

const segment = '000000010000000000000001';

/** A repository in which nothing is archived, to be copied. */
let fresh: string;
beforeAll(async () => {
  fresh = makeFolder();
  await new TestRepository({ folder: fresh }).init();
});
afterAll(() => removeFolder(fresh));

/** A data directory with one segment, and a repository at `root`, which is there. */
function archiver(root: string, settings: Readonly<Record<string, string>> = {}) {
  const dataDirectory = temporaryFolder();
  const path = makeDataDirectory(dataDirectory)(segment, makeSegment(segment));
  const repository = new TestRepository({ root, settings });
  spawnSync('cp', ['-a', `${fresh}/repo/.`, root]);
  const push = () => repository.run('wal-push', [path, segment], { cwd: dataDirectory });
  const fetch = () => repository.run('wal-fetch', [segment, 'pg_wal/RECOVERYXLOG'], { cwd: dataDirectory });
  return { dataDirectory, repository, push, fetch };
}

describe.skipIf(!hasFaultyFs)('commands on a folder', () => {
  const corner = shareFaultyFs();

  /** Kills the process, not its launcher, that has a temporary file in the repository. */
  function killWriter(root: string): void {
    const [name = ''] = temporaryFiles(root);
    process.kill(Number(/~(\d+)-/.exec(name)?.[1]), 'SIGKILL');
  }

  const killings: readonly [when: string, during: Behaviour, call: RegExp, after: Behaviour][] = [
    ['while it writes', { hang: ['write'] }, /^write \/\.tmp/, {}],
    ['with its name there', { hang: ['fsyncdir'] }, /^fsyncdir /, {}],
    [
      'with a lock, where there are no hard links',
      { fail: { link: 'EPERM' }, hang: ['rename'] },
      /^rename /,
      { fail: { link: 'EPERM' } },
    ],
  ];
  // as the first: there is a temporary file, and no name
  const alike: typeof killings = [
    ['before its fsync is done', { hang: ['fsync'] }, /^fsync \/\.tmp/, {}],
    ['before its name is there', { hang: ['link'] }, /^link /, {}],
  ];

  it.each(isTorture ? [...killings, ...alike] : killings)(
    'kill -9 %s: nothing stays, and the next push succeeds',
    async (_, during, call, after) => {
      const fs = await corner();
      const { backing } = fs;
      const { push, repository, fetch, dataDirectory } = archiver(fs.path);
      await fs.set(during);
      await fs.calls();
      const pushing = push();
      await waitFor('the call', async () => (await fs.calls()).some((one) => call.test(one)));
      killWriter(backing);
      expect(await pushing).toMatchObject({ code: 70 });
      expect(temporaryFiles(backing).length).toBeGreaterThan(0);
      await fs.set(after);
      expect(await push()).toMatchObject({ code: 0, stderr: '' });
      expect(temporaryFiles(backing)).toEqual([]);
      expect(repository.files().filter((name) => name.endsWith(segment))).toHaveLength(1);
      expect(await fetch()).toMatchObject({ code: 0 });
      expect(readFileSync(join(dataDirectory, 'pg_wal/RECOVERYXLOG')).equals(makeSegment(segment))).toBe(true);
    },
  );

  const hasty = { WALT_IDLE_TIMEOUT: '300ms', WALT_REQUEST_TIMEOUT: '600ms', WALT_WAL_FETCH_TIMEOUT: '1s' };

  const hanging: readonly (readonly [what: string, calls: Behaviour['hang'] & {}])[] = [
    ['everything', ['*']],
    ['the fsync of folders', ['fsyncdir']],
  ];
  const others: typeof hanging = [
    ['reading', ['read']],
    ['writing', ['write']],
    ['the link', ['link']],
  ];
  it.each(isTorture ? [...hanging, ...others] : hanging)(
    'wal-push ends with 4, and at once, when a file system hangs: %s',
    async (_, hang) => {
      const fs = await corner();
      const { push } = archiver(fs.path, hasty);
      await fs.set({ hang });
      const { code, stderr } = await push();
      expect(stderr).toMatch(/^wal-push: error: could not .*: no answer for 0\.[36] s\nwal-push: hint: [^\n]+\n$/);
      expect(code).toBe(4);
    },
  );

  it('wal-fetch ends by itself when a file system hangs: with 200 in recovery, with 4 on a standby', async () => {
    const fs = await corner();
    const { push, fetch, dataDirectory } = archiver(fs.path, { ...hasty, WALT_WAL_FETCH_STANDBY_TIMEOUT: '1s' });
    expect(await push()).toMatchObject({ code: 0 });
    await fs.set({ hang: ['*'] });
    const inRecovery = await fetch();
    expect(inRecovery.stderr).toMatch(/^wal-fetch: error: .* no answer/m);
    expect(inRecovery.code).toBe(200);
    writeFileSync(join(dataDirectory, 'standby.signal'), '');
    expect((await fetch()).code).toBe(4);
    await fs.set({});
    expect((await fetch()).code).toBe(0);
  });

  it.each(isTorture ? (['SIGTERM', 'SIGINT'] as const) : (['SIGTERM'] as const))(
    '%s ends a wal-push that hangs',
    async (signal) => {
      const fs = await corner();
      const { repository, dataDirectory } = archiver(fs.path);
      await fs.set({ hang: ['create'] });
      await fs.calls();
      let kill = (): unknown => undefined;
      const pushing = repository.run('wal-push', [`pg_wal/${segment}`, segment], {
        cwd: dataDirectory,
        onStart: (child) => {
          kill = () => child.kill(signal);
        },
      });
      await waitFor('its storage to hang', async () => (await fs.calls()).some((call) => call.startsWith('create ')));
      kill();
      expect((await pushing).signal).toBe(signal);
    },
  );
});

const hasTmpfs = orFailInCi(process.getuid?.() === 0, 'mounting needs root');

describe.skipIf(!hasTmpfs)('commands on a full disk', () => {
  it('wal-push says that no space is left, ends with 4, keeps nothing, and succeeds when there is space', async () => {
    const root = temporaryFolder();
    const mount = (words: string[]) =>
      expect(spawnSync('mount', ['-t', 'tmpfs', ...words, 'tmpfs', root]).status).toBe(0);
    mount(['-o', 'size=256k']);
    onTestFinished(() => void spawnSync('umount', ['-l', root]));
    giveAway(root);
    const { push, repository } = archiver(root);
    const before = repository.files();
    const { code, stderr } = await push();
    expect(stderr).toMatch(/^wal-push: error: .*no space left on device\nwal-push: hint: Free space/);
    expect(code).toBe(4);
    expect(repository.files().filter((name) => !before.includes(name) && !name.endsWith('cluster.json'))).toEqual([]);
    mount(['-o', 'remount,size=8m']);
    expect(await push()).toMatchObject({ code: 0, stderr: '' });
  });
});
