/** The newest archived WAL, found by one listing of keys: a host without identity can do it. */
import type { Archive } from '../../archive/archive.ts';
import { objectKey } from '../../archive/keys.ts';
import { parseWalFileName, type SegmentName } from '../../postgres/wal-file-name.ts';
import type { RequestOptions } from '../../storage/storage.ts';

export interface NewestWal {
  /** The last full segment of the timeline that was stored to last. */
  readonly file: SegmentName;
  /** When the storage received it. */
  readonly storedAt: Date;
  /** Full segments, of all timelines. */
  readonly segments: number;
}

/** Undefined where no full segment is stored. */
export async function findNewestWal(archive: Archive, options: RequestOptions): Promise<NewestWal | undefined> {
  const { storage, systemIdentifier } = archive;
  let newest: { file: SegmentName; storedAt: Date } | undefined;
  let segments = 0;
  for await (const { key, modifiedAt } of storage.list(objectKey(systemIdentifier, 'wal/'), options)) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file?.kind !== 'segment') continue;
    segments += 1;
    if (newest === undefined || modifiedAt >= newest.storedAt) newest = { file, storedAt: modifiedAt };
  }
  return newest === undefined ? undefined : { ...newest, segments };
}
