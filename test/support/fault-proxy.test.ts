/** Every fault of the proxy, proved on the wire in front of a real S3 server; and that nothing else goes wrong. */
import { Agent } from 'node:http';
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { FaultProxy } from './fault-proxy.ts';
import * as network from './network-faults.ts';
import { BrokenAnswer, sendS3, type WireRequest } from './s3-client.ts';
import type { Fault, Kind } from './s3-exchange.ts';
import { S3Server } from './s3-server.ts';
import * as store from './store-faults.ts';
import { waitFor } from './wait.ts';

let server: S3Server;
beforeAll(async () => {
  server = await S3Server.start();
});
afterAll(() => server.stop());

const content = Buffer.alloc(100_000, 'content');
const ifNoneMatch = { 'if-none-match': '*' };
let tests = 0;

/** A proxy with these faults, a key for the test alone, and ways to send through the proxy and past it. */
async function through(...faults: Fault[]) {
  const proxy = await FaultProxy.start(server.s3);
  onTestFinished(() => proxy.stop());
  for (const fault of faults) proxy.inject(fault);
  const key = `test-${tests++}/object`;
  const send = (method: string, request: WireRequest = {}) => sendS3(proxy.s3, method, { key, ...request });
  const direct = (method: string, request: WireRequest = {}) => sendS3(server.s3, method, { key, ...request });
  return { proxy, key, send, direct, put: (request: WireRequest = {}) => send('PUT', { body: content, ...request }) };
}

/** What came of an answer that broke off. */
async function broken(answer: Promise<unknown>): Promise<BrokenAnswer> {
  const error = await answer.catch((error: unknown) => error);
  if (!(error instanceof BrokenAnswer)) throw new Error('it was answered');
  return error;
}

/** An SDK client without retries, unless told otherwise. */
function sdkClient(proxy: FaultProxy, maxAttempts = 1): S3Client {
  const { endpoint, region, ...credentials } = proxy.s3;
  const sums = { requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED' } as const;
  const client = new S3Client({ endpoint, region, credentials, forcePathStyle: true, maxAttempts, ...sums });
  onTestFinished(() => client.destroy());
  return client;
}

describe('a proxy without faults', () => {
  it('passes on what an SDK sends, signatures included, and counts it by kind', async () => {
    const { proxy, key: Key } = await through();
    const client = sdkClient(proxy);
    const Bucket = proxy.s3.bucket;
    const Body = Buffer.alloc(11_000_000, 'large');
    const odd = `${Key}/odd + key=!'()*`;
    await client.send(new PutObjectCommand({ Bucket, Key, Body: content, IfNoneMatch: '*' }));
    await new Upload({ client, params: { Bucket, Key: odd, Body }, partSize: 5_500_000 }).done();
    const got = await client.send(new GetObjectCommand({ Bucket, Key: odd }));
    expect(Buffer.from((await got.Body?.transformToByteArray()) ?? []).equals(Body)).toBe(true);
    const listed = await client.send(new ListObjectsV2Command({ Bucket, Prefix: Key }));
    expect(listed.Contents?.map(({ Key, Size }) => [Key, Size])).toEqual([
      [Key, content.length],
      [odd, Body.length],
    ]);
    await client.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects: [{ Key }, { Key: odd }] } }));
    const kinds: [Kind, number][] = [
      ['PutObject', 1],
      ['CreateMultipartUpload', 1],
      ['UploadPart', 2],
      ['CompleteMultipartUpload', 1],
      ['GetObject', 1],
      ['ListObjects', 1],
      ['DeleteObjects', 1],
    ];
    for (const [kind, count] of kinds) expect([kind, proxy.count({ kind })]).toEqual([kind, count]);
    expect(proxy.count()).toBe(8);
    expect(proxy.count({ key: odd, method: 'PUT' })).toBe(2);
    expect(proxy.log.every(({ told, answered, ended }) => told === 200 && answered === 200 && ended === 'whole')).toBe(
      true,
    );
    proxy.forget();
    expect(proxy.count()).toBe(0);
  });

  it('answers 100-continue, which the server behind never does', async () => {
    const { put, direct } = await through();
    expect((await put({ expectContinue: 'wait' })).status).toBe(200);
    expect((await direct('GET')).body).toEqual(content);
  });

  it('keeps connections open', async () => {
    const { proxy, put, send } = await through();
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    for (let n = 0; n < 3; n++) await put({ agent });
    await send('HEAD', { agent });
    expect(proxy.connections).toBe(1);
    await send('HEAD');
    expect(proxy.connections).toBe(2);
  });

  it('resets the client when the server cannot be reached, and is refused and accepted as told', async () => {
    const { proxy, put, send } = await through();
    await put();
    const port = new URL(proxy.s3.endpoint).port;
    await proxy.down();
    expect((await broken(send('GET'))).code).toBe('ECONNREFUSED');
    await proxy.up();
    expect(new URL(proxy.s3.endpoint).port).toBe(port);
    expect((await send('GET')).status).toBe(200);
    await proxy.down();
    const beyond = await FaultProxy.start(proxy.s3);
    onTestFinished(() => beyond.stop());
    expect((await broken(sendS3(beyond.s3, 'GET', { key: 'any' }))).code).toBe('ECONNRESET');
    expect(beyond.log[0]?.ended).toBe('server gone');
  });
});

