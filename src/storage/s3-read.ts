/** Reads objects of a bucket: by windows, each a request of its own, going on where a connection broke off. */
import { GetObjectCommand, type GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { ObjectNotFound, type StorageError } from '../errors.ts';
import { limits, retryPause } from '../limits.ts';
import type { Bucket } from './s3-bucket.ts';
import { failed } from './s3-errors.ts';
import { type Budget, pause, readBody, request } from './s3-requests.ts';

/** One request for a window of the range; undefined when there is nothing in it. */
export async function getRange(
  bucket: Bucket,
  key: string,
  { start, end, signal, tag }: RangeOptions,
): Promise<Part | undefined> {
  const last = Math.min(end, start + limits.rangeBytes) - 1;
  const input = {
    ...bucket.target(key),
    Range: `bytes=${start}-${last}`,
    ...(tag === undefined ? {} : { IfMatch: tag }),
  };
  const attempt = bucket.attempt('get', key);
  const send: Parameters<typeof request<GetObjectCommandOutput | undefined>>[0] = async (options) => {
    try {
      return await bucket.client.send(new GetObjectCommand(input), options);
    } catch (error) {
      if (isRangeNotSatisfiable(error)) return undefined;
      throw error;
    }
  };
  const output = await request(send, attempt, {
    ...bucket.times,
    signal,
    isWhole: (answer) => answer === undefined || answer.ETag !== undefined,
  });
  return output === undefined ? undefined : partOf(output, start, () => failed(attempt, 'it does not honour ranges'));
}

/** The object's length, from a read of its first byte: HEAD tells absence badly on several stores. */
export async function sizeOf(bucket: Bucket, key: string, signal: AbortSignal | undefined): Promise<number> {
  const part = await getRange(bucket, key, { start: 0, end: 1, signal });
  part?.body.destroy();
  return part?.sizeBytes ?? 0;
}

/** Reads window after window, and goes on behind the last byte when a connection breaks off. */
export async function* readParts(
  bucket: Bucket,
  key: string,
  { first, start, end, signal }: ReadOptions,
): AsyncGenerator<Uint8Array> {
  let part: Part | undefined = first;
  let failures = 0;
  let budget: Budget = { leftMs: bucket.times.requestMs };
  try {
    for (let offset = start; offset < end; ) {
      part ??= await getRest(bucket, key, { first, start: offset, end, signal });
      const before = offset;
      try {
        const times = { ...bucket.times, signal, budget };
        for await (const chunk of readBody(part.body, bucket.attempt('get', key), times)) {
          const wanted = chunk.subarray(0, end - offset); // some give more than they are asked for
          offset += wanted.length;
          yield wanted;
          if (wanted.length < chunk.length) return;
        }
        if (offset < part.end) throw failed(bucket.attempt('get', key), 'the connection broke off');
        failures = 0;
        budget = { leftMs: bucket.times.requestMs };
      } catch (error) {
        signal?.throwIfAborted();
        failures = offset > before ? 1 : failures + 1;
        if (failures > limits.requestRetries || budget.leftMs <= 0) throw error;
        const leftMs = offset > before ? 1 : await bucket.times.patience(error as Error); // what comes is worth going on
        if (leftMs <= 0) throw error;
        await pause(retryPause.minTimeout * 2 ** failures, signal);
      }
      part = undefined;
    }
  } finally {
    part?.body.destroy();
  }
}

/** The next window of the object that `first` is of. */
async function getRest(bucket: Bucket, key: string, { first, ...range }: ReadOptions): Promise<Part> {
  const changed = (how: string) => failed(bucket.attempt('get', key), `it ${how} while it was read`);
  let part: Part | undefined;
  try {
    part = await getRange(bucket, key, { ...range, tag: first.tag });
  } catch (error) {
    throw error instanceof ObjectNotFound ? changed('was removed') : error;
  }
  if (part === undefined) throw changed('became shorter');
  if (part.tag === first.tag && part.sizeBytes === first.sizeBytes) return part;
  part.body.destroy();
  throw changed('was replaced');
}

interface RangeOptions {
  readonly start: number;
  readonly end: number;
  readonly signal: AbortSignal | undefined;
  readonly tag?: string | undefined;
}

interface ReadOptions {
  readonly first: Part;
  readonly start: number;
  readonly end: number;
  readonly signal: AbortSignal | undefined;
}

/** A window of an object, on its way. */
export interface Part {
  readonly sizeBytes: number;
  /** Where the window ends in the object. */
  readonly end: number;
  readonly tag: string | undefined;
  readonly encryption: string | undefined;
  readonly storageClass: string | undefined;
  readonly body: NodeJS.ReadableStream & { destroy(): void };
}

function partOf(output: GetObjectCommandOutput, start: number, unfit: () => StorageError): Part {
  const body = output.Body as unknown as Part['body'];
  const told = { tag: output.ETag, encryption: output.ServerSideEncryption, storageClass: output.StorageClass };
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(output.ContentRange ?? '');
  if (match === null && start === 0 && output.ContentLength !== undefined) {
    return { ...told, sizeBytes: output.ContentLength, end: output.ContentLength, body }; // the whole, as some give it
  }
  if (match === null || Number(match[1]) !== start) {
    body.destroy();
    throw unfit();
  }
  return { ...told, sizeBytes: Number(match[3]), end: Number(match[2]) + 1, body };
}

/** What a read of nothing is answered with: the object is empty, or the range begins behind its end. */
function isRangeNotSatisfiable(error: unknown): boolean {
  const { $metadata } = error as { $metadata?: { httpStatusCode?: number } };
  return $metadata?.httpStatusCode === 416;
}
