/** What the storage in a bucket promises beyond the contract: each against the fault that it stands against (docs/STORES.md). */
import { spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { bytesOf } from '../../src/bytes.ts';
import { ConfigurationError, ObjectExists, ObjectNotFound, StorageError } from '../../src/errors.ts';
import { probeStorage } from '../../src/storage/probe.ts';
import type { S3Storage } from '../../src/storage/s3.ts';
import { partSizeFor } from '../../src/storage/s3-upload.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { temporaryFolder } from '../support/folders.ts';
import {
  loseAnswer,
  resetDownload,
  resetUpload,
  stall,
  stallDownload,
  stallUpload,
  trickleDownload,
  truncate,
} from '../support/network-faults.ts';
import { type Fault, fault, type Kind, resigned, type S3Request, wholeOf, without } from '../support/s3-exchange.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage, type S3StorageOptions } from '../support/s3-storage.ts';
import {
  accessDenied,
  deleteErrors,
  denyMissing,
  errorInOk,
  gatewayError,
  ignoreRange,
  refuse,
  skewedClock,
  slowDown,
} from '../support/store-faults.ts';
import { hasTool } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';
import { makeCertificate, openConnectProxy, openTap } from '../support/wire-tap.ts';
import { contentOf, keysOf, pattern, streamOf } from './conformance.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

const mebibyte = 1024 * 1024;
/** One request and its repetitions. */
const attempts = 7;
let server: S3Server;

beforeAll(async () => {
  server = await S3Server.start();
});

afterAll(() => server.stop());

interface Scene {
  readonly proxy: FaultProxy;
  /** Through the proxy. */
  readonly storage: S3Storage;
  /** Past it. */
  readonly direct: S3Storage;
  /** Every request as it came, its body unread. */
  readonly seen: readonly S3Request[];
}

async function open(options: S3StorageOptions = {}): Promise<Scene> {
  const proxy = await FaultProxy.start(server.s3);
  onTestFinished(() => proxy.stop());
  const prefix = randomUUID();
  const seen: S3Request[] = [];
  proxy.inject(
    fault('seen', (request, next) => {
      seen.push(request);
      return next(request);
    }),
  );
  const storage = await openS3Storage(proxy.s3, { prefix, ...options });
  return { proxy, storage, direct: await openS3Storage(server.s3, { prefix }), seen };
}

const read = (storage: S3Storage, key: string) => contentOf(storage, key);

/** How long `work` takes, and what it ends with. */
async function timed(work: Promise<unknown>): Promise<{ readonly ms: number; readonly error: Error }> {
  const started = performance.now();
  const error = await work.then(
    () => new Error('it succeeded'),
    (failure: Error) => failure,
  );
  return { ms: performance.now() - started, error };
}

describe('what goes over the wire', () => {
  it('uses its connections again, also for large bodies, and never more of them than are allowed', async () => {
    const { proxy, storage } = await open({ connections: 3 });
    const keys = Array.from({ length: 8 }, (_, index) => `key-${index}`);
    await Promise.all(keys.map((key) => storage.put(key, pattern(3 * mebibyte))));
    await Promise.all(keys.map((key) => read(storage, key)));
    await keysOf(storage, '');
    await storage.delete(keys);
    expect(proxy.count()).toBe(18);
    expect(proxy.connections).toBeLessThanOrEqual(3);
  });

  it('sends Content-MD5 with every body off AWS, and nothing that only AWS understands', async () => {
    const tap = await openTap();
    const storage = await openS3Storage({ ...server.s3, endpoint: `http://127.0.0.1:${tap.port}` }, { prefix: 'p' });
    await storage.put('small', pattern(3 * mebibyte), { ifAbsent: true });
    await storage.put('empty', Buffer.alloc(0));
    await storage.put('large', streamOf(pattern(17 * mebibyte)));
    await storage.delete(['k']);
    await keysOf(storage, '');
    for (const { method, path, headers, body } of tap.requests) {
      expect(path).toMatch(/^\/wal-t-test(?:\/|\?)/);
      expect(headers.expect).toBeUndefined();
      expect(headers['transfer-encoding']).toBeUndefined();
      expect(headers['content-encoding']).toBeUndefined();
      const sums = Object.keys(headers).filter((name) => /^x-amz-(?:checksum|sdk|trailer|decoded)/.test(name));
      expect({ method, path, sums }).toEqual({ method, path, sums: [] });
      if (method === 'GET' || path.includes('uploads')) continue;
      expect({ method, path, md5: headers['content-md5'] }).toEqual({
        method,
        path,
        md5: createHash('md5').update(body).digest('base64'),
      });
      expect(headers['x-amz-content-sha256']).toBe(createHash('sha256').update(body).digest('hex'));
    }
    expect(
      tap.requests
        .map(({ method }) => method)
        .sort()
        .join(' '),
    ).toBe('GET POST POST POST PUT PUT PUT PUT PUT PUT');
  });

  it('uploads parts of one size, and not too many of them', async () => {
    const { storage, seen, direct } = await open();
    const body = pattern(17 * mebibyte);
    await storage.put('large', streamOf(body), { sizeHint: body.length });
    const sizes = seen
      .filter(({ kind }) => kind === 'UploadPart')
      .map(({ headers }) => Number(headers['content-length']));
    expect(sizes.sort((a, b) => b - a)).toEqual([5, 5, 5, 2].map((size) => size * mebibyte));
    expect((await read(direct, 'large')).equals(body)).toBe(true);
    for (const [size, part] of [
      [0, 5],
      [5_000, 5],
      [5_001, 10],
      [1_000_000, 1000],
    ] as const) {
      expect(partSizeFor(size * mebibyte)).toBe(part * mebibyte);
    }
  });

  it('sends storage class and encryption by the store only when they are set', async () => {
    const tap = await openTap();
    const endpoint = { ...server.s3, endpoint: `http://127.0.0.1:${tap.port}` };
    const plain = await openS3Storage(endpoint);
    await plain.put('key', Buffer.from('x'));
    const set = await openS3Storage(endpoint, {
      s3: { storageClass: 'STANDARD_IA', serverSideEncryption: 'aws:kms', kmsKeyId: 'id' },
    });
    await expect(set.put('key', Buffer.from('x'))).rejects.toThrow('ignores WALT_S3_SSE=aws:kms');
    const sent = tap.requests.map(({ headers }) =>
      ['x-amz-storage-class', 'x-amz-server-side-encryption', 'x-amz-server-side-encryption-aws-kms-key-id'].map(
        (name) => headers[name],
      ),
    );
    expect(sent).toEqual([
      [undefined, undefined, undefined],
      ['STANDARD_IA', 'aws:kms', 'id'],
    ]);
  });

  it.skipIf(!hasTool('openssl'))(
    'trusts the configured authority, goes through the proxy, and names hosts as it is told',
    async () => {
      const names = ['store.test', '*.store.test', 's3.eu-north-1.amazonaws.com', '*.s3.eu-north-1.amazonaws.com'];
      const { caFile, ...certificate } = makeCertificate(temporaryFolder(), names);
      const tap = await openTap(certificate);
      const { url: proxy, hosts } = await openConnectProxy(tap.port);
      const endpoint = 'https://store.test';
      const keys = { ...server.s3, endpoint, region: 'eu-north-1' };
      const rows: [options: object, host: string, path: string][] = [
        [{ endpoint }, 'store.test:443', '/wal-t-test/p/key'],
        [{ endpoint, forcePathStyle: false }, 'wal-t-test.store.test:443', '/p/key'],
        [{ endpoint: undefined }, 'wal-t-test.s3.eu-north-1.amazonaws.com:443', '/p/key'],
        [{ endpoint: undefined, forcePathStyle: true }, 's3.eu-north-1.amazonaws.com:443', '/wal-t-test/p/key'],
      ];
      for (const [s3, host, path] of rows) {
        const storage = await openS3Storage(keys, { prefix: 'p', s3: { caFile, proxy, ...s3 } });
        await storage.put('key', pattern(3 * mebibyte));
        await storage.put('key', pattern(3 * mebibyte));
        expect(hosts.at(-1)).toBe(host);
        expect(tap.requests.at(-1)?.path.split('?')[0]).toBe(path);
        expect(tap.requests.at(-1)?.headers.authorization).toContain('/eu-north-1/s3/');
        expect(tap.requests.at(-1)?.headers.expect).toBeUndefined();
      }
      expect(hosts).toHaveLength(rows.length); // the tunnel is used again
      const distrusting = await openS3Storage(keys, { s3: { proxy } });
      await expect(distrusting.put('key', Buffer.from('x'))).rejects.toMatchObject({
        message: expect.stringContaining('its certificate is not trusted'),
        hint: expect.stringContaining('WALT_S3_CA_FILE'),
      });
      await expect(openS3Storage(keys, { s3: { caFile: '/absent.pem' } })).rejects.toBeInstanceOf(ConfigurationError);
    },
  );
});

describe('deadlines', () => {
  it.skipIf(!hasTool('python3'))('gives up a connection that is not answered', async () => {
    const port = await fullBacklog();
    const endpoint = { ...server.s3, endpoint: `http://127.0.0.1:${port}` };
    const storage = await openS3Storage(endpoint, { times: { connectMs: 200 } });
    const { ms, error } = await timed(storage.get('key'));
    expect(error).toBeInstanceOf(StorageError);
    expect(error.message).toMatch(/no connection within 0.2 s$/);
    expect(ms / (200 * attempts)).toBeGreaterThan(0.9);
    expect(ms / (200 * attempts)).toBeLessThan(40);
  });

  const silent: [what: string, fault: Fault, work: (storage: S3Storage) => Promise<unknown>][] = [
    ['a request', stall, (storage) => storage.get('key')],
    ['an upload', stallUpload(), (storage) => storage.put('new', pattern(17 * mebibyte))],
    ['an answer', stallDownload(), (storage) => read(storage, 'key')],
    ['a listing', stallDownload(), (storage) => keysOf(storage, '')],
  ];
  it.each(silent)('ends the silence within %s, idle and in all', async (_, fault, work) => {
    const limits: [times: object, says: RegExp][] = [
      [{ idleMs: 150, requestMs: 60_000 }, /nothing came for 0.15 s|no answer for 0.15 s/],
      [{ idleMs: 60_000, requestMs: 150 }, /no answer for 0.15 s|it took more than 0.15 s/],
    ];
    for (const [times, says] of limits) {
      const { proxy, storage, direct } = await open({ times });
      await direct.put('key', pattern(100_000));
      proxy.inject(fault);
      const { ms, error } = await timed(work(storage));
      expect(error.message).toMatch(says);
      expect(error).toBeInstanceOf(StorageError);
      expect(ms / (150 * attempts)).toBeLessThan(50); // not the other limit, which is a minute
    }
  });

  it('ends an answer that trickles, however often it could be resumed', async () => {
    const { proxy, storage, direct } = await open({ times: { requestMs: 400 } });
    await direct.put('key', pattern(100_000));
    proxy.inject(trickleDownload(2000));
    const { ms, error } = await timed(read(storage, 'key'));
    expect(error.message).toContain('it took more than 0.4 s');
    expect(ms / 400).toBeLessThan(100);
  });
});

describe('a read', () => {
  const large = pattern(20 * mebibyte);

  it.each([
    ['a reset', resetDownload()],
    ['a closed connection', truncate()],
    ['an early end', resetDownload(0)],
  ])('goes on behind the last byte after %s, with the same object', async (_, how) => {
    const { proxy, storage, direct, seen } = await open();
    await direct.put('large', large);
    proxy.inject(how, { nth: 2, kind: 'GetObject' });
    expect((await read(storage, 'large')).equals(large)).toBe(true);
    const [, ...later] = seen;
    expect(later.length).toBeGreaterThanOrEqual(2);
    const tag = later[0]?.headers['if-match'];
    expect(tag).toMatch(/^"?[0-9a-f]{32}/);
    expect(later.every(({ headers }) => headers['if-match'] === tag)).toBe(true);
    const starts = seen.map(({ headers }) => Number(/\d+/.exec(headers.range ?? '')?.[0]));
    expect(starts.slice(0, 2)).toEqual([0, 16 * mebibyte]);
    expect(starts[2]).toBeGreaterThanOrEqual(16 * mebibyte);
    expect(starts[2]).toBeLessThan(32 * mebibyte);
  });

  const ignoreIfMatch = fault('If-Match ignored', (request, next) =>
    next(
      request.headers['if-match'] === undefined
        ? request
        : resigned(request, { headers: without(request.headers, 'if-match') }),
    ),
  );
  const changes: [what: string, faults: Fault[], change: (direct: S3Storage) => Promise<unknown>, says: string][] = [
    ['replaced', [], (direct) => direct.put('large', pattern(large.length, 2)), 'it was replaced'],
    ['shortened', [], (direct) => direct.put('large', pattern(1000)), 'it was replaced'],
    ['removed', [], (direct) => direct.delete(['large']), 'it was removed'],
    [
      'replaced, and If-Match not known',
      [ignoreIfMatch],
      (direct) => direct.put('large', pattern(large.length, 2)),
      'it was replaced',
    ],
    [
      'shortened, and If-Match not known',
      [ignoreIfMatch],
      (direct) => direct.put('large', pattern(1000)),
      'it became shorter',
    ],
  ];
  it.each(changes)('never mixes two objects when it is %s', async (_, faults, change, says) => {
    const { proxy, storage, direct } = await open();
    for (const one of faults) proxy.inject(one);
    await direct.put('large', large);
    const { body } = await storage.get('large');
    let changed = false;
    const reading = async () => {
      let offset = 0;
      for await (const chunk of body) {
        if (!changed) await change(direct);
        changed = true;
        expect(large.subarray(offset, offset + chunk.length).equals(chunk)).toBe(true);
        offset += chunk.length;
      }
    };
    await expect(reading()).rejects.toMatchObject({
      constructor: StorageError,
      message: expect.stringContaining(says),
    });
  });

  it('gives no more than it is asked for by a store that does not know ranges, and nothing wrong', async () => {
    const { proxy, storage, direct } = await open();
    await direct.put('key', Buffer.from('0123456789'));
    proxy.inject(ignoreRange);
    expect(`${await contentOf(storage, 'key', { range: { offset: 0, length: 3 } })}`).toBe('012');
    await expect(storage.get('key', { range: { offset: 3, length: 3 } })).rejects.toThrow('does not honour ranges');
    await expect(probeStorage(storage)).rejects.toThrow('does not honour ranges');
  });

  it('finds an empty object empty, though its range is refused', async () => {
    const { proxy, storage } = await open();
    await storage.put('empty', Buffer.alloc(0));
    expect((await storage.get('empty')).sizeBytes).toBe(0);
    expect(proxy.log.at(-1)).toMatchObject({ kind: 'GetObject', told: 416 });
  });
});

describe('absence', () => {
  it('is asked for by GET alone', async () => {
    const { proxy, storage } = await open();
    await expect(storage.get('key')).rejects.toBeInstanceOf(ObjectNotFound);
    await expect(storage.get('key', { range: { offset: 5, length: 0 } })).rejects.toBeInstanceOf(ObjectNotFound);
    expect(proxy.log.map(({ kind }) => kind)).toEqual(['GetObject', 'GetObject']);
  });

  const page = (status: number) =>
    fault(`a page with ${status}`, async (request) => {
      await wholeOf(request);
      const text = '<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>nginx<br></body></html>';
      return {
        status,
        headers: { 'content-type': 'text/html', 'content-length': `${text.length}` },
        body: bytesOf(Buffer.from(text)),
      };
    });
  const none = (status: number) =>
    fault(`nothing with ${status}`, async () => ({ status, headers: { 'content-length': '0' }, body: bytesOf() }));
  it.each([
    ["a gateway's page", page(404)],
    ["a gateway's page with 200", page(200)],
    ['a 404 without a body', none(404)],
    ['a 410', none(410)],
    ['a 204', none(204)],
    ['a missing bucket', refuse(404, 'NoSuchBucket')],
    ['a missing upload', refuse(404, 'NoSuchUpload')],
    ['another 404', refuse(404, 'NotFound')],
    ['a 403', accessDenied],
    ['a 200 with NoSuchKey', refuse(200, 'NoSuchKey')],
    ['a 503', slowDown()],
    ['a 502', gatewayError],
  ])('is not %s', async (_, answer) => {
    const { proxy, storage, direct } = await open();
    await direct.put('key', Buffer.from('x'));
    proxy.inject(answer);
    for (const key of ['key', 'missing']) {
      const { error } = await timed(read(storage, key));
      expect(error).not.toBeInstanceOf(ObjectNotFound);
      expect([StorageError, ConfigurationError]).toContain(error.constructor);
    }
  });

  it('H35: names the permission that is missing when a missing key is denied', async () => {
    const { proxy, storage } = await open();
    proxy.inject(denyMissing);
    await expect(storage.get('missing')).rejects.toMatchObject({
      constructor: StorageError,
      hint: expect.stringContaining('s3:ListBucket'),
    });
    await expect(probeStorage(storage)).rejects.toMatchObject({ hint: expect.stringContaining('s3:ListBucket') });
  });
});

describe('an answer', () => {
  const empty = fault('200 and nothing', async (request) => {
    await wholeOf(request);
    return { status: 200, headers: { 'content-length': '0' }, body: bytesOf() };
  });
  it.each([
    ['an error', errorInOk()],
    ['nothing', empty],
  ])('that says success around %s is none', async (_, none) => {
    const { proxy, storage, direct } = await open();
    await direct.put('old', pattern(1000));
    const rows: [kind: Kind, work: () => Promise<unknown>][] = [
      ['PutObject', () => storage.put('new', pattern(1000), { ifAbsent: true })],
      ['GetObject', () => read(storage, 'old')],
      ['ListObjects', () => keysOf(storage, '')],
      ['CreateMultipartUpload', () => storage.put('a', streamOf(pattern(17 * mebibyte)))],
      ['UploadPart', () => storage.put('b', streamOf(pattern(17 * mebibyte)))],
      ['CompleteMultipartUpload', () => storage.put('c', streamOf(pattern(17 * mebibyte)))],
      ['DeleteObjects', async () => expect(await storage.delete(['old'])).toEqual({ failed: [] })],
    ];
    for (const [kind, work] of rows) {
      proxy.forget();
      const injected = proxy.inject(none, { kind, times: 1 });
      await work();
      expect({ kind, hits: injected.hits, repeated: proxy.count({ kind }) > 1 }).toEqual({
        kind,
        hits: 1,
        repeated: true,
      });
    }
    expect((await keysOf(direct, '')).sort()).toEqual(['a', 'b', 'c', 'new']);
  });

  it('names every key that was not deleted', async () => {
    const { proxy, storage, direct } = await open();
    const keys = ['a', 'b', 'c', 'd'];
    for (const key of keys) await direct.put(key, Buffer.from(key));
    proxy.inject(deleteErrors(/[bd]$/, 'AccessDenied'));
    const { failed } = await storage.delete(keys);
    expect(failed.map(({ key, error }) => [key, error.message])).toEqual(
      ['b', 'd'].map((key) => [
        key,
        expect.stringContaining(`could not delete "${key}" in ${storage.url}: AccessDenied`),
      ]),
    );
    expect(await keysOf(direct, '')).toEqual(['b', 'd']);
  });

  it('deletes one by one where several at once are not known', async () => {
    const { proxy, storage, direct } = await open();
    for (const key of ['a', 'b']) await direct.put(key, Buffer.from(key));
    proxy.inject(refuse(501, 'NotImplemented'), { kind: 'DeleteObjects' });
    expect(await storage.delete(['a', 'b', 'absent'])).toEqual({ failed: [] });
    expect(await keysOf(direct, '')).toEqual([]);
  });

  it('names clocks that differ', async () => {
    const { proxy, storage } = await open();
    proxy.inject(skewedClock(3_600_000));
    await expect(storage.put('key', Buffer.from('x'))).rejects.toMatchObject({
      message: expect.stringContaining('the clocks differ'),
      hint: expect.stringContaining('chronyc'),
    });
  });
});

describe('what the settings ask of the store', () => {
  const answering = (name: string, value: string) =>
    fault(`${name}: ${value}`, async (request, next) => {
      const answer = await next(request);
      return { ...answer, headers: { ...answer.headers, [name]: value } };
    });
  const dropping = (name: string) =>
    fault(`${name} ignored`, (request, next) =>
      next(
        request.headers[name] === undefined ? request : resigned(request, { headers: without(request.headers, name) }),
      ),
    );

  it('is an error where encryption is ignored, also when the push is repeated', async () => {
    const { storage } = await open({ s3: { serverSideEncryption: 'AES256' } });
    for (const body of [() => pattern(1000), () => streamOf(pattern(17 * mebibyte))]) {
      const key = randomUUID();
      for (let round = 0; round < 2; round += 1) {
        await expect(storage.put(key, body(), { ifAbsent: true })).rejects.toMatchObject({
          constructor: StorageError,
          message: expect.stringContaining('ignores WALT_S3_SSE=AES256'),
        });
      }
    }
    await expect(probeStorage(storage)).rejects.toThrow('ignores WALT_S3_SSE=AES256');
  });

  it('is content where encryption is said to be done', async () => {
    const { proxy, storage } = await open({ s3: { serverSideEncryption: 'AES256' } });
    proxy.inject(answering('x-amz-server-side-encryption', 'AES256'));
    expect(await probeStorage(storage)).toEqual({ conditionalPut: 'honoured', delete: 'allowed' });
    await storage.put('key', pattern(10), { ifAbsent: true });
    await expect(storage.put('key', pattern(10), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
  });

  it('is found out by the probe where the storage class is ignored', async () => {
    const { proxy, storage } = await open({ s3: { storageClass: 'STANDARD_IA' } });
    proxy.inject(dropping('x-amz-storage-class'));
    await expect(probeStorage(storage)).rejects.toMatchObject({
      message: expect.stringContaining('ignores WALT_S3_STORAGE_CLASS=STANDARD_IA'),
    });
    proxy.inject(answering('x-amz-storage-class', 'STANDARD_IA'), { kind: 'GetObject' });
    expect(await probeStorage(storage)).toEqual({ conditionalPut: 'honoured', delete: 'allowed' });
    const standard = await openS3Storage(server.s3, { s3: { storageClass: 'STANDARD' } });
    expect(await probeStorage(standard)).toEqual({ conditionalPut: 'honoured', delete: 'allowed' });
  });
});

describe('an upload in parts', () => {
  const large = pattern(20 * mebibyte);

  it('leaves an object alone that is there, though the end of an upload is not conditional here', async () => {
    const { proxy, storage, direct } = await open();
    await direct.put('key', Buffer.from('first'));
    await expect(storage.put('key', streamOf(large), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
    expect(proxy.count({ kind: 'CreateMultipartUpload' })).toBe(0);
    const end = proxy.pause({ kind: 'UploadPart', nth: 2 });
    const slow = storage.put('slow', streamOf(large), { ifAbsent: true });
    slow.catch(() => undefined);
    await end.reached;
    await direct.put('slow', Buffer.from('faster'));
    end.release();
    await expect(slow).rejects.toBeInstanceOf(ObjectExists);
    expect(`${await read(direct, 'key')} ${await read(direct, 'slow')}`).toBe('first faster');
    expect(proxy.count({ kind: 'AbortMultipartUpload' })).toBe(1);
  });

  it('says "exists" when its end was lost and repeated: the layer above compares', async () => {
    const { proxy, storage, direct } = await open();
    proxy.inject([loseAnswer], { kind: 'CompleteMultipartUpload', times: 1 });
    proxy.inject(refuse(404, 'NoSuchUpload'), {
      kind: 'CompleteMultipartUpload',
      also: () => proxy.count({ kind: 'CompleteMultipartUpload' }) > 0,
    });
    await expect(storage.put('key', streamOf(large), { ifAbsent: true })).rejects.toBeInstanceOf(ObjectExists);
    expect((await read(direct, 'key')).equals(large)).toBe(true);
  });

  it('leaves nothing behind, and lets no part arrive behind its end', async () => {
    const failure = new Error('the source broke');
    const rows: [what: string, prepare: (proxy: FaultProxy) => void, signal: boolean][] = [
      ['the body breaks', () => undefined, false],
      ['the command is interrupted', () => undefined, true],
      ['a part is refused', (proxy) => proxy.inject(accessDenied, { kind: 'UploadPart', nth: 2 }), false],
      [
        'parts are never taken',
        (proxy) =>
          proxy.inject(resetUpload(), { kind: 'UploadPart', also: () => proxy.count({ kind: 'UploadPart' }) > 0 }),
        false,
      ],
    ];
    for (const [what, prepare, interrupted] of rows) {
      const { proxy, storage, direct } = await open();
      prepare(proxy);
      const waiting = proxy.pause({ kind: 'UploadPart', nth: 1 });
      const controller = new AbortController();
      const body = async function* () {
        yield* streamOf(pattern(9 * mebibyte));
        await waiting.reached;
        if (interrupted) controller.abort(failure);
        else if (what === 'the body breaks') throw failure;
        yield* streamOf(pattern(9 * mebibyte));
      };
      await expect(storage.put('key', body(), { signal: controller.signal })).rejects.toThrow();
      const kinds = proxy.log.map(({ kind }) => kind);
      expect({ what, last: kinds.at(-1) }).toEqual({ what, last: 'AbortMultipartUpload' });
      await waitFor('parts in flight to end', () => proxy.log.every(({ ended }) => ended !== 'running'));
      expect(proxy.log.at(-1)?.told).toBe(204);
      expect(
        proxy.log.find(({ kind, ended }) => kind === 'UploadPart' && ended === 'whole' && what !== 'a part is refused'),
      ).toBeUndefined();
      expect(await keysOf(direct, '')).toEqual([]);
    }
  });
});

/** A listener whose queue of connections is full, so that it leaves further ones unanswered. */
async function fullBacklog(): Promise<number> {
  const script =
    'import socket, time\ns = socket.socket()\ns.bind(("127.0.0.1", 0))\ns.listen(0)\nprint(s.getsockname()[1], flush=True)\ntime.sleep(600)';
  const child = spawn('python3', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const port = Number(`${line}`);
  for (let count = 0; count < 4; count += 1) {
    const socket = connect(port, '127.0.0.1').on('error', () => undefined);
    onTestFinished(() => void socket.destroy());
    if (count === 0) await once(socket, 'connect');
  }
  return port;
}
