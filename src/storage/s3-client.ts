/** The SDK's client as WAL-T needs it. Each option stands against a fault that was seen: docs/STORES.md. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent as HttpAgent } from 'node:http';
import { type AgentOptions, Agent as HttpsAgent } from 'node:https';
import { rootCertificates } from 'node:tls';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { S3Settings } from '../config.ts';
import { ConfigurationError, systemErrorReason } from '../errors.ts';
import type { StorageSettings } from './open.ts';

/** A client without retries of its own: its budget is shared by all requests, and of 200 that failed at once half got none. */
export async function makeClient(all: StorageSettings): Promise<S3Client> {
  const settings = all.s3;
  const elsewhere: S3ClientConfig =
    settings.endpoint === undefined
      ? {}
      : {
          endpoint: settings.endpoint,
          // checksums that only AWS knows broke R2, B2, GCS, Wasabi, older Ceph
          requestChecksumCalculation: 'WHEN_REQUIRED',
          responseChecksumValidation: 'WHEN_REQUIRED',
          region: 'us-east-1',
        };
  const region = await configuredRegion();
  const client = new S3Client({
    ...elsewhere,
    ...(region === undefined ? {} : { region }),
    forcePathStyle: settings.forcePathStyle ?? settings.endpoint !== undefined,
    maxAttempts: 1,
    // by default every body of 2 MiB opens a new connection and waits for "100 Continue", 6 s with a server that never says it
    expectContinueHeader: false,
    requestHandler: await makeHandler(all),
  });
  if (settings.endpoint !== undefined) addContentMd5(client);
  return client;
}

/** The SDK's own chain, asked first so that a custom endpoint without a region gets the customary one. */
async function configuredRegion(): Promise<string | undefined> {
  const probe = new S3Client({});
  try {
    return await probe.config.region();
  } catch {
    return undefined;
  } finally {
    probe.destroy();
  }
}

/** Agents are given as instances: with plain options the SDK loses `ca` and proxy for large bodies. */
async function makeHandler({ s3, connections, times }: StorageSettings): Promise<NodeHttpHandler> {
  const options: AgentOptions = { keepAlive: true, maxSockets: connections, ...(await authorities(s3)) };
  return new NodeHttpHandler({
    httpAgent: new HttpAgent(options),
    httpsAgent: s3.proxy === undefined ? new HttpsAgent(options) : await proxyAgent(s3.proxy, options),
    connectionTimeout: times.connectMs,
    socketTimeout: times.idleMs,
  });
}

/** Those that Node.js trusts, and the configured ones. */
async function authorities({ caFile }: S3Settings): Promise<Pick<AgentOptions, 'ca'>> {
  if (caFile === undefined) return {};
  try {
    return { ca: [...rootCertificates, await readFile(caFile, 'utf8')] };
  } catch (cause) {
    throw new ConfigurationError(`could not read WALT_S3_CA_FILE "${caFile}": ${systemErrorReason(cause)}`, { cause });
  }
}

async function proxyAgent(proxy: string, options: AgentOptions): Promise<HttpsAgent> {
  const { HttpsProxyAgent } = await import('https-proxy-agent');
  const agent = new HttpsProxyAgent(proxy, options);
  // it keeps `ca` for the proxy alone; and not knowing that all is https, it would find none of its tunnels again
  Object.assign(agent.options, { protocol: 'https:', ...(options.ca === undefined ? {} : { ca: options.ca }) });
  return agent;
}

/** The one checksum that every store checks, on every body that is sent: uploads, parts, lists of keys to delete. */
function addContentMd5(client: S3Client): void {
  client.middlewareStack.add(
    (next) => async (args) => {
      const request = args.request as { body?: unknown; headers: Record<string, string> };
      const { body } = request;
      if ((typeof body === 'string' && body !== '') || body instanceof Uint8Array) {
        request.headers['content-md5'] = createHash('md5').update(body).digest('base64');
        for (const name of Object.keys(request.headers)) {
          if (/^x-amz-(?:checksum-|sdk-checksum)/i.test(name)) delete request.headers[name]; // deletes have one nevertheless
        }
      }
      return next(args);
    },
    { step: 'build', priority: 'low', name: 'contentMd5', override: true },
  );
}
