/** The contract of `storage.ts` as tests, run on every storage: what a storage promises beyond it has tests of its own. */
import { once } from 'node:events';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Bytes, collect, compareBytes } from '../../src/bytes.ts';
import { ObjectExists, ObjectNotFound } from '../../src/errors.ts';
import type { GetOptions, ListOptions, Storage } from '../../src/storage/storage.ts';

export interface ConformanceOptions {
  /** How many objects the long listing has: more than one page of the storage. */
  readonly manyKeys?: number;
  /** How many sequences of calls are compared with a map. */
  readonly sequences?: number;
  /** Of a table of listings one in so many is tried; races are run only once when it is more than one. */
  readonly oneIn?: number;
  /** Asks only what faults on the way, or another way to make names, could break; under TORTURE=1 all that the storage itself is asked. */
  readonly isBrief?: boolean;
}

const isTorture = process.env.TORTURE === '1';

/** `makeStorage` gives an empty storage, for the running test alone. */
export function describeStorage(
  name: string,
  makeStorage: () => Promise<Storage>,
  { manyKeys = 1100, sequences = 25, oneIn = 1, isBrief = false }: ConformanceOptions = {},
): void {
  const inFull = it.skipIf(isBrief && !isTorture);
  const races = (
    [
      ['small', 64],
      ['large', 200_000],
    ] as const
  ).filter(([size]) => !isBrief || isTorture || size === 'large');
  const some = <T>(items: readonly T[]): T[] => items.filter((_, index) => index % oneIn === 0);
  describe(name, () => {
    describe('put and get', () => {
      it('gives back what was put', async () => {
        const storage = await makeStorage();
        const body = pattern(100_000);
        await storage.put('a/b/c', body);
        expect((await contentOf(storage, 'a/b/c')).equals(body)).toBe(true);
      });

      it('cuts a range at the end of the object and says the size of the whole', async () => {
        const storage = await makeStorage();
        await storage.put('ten', Buffer.from('0123456789'), { ifAbsent: true });
        await storage.put('empty', Buffer.alloc(0), { ifAbsent: true });
        const cases: [key: string, offset: number, length: number, content: string][] = [
          ['ten', 0, 10, '0123456789'],
          ['ten', 0, 1, '0'],
          ['ten', 9, 1, '9'],
          ['ten', 3, 4, '3456'],
          ['ten', 3, 0, ''],
          ['ten', 0, 0, ''],
          ['ten', 8, 100, '89'],
          ['ten', 0, 2 ** 40, '0123456789'],
          ['ten', 10, 1, ''],
          ['ten', 10, 0, ''],
          ['ten', 1000, 5, ''],
          ['empty', 0, 0, ''],
          ['empty', 0, 16_384, ''],
          ['empty', 7, 1, ''],
        ];
        for (const [key, offset, length, content] of cases) {
          const { sizeBytes, body } = await storage.get(key, { range: { offset, length } });
          const found = (await collect(body, 100)).toString();
          expect({ key, offset, length, sizeBytes, found }).toEqual({
            key,
            offset,
            length,
            sizeBytes: key === 'ten' ? 10 : 0,
            found: content,
          });
        }
      });

      it('stores an empty object', async () => {
        const storage = await makeStorage();
        await storage.put('empty', streamOf([]), { ifAbsent: true });
        await storage.put('empty-too', streamOf([Buffer.alloc(0), Buffer.alloc(0)]), { ifAbsent: true });
        for (const key of ['empty', 'empty-too']) {
          const { sizeBytes, body } = await storage.get(key);
          expect(sizeBytes).toBe(0);
          expect(await collect(body, 0)).toEqual(Buffer.alloc(0));
        }
      });

      inFull('takes a body in chunks of any size', async () => {
        const storage = await makeStorage();
        const body = pattern(300_007);
        for (const [index, size] of [1_000_000, 65_537, 4096, 997].entries()) {
          const chunks: Uint8Array[] = [Buffer.alloc(0)];
          for (let offset = 0; offset < body.length; offset += size) chunks.push(body.subarray(offset, offset + size));
          await storage.put(`${index}`, streamOf([...chunks, Buffer.alloc(0)]), { sizeHint: body.length });
          expect((await contentOf(storage, `${index}`)).equals(body)).toBe(true);
        }
        const bytes = Array.from(body.subarray(0, 500), (byte) => Buffer.of(byte));
        await storage.put('byte-by-byte', streamOf(bytes));
        expect(await contentOf(storage, 'byte-by-byte')).toEqual(body.subarray(0, 500));
      });

      inFull('is not misled by a wrong size hint', async () => {
        const storage = await makeStorage();
        for (const sizeHint of [0, 1, 9, 1_000_000]) {
          await storage.put(`hint-${sizeHint}`, streamOf([Buffer.from('ten '), Buffer.from('bytes.')]), { sizeHint });
          expect((await contentOf(storage, `hint-${sizeHint}`)).toString()).toBe('ten bytes.');
        }
      });

      it('keeps an object of more than 16 MiB, whole and by ranges', async () => {
        const storage = await makeStorage();
        const body = pattern((isBrief ? 17 : 20) * 1024 * 1024);
        await storage.put('large', streamOf([body.subarray(0, 7_000_001), body.subarray(7_000_001)]));
        const { sizeBytes, body: stored } = await storage.get('large');
        expect(sizeBytes).toBe(body.length);
        expect((await collect(stored, body.length)).equals(body)).toBe(true);
        const range = { offset: 5_555_555, length: 9_999_999 };
        const middle = body.subarray(range.offset, range.offset + range.length);
        expect((await contentOf(storage, 'large', { range })).equals(middle)).toBe(true);
      });

      it('says that an object is absent before the first byte, and never of one that is there', async () => {
        const storage = await makeStorage();
        const absent = ['a', 'a/b', 'b/c/d/e', 'a.b'];
        for (const key of absent) await expect(storage.get(key)).rejects.toBeInstanceOf(ObjectNotFound);
        await storage.put('b/c/d/f', Buffer.from('f'));
        await storage.put('a0', Buffer.from('0'));
        const range = { offset: 0, length: 0 };
        for (const key of absent) {
          await expect(storage.get(key, { range })).rejects.toBeInstanceOf(ObjectNotFound);
          await expect(storage.get(key)).rejects.toMatchObject({ key });
        }
        expect((await contentOf(storage, 'a0')).toString()).toBe('0');
      });

      inFull('lets a reader stop early, and another read meanwhile', async () => {
        const storage = await makeStorage();
        const body = pattern(5_000_000);
        await storage.put('object', body);
        for (let round = 0; round < 20; round += 1) {
          for await (const chunk of (await storage.get('object')).body) {
            expect(chunk.length).toBeGreaterThan(0);
            break;
          }
        }
        const readers = await Promise.all(Array.from({ length: 8 }, () => contentOf(storage, 'object')));
        expect(readers.every((read) => read.equals(body))).toBe(true);
      });
    });

    describe('an object under its final name', () => {
      it('H15: stays as it is when another is put there', async () => {
        const storage = await makeStorage();
        await storage.put('key', Buffer.from('first'), { ifAbsent: true });
        for (const body of ['second', 'first', '']) {
          await expect(storage.put('key', Buffer.from(body), { ifAbsent: true })).rejects.toMatchObject({
            constructor: ObjectExists,
            key: 'key',
          });
        }
        const stream = storage.put('key', streamOf([Buffer.from('third')]), { ifAbsent: true });
        await expect(stream).rejects.toBeInstanceOf(ObjectExists);
        expect((await contentOf(storage, 'key')).toString()).toBe('first');
      });

      it.each(races)('belongs to exactly one of 16 racing writers of different content: %s', async (_, sizeBytes) => {
        const storage = await makeStorage();
        for (let round = 0; round < (oneIn === 1 ? 5 : 1); round += 1) {
          const key = `race/${round}`;
          const bodies = Array.from({ length: 16 }, (__, racer) => pattern(sizeBytes + racer, racer));
          const answers = await Promise.allSettled(
            bodies.map((body) => storage.put(key, streamOf(halves(body)), { ifAbsent: true })),
          );
          const winners = bodies.filter((__, racer) => answers[racer]?.status === 'fulfilled');
          const losers = answers.filter((answer) => answer.status === 'rejected');
          expect(winners).toHaveLength(1);
          expect(losers.every(({ reason }) => reason instanceof ObjectExists)).toBe(true);
          expect((await contentOf(storage, key)).equals(winners[0] ?? Buffer.alloc(0))).toBe(true);
        }
      });

      inFull('is never seen in part while it is written', async () => {
        const storage = await makeStorage();
        const body = pattern(3_000_000);
        let ended = false;
        const writing = storage.put('slow/object', streamOf(body)).finally(() => {
          ended = true;
        });
        let looks = 0;
        while (!ended || looks < 2) {
          looks += 1;
          const found = await storage.get('slow/object').catch(absent);
          expect([undefined, body.length]).toContain(found?.sizeBytes);
          if (found !== undefined) expect((await collect(found.body, body.length)).equals(body)).toBe(true);
          for await (const { sizeBytes } of storage.list('slow/')) expect(sizeBytes).toBe(body.length);
        }
        await writing;
      });

      it('does not come into being when its body ends in an error', async () => {
        const storage = await makeStorage();
        const failure = new Error('the source broke');
        for (const before of [0, 1, 100_000, 9_000_000]) {
          const body = async function* () {
            if (before > 0) yield pattern(before);
            throw failure;
          };
          await expect(storage.put(`broken/${before}`, body(), { ifAbsent: true })).rejects.toBe(failure);
          await expect(storage.get(`broken/${before}`)).rejects.toBeInstanceOf(ObjectNotFound);
        }
        expect(await keysOf(storage, '')).toEqual([]);
        await storage.put('broken/1', Buffer.from('whole'), { ifAbsent: true });
        expect((await contentOf(storage, 'broken/1')).toString()).toBe('whole');
      });
    });

    describe('list', () => {
      // in the order of bytes, where '-' < '.' < '/' < '0' < 'A' < '_' < 'a' < '~'
      const keys = [
        '0',
        '00000001/0000000100000000/000000010000000000000001',
        '00000001/0000000100000000/000000010000000000000001.partial',
        '00000001/0000000100000000/000000010000000000000002',
        '00000002.history',
        'A',
        '_',
        'a-b/c',
        'a-b.c',
        'a.',
        'a.b.c/x',
        'a.b/c',
        'a/b',
        'a/b-c',
        'a/b.c',
        'a/b0/x',
        'a/b0c',
        'a/c/d/e/f/g/h/i/j/k/l/m',
        'a/z',
        'a0',
        'a0-b',
        'aa/b',
        'ab',
        'b!/x',
        'b+/x',
        'z~',
      ].sort(compareBytes);

      const fill = async (): Promise<Storage> => {
        const storage = await makeStorage();
        for (const key of keys.toReversed())
          await storage.put(key, Buffer.from(`content of ${key}`), { ifAbsent: true });
        return storage;
      };

      it('names every object once, ascending by the bytes of the key', async () => {
        const storage = await fill();
        expect(await keysOf(storage, '')).toEqual(keys);
        expect(await keysOf(await makeStorage(), '')).toEqual([]);
      });

      inFull('begins behind `after`, whether an object has that key or not', async () => {
        const storage = await fill();
        const between = keys.flatMap((key) => [
          key,
          `${key}!`,
          `${key}~`,
          `${key}/`,
          key.slice(0, -1),
          `${key.slice(0, 1)}/`,
        ]);
        for (const after of some([...between, '', ' ', '!', '~~', 'zz', 'a/b/c/d', 'a/c/d/e/f/zz', 'a/c/d/e/f'])) {
          const behind = keys.filter((key) => compareBytes(key, after) > 0);
          expect({ after, found: await keysOf(storage, '', { after }) }).toEqual({ after, found: behind });
        }
      });

      inFull('takes any beginning of a key as prefix', async () => {
        const storage = await fill();
        const prefixes = new Set(keys.flatMap((key) => Array.from(key, (_, index) => key.slice(0, index + 1))));
        for (const prefix of some([...prefixes, 'x', 'a/c/x', 'a/b/', 'a0/', '/', 'z~~'])) {
          const found = keys.filter((key) => key.startsWith(prefix));
          expect({ prefix, found: await keysOf(storage, prefix) }).toEqual({ prefix, found });
        }
      });

      inFull('takes a prefix and `after` together', async () => {
        const storage = await fill();
        for (const prefix of ['a', 'a/', 'a/b', 'a/c/d/', '0000']) {
          for (const after of some(['', 'A', ...keys, 'a/b/', 'a/c/d/e/f/g', 'zzz'])) {
            const found = keys.filter((key) => key.startsWith(prefix) && compareBytes(key, after) > 0);
            expect({ prefix, after, found: await keysOf(storage, prefix, { after }) }).toEqual({
              prefix,
              after,
              found,
            });
          }
        }
      });

      inFull('says the size and when it was written, by the storage’s clock', async () => {
        const storage = await fill();
        const times: number[] = [];
        for await (const { key, sizeBytes, modifiedAt } of storage.list('')) {
          expect(sizeBytes).toBe(`content of ${key}`.length);
          times.push(modifiedAt.getTime());
        }
        const hour = 3_600_000;
        expect(times.every((time) => Math.abs(time - Date.now()) < hour)).toBe(true);
      });

      inFull('can be left at any point', async () => {
        const storage = await fill();
        const found: string[] = [];
        for await (const { key } of storage.list('a/')) {
          found.push(key);
          if (found.length === 2) break;
        }
        expect(found).toEqual(keys.filter((key) => key.startsWith('a/')).slice(0, 2));
      });

      it(`is complete with ${manyKeys} objects`, async () => {
        const storage = await makeStorage();
        const many = Array.from({ length: manyKeys }, (_, index) => {
          const digits = (index * 7919).toString(16).padStart(8, '0').toUpperCase();
          return `${digits.slice(0, 6)}/${digits}`;
        });
        await eachOf(many, 32, (key) => storage.put(`wal/${key}`, Buffer.from(key), { ifAbsent: true }));
        const sorted = many.map((key) => `wal/${key}`).sort(compareBytes);
        expect(await keysOf(storage, 'wal/')).toEqual(sorted);
        const half = Math.floor(manyKeys / 2);
        expect(await keysOf(storage, '', { after: sorted[half - 1] ?? '' })).toEqual(sorted.slice(half));
        const { failed } = await storage.delete(sorted.slice(0, half));
        expect(failed).toEqual([]);
        expect(await keysOf(storage, '')).toEqual(sorted.slice(half));
      });
    });

    describe('delete', () => {
      it('removes what is there and is content with what is not', async () => {
        const storage = await makeStorage();
        for (const key of ['a/b', 'a/c', 'd']) await storage.put(key, Buffer.from(key));
        expect(await storage.delete([])).toEqual({ failed: [] });
        expect(await storage.delete(['x', 'x/y/z', 'a/x'])).toEqual({ failed: [] });
        expect(await keysOf(storage, '')).toEqual(['a/b', 'a/c', 'd']);
        expect(await storage.delete(['a/b', 'absent', 'd', 'a/b'])).toEqual({ failed: [] });
        expect(await storage.delete(['a/b', 'd'])).toEqual({ failed: [] });
        expect(await keysOf(storage, '')).toEqual(['a/c']);
        await expect(storage.get('a/b')).rejects.toBeInstanceOf(ObjectNotFound);
      });

      inFull('frees the key for another object', async () => {
        const storage = await makeStorage();
        await storage.put('a/b', Buffer.from('old'), { ifAbsent: true });
        await storage.delete(['a/b']);
        await storage.put('a/b', Buffer.from('new'), { ifAbsent: true });
        expect((await contentOf(storage, 'a/b')).toString()).toBe('new');
      });
    });

    describe('a signal', () => {
      inFull('that is aborted already lets nothing begin, and its reason comes back', async () => {
        const storage = await makeStorage();
        await storage.put('there', Buffer.from('there'));
        const reason = new Error('enough');
        const signal = AbortSignal.abort(reason);
        for (const body of [Buffer.alloc(0), Buffer.from('body'), streamOf([]), streamOf([Buffer.from('body')])]) {
          await expect(storage.put('new', body, { ifAbsent: true, signal })).rejects.toBe(reason);
        }
        await expect(storage.get('there', { signal })).rejects.toBe(reason);
        await expect(keysOf(storage, '', { signal })).rejects.toBe(reason);
        await expect(storage.delete(['there'], { signal })).rejects.toBe(reason);
        await storage.put('new', Buffer.from('second'), { ifAbsent: true });
        expect((await contentOf(storage, 'new')).toString()).toBe('second');
        expect(await keysOf(storage, '')).toEqual(['new', 'there']);
      });

      it('ends a put in the middle of its body, and one whose body does not come', async () => {
        const storage = await makeStorage();
        const reason = new Error('enough');
        const between = new AbortController();
        const body = async function* () {
          yield pattern(100_000);
          between.abort(reason);
          yield pattern(100_000);
        };
        await expect(storage.put('cut', body(), { ifAbsent: true, signal: between.signal })).rejects.toBe(reason);
        const atEnd = new AbortController();
        const late = async function* () {
          yield pattern(100_000);
          atEnd.abort(reason);
        };
        await expect(storage.put('late', late(), { ifAbsent: true, signal: atEnd.signal })).rejects.toBe(reason);
        const waiting = new AbortController();
        const never = async function* () {
          yield pattern(1000);
          queueMicrotask(() => waiting.abort(reason));
          await once(new EventTarget(), 'never');
        };
        await expect(storage.put('stuck', never(), { ifAbsent: true, signal: waiting.signal })).rejects.toBe(reason);
        for (const key of ['cut', 'late', 'stuck']) {
          await storage.put(key, Buffer.from('second'), { ifAbsent: true });
          expect((await contentOf(storage, key)).toString()).toBe('second');
        }
      });

      inFull('ends a get and a list in the middle', async () => {
        const storage = await makeStorage();
        await storage.put('a', pattern(5_000_000));
        await storage.put('b', pattern(10));
        const reason = new Error('enough');
        const reading = new AbortController();
        const { body } = await storage.get('a', { signal: reading.signal });
        const readAll = async () => {
          for await (const chunk of body) if (chunk.length > 0) reading.abort(reason);
        };
        await expect(readAll()).rejects.toBe(reason);
        const listing = new AbortController();
        const listAll = async () => {
          for await (const { key } of storage.list('', { signal: listing.signal })) {
            if (key !== '') listing.abort(reason);
          }
        };
        // a storage that has all its answer at once may give the rest of it
        await listAll().catch((error: unknown) => expect(error).toBe(reason));
      });
    });

    inFull.each([
      '',
      '/',
      '/a',
      'a/',
      'a//b',
      '.',
      '..',
      '../a',
      'a/../b',
      'a/./b',
      '.hidden',
      'a/.hidden',
      '.tmp/a',
      'a b',
      'a\nb',
      'a\u0000b',
      'ä',
      'a/\u{1F418}',
    ])('refuses %j, which is no key', async (key) => {
      const storage = await makeStorage();
      const refused = { name: 'AssertionError', message: expect.stringMatching(/^not a key: /) };
      await expect(storage.put(key, Buffer.from('x'))).rejects.toMatchObject(refused);
      await expect(storage.put(key, Buffer.from('x'), { ifAbsent: true })).rejects.toMatchObject(refused);
      await expect(storage.get(key)).rejects.toMatchObject(refused);
      await expect(storage.delete([key])).rejects.toMatchObject(refused);
      expect(await keysOf(storage, '')).toEqual([]);
    });

    it('does whatever a map would do, over any sequence of calls', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
          const storage = await makeStorage();
          const model = new Map<string, Buffer>();
          for (const one of steps) await take(one, storage, model);
          expect(await keysOf(storage, '')).toEqual([...model.keys()].sort(compareBytes));
          for (const [key, body] of model) expect((await contentOf(storage, key)).equals(body)).toBe(true);
        }),
        { numRuns: sequences },
      );
    });
  });
}

