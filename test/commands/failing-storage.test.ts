/** The commands over a storage that fails at its n-th call, for every n: nothing is lost, nothing is believed, and the next run mends it. */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { objectKey, walObjectName } from '../../src/archive/keys.ts';
import { makeRepository } from '../../src/archive/repository.ts';
import { openWalFile } from '../../src/archive/wal-archive.ts';
import { type Bytes, collect } from '../../src/bytes.ts';
import { noKeys } from '../../src/codec/keys.ts';
import type { Context } from '../../src/commands/context.ts';
import { type WalFetchResult, walFetch } from '../../src/commands/wal-fetch.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { HoleError, StorageError } from '../../src/errors.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type {
  DeleteReport,
  GetOptions,
  ListOptions,
  PutOptions,
  RequestOptions,
  Storage,
  StoredBody,
  StoredObject,
} from '../../src/storage/storage.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';

/**
 * How the one call fails. refused: it does nothing; lost: it does all, but its answer never comes; cut: what it reads breaks off
 * before its end. Calls before and after it work: whoever overlooks the failure goes on undisturbed.
 */
const failures = ['refused', 'lost', 'cut'] as const;
type Failure = (typeof failures)[number];

class FailingStorage implements Storage {
  readonly url: string;
  readonly #inner: Storage;
  readonly #failing: number;
  readonly #failure: Failure;
  #calls = 0;

  constructor(inner: Storage, failing: number, failure: Failure) {
    this.url = inner.url;
    this.#inner = inner;
    this.#failing = failing;
    this.#failure = failure;
  }

  get hasFailed(): boolean {
    return this.#calls >= this.#failing;
  }

  put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    return this.#answer(
      () => this.#inner.put(key, body, options),
      () => {
        throw this.#error();
      },
    );
  }

  get(key: string, options?: GetOptions): Promise<StoredBody> {
    return this.#answer(
      () => this.#inner.get(key, options),
      ({ sizeBytes, body }) => ({ sizeBytes, body: this.#broken(body) }),
    );
  }

  async *list(prefix: string, options?: ListOptions): AsyncGenerator<StoredObject> {
    yield* await this.#answer(
      async () => this.#inner.list(prefix, options),
      (found) => this.#broken(found),
    );
  }

  delete(keys: readonly string[], options?: RequestOptions): Promise<DeleteReport> {
    return this.#answer(
      () => this.#inner.delete(keys, options),
      () => {
        throw this.#error();
      },
    );
  }

  /** The inner storage's answer, unless it is this call's turn to fail; `breaking` is how a half answer looks. */
  async #answer<T>(work: () => Promise<T>, breaking: (answer: T) => T): Promise<T> {
    this.#calls += 1;
    if (this.#calls !== this.#failing) return work();
    await pause(5); // longer than these commands are told to be patient: they do not try again
    if (this.#failure === 'refused') throw this.#error();
    const answer = await work().catch(() => {
      throw this.#error();
    });
    if (this.#failure === 'lost') throw this.#error();
    return breaking(answer);
  }

  /** Everything but the last item, and then the error instead of the end. */
  async *#broken<Item>(items: AsyncIterable<Item>): AsyncGenerator<Item> {
    let waiting: Item | undefined;
    for await (const item of items) {
      if (waiting !== undefined) yield waiting;
      waiting = item;
    }
    throw this.#error();
  }

  #error(): StorageError {
    return new StorageError('the storage has failed');
  }
}

const [first, second, third] = ['000000010000000000000001', '000000010000000000000002', '000000010000000000000003'];
const branch = '000000020000000000000003';
const partial = `${third}.partial`;
const history = Buffer.from('1\t0/380000\tno recovery target specified\n');

const made = new Map<string, Buffer>([['00000002.history', history]]);
function contentOf(name: string): Buffer {
  const content = made.get(name) ?? makeSegment(name);
  made.set(name, content);
  return content;
}

/** A data directory, and a folder for a repository. */
class Place {
  readonly root: string;
  readonly data: string;
  readonly storage: FileStorage;
  readonly write: (name: string, content: Buffer) => string;

  constructor(original?: Place) {
    const folder = temporaryFolder();
    [this.root, this.data] = [join(folder, 'repo'), join(folder, 'data')];
    mkdirSync(this.root);
    if (original !== undefined) cpSync(original.root, this.root, { recursive: true });
    if (original !== undefined) cpSync(original.data, this.data, { recursive: true });
    this.storage = new FileStorage(this.root, { idleMs: 10_000, requestMs: 10_000 });
    this.write = makeDataDirectory(this.data);
  }