describe('which requests are hit', () => {
  const denied = async ({ proxy, send }: Awaited<ReturnType<typeof through>>, when: object, keys: string) => {
    proxy.inject(store.accessDenied, when);
    let hit = '';
    for (const key of keys) hit += (await send('PUT', { key: `which/${key}` })).status === 403 ? key : '.';
    return hit;
  };
  it.each<[name: string, when: Parameters<FaultProxy['inject']>[1], hit: string]>([
    ['all of them', {}, 'abcabcabc'],
    ['by key', { key: 'which/b' }, '.b..b..b.'],
    ['by pattern', { key: /[ac]$/ }, 'a.ca.ca.c'],
    ['by method', { method: 'GET' }, '.........'],
    ['by kind', { kind: ['PutObject', 'GetObject'] }, 'abcabcabc'],
    ['by what else they have', { also: ({ key }) => key.endsWith('c') }, '..c..c..c'],
    ['the nth', { key: 'which/b', nth: 2 }, '....b....'],
    ['so many', { key: 'which/b', times: 2 }, '.b..b....'],
    ['none', { rate: 0 }, '.........'],
    ['no longer than told', { forMs: -1 }, '.........'],
  ])('%s', async (_, when, hit) => {
    expect(await denied(await through(), when ?? {}, 'abcabcabc')).toBe(hit);
  });

  it('a share of them, the same with the same seed in whatever order they come', async () => {
    const keys = Array.from({ length: 200 }, (_, n) => `share/${n}`);
    const hit = async (order: readonly string[], seed: number) => {
      const proxy = await FaultProxy.start(server.s3, { seed });
      onTestFinished(() => proxy.stop());
      const injection = proxy.inject([store.internalError, store.slowDown(), store.gatewayError], { rate: 0.2 });
      await Promise.all(order.map((key) => sendS3(proxy.s3, 'HEAD', { key })));
      expect(proxy.log.filter(({ faults }) => faults.length > 0)).toHaveLength(injection.hits);
      return proxy.log.map(({ key, faults }) => `${key} ${faults}`).sort();
    };
    const first = await hit(keys, 7);
    expect(await hit(keys.toReversed(), 7)).toEqual(first);
    expect(await hit(keys, 8)).not.toEqual(first);
    for (const name of ['500', '503', '502']) {
      const count = first.filter((line) => line.includes(` ${name}`)).length;
      expect(count).toBeGreaterThan(3);
      expect(count).toBeLessThan(30);
    }
  });

  it('until healed, or one fault is stopped', async () => {
    const { proxy, send } = await through(network.delayRequest(1));
    const injection = proxy.inject(store.internalError);
    expect((await send('HEAD')).status).toBe(500);
    expect(proxy.log.at(-1)?.faults).toEqual(['delayed request', '500 InternalError']);
    injection.stop();
    expect(injection.hits).toBe(1);
    expect((await send('HEAD')).status).toBe(404);
    expect(proxy.log.at(-1)?.faults).toEqual(['delayed request']);
    proxy.heal();
    await send('HEAD');
    expect(proxy.log.at(-1)?.faults).toEqual([]);
  });

  it('a storm for a time, and then all is well', async () => {
    const { proxy, put } = await through();
    const started = performance.now();
    const storm = proxy.inject(store.slowDown(), { forMs: 200 });
    await waitFor('the end of the storm', async () => (await put()).status === 200);
    expect(performance.now() - started).toBeGreaterThan(200);
    expect(storm.hits).toBeGreaterThan(0);
  });
});

