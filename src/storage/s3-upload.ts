/** Uploads what does not fit into memory, in parts of equal size; a failed upload is taken back. */

import { Readable } from 'node:stream';
import { AbortMultipartUploadCommand, type PutObjectCommandInput, type S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { Bytes } from '../bytes.ts';
import { limits } from '../limits.ts';
import { unlessAborted } from './deadline.ts';
import { type Attempt, judge } from './s3-errors.ts';
import { type RequestLimits, request } from './s3-requests.ts';

export interface UploadOptions {
  readonly input: Omit<PutObjectCommandInput, 'Body'>;
  readonly attempt: Attempt;
  /** About how many bytes the body has, so that it fits into the number of parts that stores allow. */
  readonly sizeHint: number;
  readonly limits: RequestLimits;
}

/** Stores `body`, whole or not at all. @returns what the store answered at the end. */
export async function uploadParts(client: S3Client, body: Bytes, options: UploadOptions) {
  const { input, attempt, sizeHint } = options;
  let uploadId: string | undefined;
  const sending = withRequests(client, options, (id) => {
    uploadId = id;
  });
  const source = watched(body);
  const upload = new Upload({
    client: sending,
    params: { ...input, Body: Readable.from(source.bytes) },
    partSize: partSizeFor(sizeHint),
    queueSize: limits.partsInFlight,
    leavePartsOnError: true,
  });
  const { signal } = options.limits;
  try {
    return await (signal === undefined ? upload.done() : unlessAborted(upload.done(), signal));
  } catch (error) {
    await upload.abort();
    if (uploadId !== undefined) await takeBack(client, uploadId, options);
    signal?.throwIfAborted();
    throw source.failure() ?? judge(error, attempt).error;
  }
}

/** An error of the body is its own: it says nothing about the storage. */
function watched(body: Bytes) {
  let failure: unknown;
  async function* bytes(): Bytes {
    try {
      yield* body;
    } catch (error) {
      failure = error;
      throw error;
    }
  }
  return { bytes: bytes(), failure: () => failure };
}

/** Parts of at least 5 MiB, of one size (R2 demands it), and not more of them than the strictest store allows. */
export function partSizeFor(sizeBytes: number): number {
  const least = Math.ceil(sizeBytes / limits.partsOfUpload);
  return Math.max(limits.partBytes, Math.ceil(least / limits.partBytes) * limits.partBytes);
}

/** lib-storage sends by the client that it is given: this one sends each request with deadline and repetition. */
function withRequests(
  client: S3Client,
  { attempt, limits: times }: UploadOptions,
  started: (uploadId: string) => void,
): S3Client {
  const send = async (command: Parameters<S3Client['send']>[0]) => {
    const output = await request((options) => client.send(command as never, options) as Promise<object>, attempt, {
      ...times,
      isWhole: (answer) => !('ETag' in answer) || answer.ETag !== undefined,
    });
    if ('UploadId' in output && typeof output.UploadId === 'string') started(output.UploadId);
    return output;
  };
  return Object.create(client, { send: { value: send } }) as S3Client;
}

/** What has been sent of an upload that failed would be paid for until somebody swept it. */
async function takeBack(
  client: S3Client,
  UploadId: string,
  { input, attempt, limits: times }: UploadOptions,
): Promise<void> {
  const { signal: _, ...patient } = times; // the command is being aborted perhaps; this must be done nevertheless
  const command = new AbortMultipartUploadCommand({ Bucket: input.Bucket, Key: input.Key, UploadId });
  await request(
    (options) => client.send(command, options),
    { ...attempt, verb: 'abort' },
    {
      ...patient,
      requestMs: Math.min(patient.requestMs, limits.takeBackMs),
    },
  ).catch(() => undefined); // the error that led here is the one to tell; what stays is swept later
}