type Step =
  | { readonly verb: 'put'; readonly key: string; readonly body: Uint8Array; readonly cut: number }
  | { readonly verb: 'get'; readonly key: string; readonly offset: number; readonly length: number }
  | { readonly verb: 'list'; readonly prefix: string; readonly after: string }
  | { readonly verb: 'delete'; readonly keys: readonly string[] };

// a key is never another one's folder: the names of folders and those of objects have different first letters
const folder = fc.constantFrom('d', 'd.', 'd-', 'd0', 'D');
const leaf = fc.constantFrom('f', 'f.', 'f-x', 'f0', 'F', 'd.f');
const key = fc.tuple(fc.array(folder, { maxLength: 2 }), leaf).map(([folders, name]) => [...folders, name].join('/'));
const beginning = fc.tuple(key, fc.nat(12)).map(([whole, length]) => whole.slice(0, length));
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ verb: fc.constant('put' as const), key, body: fc.uint8Array({ maxLength: 40 }), cut: fc.nat(40) }),
  fc.record({ verb: fc.constant('get' as const), key, offset: fc.nat(50), length: fc.nat(50) }),
  fc.record({ verb: fc.constant('list' as const), prefix: beginning, after: fc.oneof(beginning, key) }),
  fc.record({ verb: fc.constant('delete' as const), keys: fc.array(key, { maxLength: 3 }) }),
);