describe('a pause', () => {
  it('before the server has it: the object is not there until released', async () => {
    const { proxy, put, direct } = await through();
    const pause = proxy.pause({ kind: 'PutObject' });
    const answer = put();
    await pause.reached;
    expect((await direct('HEAD')).status).toBe(404);
    expect((await put({ key: 'another' })).status).toBe(200);
    pause.release();
    expect((await answer).status).toBe(200);
    expect((await direct('HEAD')).status).toBe(200);
  });

  it('after the server has answered: the object is there, and its client does not know', async () => {
    const { proxy, put, direct } = await through();
    const pause = proxy.pause({ kind: 'PutObject', nth: 2 }, { stage: 'after' });
    await put({ key: 'another' });
    const answer = put();
    await pause.reached;
    expect((await direct('HEAD')).status).toBe(200);
    expect(proxy.log.at(-1)).toMatchObject({ answered: 200, told: undefined, ended: 'running' });
    pause.release();
    expect((await answer).status).toBe(200);
  });

  it.each([true, false])('whose client gave up: lands late, or not at all (%s)', async (evenIfGone) => {
    const { proxy, put, direct } = await through();
    const pause = proxy.pause({}, { evenIfGone });
    const client = new AbortController();
    const answer = put({ signal: client.signal });
    await pause.reached;
    client.abort();
    await broken(answer);
    if (!evenIfGone) await waitFor('the proxy to notice', () => proxy.log[0]?.ended === 'client gone');
    expect((await direct('HEAD')).status).toBe(404);
    pause.release();
    await waitFor(
      'the end',
      () => proxy.log[0]?.ended !== 'running' && (!evenIfGone || proxy.log[0]?.answered === 200),
    );
    expect((await direct('GET')).status).toBe(evenIfGone ? 200 : 404);
  });
});

