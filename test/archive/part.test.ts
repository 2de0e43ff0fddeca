/** Parts and lists of files in a real folder: stored once, read by windows, and nothing but what was committed to. */
import { createCipheriv } from 'node:crypto';
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import { objectKey } from '../../src/archive/keys.ts';
import { readStream, type StreamName, storeStream } from '../../src/archive/part.ts';
import { bytesOf } from '../../src/bytes.ts';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { CorruptError, ObjectExists } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import type { GetOptions } from '../../src/storage/storage.ts';
import { around } from '../support/around-storage.ts';
import { makeArchive } from '../support/backups.ts';
import { join } from '../support/objects.ts';
import { testSystemIdentifier } from '../support/segment.ts';
import { testBackupId } from '../support/streamed.ts';

const part: StreamName = { backup: testBackupId, part: 1 };
const files: StreamName = { backup: testBackupId, part: 'files' };
const options = { level: 1, sizeHint: 1000 };
const small = Buffer.from('a page of a table\n'.repeat(100));
const noise = (length: number) =>
  createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(length));
const [owner, auditor] = [generateIdentity(), generateIdentity()].map(parseIdentity);
if (owner === undefined || auditor === undefined) throw new Error('no identity');
const encrypted: Keys = { ...noKeys, recipients: [owner], manifestRecipients: [auditor], identities: [owner] };
const keyOf = (name: string) => objectKey(testSystemIdentifier, name);
const partKey = keyOf(`part/${testBackupId}/0000001`);

it.each([
  ['plain', noKeys],
  ['encrypted', encrypted],
])('comes back from several windows, %s', async (_, keys) => {
  const archive = makeArchive(keys);
  for (const [name, content] of [
    [part, noise(2 * limits.windowBytes + 12_345)],
    [{ ...part, part: 2 }, Buffer.alloc(0)],
    [files, small],
  ] as const) {
    const commitment = await storeStream(archive, name, bytesOf(content), options);
    expect((await join(readStream(archive, name, commitment, {}))).equals(content)).toBe(true);
  }
  const stored = [`files/${testBackupId}`, `part/${testBackupId}/0000001`, `part/${testBackupId}/0000002`].map(keyOf);
  const keysStored: string[] = [];
  for await (const { key } of archive.storage.list('')) keysStored.push(key);
  expect(keysStored).toEqual(stored);
});

it('asks for windows one after the other, few ahead of what is used, and for none when nobody reads on', async () => {
  const { storage, ...archive } = makeArchive();
  const windows = 6;
  const content = noise(windows * limits.windowBytes - 100_000);
  const commitment = await storeStream({ ...archive, storage }, part, bytesOf(content), options);
  const asked: number[] = [];
  let given = 0;
  const watched = around(storage, {
    get: (key: string, { range }: GetOptions = {}) => {
      expect(range?.length).toBe(limits.windowBytes);
      asked.push(range?.offset ?? -1);
      expect((asked.length - 1) * limits.windowBytes - given).toBeLessThanOrEqual(
        (limits.windowsInFlight + 1) * limits.windowBytes,
      );
      return storage.get(key, { range: range ?? { offset: 0, length: 0 } });
    },
  });
  for await (const chunk of readStream({ ...archive, storage: watched }, part, commitment, {})) given += chunk.length;
  expect(given).toBe(content.length);
  expect(asked).toEqual(Array.from({ length: windows }, (_, index) => index * limits.windowBytes));
  asked.length = 0;
  for await (const _ of readStream({ ...archive, storage: watched }, part, commitment, {})) break;
  // the first content is given when so many frames were read
  const begun = Math.ceil((limits.framesOfPartInFlight * limits.frameStoredBytes) / limits.windowBytes);
  expect(asked.length).toBeLessThanOrEqual(begun + limits.windowsInFlight);
});

