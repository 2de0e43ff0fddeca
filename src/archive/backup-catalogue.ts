/** Which backups there are, by their keys: read with two listings, without opening an object. */
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { type BackupId, parseBackupId } from './backup-id.ts';
import { kindPrefix } from './keys.ts';

/**
 * confirmed    it counts: it is whole, and its WAL was seen in the archive
 * unconfirmed  its manifest is there, but nobody confirmed that everything else is: never restored by itself
 * running      its lease is alive
 * failed       it was given up, or its lease has died, or its manifest is lost
 */
export type BackupState = 'confirmed' | 'unconfirmed' | 'running' | 'failed';

/** What keys tell of a backup. */
export interface CatalogueEntry extends BackupId {
  readonly hasManifest: boolean;
  readonly isClosed: boolean;
  readonly isFailed: boolean;
  /** When the storage received the last sign of life, by its own clock. */
  readonly lastSignAt: Date | undefined;
  /** The number of its lease's last record; 0 where there is none. */
  readonly lastRecord: number;
}

/** All backups of a cluster, the oldest first. */
export async function listBackups(archive: Archive, options: RequestOptions = {}): Promise<CatalogueEntry[]> {
  const { storage, systemIdentifier } = archive;
  const found = new Map<string, { -readonly [member in keyof CatalogueEntry]: CatalogueEntry[member] }>();
  const entryOf = (id: string) => {
    const known = found.get(id);
    if (known !== undefined) return known;
    const parsed = parseBackupId(id);
    if (parsed === undefined) return undefined;
    const entry = {
      ...parsed,
      hasManifest: false,
      isClosed: false,
      isFailed: false,
      lastSignAt: undefined,
      lastRecord: 0,
    };
    found.set(id, entry);
    return entry;
  };
  const leases = kindPrefix(systemIdentifier, 'lease');
  for await (const { key, modifiedAt } of storage.list(leases, options)) {
    const [id = '', record = ''] = key.slice(leases.length).split('/');
    const entry = entryOf(id);
    if (entry === undefined) continue;
    if (record === 'closed') entry.isClosed = true;
    else if (record === 'failed') entry.isFailed = true;
    else {
      entry.lastRecord = Math.max(entry.lastRecord, Number(record) || 0);
      if (entry.lastSignAt === undefined || modifiedAt > entry.lastSignAt) entry.lastSignAt = modifiedAt;
    }
  }
  const manifests = kindPrefix(systemIdentifier, 'manifest');
  for await (const { key } of storage.list(manifests, options)) {
    const entry = entryOf(key.slice(manifests.length));
    if (entry !== undefined) entry.hasManifest = true;
  }
  return [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** The state of a backup, `now` by the clock of whoever asks and a lease that died `expiryMs` after its last sign. */
export function stateOf(
  { hasManifest, isClosed, isFailed, lastSignAt }: CatalogueEntry,
  { now, expiryMs }: { readonly now: Date; readonly expiryMs: number },
): BackupState {
  if (hasManifest && isClosed) return 'confirmed';
  const isOver = isFailed || isClosed;
  const isAlive = !isOver && lastSignAt !== undefined && now.getTime() - lastSignAt.getTime() < expiryMs;
  if (isAlive) return 'running';
  return hasManifest ? 'unconfirmed' : 'failed';
}
