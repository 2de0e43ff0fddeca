/** An S3 server shared by a test file, and proxies in front of it, each for the running test alone. */
import { S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, onTestFinished } from 'vitest';
import { FaultProxy } from './fault-proxy.ts';
import { BrokenAnswer, sendS3, type WireAnswer, type WireRequest } from './s3-client.ts';
import type { Fault } from './s3-exchange.ts';
import { S3Server } from './s3-server.ts';

/** What `put` stores. */
export const content = Buffer.alloc(100_000, 'content');

/** For a write that must not replace anything. */
export const ifNoneMatch = { 'if-none-match': '*' };

type Send = (method: string, request?: WireRequest) => Promise<WireAnswer>;

export interface Proxied {
  readonly proxy: FaultProxy;
  /** For this test alone: what is meant where a request names none. */
  readonly key: string;
  /** Through the proxy. */
  readonly send: Send;
  /** Past the proxy. */
  readonly direct: Send;
  readonly put: (request?: WireRequest) => Promise<WireAnswer>;
}

let tests = 0;

/** Starts a server for the tests of a file. @returns a function that makes a proxy with faults in front of it. */
export function shareS3Server(): (...faults: Fault[]) => Promise<Proxied> {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());
  return async (...faults) => {
    const proxy = await openProxy(server.s3);
    for (const fault of faults) proxy.inject(fault);
    const key = `test-${tests++}/object`;
    const send: Send = (method, request) => sendS3(proxy.s3, method, { key, ...request });
    const direct: Send = (method, request) => sendS3(server.s3, method, { key, ...request });
    return { proxy, key, send, direct, put: (request) => send('PUT', { body: content, ...request }) };
  };
}

/** A proxy that stops when the running test ends. */
export async function openProxy(...words: Parameters<typeof FaultProxy.start>): Promise<FaultProxy> {
  const proxy = await FaultProxy.start(...words);
  onTestFinished(() => proxy.stop());
  return proxy;
}

/** What came of an answer that broke off. */
export async function broken(answer: Promise<unknown>): Promise<BrokenAnswer> {
  const error = await answer.catch((error: unknown) => error);
  if (!(error instanceof BrokenAnswer)) throw new Error('it was answered');
  return error;
}

/** An SDK client without retries, unless told otherwise. */
export function sdkClient(proxy: FaultProxy, maxAttempts = 1): S3Client {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true';
  const { endpoint, region, ...credentials } = proxy.s3;
  const sums = { requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED' } as const;
  const client = new S3Client({ endpoint, region, credentials, forcePathStyle: true, maxAttempts, ...sums });
  onTestFinished(() => client.destroy());
  return client;
}
