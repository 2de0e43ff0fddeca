/** Every fault of a network, proved on the wire in front of a real S3 server. */
import { describe, expect, it } from 'vitest';
import * as network from './network-faults.ts';
import { broken, content, shareS3Server } from './proxied.ts';
import type { BrokenAnswer } from './s3-client.ts';
import type { Fault } from './s3-exchange.ts';
import { waitFor } from './wait.ts';

const through = shareS3Server();

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
    if (stored) expect(body.equals(content)).toBe(true);
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
      expect(answer?.body.equals(content.subarray(0, length))).toBe(true);
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
    proxy.inject(network.misstateLength(-5), { times: 1 });
    const few = await send('GET').catch(({ answer }: BrokenAnswer) => answer); // node's client sees the rest, or is done before
    expect(few?.headers['content-length']).toBe('99995');
    expect(few?.body.length).toBeLessThan(content.length);
    proxy.inject(network.misstateLength(5), { times: 1 });
    const client = new AbortController();
    const answer = broken(send('GET', { signal: client.signal }));
    await waitFor('the answer', () => proxy.log.at(-1)?.told === 200);
    for (let n = 0; n < 20; n++) await send('HEAD');
    client.abort();
    expect((await answer).answer?.body.equals(content)).toBe(true);
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
    expect((await send('GET')).body.equals(content)).toBe(true);
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
