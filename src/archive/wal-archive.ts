/** The WAL of one cluster in the archive: a file goes in once, comes out verified, and is called absent only with proof. */
import { type Bytes, collect } from '../bytes.ts';
import {
  checkIdentity,
  checkStored,
  headerRangeBytes,
  type ObjectHeader,
  type ObjectIdentity,
  openObject,
  parseHeader,
  type SealedObject,
} from '../codec/object.ts';
import { ConflictError, CorruptError, ObjectExists } from '../errors.ts';
import { type PartialName, parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { RequestOptions, Storage } from '../storage/storage.ts';
import { objectKey, walObjectKind, walObjectName } from './keys.ts';

export interface WalArchive {
  readonly storage: Storage;
  readonly systemIdentifier: string;
}

/** What the object of an archived file says it is. */
export function walIdentity({ systemIdentifier }: WalArchive, file: WalFileName): ObjectIdentity {
  return { kind: walObjectKind(file), name: walObjectName(file), systemIdentifier };
}

/**
 * Stores a sealed file under its name, unless the same content is there already: both are success, and durable.
 * @throws ConflictError when other content is there, CorruptError when what is there is damaged. The stored object stays as it is.
 */
export async function storeWalFile(
  archive: WalArchive,
  file: WalFileName,
  sealed: SealedObject,
  options: RequestOptions = {},
): Promise<void> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const sizeHint = sealed.header.stored;
  try {
    await archive.storage.put(key, sealed.body(), { ...options, ifAbsent: true, sizeHint });
  } catch (error) {
    if (!(error instanceof ObjectExists)) throw error;
    await expectSame(archive, file, { key, mine: sealed.header, ...options });
  }
}

interface Comparison extends RequestOptions {
  readonly key: string;
  readonly mine: ObjectHeader;
}

/** "Already there" is success only for the same content, and only when the stored object has its whole length (H15). */
async function expectSame(archive: WalArchive, file: WalFileName, { key, mine, signal }: Comparison): Promise<void> {
  const hint = 'Move this object away, but keep it: PostgreSQL then pushes its own copy again.';
  const stored = await readWalHeader(archive, file, { signal, hint });
  if (stored.sha256 === mine.sha256 && stored.bytes === mine.bytes) return;
  throw new ConflictError(`"${file.name}" is archived already, with other content`, {
    detail:
      `stored: SHA-256 ${stored.sha256.slice(0, 16)}…, pushed ${stored.pushedAt} by ${stored.host}; ` +
      `refused: SHA-256 ${mine.sha256.slice(0, 16)}…, from ${mine.host}; key "${key}" in ${archive.storage.url}`,
    hint: 'Two servers write the same timeline: a copy that archives, or a failover without a new timeline. Stop the wrong one.',
  });
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
  archive: WalArchive,
  file: WalFileName,
  options: RequestOptions = {},
): Promise<{ readonly header: ObjectHeader; readonly content: Bytes }> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const { sizeBytes, body } = await archive.storage.get(key, options);
  try {
    const { header, content } = await openObject(body, sizeBytes, walIdentity(archive, file));
    return { header, content: naming(content, archive, key) };
  } catch (error) {
    throw about(error, archive, key);
  }
}

/**
 * What the object of an archived file says it is, for one small request.
 * @throws ObjectNotFound when it is not stored, CorruptError when it is another one, or shorter or longer than it says.
 */
export async function readWalHeader(
  archive: WalArchive,
  file: WalFileName,
  { signal, hint }: RequestOptions & { readonly hint?: string } = {},
): Promise<ObjectHeader> {
  const key = objectKey(archive.systemIdentifier, walObjectName(file));
  const range = { offset: 0, length: headerRangeBytes };
  const { sizeBytes, body } = await archive.storage.get(key, { range, signal });
  try {
    const header = await parseHeader(await collect(body, headerRangeBytes));
    checkIdentity(header, walIdentity(archive, file));
    checkStored(header, sizeBytes);
    return header;
  } catch (error) {
    throw about(error, archive, key, hint);
  }
}

async function* naming(content: Bytes, archive: WalArchive, key: string): Bytes {
  try {
    yield* content;
  } catch (error) {
    throw about(error, archive, key);
  }
}

/** The codec says what is wrong; here it is said of which object. */
function about(error: unknown, archive: WalArchive, key: string, hint?: string): unknown {
  if (!(error instanceof CorruptError)) return error;
  return new CorruptError(`"${key}" in ${archive.storage.url} is damaged: ${error.message}`, {
    detail: error.detail,
    hint:
      error.hint ??
      hint ??
      'Bring this object back from another copy of the repository, or recover to a point before it.',
    cause: error,
  });
}
