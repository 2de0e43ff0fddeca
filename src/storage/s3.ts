/** A storage in a bucket of S3 or one of its relatives: the four verbs, each request with deadline and retries of its own. */
import {
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import type { Bytes } from '../bytes.ts';
import { compareBytes } from '../bytes.ts';
import { ObjectExists, ObjectNotFound, StorageError, UnsupportedError, WalTError } from '../errors.ts';
import { limits, retryPause } from '../limits.ts';
import type { Patience, StorageSettings } from './open.ts';
import { makeClient } from './s3-client.ts';
import { type Attempt, failed } from './s3-errors.ts';
import { type Budget, pause, type RequestLimits, readBody, request, unlimited } from './s3-requests.ts';
import { sweepUploads } from './s3-sweep.ts';
import { uploadParts } from './s3-upload.ts';
import { parseS3Url, type S3Location } from './s3-url.ts';
import {
  assertKey,
  type DeleteReport,
  type GetOptions,
  type ListOptions,
  type PutOptions,
  type RequestOptions,
  type Storage,
  type StoredBody,
  type StoredObject,
  type SweepReport,
} from './storage.ts';

/** How many keys one request may delete, by S3's rules. */
const deleteBatch = 1000;

export class S3Storage implements Storage {
  readonly url: string;
  readonly #location: S3Location;
  readonly #settings: StorageSettings['s3'];
  readonly #client: S3Client;
  readonly #times: Omit<RequestLimits, 'signal'> & { readonly patience: Patience };

  constructor(url: string, client: S3Client, { s3, times, patience = unlimited }: StorageSettings) {
    this.url = url;
    this.#location = parseS3Url(url);
    this.#settings = s3;
    this.#client = client;
    this.#times = { ...times, patience };
  }

  async put(key: string, body: Uint8Array | Bytes, { ifAbsent, sizeHint, signal }: PutOptions = {}): Promise<void> {
    assertKey(key);
    try {
      await this.#put(key, body, { ifAbsent, sizeHint, signal });
    } catch (error) {
      if (error instanceof ObjectExists) await this.#expectEncrypted(key, signal);
      throw error;
    }
  }

  async #put(key: string, body: Uint8Array | Bytes, { ifAbsent, sizeHint, signal }: AllOf<PutOptions>): Promise<void> {
    const attempt = this.#attempt('put', key);
    const input = { ...this.#target(key), ...this.#protection(), ...(ifAbsent === true ? { IfNoneMatch: '*' } : {}) };
    if (!(body instanceof Uint8Array)) {
      const output = await uploadParts(this.#client, body, {
        input,
        attempt,
        sizeHint: sizeHint ?? 0,
        limits: { ...this.#times, signal },
        isThere: (uploading) => this.#isThere(key, uploading),
      });
      this.#checkEncryption(output.ServerSideEncryption);
      return;
    }
    const command = new PutObjectCommand({ ...input, Body: body });
    const output = await request((options) => this.#client.send(command, options), attempt, {
      ...this.#times,
      signal,
      isWhole: ({ ETag }) => ETag !== undefined, // a 200 around an error has none
    });
    this.#checkEncryption(output.ServerSideEncryption);
  }

  async get(key: string, { range, signal }: GetOptions = {}): Promise<StoredBody> {
    assertKey(key);
    const start = range?.offset ?? 0;
    const end = range === undefined ? Number.POSITIVE_INFINITY : start + range.length;
    if (end <= start) return { sizeBytes: await this.#size(key, signal), body: nothing() };
    const first = await this.#getRange(key, { start, end, signal });
    if (first === undefined) return { sizeBytes: start === 0 ? 0 : await this.#size(key, signal), body: nothing() };
    return {
      sizeBytes: first.sizeBytes,
      body: this.#read(key, { first, start, end: Math.min(end, first.sizeBytes), signal }),
    };
  }

  async *list(prefix: string, { after, signal }: ListOptions = {}): AsyncGenerator<StoredObject> {
    const attempt = this.#attempt('list', prefix);
    const { bucket, prefix: root } = this.#location;
    let token: string | undefined;
    let last = '';
    do {
      const input = {
        Bucket: bucket,
        Prefix: root + prefix,
        ...(after === undefined || after === '' ? {} : { StartAfter: root + after }),
        ...(token === undefined ? {} : { ContinuationToken: token }),
      };
      const page = await request((options) => this.#client.send(new ListObjectsV2Command(input), options), attempt, {
        ...this.#times,
        signal,
        isWhole: ({ Name, KeyCount, Contents }) =>
          Name !== undefined || KeyCount !== undefined || Contents !== undefined,
      });
      for (const { Key = '', Size = 0, LastModified = new Date(0) } of page.Contents ?? []) {
        if (last !== '' && compareBytes(Key, last) <= 0)
          throw failed(attempt, 'the listing is not in the order of bytes');
        last = Key;
        const key = Key.slice(root.length);
        if (key > (after ?? '') || after === undefined) yield { key, sizeBytes: Size, modifiedAt: LastModified };
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
      if (page.IsTruncated === true && token === undefined) throw failed(attempt, 'the listing breaks off');
    } while (token !== undefined);
  }

  async delete(keys: readonly string[], { signal }: RequestOptions = {}): Promise<DeleteReport> {
    const failures: { key: string; error: WalTError }[] = [];
    for (let offset = 0; offset < keys.length; offset += deleteBatch) {
      const batch = keys.slice(offset, offset + deleteBatch);
      for (const key of batch) assertKey(key);
      failures.push(...(await this.#deleteBatch(batch, signal)));
    }
    return { failed: failures };
  }

  async sweep(
    isOrphan: (key: string, begunAt: Date) => boolean,
    { signal }: RequestOptions = {},
  ): Promise<SweepReport> {
    const attempt = this.#attempt('list uploads', this.#location.prefix);
    return sweepUploads(this.#client, { ...this.#location, attempt, isOrphan, limits: { ...this.#times, signal } });
  }

  async #deleteBatch(keys: readonly string[], signal: AbortSignal | undefined) {
    const attempt = this.#attempt('delete', keys.length === 1 ? (keys[0] ?? '') : `${keys.length} objects`);
    const { bucket, prefix } = this.#location;
    const command = new DeleteObjectsCommand({
      Bucket: bucket,
      Delete: { Objects: keys.map((key) => ({ Key: prefix + key })), Quiet: false },
    });
    try {
      const { Deleted = [], Errors = [] } = await request((options) => this.#client.send(command, options), attempt, {
        ...this.#times,
        signal,
        isWhole: (answer) => answer.Deleted !== undefined || answer.Errors !== undefined,
      });
      const gone = new Set(Deleted.map(({ Key }) => Key));
      const reasons = new Map(Errors.map(({ Key, Code, Message }) => [Key, `${Code}: ${Message}`]));
      return keys
        .filter((key) => !gone.has(prefix + key))
        .map((key) => ({
          key,
          error: failed(
            this.#attempt('delete', key),
            reasons.get(prefix + key) ?? 'the storage did not say that it is gone',
          ),
        }));
    } catch (error) {
      if (!(error instanceof UnsupportedError)) return each(keys, error);
      return this.#deleteOneByOne(keys, signal); // Google's endpoint has no request for several
    }
  }

  async #deleteOneByOne(keys: readonly string[], signal: AbortSignal | undefined) {
    const failures: { key: string; error: WalTError }[] = [];
    for (const key of keys) {
      try {
        const command = new DeleteObjectCommand(this.#target(key));
        const attempt = this.#attempt('delete', key);
        await request((options) => this.#client.send(command, options), attempt, { ...this.#times, signal });
      } catch (error) {
        failures.push(...each([key], error));
      }
    }
    return failures;
  }

  /** One request for a window of the range; undefined when there is nothing in it. */
  async #getRange(key: string, { start, end, signal, tag }: RangeOptions): Promise<Part | undefined> {
    const last = Math.min(end, start + limits.rangeBytes) - 1;
    const input = {
      ...this.#target(key),
      Range: `bytes=${start}-${last}`,
      ...(tag === undefined ? {} : { IfMatch: tag }),
    };
    const attempt = this.#attempt('get', key);
    const send: Parameters<typeof request<GetObjectCommandOutput | undefined>>[0] = async (options) => {
      try {
        return await this.#client.send(new GetObjectCommand(input), options);
      } catch (error) {
        if (isRangeNotSatisfiable(error)) return undefined;
        throw error;
      }
    };
    const output = await request(send, attempt, {
      ...this.#times,
      signal,
      isWhole: (answer) => answer === undefined || answer.ETag !== undefined,
    });
    return output === undefined ? undefined : partOf(output, start, () => failed(attempt, 'it does not honour ranges'));
  }

  /** The object's length, from a read of its first byte: HEAD tells absence badly on several stores. */
  async #size(key: string, signal: AbortSignal | undefined): Promise<number> {
    const part = await this.#getRange(key, { start: 0, end: 1, signal });
    part?.body.destroy();
    return part?.sizeBytes ?? 0;
  }

  async #isThere(key: string, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#size(key, signal);
      return true;
    } catch (error) {
      if (error instanceof ObjectNotFound) return false;
      throw error;
    }
  }

  /** Reads window after window, and goes on behind the last byte when a connection breaks off. */
  async *#read(key: string, { first, start, end, signal }: ReadOptions): AsyncGenerator<Uint8Array> {
    let part: Part | undefined = first;
    let failures = 0;
    let budget: Budget = { leftMs: this.#times.requestMs };
    try {
      for (let offset = start; offset < end; ) {
        part ??= await this.#getRest(key, { first, start: offset, end, signal });
        const before = offset;
        try {
          const times = { ...this.#times, signal, budget };
          for await (const chunk of readBody(part.body, this.#attempt('get', key), times)) {
            const wanted = chunk.subarray(0, end - offset); // some give more than they are asked for
            offset += wanted.length;
            yield wanted;
            if (wanted.length < chunk.length) return;
          }
          if (offset < part.end) throw failed(this.#attempt('get', key), 'the connection broke off');
          failures = 0;
          budget = { leftMs: this.#times.requestMs };
        } catch (error) {
          signal?.throwIfAborted();
          failures = offset > before ? 1 : failures + 1;
          if (failures > limits.requestRetries || budget.leftMs <= 0) throw error;
          const leftMs = offset > before ? 1 : await this.#times.patience(error as Error); // what comes is worth going on
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
  async #getRest(key: string, { first, ...range }: ReadOptions): Promise<Part> {
    const changed = (how: string) => failed(this.#attempt('get', key), `it ${how} while it was read`);
    let part: Part | undefined;
    try {
      part = await this.#getRange(key, { ...range, tag: first.tag });
    } catch (error) {
      throw error instanceof ObjectNotFound ? changed('was removed') : error;
    }
    if (part === undefined) throw changed('became shorter');
    if (part.tag === first.tag && part.sizeBytes === first.sizeBytes) return part;
    part.body.destroy();
    throw changed('was replaced');
  }

  #target(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#location.bucket, Key: this.#location.prefix + key };
  }

  #attempt(verb: string, what: string): Attempt {
    return { verb, what, url: this.url, bucket: this.#location.bucket, endpoint: this.#settings.endpoint };
  }

  /** What the settings demand of every object: sent only when set, since stores refuse or ignore what they do not know. */
  #protection() {
    const { storageClass, serverSideEncryption, kmsKeyId } = this.#settings;
    return {
      ...(storageClass === undefined ? {} : { StorageClass: storageClass as never }),
      ...(serverSideEncryption === undefined ? {} : { ServerSideEncryption: serverSideEncryption as never }),
      ...(kmsKeyId === undefined ? {} : { SSEKMSKeyId: kmsKeyId }),
    };
  }

  async expectStoredAsSet(key: string, { signal }: RequestOptions = {}): Promise<void> {
    const wanted = this.#settings.storageClass;
    if (wanted === undefined && this.#settings.serverSideEncryption === undefined) return;
    const part = await this.#getRange(key, { start: 0, end: 1, signal });
    part?.body.destroy();
    this.#checkEncryption(part?.encryption);
    if (wanted === undefined || wanted === (part?.storageClass ?? 'STANDARD')) return;
    throw new StorageError(`${this.url} ignores WALT_S3_STORAGE_CLASS=${wanted}`, {
      detail: `it stores as ${part?.storageClass ?? 'STANDARD'}`,
      hint: 'Remove the setting, or give one that this storage knows.',
    });
  }

  /** A put that was refused for an ignored setting must not succeed when it is repeated. An empty object says nothing. */
  async #expectEncrypted(key: string, signal: AbortSignal | undefined): Promise<void> {
    if (this.#settings.serverSideEncryption === undefined) return;
    let part: Part | undefined;
    try {
      part = await this.#getRange(key, { start: 0, end: 1, signal });
    } catch (error) {
      if (!(error instanceof ObjectNotFound)) throw error;
    }
    part?.body.destroy();
    if (part !== undefined) this.#checkEncryption(part.encryption);
  }

  #checkEncryption(answered: string | undefined): void {
    const wanted = this.#settings.serverSideEncryption;
    if (wanted === undefined || wanted === answered) return;
    throw new StorageError(`${this.url} ignores WALT_S3_SSE=${wanted}`, {
      hint: 'This storage does not encrypt as asked. Remove the setting, or use age encryption.',
    });
  }
}

/** Makes the client and the storage on it. */
export async function openS3(url: string, settings: StorageSettings): Promise<S3Storage> {
  parseS3Url(url);
  return new S3Storage(url, await makeClient(settings), settings);
}

type AllOf<Options> = { readonly [name in keyof Options]-?: Options[name] | undefined };

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
interface Part {
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

async function* nothing(): Bytes {
  // an empty object, or an empty range of one
}

function each(keys: readonly string[], error: unknown) {
  if (!(error instanceof WalTError) || error instanceof ObjectNotFound) throw error;
  return keys.map((key) => ({ key, error }));
}
