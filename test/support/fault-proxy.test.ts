/** The proxy passes on what it is not told to spoil, hits the requests that it is told to, and lets tests wait in between. */
import { Agent } from 'node:http';
import { DeleteObjectsCommand, GetObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { FaultProxy } from './fault-proxy.ts';
import * as network from './network-faults.ts';
import { broken, content, ifNoneMatch, openProxy, type Proxied, sdkClient, shareS3Server } from './proxied.ts';
import { sendS3 } from './s3-client.ts';
import type { Kind } from './s3-exchange.ts';
import * as store from './store-faults.ts';
import { waitFor } from './wait.ts';

const through = shareS3Server();

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
    expect((await direct('GET')).body.equals(content)).toBe(true);
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
    const beyond = await openProxy(proxy.s3);
    expect((await broken(sendS3(beyond.s3, 'GET', { key: 'any' }))).code).toBe('ECONNRESET');
    expect(beyond.log[0]?.ended).toBe('server gone');
  });
});

describe('which requests are hit', () => {
  const denied = async ({ proxy, send }: Proxied, when: object, keys: string) => {
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
    const { proxy: behind } = await through();
    const keys = Array.from({ length: 200 }, (_, n) => `share/${n}`);
    const hit = async (order: readonly string[], seed: number) => {
      const proxy = await openProxy(behind.s3, { seed });
      const injection = proxy.inject([store.internalError, store.slowDown(), store.gatewayError], { rate: 0.2 });
      proxy.inject(store.accessDenied); // the server need not be asked
      await Promise.all(order.map((key) => sendS3(proxy.s3, 'HEAD', { key })));
      expect(proxy.log.filter(({ told }) => told !== 403)).toHaveLength(injection.hits);
      return proxy.log.map(({ key, told }) => `${key} ${told}`).sort();
    };
    const first = await hit(keys, 7);
    expect(await hit(keys.toReversed(), 7)).toEqual(first);
    expect(await hit(keys, 8)).not.toEqual(first);
    for (const name of ['500', '503', '502']) {
      const count = first.filter((line) => line.endsWith(` ${name}`)).length;
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

it('is honest in a storm of everything: what is acknowledged is stored, and nothing is there in part', async () => {
  const { proxy: behind } = await through();
  const proxy = await openProxy(behind.s3, { seed: 42 });
  const { reset, loseAnswer, resetUpload, resetDownload, truncate, delayRequest, delayAnswer } = network;
  const { internalError, slowDown, falsePreconditionFailed, gatewayError, conflict } = store;
  const faults = [reset, loseAnswer, resetUpload(), resetDownload(0), truncate(0), delayRequest(5), delayAnswer(5)];
  proxy.inject([...faults, internalError, slowDown(1), falsePreconditionFailed, gatewayError, conflict], { rate: 0.5 });
  const found = { acknowledged: 0, stored: 0, absent: 0 };
  const one = async (n: number) => {
    const request = { key: `storm/${n}`, body: Buffer.concat([Buffer.from(`${n} `), content]), headers: ifNoneMatch };
    const answer = await sendS3(proxy.s3, 'PUT', request).catch(() => undefined);
    const stored = await sendS3(behind.s3, 'GET', { key: request.key });
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
