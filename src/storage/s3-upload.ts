/** Uploads what does not fit into memory, in parts of equal size; a failed upload is taken back. */
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  type PutObjectCommandInput,
  type S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { Bytes } from '../bytes.ts';
import { ObjectExists } from '../errors.ts';
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
  /** Is an object there already? Several stores do not look at If-None-Match when an upload ends. */
  readonly isThere: (signal: AbortSignal) => Promise<boolean>;
}

/** The requests of an upload that is under way. */
interface Sending {
  uploadId?: string;
  readonly inFlight: Set<Promise<unknown>>;
  readonly stop: AbortController;
  readonly signal: AbortSignal;
}

/** Stores `body`, whole or not at all. @returns what the store answered at the end. */
export async function uploadParts(client: S3Client, body: Bytes, options: UploadOptions) {
  const { input, attempt, sizeHint } = options;
  const { signal } = options.limits;
  const stop = new AbortController(); // of itself lib-storage waits for all parts in flight before it tells of a failure
  const sending: Sending = {
    inFlight: new Set(),
    stop,
    signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]),
  };
  const source = watched(body, stop);
  const stream = Readable.from(source.bytes);
  const upload = new Upload({
    client: withRequests(client, options, sending),
    params: { ...input, Body: stream },
    partSize: partSizeFor(sizeHint),
    queueSize: limits.partsInFlight,
    leavePartsOnError: true,
  });
  try {
    return await unlessAborted(upload.done(), sending.signal);
  } catch (error) {
    stop.abort(error);
    await upload.abort();
    stream.destroy();
    await Promise.allSettled(sending.inFlight); // a part that arrives behind the end of its upload would stay
    if (sending.uploadId !== undefined) await takeBack(client, sending.uploadId, options);
    signal?.throwIfAborted();
    throw source.failure() ?? judge(error, attempt).error;
  }
}

/** An error of the body is its own: it says nothing about the storage. */
function watched(body: Bytes, stop: AbortController) {
  let failure: unknown;
  async function* bytes(): Bytes {
    try {
      yield* body;
    } catch (error) {
      failure = error;
      stop.abort(error);
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
function withRequests(client: S3Client, options: UploadOptions, sending: Sending): S3Client {
  const send = (command: Parameters<S3Client['send']>[0]) => {
    const answer = sendOne(client, command, { ...options, sending });
    sending.inFlight.add(answer);
    const ended = () => sending.inFlight.delete(answer);
    answer.then(ended, (error: unknown) => {
      ended();
      sending.stop.abort(error);
    });
    return answer;
  };
  return Object.create(client, { send: { value: send } }) as S3Client;
}

async function sendOne(
  client: S3Client,
  command: Parameters<S3Client['send']>[0],
  { input, attempt, limits: times, isThere, sending }: UploadOptions & { readonly sending: Sending },
): Promise<object> {
  const begins = command instanceof CreateMultipartUploadCommand;
  const ends = command instanceof CompleteMultipartUploadCommand;
  const expectAbsent = async () => {
    if (input.IfNoneMatch !== undefined && (await isThere(sending.signal))) throw new ObjectExists(attempt.what);
  };
  if (begins || ends) await expectAbsent();
  let sent = 0;
  const send = (options: { readonly abortSignal: AbortSignal }) => {
    sent += 1;
    return client.send(command as never, options) as Promise<object>;
  };
  try {
    const output = await request(send, attempt, {
      ...times,
      signal: sending.signal,
      isWhole: (answer) => (answer as Record<string, unknown>)[begins ? 'UploadId' : 'ETag'] !== undefined,
    });
    if ('UploadId' in output && typeof output.UploadId === 'string') sending.uploadId = output.UploadId;
    return output;
  } catch (error) {
    // it was ended, the answer lost, and the request repeated: what is there is told as if another had been faster
    if (ends && sent > 1 && isNoSuchUpload(error)) await expectAbsent();
    throw error;
  }
}

function isNoSuchUpload(error: unknown): boolean {
  return error instanceof Error && error.cause instanceof Error && error.cause.name === 'NoSuchUpload';
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