describe('a network', () => {
  it('that is slow, before the server or behind it', async () => {
    for (const delay of [network.delayRequest, network.delayAnswer]) {
      const { put } = await through(delay(60));
      const started = performance.now();
      expect((await put()).status).toBe(200);
      expect(performance.now() - started).toBeGreaterThan(55);
    }
  });

  it.each<[name: string, fault: Fault, method: string, received: number | undefined, stored: boolean]>([
    ['before anything', network.stall, 'PUT', undefined, false],
    ['within an upload', network.stallUpload(), 'PUT', undefined, false],
    ['within an upload, before its last byte', network.stallUpload(-1), 'PUT', undefined, false],
    ['within a download', network.stallDownload(), 'GET', content.length / 2, true],
    ['within a download, behind its first byte', network.stallDownload(1), 'GET', 1, true],
  ])('that stalls %s', async (_, fault, method, received, stored) => {
    const { proxy, send, direct } = await through(fault);
    if (method === 'GET') await direct('PUT', { body: content });
    const client = new AbortController();
    let settled = false;
    const answer = send(method, { body: method === 'PUT' ? content : Buffer.alloc(0), signal: client.signal });
    const ended = broken(answer).finally(() => {
      settled = true;
    });
    await waitFor('the stall', () => proxy.log[0]?.faults.length === 1 && (!stored || proxy.log[0].told === 200));
    proxy.heal();
    for (let n = 0; n < 20; n++) await send('HEAD');
    expect(settled).toBe(false);
    client.abort();
    expect((await ended).answer?.body.length).toBe(received);
    expect((await direct('HEAD')).status).toBe(stored ? 200 : 404);
  });

  it.each<[name: string, fault: Fault, answered: number | undefined, stored: boolean]>([
    ['at once', network.reset, undefined, false],
    ['within an upload', network.resetUpload(), undefined, false],
    ['within an upload, before its last byte', network.resetUpload(-1), undefined, false],
    ['when all is done', network.loseAnswer, 200, true],
  ])('that resets a PUT %s', async (_, fault, answered, stored) => {
    const { proxy, put, direct } = await through(fault);
    expect(await broken(put())).toMatchObject({ code: expect.stringMatching(/ECONNRESET|EPIPE/), answer: undefined });
    expect(proxy.log[0]).toMatchObject({ answered, told: undefined, ended: 'reset' });
    const { status, body } = await direct('GET');
    expect(status).toBe(stored ? 200 : 404);
    if (stored) expect(body).toEqual(content);
  });

  it('that cuts an answer short, by a reset or a close, against the length that was told', async () => {
    const { proxy, direct, send } = await through();
    await direct('PUT', { body: content });
    for (const [fault, length] of [
      [network.truncate(), content.length / 2],
      [network.truncate(-1), content.length - 1],
      [network.truncate(0), 0],
      [network.resetDownload(1000), undefined],
    ] as const) {
      const injection = proxy.inject(fault);
      const { answer } = await broken(send('GET'));
      injection.stop();
      if (length === undefined) continue; // a reset may overtake what was sent
      expect(answer?.headers['content-length']).toBe(`${content.length}`);
      expect(answer?.body).toEqual(content.subarray(0, length));
    }
    expect(proxy.log.map(({ ended }) => ended)).toEqual(['closed', 'closed', 'closed', 'reset']);
  });

  it('that shortens an answer and tells the shorter length', async () => {
    const { direct, send } = await through(network.shorten(-10));
    await direct('PUT', { body: content });
    const { status, headers, body } = await send('GET');
    expect([status, headers['content-length'], body.length]).toEqual([200, '99990', 99_990]);
  });

  it('that tells a wrong length', async () => {
    const { proxy, direct, send } = await through();
    await direct('PUT', { body: content });
    const few = proxy.inject(network.misstateLength(-5));
    const told = await send('GET').catch(({ answer, code }: BrokenAnswer) => ({ ...answer, code }));
    expect(told.headers?.['content-length']).toBe('99995');
    expect('code' in told ? told.code : told.body).toEqual(
      'code' in told ? expect.stringMatching(/^HPE_/) : content.subarray(0, -5),
    );
    few.stop();
    proxy.inject(network.misstateLength(5), { times: 1 });
    const client = new AbortController();
    const answer = broken(send('GET', { signal: client.signal }));
    await waitFor('the answer', () => proxy.log.at(-1)?.told === 200);
    for (let n = 0; n < 20; n++) await send('HEAD');
    client.abort();
    expect((await answer).answer?.body).toEqual(content);
  });

  it('that trickles', async () => {
    const { proxy, put, send } = await through();
    for (const [fault, request] of [
      [network.trickleUpload(500_000), put],
      [network.trickleDownload(500_000), () => send('GET')],
    ] as const) {
      const injection = proxy.inject(fault);
      const started = performance.now();
      expect((await request()).status).toBe(200);
      expect(performance.now() - started).toBeGreaterThan(180);
      injection.stop();
    }
    expect((await send('GET')).body).toEqual(content);
  });

  it('that swallows the question whether to continue', async () => {
    const { proxy, put, direct } = await through(network.swallowContinue);
    const client = new AbortController();
    const answer = broken(put({ expectContinue: 'wait', signal: client.signal }));
    await waitFor('the request', () => proxy.count() === 1);
    expect((await put({ key: 'another' })).status).toBe(200);
    client.abort();
    await answer;
    expect((await direct('HEAD')).status).toBe(404);
    expect((await put({ expectContinue: 'send' })).status).toBe(200);
  });
});

