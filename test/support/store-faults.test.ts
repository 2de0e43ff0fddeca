/** Every fault of a store, proved on the wire in front of a real S3 server. */
import { DeleteObjectsCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { content, ifNoneMatch, sdkClient, shareS3Server } from './proxied.ts';
import { sendS3 } from './s3-client.ts';
import type { Fault } from './s3-exchange.ts';
import * as store from './store-faults.ts';

const through = shareS3Server();

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

  it('that lists in small pages', async () => {
    const { put, send } = await through(store.smallPages(1));
    for (const key of ['a', 'b']) await put({ key });
    const { body } = await send('GET', { key: '', query: { 'list-type': '2' } });
    expect(`${body}`).toContain('<IsTruncated>true</IsTruncated>');
    expect(`${body}`.match(/<Key>/g)).toHaveLength(1);
  });

  it('that stores an object and calls it a conflict', async () => {
    const { put, direct } = await through(store.falsePreconditionFailed);
    expect((await put({ headers: ifNoneMatch })).status).toBe(412);
    expect((await direct('GET')).body.equals(content)).toBe(true);
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
    const { status, body } = await send('GET', request);
    expect([status, body.equals(content)]).toEqual([200, true]);
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
    expect((await send('GET', { now })).body.equals(content)).toBe(true);
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