  context(storage: Storage, init: 'auto' | 'manual'): Context {
    const settings = { WALT_REPO: `file://${this.root}`, WALT_INIT: init };
    return makeContext(settings, { workingDirectory: this.data, openStorage: () => storage });
  }

  async init(): Promise<void> {
    await makeRepository(this.storage, { conditionalPut: 'honoured', delete: 'allowed' });
  }

  async push(name: string, { content = contentOf(name), storage = this.storage as Storage, auto = false } = {}) {
    await walPush(this.context(storage, auto ? 'auto' : 'manual'), { path: this.write(name, content), name });
  }

  fetch(name: string, storage: Storage = this.storage): Promise<WalFetchResult> {
    const path = name.endsWith('.history') ? 'pg_wal/RECOVERYHISTORY' : 'pg_wal/RECOVERYXLOG';
    return walFetch(this.context(storage, 'manual'), { name, path });
  }

  get delivered(): Buffer | undefined {
    const path = join(this.data, 'pg_wal/RECOVERYXLOG');
    return existsSync(path) ? readFileSync(path) : undefined;
  }

  /** Every stored WAL file opens with a known content; who is on a timeline has its history; nothing temporary is left. */
  async expectSound(contents: readonly Buffer[]): Promise<void> {
    const names: string[] = [];
    for await (const { key } of this.storage.list(`${testSystemIdentifier}/`)) {
      const name = key.slice(key.lastIndexOf('/') + 1);
      const file = parseWalFileName(name);
      names.push(name);
      if (file === undefined) continue;
      const { content } = await openWalFile(
        { storage: this.storage, systemIdentifier: testSystemIdentifier, keys: noKeys },
        file,
      );
      const bytes = await collect(content, 2 ** 24);
      expect([contentOf(name), ...contents].some((known) => known.equals(bytes))).toBe(true);
    }
    if (names.includes('cluster.json') && existsSync(join(this.data, 'pg_wal/00000002.history'))) {
      expect(names).toContain('00000002.history');
    }
    const temporary = join(this.root, '.tmp');
    expect(existsSync(temporary) ? readdirSync(temporary) : []).toEqual([]);
    expect(readdirSync(join(this.data, 'pg_wal')).filter((name) => name.includes('.wal-t-'))).toEqual([]);
  }
}

/** Calls `attempt` in a copy of `original`, with a storage that fails at call 1, 2, 3 … until none is left to fail. @returns how many there were. */
async function atEveryCall(
  failure: Failure,
  original: Place,
  attempt: (place: Place, storage: FailingStorage) => Promise<void>,
): Promise<number> {
  for (let failing = 1; ; failing += 1) {
    const place = new Place(original);
    const storage = new FailingStorage(place.storage, failing, failure);
    await attempt(place, storage);
    if (!storage.hasFailed) return failing - 1;
  }
}

/** What the work ended with: its result or its error. */
function outcomeOf<T>(work: Promise<T>): Promise<T | Error> {
  return work.catch((error: Error) => error);
}

interface Push {
  readonly name: string;
  readonly given: (place: Place) => Promise<unknown> | unknown;
  readonly file: string;
  readonly content?: Buffer;
  readonly auto?: boolean;
  /** Under which name it can be fetched, if another. */
  readonly storedAs?: string;
  /** At least so many calls are made. */
  readonly calls: number;
}

const other = makeSegment(partial, { seed: 'other' });
const otherHash = createHash('sha256').update(other).digest('hex').slice(0, 8);

const pushes: readonly Push[] = [
  { name: 'the first segment of a cluster', given: (place) => place.init(), file: first, calls: 5 },
  { name: 'the first segment with WALT_INIT=auto', given: () => undefined, file: first, auto: true, calls: 30 },
  {
    name: 'the next segment',
    given: async (place) => {
      await place.init();
      await place.push(first);
    },
    file: second,
    calls: 2,
  },
  {
    name: 'H15: the same segment again',
    given: async (place) => {
      await place.init();
      await place.push(first);
    },
    file: first,
    calls: 3,
  },
  {
    name: "H12: another timeline's end of the same segment",
    given: async (place) => {
      await place.init();
      await place.push(partial);
    },
    file: partial,
    content: other,
    storedAs: `${partial}.${otherHash}`,
    calls: 4,
  },
  {
    name: 'H14: the first segment of a cluster that was promoted before',
    given: async (place) => {
      await place.init();
      place.write('00000002.history', history);
    },
    file: branch,
    calls: 6,
  },
];

