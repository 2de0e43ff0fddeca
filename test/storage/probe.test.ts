/** `probeStorage`: what a sound storage is found to do, and that one which loses or invents something is found out. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Bytes, bytesOf, collect } from '../../src/bytes.ts';
import { init } from '../../src/commands/init.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { ObjectNotFound, StorageError } from '../../src/errors.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { probeStorage } from '../../src/storage/probe.ts';
import type {
  DeleteReport,
  GetOptions,
  ListOptions,
  PutOptions,
  Storage,
  StoredObject,
} from '../../src/storage/storage.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { openProxy } from '../support/proxied.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';
import { ignoreIfNoneMatch, racyIfNoneMatch, refuseIfNoneMatch } from '../support/store-faults.ts';
import { keysOf } from './conformance.ts';

/** A real folder behind a storage that can be given one fault. */
class Flawed implements Storage {
  readonly url = 'flawed://';
  readonly #inner: Storage = new FileStorage(temporaryFolder(), { idleMs: 60_000, requestMs: 60_000 });

  put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    return this.#inner.put(key, body, options);
  }

  get(key: string, options?: GetOptions): ReturnType<Storage['get']> {
    return this.#inner.get(key, options);
  }

  list(prefix: string, options?: ListOptions): ReturnType<Storage['list']> {
    return this.#inner.list(prefix, options);
  }

  delete(keys: readonly string[]): Promise<DeleteReport> {
    return this.#inner.delete(keys);
  }
}

/** Replaces what is there, whatever it was asked, as stores do that ignore If-None-Match. */
class Replacing extends Flawed {
  override async put(key: string, body: Uint8Array | Bytes): Promise<void> {
    await this.delete([key]);
    await super.put(key, body).catch(() => undefined);
  }
}

/** Tells some writers that came too late that they won; nothing is replaced. Writers are counted from 1. */
class Flattering extends Flawed {
  readonly #lies: (writer: number) => boolean;
  #writers = 0;
  #turn: Promise<unknown> = Promise.resolve();
  constructor(lies: (writer: number) => boolean) {
    super();
    this.#lies = lies;
  }
  override async put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    if (!key.endsWith('/race')) return super.put(key, body, options);
    this.#writers += 1;
    const lie = this.#lies(this.#writers);
    const put = this.#turn.then(() => super.put(key, body, options));
    this.#turn = put.catch(() => undefined);
    return lie ? put.catch(() => undefined) : put;
  }
}

/** Tells one writer that it won, and keeps what another wrote. */
class Mixing extends Flawed {
  override put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    return super.put(key, key.endsWith('/race') ? Buffer.from('another') : body, options);
  }
}

class WithoutDelete extends Flawed {
  override async delete(keys: readonly string[]): Promise<DeleteReport> {
    return { failed: keys.map((key) => ({ key, error: new StorageError('denied') })) };
  }
}

class WithoutRanges extends Flawed {
  override get(key: string): ReturnType<Storage['get']> {
    return super.get(key);
  }
}

/** Says the length of the range where that of the object is asked for. */
class RangeSized extends Flawed {
  override async get(key: string, options?: GetOptions): ReturnType<Storage['get']> {
    const answer = await super.get(key, options);
    return options?.range === undefined ? answer : { ...answer, sizeBytes: options.range.length };
  }
}

class Truncating extends Flawed {
  override async get(key: string, options?: GetOptions): ReturnType<Storage['get']> {
    const { sizeBytes, body } = await super.get(key, options);
    const content = await collect(body, 1024);
    return { sizeBytes: sizeBytes - 1, body: bytesOf(content.subarray(1)) };
  }
}

/** Gives something for every key, as web servers with a catch-all page do. */
class Inventing extends Flawed {
  override get(key: string, options?: GetOptions): ReturnType<Storage['get']> {
    return super.get(key, options).catch((error: unknown) => {
      if (!(error instanceof ObjectNotFound)) throw error;
      return { sizeBytes: 4, body: bytesOf(Buffer.from('page')) };
    });
  }
}

