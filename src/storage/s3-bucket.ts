/** What every request to a bucket is made of: the client, where objects are, how long to try, and what to call it in messages. */
import type { S3Client } from '@aws-sdk/client-s3';
import type { Patience, StorageSettings } from './open.ts';
import type { Attempt } from './s3-errors.ts';
import { type RequestLimits, unlimited } from './s3-requests.ts';
import { parseS3Url, type S3Location } from './s3-url.ts';

export class Bucket {
  readonly url: string;
  readonly client: S3Client;
  readonly location: S3Location;
  readonly settings: StorageSettings['s3'];
  readonly times: Omit<RequestLimits, 'signal'> & { readonly patience: Patience };

  constructor(url: string, client: S3Client, { s3, times, patience = unlimited }: StorageSettings) {
    this.url = url;
    this.client = client;
    this.location = parseS3Url(url);
    this.settings = s3;
    this.times = { ...times, patience };
  }

  target(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.location.bucket, Key: this.location.prefix + key };
  }

  attempt(verb: string, what: string): Attempt {
    return { verb, what, url: this.url, bucket: this.location.bucket, endpoint: this.settings.endpoint };
  }
}
