/** Deletes objects of a bucket: many with one request, or one by one where the store has no such request. */
import { DeleteObjectCommand, DeleteObjectsCommand } from '@aws-sdk/client-s3';
import { ObjectNotFound, UnsupportedError, WalTError } from '../errors.ts';
import type { Bucket } from './s3-bucket.ts';
import { failed } from './s3-errors.ts';
import { request } from './s3-requests.ts';
import { assertKey, type DeleteReport, type RequestOptions } from './storage.ts';

/** How many keys one request may delete, by S3's rules. */
const deleteBatch = 1000;

/** Every key that could not be deleted is named. */
export async function deleteObjects(
  bucket: Bucket,
  keys: readonly string[],
  { signal }: RequestOptions,
): Promise<DeleteReport> {
  const failures: { key: string; error: WalTError }[] = [];
  for (let offset = 0; offset < keys.length; offset += deleteBatch) {
    const batch = keys.slice(offset, offset + deleteBatch);
    for (const key of batch) assertKey(key);
    failures.push(...(await deleteAtOnce(bucket, batch, signal)));
  }
  return { failed: failures };
}

async function deleteAtOnce(bucket: Bucket, keys: readonly string[], signal: AbortSignal | undefined) {
  const attempt = bucket.attempt('delete', keys.length === 1 ? (keys[0] ?? '') : `${keys.length} objects`);
  const { bucket: name, prefix } = bucket.location;
  const command = new DeleteObjectsCommand({
    Bucket: name,
    Delete: { Objects: keys.map((key) => ({ Key: prefix + key })), Quiet: false },
  });
  try {
    const { Deleted = [], Errors = [] } = await request((options) => bucket.client.send(command, options), attempt, {
      ...bucket.times,
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
          bucket.attempt('delete', key),
          reasons.get(prefix + key) ?? 'the storage did not say that it is gone',
        ),
      }));
  } catch (error) {
    if (!(error instanceof UnsupportedError)) return each(keys, error);
    return deleteOneByOne(bucket, keys, signal); // Google's endpoint has no request for several
  }
}

async function deleteOneByOne(bucket: Bucket, keys: readonly string[], signal: AbortSignal | undefined) {
  const failures: { key: string; error: WalTError }[] = [];
  for (const key of keys) {
    try {
      const command = new DeleteObjectCommand(bucket.target(key));
      const attempt = bucket.attempt('delete', key);
      await request((options) => bucket.client.send(command, options), attempt, { ...bucket.times, signal });
    } catch (error) {
      failures.push(...each([key], error));
    }
  }
  return failures;
}

function each(keys: readonly string[], error: unknown) {
  if (!(error instanceof WalTError) || error instanceof ObjectNotFound) throw error;
  return keys.map((key) => ({ key, error }));
}
