/** Reads every WAL object of a cluster to its end: segments, partial ones, histories and backup labels. */
import type { Archive } from '../../archive/archive.ts';
import { objectKey, walObjectName } from '../../archive/keys.ts';
import { openWalFile } from '../../archive/wal-archive.ts';
import { CorruptError, ObjectNotFound } from '../../errors.ts';
import { parseWalFileName } from '../../postgres/wal-file-name.ts';
import type { Context } from '../context.ts';

export interface WalFindings {
  readonly objects: number;
  readonly damaged: readonly { readonly key: string; readonly reason: string }[];
}

export async function hashWal(context: Context, archive: Archive): Promise<WalFindings> {
  const { storage, systemIdentifier } = archive;
  const damaged: { key: string; reason: string }[] = [];
  let objects = 0;
  for await (const { key } of storage.list(objectKey(systemIdentifier, 'wal/'), context)) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file === undefined || key !== objectKey(systemIdentifier, walObjectName(file))) continue; // unknown: told elsewhere
    objects += 1;
    try {
      const { content } = await openWalFile(archive, file, context);
      for await (const _ of content); // its hash is looked at when it ends
    } catch (error) {
      if (error instanceof ObjectNotFound) continue; // deleted since it was listed
      if (!(error instanceof CorruptError)) throw error;
      damaged.push({ key, reason: error.message });
    }
  }
  return { objects, damaged };
}
