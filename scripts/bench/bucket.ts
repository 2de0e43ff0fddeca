/** The S3 endpoint of a bench: a given one, or the test server, there with time added to each request if wanted. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { type S3Endpoint, S3Server } from '../../test/support/s3-server.ts';

export interface Bucket {
  readonly s3: S3Endpoint;
  /** The same with the added time. */
  readonly slowed: S3Endpoint;
  /** Requests through `slowed` since it was last asked; not a number without added time, where nothing counts them. */
  requests(): Promise<number>;
  stop(): Promise<void>;
}

/** @param latencyMs added to each request; only the test server takes requests that were signed for a proxy. */
export async function openBucket(given: S3Endpoint | undefined, latencyMs: number): Promise<Bucket> {
  if (given !== undefined && latencyMs > 0) throw new Error('--latency goes with the test server alone');
  const server = given === undefined ? await S3Server.start() : undefined;
  const s3 = given ?? server?.s3;
  if (s3 === undefined) throw new Error('there is no endpoint');
  const proxy = latencyMs > 0 ? await startProxy(s3, latencyMs) : undefined;
  return {
    s3,
    slowed: proxy?.s3 ?? s3,
    requests: async () => {
      if (proxy === undefined) return Number.NaN;
      proxy.child.send('requests');
      const [counted] = (await once(proxy.child, 'message')) as [number];
      return counted;
    },
    stop: async () => {
      proxy?.child.disconnect();
      await server?.stop();
    },
  };
}

async function startProxy(s3: S3Endpoint, latencyMs: number): Promise<{ child: ChildProcess; s3: S3Endpoint }> {
  const script = fileURLToPath(new URL('slow-proxy.ts', import.meta.url));
  const child = fork(script, [JSON.stringify({ s3, latencyMs })]);
  const [message] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as unknown[];
  if (typeof message !== 'object') throw new Error('the proxy did not start');
  return { child, s3: message as S3Endpoint };
}
