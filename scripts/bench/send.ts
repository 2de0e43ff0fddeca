/** Sends files to a bucket, some at a time, and does nothing else: what no archiver with the same client can be faster than. */
import { readFile } from 'node:fs/promises';
import { Agent } from 'node:http';
import { basename } from 'node:path';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { S3Endpoint } from '../../test/support/s3-server.ts';

interface Sending {
  readonly s3: S3Endpoint;
  readonly prefix: string;
  readonly files: readonly string[];
  readonly concurrency: number;
}

const { s3, prefix, files, concurrency } = JSON.parse(process.argv[2] ?? '') as Sending;
const client = new S3Client({
  endpoint: s3.endpoint,
  region: s3.region,
  credentials: s3,
  forcePathStyle: true,
  expectContinueHeader: false,
  requestChecksumCalculation: 'WHEN_REQUIRED',
  requestHandler: new NodeHttpHandler({ httpAgent: new Agent({ keepAlive: true, maxSockets: concurrency }) }),
});
const waiting = files[Symbol.iterator]();
const sendNext = async (): Promise<void> => {
  for (const path of waiting) {
    const Key = `${prefix}/${basename(path)}`;
    await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key, Body: await readFile(path) }));
  }
};
await Promise.all(Array.from({ length: concurrency }, sendNext));
client.destroy();
