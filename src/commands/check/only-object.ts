/** One object for all looks of `wal-t check`: what may not be deleted would else stay behind each of them. */
import { StorageError } from '../../errors.ts';
import type { StorageFindings } from '../../storage/probe.ts';
import type { RequestOptions, Storage } from '../../storage/storage.ts';

const key = 'probe/check';

/** Stores it, unless it is there, and tries to remove it. @throws StorageError when it cannot be written or listed. */
export async function mayDelete(
  storage: Storage,
  recorded: StorageFindings,
  options: RequestOptions,
): Promise<boolean> {
  if (!(await isThere(storage, options))) {
    await storage.put(key, Buffer.from('wal-t check\n'), options);
    // another host's check may have removed it by now
    if (recorded.delete === 'denied' && !(await isThere(storage, options))) throw notListed(storage);
  }
  return recorded.delete === 'allowed' && (await storage.delete([key], options)).failed.length === 0;
}

async function isThere(storage: Storage, options: RequestOptions): Promise<boolean> {
  for await (const found of storage.list(key, options)) return found.key === key;
  return false;
}

function notListed({ url }: Storage): StorageError {
  return new StorageError(`"${key}", which was just stored in ${url}, is not listed`, {
    hint: 'Look at what stands before the storage: a cache, or several copies that do not agree.',
  });
}