/** A fault in what is listed. */
class Listing extends Flawed {
  readonly #change: (keys: string[]) => string[];
  readonly #after: boolean;
  constructor(change: (keys: string[]) => string[], { after = true } = {}) {
    super();
    this.#change = change;
    this.#after = after;
  }
  override async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<StoredObject> {
    const keys: string[] = [];
    for await (const { key } of super.list(prefix, this.#after ? options : {})) keys.push(key);
    for (const key of this.#change(keys)) yield { key, sizeBytes: 0, modifiedAt: new Date() };
  }
}

describe('probeStorage', () => {
  it('finds a folder sound, leaves nothing behind, and can be run again', async () => {
    const storage = new Flawed();
    await storage.put('repository.json', Buffer.from('{}'));
    for (let round = 0; round < 3; round += 1) {
      expect(await probeStorage(storage)).toEqual({ conditionalPut: 'honoured', delete: 'allowed' });
      expect(await keysOf(storage, '')).toEqual(['repository.json']);
    }
  });

  it('notes what archiving can live without', async () => {
    expect(await probeStorage(new WithoutDelete())).toEqual({ conditionalPut: 'honoured', delete: 'denied' });
  });

  it.each([
    ['replaces objects', () => new Replacing()],
    ['lets several racing writers win', () => new Flattering((writer) => writer <= 16)],
    ['refuses racing writers, and not a later one', () => new Flattering((writer) => writer > 16)],
    ['keeps another content than the winner’s', () => new Mixing()],
  ])('does not rely on the conditional put of a storage that %s', async (_, make) => {
    expect(await probeStorage(make())).toMatchObject({ conditionalPut: 'ignored' });
  });

  const sortedFoldersFirst = (keys: string[]) =>
    keys.toSorted((a, b) => Number(b.endsWith('d')) - Number(a.endsWith('d')));
  it.each([
    ['gives the whole for a range', () => new WithoutRanges()],
    ['says the size of the range', () => new RangeSized()],
    ['loses a byte', () => new Truncating()],
    ['gives something for every key', () => new Inventing()],
    ['lists in another order', () => new Listing(sortedFoldersFirst)],
    ['lists backwards', () => new Listing((keys) => keys.toReversed())],
    ['lists nothing', () => new Listing(() => [])],
    ['lists only one page', () => new Listing((keys) => keys.slice(0, 2))],
    ['lists an object twice', () => new Listing((keys) => keys.flatMap((key) => [key, key]))],
    ['lists what was never stored', () => new Listing((keys) => [...keys, `x${randomBytes(4).toString('hex')}`])],
    ['does not know "after"', () => new Listing((keys) => keys, { after: false })],
  ])('refuses a storage that %s', async (_, make) => {
    await expect(probeStorage(make())).rejects.toMatchObject({
      constructor: StorageError,
      message: 'flawed:// cannot hold an archive',
    });
  });

  it('passes on the failure of a storage that is not there', async () => {
    const storage = new FileStorage(`${temporaryFolder()}/absent`, { idleMs: 60_000, requestMs: 60_000 });
    await expect(probeStorage(storage)).rejects.toThrow('no such file or directory');
  });
});

describe('a bucket whose conditional put is', () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());

  it.each([
    ['honoured', [], 'honoured', ['PutObject', 'PutObject']],
    ['ignored', [ignoreIfNoneMatch], 'ignored', ['GetObject', 'PutObject', 'GetObject', 'GetObject']],
    ['refused', [refuseIfNoneMatch], 'refused', ['GetObject', 'PutObject', 'GetObject', 'GetObject']],
    ['racing', [racyIfNoneMatch(300)], 'ignored', ['GetObject', 'PutObject', 'GetObject', 'GetObject']],
  ] as const)(
    '%s is found out, and pushes follow from it; a conflict is one in any case',
    async (name, faults, found, sent) => {
      const proxy = await openProxy(server.s3);
      for (const fault of faults) proxy.inject(fault);
      const storage = await openS3Storage(proxy.s3, { prefix: name });
      expect(await probeStorage(storage)).toEqual({ conditionalPut: found, delete: 'allowed' });
      expect(await keysOf(storage, '')).toEqual([]);

      const folder = temporaryFolder();
      const put = makeDataDirectory(folder);
      const settings = { WALT_REPO: storage.url, AWS_ENDPOINT_URL_S3: proxy.s3.endpoint };
      const context = makeContext(settings, { workingDirectory: folder });
      expect((await init(context, { adopt: false })).repository.storage.conditionalPut).toBe(found);
      const [first, second] = ['000000010000000000000001', '000000010000000000000002'];
      const push = (segment: string, seed = '') =>
        walPush(context, { path: put(segment, makeSegment(segment, { seed })), name: segment });
      await push(first);
      proxy.forget();
      await push(second);
      const looked = proxy.log.length;
      await push(second);
      const kinds = proxy.log.filter(({ key }) => !key.endsWith('.json')).map(({ kind }) => kind);
      // the second time a look is enough, which the store itself takes where it honours the condition
      expect(kinds).toEqual(found === 'honoured' ? [...sent, 'GetObject'] : sent);
      expect(looked).toBe(found === 'honoured' ? 2 : 4);
      await expect(push(second, 'other')).rejects.toMatchObject({ exitCode: 5 });
    },
  );
});
