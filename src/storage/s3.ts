/** A storage in a bucket of S3 or one of its relatives: the four verbs, each request with deadline and retries of its own. */
import { ListObjectsV2Command, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import type { Bytes } from '../bytes.ts';
import { compareBytes } from '../bytes.ts';
import { ObjectExists, ObjectNotFound, StorageError } from '../errors.ts';
import type { StorageSettings } from './open.ts';
import { Bucket } from './s3-bucket.ts';
import { makeClient } from './s3-client.ts';
import { deleteObjects } from './s3-delete.ts';
import { failed } from './s3-errors.ts';
import { getRange, type Part, readParts, sizeOf } from './s3-read.ts';
import { request } from './s3-requests.ts';
import { sweepUploads } from './s3-sweep.ts';
import { uploadParts } from './s3-upload.ts';
import { parseS3Url } from './s3-url.ts';
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

export class S3Storage implements Storage {
  readonly url: string;
  readonly #bucket: Bucket;

  constructor(url: string, client: S3Client, settings: StorageSettings) {
    this.url = url;
    this.#bucket = new Bucket(url, client, settings);
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

  async #put(
    key: string,
    body: Uint8Array | Bytes,
    { ifAbsent, sizeHint, signal }: AllOf<Omit<PutOptions, 'spend'>>,
  ): Promise<void> {
    const attempt = this.#bucket.attempt('put', key);
    const input = {
      ...this.#bucket.target(key),
      ...this.#protection(),
      ...(ifAbsent === true ? { IfNoneMatch: '*' } : {}),
    };
    if (!(body instanceof Uint8Array)) {
      const output = await uploadParts(this.#bucket.client, body, {
        input,
        attempt,
        sizeHint: sizeHint ?? 0,
        limits: { ...this.#bucket.times, signal },
        isThere: (uploading) => this.#isThere(key, uploading),
      });
      this.#checkEncryption(output.ServerSideEncryption);
      return;
    }
    const command = new PutObjectCommand({ ...input, Body: body });
    const output = await request((options) => this.#bucket.client.send(command, options), attempt, {
      ...this.#bucket.times,
      signal,
      isWhole: ({ ETag }) => ETag !== undefined, // a 200 around an error has none
    });
    this.#checkEncryption(output.ServerSideEncryption);
  }

  async get(key: string, { range, signal }: GetOptions = {}): Promise<StoredBody> {
    assertKey(key);
    const start = range?.offset ?? 0;
    const end = range === undefined ? Number.POSITIVE_INFINITY : start + range.length;
    if (end <= start) return { sizeBytes: await sizeOf(this.#bucket, key, signal), body: nothing() };
    const first = await getRange(this.#bucket, key, { start, end, signal });
    if (first === undefined)
      return { sizeBytes: start === 0 ? 0 : await sizeOf(this.#bucket, key, signal), body: nothing() };
    return {
      sizeBytes: first.sizeBytes,
      body: readParts(this.#bucket, key, { first, start, end: Math.min(end, first.sizeBytes), signal }),
    };
  }

  async *list(prefix: string, { after, signal }: ListOptions = {}): AsyncGenerator<StoredObject> {
    const attempt = this.#bucket.attempt('list', prefix);
    const { bucket, prefix: root } = this.#bucket.location;
    let token: string | undefined;
    let last = '';
    do {
      const input = {
        Bucket: bucket,
        Prefix: root + prefix,
        ...(after === undefined || after === '' ? {} : { StartAfter: root + after }),
        ...(token === undefined ? {} : { ContinuationToken: token }),
      };
      const page = await request(
        (options) => this.#bucket.client.send(new ListObjectsV2Command(input), options),
        attempt,
        {
          ...this.#bucket.times,
          signal,
          isWhole: ({ Name, KeyCount, Contents }) =>
            Name !== undefined || KeyCount !== undefined || Contents !== undefined,
        },
      );
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

  delete(keys: readonly string[], options: RequestOptions = {}): Promise<DeleteReport> {
    return deleteObjects(this.#bucket, keys, options);
  }

  async sweep(
    isOrphan: (key: string, begunAt: Date) => boolean,
    { signal }: RequestOptions = {},
  ): Promise<SweepReport> {
    const attempt = this.#bucket.attempt('list uploads', this.#bucket.location.prefix);
    return sweepUploads(this.#bucket.client, {
      ...this.#bucket.location,
      attempt,
      isOrphan,
      limits: { ...this.#bucket.times, signal },
    });
  }

  async #isThere(key: string, signal: AbortSignal): Promise<boolean> {
    try {
      await sizeOf(this.#bucket, key, signal);
      return true;
    } catch (error) {
      if (error instanceof ObjectNotFound) return false;
      throw error;
    }
  }

  /** What the settings demand of every object: sent only when set, since stores refuse or ignore what they do not know. */
  #protection() {
    const { storageClass, serverSideEncryption, kmsKeyId } = this.#bucket.settings;
    return {
      ...(storageClass === undefined ? {} : { StorageClass: storageClass as never }),
      ...(serverSideEncryption === undefined ? {} : { ServerSideEncryption: serverSideEncryption as never }),
      ...(kmsKeyId === undefined ? {} : { SSEKMSKeyId: kmsKeyId }),
    };
  }

  async expectStoredAsSet(key: string, { signal }: RequestOptions = {}): Promise<void> {
    const wanted = this.#bucket.settings.storageClass;
    if (wanted === undefined && this.#bucket.settings.serverSideEncryption === undefined) return;
    const part = await getRange(this.#bucket, key, { start: 0, end: 1, signal });
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
    if (this.#bucket.settings.serverSideEncryption === undefined) return;
    let part: Part | undefined;
    try {
      part = await getRange(this.#bucket, key, { start: 0, end: 1, signal });
    } catch (error) {
      if (!(error instanceof ObjectNotFound)) throw error;
    }
    part?.body.destroy();
    if (part !== undefined) this.#checkEncryption(part.encryption);
  }

  #checkEncryption(answered: string | undefined): void {
    const wanted = this.#bucket.settings.serverSideEncryption;
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

async function* nothing(): Bytes {
  // an empty object, or an empty range of one
}
