/** Uploads in parts that nobody ended: no listing of objects shows them, and they are paid for until they are taken back. */
import {
  AbortMultipartUploadCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandOutput,
  NoSuchUpload,
  type S3Client,
} from '@aws-sdk/client-s3';
import { WalTError } from '../errors.ts';
import type { Attempt } from './s3-errors.ts';
import { type RequestLimits, request } from './s3-requests.ts';
import type { SweepReport } from './storage.ts';

export interface SweepOptions {
  readonly bucket: string;
  /** Of the repository: nothing else is looked at. */
  readonly prefix: string;
  readonly attempt: Attempt;
  readonly limits: RequestLimits;
  /** Asked with the key below the prefix. */
  readonly isOrphan: (key: string, begunAt: Date) => boolean;
}

/** @throws UnsupportedError when the store cannot list them. */
export async function sweepUploads(
  client: S3Client,
  { bucket, prefix, attempt, limits, isOrphan }: SweepOptions,
): Promise<SweepReport> {
  const failed: { what: string; error: WalTError }[] = [];
  let removed = 0;
  let marker: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
  while (marker !== undefined) {
    const command: ListMultipartUploadsCommand = new ListMultipartUploadsCommand({
      Bucket: bucket,
      Prefix: prefix,
      ...marker,
    });
    const page: ListMultipartUploadsCommandOutput = await request(
      (options) => client.send(command, options),
      attempt,
      limits,
    );
    for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
      if (Key === undefined || UploadId === undefined || Initiated === undefined || !Key.startsWith(prefix)) continue;
      if (!isOrphan(Key.slice(prefix.length), Initiated)) continue;
      try {
        const abort = new AbortMultipartUploadCommand({ Bucket: bucket, Key, UploadId });
        await request((options) => client.send(abort, options), { ...attempt, verb: 'abort', what: Key }, limits);
        removed += 1;
      } catch (error) {
        if (!(error instanceof WalTError)) throw error;
        if (error.cause instanceof NoSuchUpload) continue; // ended meanwhile
        failed.push({ what: Key, error });
      }
    }
    const next = { KeyMarker: page.NextKeyMarker ?? '', UploadIdMarker: page.NextUploadIdMarker ?? '' };
    marker = page.IsTruncated === true && next.KeyMarker !== '' ? next : undefined;
  }
  return { removed, failed };
}