async function take(one: Step, storage: Storage, model: Map<string, Buffer>): Promise<void> {
  if (one.verb === 'put') {
    const body = Buffer.from(one.body);
    const parts = streamOf([body.subarray(0, one.cut), body.subarray(one.cut)]);
    const put = storage.put(one.key, parts, { ifAbsent: true });
    if (model.has(one.key)) await expect(put).rejects.toBeInstanceOf(ObjectExists);
    else await put.then(() => model.set(one.key, body));
  } else if (one.verb === 'get') {
    const { offset, length } = one;
    const known = model.get(one.key);
    const found = await contentOf(storage, one.key, { range: { offset, length } }).catch(absent);
    expect(found).toEqual(known?.subarray(offset, offset + length));
  } else if (one.verb === 'list') {
    const { prefix, after } = one;
    const expected = [...model.keys()].filter((name) => name.startsWith(prefix) && compareBytes(name, after) > 0);
    expect(await keysOf(storage, prefix, { after })).toEqual(expected.sort(compareBytes));
  } else {
    expect(await storage.delete(one.keys)).toEqual({ failed: [] });
    for (const name of one.keys) model.delete(name);
  }
}

/** Bytes that do not repeat soon, different for each seed. */
export function pattern(sizeBytes: number, seed = 0): Buffer {
  const words = new Uint32Array(Math.ceil(sizeBytes / 4));
  let state = (seed + 1) * 2_654_435_761;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    words[index] = state;
  }
  return Buffer.from(words.buffer, 0, sizeBytes);
}

