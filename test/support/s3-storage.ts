/** The storage under test on an S3 server, or on a proxy in front of one. */
import { randomUUID } from 'node:crypto';
import { readSettings, type S3Settings } from '../../src/config.ts';
import type { StorageSettings } from '../../src/storage/open.ts';
import { openS3, type S3Storage } from '../../src/storage/s3.ts';
import type { S3Endpoint } from './s3-server.ts';

export interface S3StorageOptions {
  readonly prefix?: string;
  readonly s3?: Partial<S3Settings>;
  readonly times?: Partial<StorageSettings['times']>;
  readonly connections?: number;
}

/** Under a prefix of its own unless told otherwise. The keys go where the SDK finds them: into this process's environment. */
export function openS3Storage(at: S3Endpoint, options: S3StorageOptions = {}): Promise<S3Storage> {
  const { prefix = randomUUID(), s3 = {}, times = {}, connections = 16 } = options;
  setAwsEnvironment(at);
  const settings = readSettings({});
  return openS3(`s3://${at.bucket}/${prefix}`, {
    repository: '',
    connections,
    s3: { ...settings.s3, endpoint: at.endpoint, ...s3 },
    times: { ...settings.times, ...times },
  });
}

/** For this process and those that it starts with its environment. */
export function setAwsEnvironment(at: S3Endpoint): void {
  Object.assign(process.env, awsEnvironment(at), { AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true' });
}

/** AWS's own variables for this endpoint's keys and region. */
export function awsEnvironment(at: S3Endpoint): Record<string, string> {
  return { AWS_ACCESS_KEY_ID: at.accessKeyId, AWS_SECRET_ACCESS_KEY: at.secretAccessKey, AWS_REGION: at.region };
}