describe('a part that is not what the backup was made with', () => {
  it('is missing: the error says so, and what to do', async () => {
    const archive = makeArchive();
    const commitment = await storeStream(archive, part, bytesOf(small), options);
    await archive.storage.delete([partKey]);
    await expect(join(readStream(archive, part, commitment, {}))).rejects.toMatchObject({
      constructor: CorruptError,
      message: `"${partKey}" is missing in ${archive.storage.url}`,
      hint: expect.stringContaining('take another backup'),
    });
  });

  it('H45: is another one of the same length, at its place', async () => {
    const archive = makeArchive();
    const second = { ...part, part: 2 };
    const first = await storeStream(archive, part, bytesOf(small), options);
    const other = await storeStream(archive, second, bytesOf(small), options);
    await expect(join(readStream(archive, part, other, {}))).rejects.toBeInstanceOf(CorruptError);
    await swap(archive, partKey, keyOf(`part/${testBackupId}/0000002`));
    for (const [name, commitment] of [
      [part, first],
      [second, other],
    ] as const) {
      await expect(join(readStream(archive, name, commitment, {}))).rejects.toMatchObject({
        message: expect.stringContaining('is damaged'),
        hint: expect.any(String),
      });
    }
  });

  it('is cut or goes on, in the middle of a window and at its end', async () => {
    const archive = makeArchive();
    const content = noise(limits.windowBytes + 100);
    const commitment = await storeStream(archive, part, bytesOf(content), options);
    const object = await join((await archive.storage.get(partKey)).body);
    for (const changed of [
      object.subarray(0, 100),
      object.subarray(0, limits.windowBytes),
      object.subarray(0, -1),
      Buffer.concat([object, Buffer.alloc(1)]),
      Buffer.alloc(0),
    ]) {
      await archive.storage.delete([partKey]);
      await archive.storage.put(partKey, changed);
      await expect(join(readStream(archive, part, commitment, {}))).rejects.toBeInstanceOf(CorruptError);
    }
  });
});

async function swap({ storage }: Archive, a: string, b: string): Promise<void> {
  const [first, second] = await Promise.all([a, b].map(async (key) => join((await storage.get(key)).body)));
  await storage.delete([a, b]);
  await storage.put(a, second ?? Buffer.alloc(0));
  await storage.put(b, first ?? Buffer.alloc(0));
}

it('takes "already there" for its own when the answer to its first request was lost, and only then', async () => {
  const { storage, ...archive } = makeArchive();
  const lost = around(storage, {
    put: async (key, body, putOptions) => {
      await storage.put(key, body, putOptions);
      throw new ObjectExists(key); // what a second request is told
    },
  });
  const commitment = await storeStream({ ...archive, storage: lost }, part, bytesOf(small), options);
  expect(await join(readStream({ ...archive, storage }, part, commitment, {}))).toEqual(small);
  const another = around(storage, {
    put: async (key, body) => {
      await join(body instanceof Uint8Array ? bytesOf(body) : body);
      throw new ObjectExists(key);
    },
  });
  const larger = bytesOf(small, noise(10));
  await expect(storeStream({ ...archive, storage: another }, part, larger, options)).rejects.toBeInstanceOf(
    ObjectExists,
  );
});

it('stores nothing when its source fails', async () => {
  const archive = makeArchive();
  const broken = async function* () {
    yield noise(3 * 2 ** 20);
    throw new Error('unreadable');
  };
  await expect(storeStream(archive, part, broken(), options)).rejects.toThrow('unreadable');
  expect(existsSync(`${new URL(archive.storage.url).pathname}/${partKey}`)).toBe(false);
});

it('shows the list of files to whoever may see what there is, and a part to nobody but who may read data', async () => {
  const { storage } = makeArchive();
  const seals = makeArchive(encrypted, storage);
  const [ofPart, ofFiles] = [
    await storeStream(seals, part, bytesOf(small), options),
    await storeStream(seals, files, bytesOf(small), options),
  ];
  const sees = makeArchive({ ...noKeys, identities: [auditor] }, storage);
  expect(await join(readStream(sees, files, ofFiles, {}))).toEqual(small);
  await expect(join(readStream(sees, part, ofPart, {}))).rejects.toBeInstanceOf(Error);
  expect(await join(readStream(seals, part, ofPart, {}))).toEqual(small);
});
