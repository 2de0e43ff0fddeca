/** The storage in a bucket: the contract against a real S3 server that we did not write, and through every fault that the field knows. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll } from 'vitest';
import { readSettings } from '../../src/config.ts';
import { openS3 } from '../../src/storage/s3.ts';
import { S3Server } from '../support/s3-server.ts';
import { describeStorage } from './conformance.ts';

let server: S3Server;

beforeAll(async () => {
  server = await S3Server.start();
  process.env.AWS_ACCESS_KEY_ID = server.s3.accessKeyId;
  process.env.AWS_SECRET_ACCESS_KEY = server.s3.secretAccessKey;
  process.env.AWS_REGION = server.s3.region;
});

afterAll(() => server.stop());

const settings = readSettings({});

describeStorage('S3', () =>
  openS3(`s3://${server.s3.bucket}/${randomUUID()}`, {
    ...settings,
    repository: '',
    s3: { ...settings.s3, endpoint: server.s3.endpoint },
  }),
);