describe('a store', () => {
  it.each<[fault: Fault, status: number, text: string, headers?: object]>([
    [store.slowDown(), 503, '<Code>SlowDown</Code>'],
    [store.slowDown(7), 503, '<Code>SlowDown</Code>', { 'retry-after': '7' }],
    [store.internalError, 500, '<Code>InternalError</Code>'],
    [store.tooManyRequests, 429, '<Code>TooManyRequests</Code>'],
    [store.accessDenied, 403, '<Code>AccessDenied</Code>'],
    [store.conflict, 409, '<Code>ConditionalRequestConflict</Code>'],
    [store.refuse(412, 'PreconditionFailed'), 412, '<Code>PreconditionFailed</Code>'],
    [store.refuse(503, 'SlowDown', { early: true }), 503, '<Code>SlowDown</Code>', { connection: 'close' }],
    [store.errorInOk(), 200, '<Error><Code>InternalError</Code>'],
    [store.gatewayError, 502, '<html>', { 'content-type': 'text/html' }],
  ])('that refuses: $name', async (fault, status, text, headers = {}) => {
    const { proxy, put, direct } = await through(fault);
    const answer = await put();
    expect(answer).toMatchObject({ status, headers });
    expect(`${answer.body}`).toContain(text);
    if (!('retry-after' in headers)) expect(answer.headers['retry-after']).toBeUndefined();
    expect(proxy.log[0]).toMatchObject({ answered: undefined, told: status });
    expect((await direct('HEAD')).status).toBe(404);
  });

  it('that denies missing keys only, as AWS without s3:ListBucket', async () => {
    const { put, send } = await through(store.denyMissing);
    for (const method of ['GET', 'HEAD']) expect((await send(method)).status).toBe(403);
    await put();
    for (const method of ['GET', 'HEAD']) expect((await send(method)).status).toBe(200);
  });

  it('that denies listings only', async () => {
    const { proxy, put, send } = await through();
    proxy.inject(store.accessDenied, { kind: 'ListObjects' });
    expect((await put()).status).toBe(200);
    expect((await send('GET', { key: '', query: { 'list-type': '2' } })).status).toBe(403);
  });

  it('that stores an object and calls it a conflict', async () => {
    const { put, direct } = await through(store.falsePreconditionFailed);
    expect((await put({ headers: ifNoneMatch })).status).toBe(412);
    expect((await direct('GET')).body).toEqual(content);
  });

  it('that refuses conditional writes only', async () => {
    const { put } = await through(store.refuseIfNoneMatch);
    expect((await put({ headers: ifNoneMatch })).status).toBe(501);
    expect((await put()).status).toBe(200);
  });

  it('that ignores the condition, whatever was signed', async () => {
    const { proxy, put, direct } = await through(store.ignoreIfNoneMatch);
    for (const word of ['first', 'second']) {
      expect((await put({ body: Buffer.from(word), headers: ifNoneMatch })).status).toBe(200);
    }
    expect(`${(await direct('GET')).body}`).toBe('second');
    proxy.heal();
    expect((await put({ headers: ifNoneMatch })).status).toBe(412);
  });

  it('that lets racing conditional writers win, and refuses those that come later', async () => {
    const { put } = await through(store.racyIfNoneMatch(300));
    const answers = await Promise.all(Array.from({ length: 4 }, () => put({ headers: ifNoneMatch })));
    expect(answers.filter(({ status }) => status === 200).length).toBeGreaterThan(1);
    expect((await put({ headers: ifNoneMatch })).status).toBe(412);
    expect((await put()).status).toBe(200);
  });

  it('that ignores ranges', async () => {
    const { proxy, put, send } = await through(store.ignoreRange);
    await put();
    const request = { headers: { range: 'bytes=1-3' } };
    expect(await send('GET', request)).toMatchObject({ status: 200, body: content });
    proxy.heal();
    expect(await send('GET', request)).toMatchObject({ status: 206, body: content.subarray(1, 4) });
  });

  it('whose Date is wrong', async () => {
    const { put } = await through(store.wrongDate(-3_600_000));
    const { status, headers } = await put();
    expect(status).toBe(200);
    expect(Math.abs(Date.now() - 3_600_000 - Date.parse(headers.date ?? ''))).toBeLessThan(60_000);
  });

  it('whose clock is wrong: refuses, until the client follows', async () => {
    const { proxy, put, send } = await through(store.skewedClock(3_600_000));
    const refused = await put();
    expect(refused.status).toBe(403);
    expect(`${refused.body}`).toContain('<Code>RequestTimeTooSkewed</Code>');
    const now = new Date(refused.headers.date ?? '');
    expect((await put({ now })).status).toBe(200);
    proxy.forget();
    const { bucket: Bucket } = proxy.s3;
    await sdkClient(proxy, 2).send(new PutObjectCommand({ Bucket, Key: 'skewed', Body: content }));
    expect(proxy.log.map(({ told }) => told)).toEqual([403, 200]);
    expect((await send('GET', { now })).body).toEqual(content);
  });

  it('that lists out of order', async () => {
    const { proxy, key, put } = await through(store.unorderedListing);
    for (const letter of 'abc') await put({ key: `${key}/${letter}` });
    const keys = async () => {
      const query = { 'list-type': '2', prefix: key };
      const { body } = await sendS3(proxy.s3, 'GET', { query });
      return [...`${body}`.matchAll(/<Key>.*?([^/]*)<\/Key>/g)].map(([, name]) => name).join('');
    };
    expect(await keys()).toBe('cba');
    proxy.heal();
    expect(await keys()).toBe('abc');
  });

  it('that deletes some of several keys, and names the others in a 200', async () => {
    const { proxy, key, put, direct } = await through();
    const { bucket: Bucket } = proxy.s3;
    const remove = async (letters: string) => {
      const Objects = [...letters].map((letter) => ({ Key: `${key}/${letter}` }));
      const answer = await sdkClient(proxy).send(new DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
      return answer.Errors?.map(({ Key, Code }) => `${Key?.at(-1)} ${Code}`);
    };
    for (const letter of 'abc') await put({ key: `${key}/${letter}` });
    proxy.inject(store.deleteErrors(/[bc]$/), { kind: 'DeleteObjects' });
    expect(await remove('abc')).toEqual(['b AccessDenied', 'c AccessDenied']);
    expect(await remove('bc')).toEqual(['b AccessDenied', 'c AccessDenied']);
    expect(
      await Promise.all([...'abc'].map(async (c) => (await direct('HEAD', { key: `${key}/${c}` })).status)),
    ).toEqual([404, 200, 200]);
  });
});

it('is honest in a storm of everything: what is acknowledged is stored, and nothing is there in part', async () => {
  const proxy = await FaultProxy.start(server.s3, { seed: 42 });
  onTestFinished(() => proxy.stop());
  const { reset, loseAnswer, resetUpload, resetDownload, truncate, delayRequest, delayAnswer } = network;
  const { internalError, slowDown, falsePreconditionFailed, gatewayError, conflict } = store;
  const faults = [reset, loseAnswer, resetUpload(), resetDownload(0), truncate(0), delayRequest(5), delayAnswer(5)];
  proxy.inject([...faults, internalError, slowDown(1), falsePreconditionFailed, gatewayError, conflict], { rate: 0.5 });
  const found = { acknowledged: 0, stored: 0, absent: 0 };
  const one = async (n: number) => {
    const request = { key: `storm/${n}`, body: Buffer.concat([Buffer.from(`${n} `), content]), headers: ifNoneMatch };
    const answer = await sendS3(proxy.s3, 'PUT', request).catch(() => undefined);
    const stored = await sendS3(server.s3, 'GET', { key: request.key });
    if (stored.status === 200) expect(stored.body.equals(request.body)).toBe(true);
    else expect([stored.status, answer?.status === 200]).toEqual([404, false]);
    found.acknowledged += answer?.status === 200 ? 1 : 0;
    found[stored.status === 200 ? 'stored' : 'absent'] += 1;
  };
  for (let n = 0; n < 160; n += 8) await Promise.all(Array.from({ length: 8 }, (_, i) => one(n + i)));
  expect(found.acknowledged).toBeGreaterThan(40);
  expect(found.stored).toBeGreaterThan(found.acknowledged);
  expect(found.absent).toBeGreaterThan(10);
});