describe.each(failures)('a push whose storage call is %s', (failure) => {
  // a probe's many calls are of one kind: one way to fail is enough
  it.each(pushes.filter(({ auto }) => auto !== true || failure === 'lost'))(
    'keeps the archive sound, and the next one succeeds: $name',
    async (push) => {
      const { file, content = contentOf(file), auto = false } = push;
      const original = new Place();
      await push.given(original);
      const calls = await atEveryCall(failure, original, async (place, storage) => {
        const outcome = await outcomeOf(place.push(file, { content, storage, auto }));
        if (storage.hasFailed) expect(outcome).toBeInstanceOf(StorageError);
        else expect(outcome).toBeUndefined();
        await place.expectSound([content]);
        if (outcome !== undefined) await place.push(file, { content, auto });
        await place.expectSound([content]);
        expect(await place.fetch(push.storedAs ?? file)).toBe('delivered');
        expect(place.delivered?.equals(content)).toBe(true);
      });
      expect(calls).toBeGreaterThanOrEqual(push.calls);
    },
  );
});

interface Fetch {
  readonly name: string;
  readonly given: (place: Place) => Promise<unknown> | unknown;
  readonly file: string;
  /** What it ends with once no call fails. */
  readonly answer: WalFetchResult | typeof HoleError;
  readonly content?: Buffer;
  readonly calls: number;
}

const firstTwo = async (place: Place) => {
  await place.init();
  for (const name of [first, second]) await place.push(name);
};
const promoted = async (place: Place) => {
  await firstTwo(place);
  for (const name of [partial, '00000002.history', branch]) await place.push(name);
};
const upToSwitch = Buffer.concat([contentOf(partial).subarray(0, 0x80000)], 2 ** 20);

const fetches: readonly Fetch[] = [
  { name: 'a stored segment', given: firstTwo, file: first, answer: 'delivered', content: contentOf(first), calls: 1 },
  { name: 'H1: the segment behind the last', given: firstTwo, file: third, answer: 'absent', calls: 3 },
  {
    name: 'H1: a segment missing in the middle',
    given: async (place) => {
      await firstTwo(place);
      await place.push(third);
      await place.storage.delete([objectKey(testSystemIdentifier, walObjectName(segmentOf(second)))]);
    },
    file: second,
    answer: HoleError,
    calls: 3,
  },
  {
    name: 'H1: the last segment before a timeline switch',
    given: promoted,
    file: third,
    answer: 'delivered',
    content: upToSwitch,
    calls: 6,
  },
  { name: 'H14: the history behind the last', given: promoted, file: '00000003.history', answer: 'absent', calls: 3 },
];

describe.each(failures)('a fetch whose storage call is %s', (failure) => {
  it.each(fetches)('fails instead of saying less than the truth: $name', async (fetch) => {
    const original = new Place();
    await fetch.given(original);
    const calls = await atEveryCall(failure, original, async (place, storage) => {
      const outcome = await outcomeOf(place.fetch(fetch.file, storage));
      if (!storage.hasFailed) expectAnswer(fetch, outcome, place);
      else expectFailure(outcome, place);
      await place.expectSound([contentOf(partial)]);
      expectAnswer(fetch, await outcomeOf(place.fetch(fetch.file)), place);
    });
    expect(calls).toBeGreaterThanOrEqual(fetch.calls);
  });
});

function expectAnswer({ answer, content }: Fetch, outcome: WalFetchResult | Error, { delivered }: Place): void {
  if (typeof answer === 'string') expect(outcome).toBe(answer);
  else expect(outcome).toBeInstanceOf(answer);
  expect(delivered?.equals(content ?? Buffer.alloc(0))).toBe(answer === 'delivered' ? true : undefined);
}

/** A hole that was seen before the call failed is as true. */
function expectFailure(outcome: WalFetchResult | Error, { delivered }: Place): void {
  expect([StorageError, HoleError].some((one) => outcome instanceof one)).toBe(true);
  expect(delivered).toBeUndefined();
}

function segmentOf(name: string) {
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error(name);
  return file;
}