/** A stream of these chunks, or of the buffer in chunks of 64 KiB, each given in a later turn of the event loop. */
export async function* streamOf(body: Buffer | readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  const step = 65_536;
  const chunks = Buffer.isBuffer(body)
    ? Array.from({ length: Math.ceil(body.length / step) }, (_, index) =>
        body.subarray(index * step, (index + 1) * step),
      )
    : body;
  for (const chunk of chunks) {
    await new Promise((resolve) => setImmediate(resolve));
    yield chunk;
  }
}

/** The content of an object, or of the range of it. */
export async function contentOf(storage: Storage, key: string, options?: GetOptions): Promise<Buffer> {
  const { body } = await storage.get(key, options);
  return collect(body as Bytes, 64 * 1024 * 1024);
}

/** The keys of a listing, in its order. */
export async function keysOf(storage: Storage, prefix: string, options?: ListOptions): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key: found } of storage.list(prefix, options)) keys.push(found);
  return keys;
}

function halves(body: Buffer): Uint8Array[] {
  const middle = Math.floor(body.length / 2);
  return [body.subarray(0, middle), body.subarray(middle)];
}

function absent(error: unknown): undefined {
  if (!(error instanceof ObjectNotFound)) throw error;
  return undefined;
}

async function eachOf<T>(items: readonly T[], workers: number, work: (item: T) => Promise<unknown>): Promise<void> {
  const queue = items.values();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: workers }, worker));
}
