/** The WAL of one cluster in the archive: a file goes in once, comes out verified, and is called absent only with proof. */
import { type Bytes, collect, spentBehind } from '../bytes.ts';
import { headerRangeBytes, type ObjectHeader, type ObjectIdentity } from '../codec/header.ts';
import { isSameContent } from '../codec/keys.ts';
import {
  describeObject,
  type OpenedObject,
  openObject,
  type SealedObject,
  type StoredObject,
} from '../codec/object.ts';
import { ConflictError, ObjectExists, ObjectNotFound, StorageError } from '../errors.ts';
import { limits } from '../limits.ts';
import { type PartialName, parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import { type Archive, about } from './archive.ts';
import { objectKey, walObjectKind, walObjectName } from './keys.ts';

export interface StoreOptions extends RequestOptions {
  /** Does the storage leave an existing object alone by itself? Else a push looks before, and reads back afterwards. */
  readonly conditionalPut: boolean;
}

/** What the object of an archived file says it is. */
export function walIdentity({ systemIdentifier }: Archive, file: WalFileName): ObjectIdentity {
  return { kind: walObjectKind(file), name: walObjectName(file), systemIdentifier };
}

/**
 * Stores a sealed file under its name, unless the same content is there already: both are success, and durable.
 * @throws ConflictError when other content is there, CorruptError when what is there is damaged. The stored object stays as it is.
 */
export async function storeWalFile(
  archive: Archive,
  file: WalFileName,
  sealed: SealedObject,
  { conditionalPut, ...options }: StoreOptions,
): Promise<void> {
  const { storage } = archive;
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const comparison = { ...options, key, mine: sealed.header };
  if (!conditionalPut && (await isSameStored(archive, file, comparison))) return;
  try {
    await storage.put(key, sealed.body(), { ...options, ifAbsent: conditionalPut, sizeHint: sealed.sizeHint });
  } catch (error) {
    if (!(error instanceof ObjectExists)) throw error;
    // also when an own request was answered, the answer lost, and the request repeated
    if (await isSameStored(archive, file, comparison)) return;
    throw new StorageError(`could not store "${file.name}": the storage says that it exists, and does not have it`, {
      detail: `key "${key}" in ${storage.url}`,
      cause: error,
    });
  }
  if (!conditionalPut && !(await isSameStored(archive, file, comparison))) {
    throw new StorageError(`"${file.name}" is not there after it was stored`, {
      detail: `key "${key}" in ${storage.url}`,
    });
  }
}

interface Comparison extends RequestOptions {
  readonly key: string;
  readonly mine: ObjectHeader;
}

/**
 * Is this very content stored already, in its whole length (H15)? False when nothing is.
 * @throws ConflictError when other content is, CorruptError when it cannot be told.
 */
async function isSameStored(archive: Archive, file: WalFileName, { key, mine, signal }: Comparison): Promise<boolean> {
  try {
    const found = await describeWalFile(archive, file, { signal });
    if (isSameContent(found, mine, archive.keys)) return true;
    const known = found.sha256 === undefined ? 'authentication code differs' : `SHA-256 ${found.sha256.slice(0, 16)}…`;
    throw new ConflictError(`"${file.name}" is archived already, with other content`, {
      detail:
        `stored: ${[known, found.origin].filter(Boolean).join(', ')}; ` +
        `refused: SHA-256 ${mine.sha256.slice(0, 16)}…, from ${mine.host}; key "${key}" in ${archive.storage.url}`,
      hint: 'Two servers write the same timeline: a copy that archives, or a failover without a new timeline. Stop the wrong one: "wal-t wal-diff" shows who wrote what, "wal-t wal-set-aside" makes way for the right one.',
    });
  } catch (error) {
    if (error instanceof ObjectNotFound) return false;
    throw about(
      error,
      archive,
      key,
      'Move this object away, but keep it: PostgreSQL then pushes its own copy again. "wal-t wal-set-aside" does so.',
    );
  }
}

/**
 * What is stored under the file's name, as far as a host that cannot decrypt may know: one short read.
 * @throws ObjectNotFound when nothing is, CorruptError when it is another object, or shorter or longer than it says.
 */
export async function describeWalFile(
  archive: Archive,
  file: WalFileName,
  options: RequestOptions = {},
): Promise<StoredObject> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const range = { offset: 0, length: headerRangeBytes };
  const { sizeBytes, body } = await archive.storage.get(key, { ...options, range });
  return describeObject(await collect(body, headerRangeBytes), sizeBytes, walIdentity(archive, file));
}

/** The name under which a `.partial` of other content is kept beside the one that is there: a conflict would block the archiver for ever (H12). */
export function besideName(file: PartialName, sha256: string): PartialName {
  const beside = parseWalFileName(`${file.segment}.partial.${sha256.slice(0, 8)}`);
  if (beside?.kind !== 'partial') throw new Error(`no name beside ${file.name}`);
  return beside;
}

/**
 * The content of an archived file, verified while it is read.
 * @throws ObjectNotFound when it is not stored, which says nothing about the end of the WAL yet.
 * @throws CorruptError, also from the content, when it is not byte for byte what was pushed under this name.
 */
export async function openWalFile(
  archive: Archive,
  file: WalFileName,
  options: RequestOptions = {},
): Promise<OpenedObject> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const { sizeBytes, body } = await archive.storage.get(key, options);
  try {
    // recoveries read GBs of it: what was received need not wait for the garbage collector
    const spending = spentBehind(body, limits.frameStoredBytes);
    const opened = await openObject(spending, sizeBytes, walIdentity(archive, file), archive.keys);
    return { ...opened, content: naming(opened.content, archive, key) };
  } catch (error) {
    throw about(error, archive, key);
  }
}

/**
 * What the object of an archived file says it is; its content stays unread.
 * @throws ObjectNotFound when it is not stored, CorruptError when it is another one, or shorter or longer than it says.
 */
export async function readWalHeader(
  archive: Archive,
  file: WalFileName,
  options: RequestOptions = {},
): Promise<ObjectHeader> {
  const { header, close } = await openWalFile(archive, file, options);
  await close();
  return header;
}

async function* naming(content: Bytes, archive: Archive, key: string): Bytes {
  try {
    yield* content;
  } catch (error) {
    throw about(error, archive, key);
  }
}
