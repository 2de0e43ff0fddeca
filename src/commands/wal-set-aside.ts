/**
 * wal-t wal-set-aside NAME --confirm: moves a stored WAL file out of the way, so that another of its name can be archived. It is copied
 * below `set-aside/` first, byte for byte, and never lost.
 */
import { createHash, type Hash, randomBytes } from 'node:crypto';
import { objectKey, walObjectName } from '../archive/keys.ts';
import type { Bytes } from '../bytes.ts';
import { NotFoundError, ObjectNotFound, StorageError, UsageError } from '../errors.ts';
import { parseWalFileName } from '../postgres/wal-file-name.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';

export interface SetAsideArguments {
  readonly name: string;
  readonly confirm: boolean;
}

export interface SetAsideResult {
  readonly key: string;
  /** Where it is, or would be. */
  readonly asideKey: string;
  readonly sizeBytes: number;
  readonly moved: boolean;
}

/** @throws UsageError for a history: a removed one means that its timeline's number is taken again (H14). */
export async function walSetAside(context: Context, { name, confirm }: SetAsideArguments): Promise<SetAsideResult> {
  const file = parseWalFileName(name);
  if (file === undefined) throw new UsageError(`"${name}" is not the name of a file that PostgreSQL archives`);
  if (file.kind === 'history') {
    throw new UsageError(`"${name}" cannot be set aside: the timeline's number would be taken a second time`);
  }
  const { storage, systemIdentifier } = await openArchive(context);
  const { signal } = context;
  const key = objectKey(systemIdentifier, walObjectName(file));
  const time = new Date().toISOString().replaceAll(/[-:.]/g, '');
  const asideKey = objectKey(systemIdentifier, `set-aside/${time}-${randomBytes(4).toString('hex')}/${file.name}`);
  const read = () =>
    storage.get(key, { signal }).catch((error: unknown) => {
      if (!(error instanceof ObjectNotFound)) throw error;
      throw new NotFoundError(`"${name}" is not archived`, { hint: 'wal-list shows what is.' });
    });
  const { sizeBytes, body } = await read();
  if (!confirm) {
    await body[Symbol.asyncIterator]().return?.();
    return { key, asideKey, sizeBytes, moved: false };
  }
  const [original, copy] = [createHash('sha256'), createHash('sha256')];
  await storage.put(asideKey, hashed(body, original), { sizeHint: sizeBytes, signal });
  for await (const _ of hashed((await storage.get(asideKey, { signal })).body, copy));
  if (copy.digest('hex') !== original.digest('hex')) {
    throw new StorageError(`"${asideKey}" is not what was copied there: "${key}" stays where it is`);
  }
  const [failure] = (await storage.delete([key], { signal })).failed;
  if (failure !== undefined) throw failure.error;
  return { key, asideKey, sizeBytes, moved: true };
}

async function* hashed(content: Bytes, hash: Hash): Bytes {
  for await (const chunk of content) {
    hash.update(chunk);
    yield chunk;
  }
}
