/** What a storage really does, found out by trying it: `wal-t init` writes the findings into the repository. */
import { randomBytes } from 'node:crypto';
import { collect } from '../bytes.ts';
import { ObjectExists, ObjectNotFound, StorageError, UnsupportedError } from '../errors.ts';
import type { Storage } from './storage.ts';

/** What later commands rely on. */
export interface StorageFindings {
  /** Does a put with `ifAbsent` leave the first object alone, also when several race? Else a push must look before and after. */
  readonly conditionalPut: 'honoured' | 'ignored' | 'refused';
  /** May these credentials delete? Archiving works without. */
  readonly delete: 'allowed' | 'denied';
}

const racers = 16;
const limitBytes = 1024;

/**
 * Writes, reads, lists and deletes small objects below `probe/`.
 * @throws StorageError when the storage cannot do what no archive can do without.
 */
export async function probeStorage(storage: Storage): Promise<StorageFindings> {
  const prefix = `probe/${randomBytes(8).toString('hex')}`;
  const keys = ['b.c', 'b/d', 'b0'].map((name) => `${prefix}/${name}`);
  await expectAbsent(storage, `${prefix}/absent`);
  const race = `${prefix}/race`;
  try {
    for (const key of keys) await storage.put(key, Buffer.from(key));
    for (const key of keys) await expectContent(storage, key);
    await storage.expectStoredAsSet?.(keys[0] ?? '');
    await expectOrder(storage, `${prefix}/`, keys);
    const conditionalPut = await probeConditionalPut(storage, race);
    const { failed } = await storage.delete([...keys, race]);
    return { conditionalPut, delete: failed.length === 0 ? 'allowed' : 'denied' };
  } catch (error) {
    await storage.delete([...keys, race]).catch(() => undefined); // the error that led here is the one to tell
    throw error;
  }
}

async function probeConditionalPut(storage: Storage, key: string): Promise<StorageFindings['conditionalPut']> {
  try {
    return (await firstOfSeveral(storage, key)) ? 'honoured' : 'ignored';
  } catch (error) {
    if (error instanceof UnsupportedError) return 'refused';
    throw error;
  }
}

async function expectAbsent(storage: Storage, key: string): Promise<void> {
  const found = await storage.get(key).then(
    () => true,
    (error: unknown) => {
      if (error instanceof ObjectNotFound) return false;
      throw error;
    },
  );
  if (found) throw unfit(storage, 'it gives an object that was never stored');
}

async function expectContent(storage: Storage, key: string): Promise<void> {
  const whole = await storage.get(key);
  const range = await storage.get(key, { range: { offset: 1, length: 3 } });
  const same =
    (await collect(whole.body, limitBytes)).equals(Buffer.from(key)) &&
    (await collect(range.body, limitBytes)).equals(Buffer.from(key).subarray(1, 4)) &&
    whole.sizeBytes === key.length &&
    range.sizeBytes === key.length;
  if (!same) throw unfit(storage, 'an object, or a range of it, does not come back as it was stored');
}

async function expectOrder(storage: Storage, prefix: string, keys: readonly string[]): Promise<void> {
  const listed: string[] = [];
  for await (const { key } of storage.list(prefix)) listed.push(key);
  const [first = '', ...others] = keys;
  const behind: string[] = [];
  for await (const { key } of storage.list(prefix, { after: first })) behind.push(key);
  const same = listed.join() === keys.join() && behind.join() === others.join();
  if (!same) throw unfit(storage, 'a listing is not complete, or not in the order of bytes');
}

/** Several writers put different content under one key: exactly one may win, and the winner's content must be there. */
async function firstOfSeveral(storage: Storage, key: string): Promise<boolean> {
  const bodies = Array.from({ length: racers }, (_, racer) => Buffer.from(`racer ${racer}`));
  const put = (body: Buffer): Promise<Buffer | undefined> =>
    storage.put(key, body, { ifAbsent: true }).then(
      () => body,
      (error: unknown) => {
        if (error instanceof ObjectExists) return undefined;
        throw error;
      },
    );
  const racing = bodies.map(put);
  await Promise.allSettled(racing); // when one fails, the others must not go on behind the caller's back
  const winners = (await Promise.all(racing)).filter((body) => body !== undefined);
  const late = await put(Buffer.from('late'));
  const { body } = await storage.get(key);
  const stored = await collect(body, limitBytes);
  return winners.length === 1 && late === undefined && stored.equals(winners[0] ?? stored);
}

function unfit(storage: Storage, detail: string): StorageError {
  return new StorageError(`${storage.url} cannot hold an archive`, { detail });
}
