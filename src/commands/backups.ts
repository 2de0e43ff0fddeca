/** The backups of the cluster that a command is about: opened, listed, and one of them chosen. */
import type { Archive } from '../archive/archive.ts';
import { type BackupState, type CatalogueEntry, listBackups, stateOf } from '../archive/backup-catalogue.ts';
import { readControlFile } from '../cluster/data-directory.ts';
import { CheckError, NotFoundError } from '../errors.ts';
import { leaseExpiryMs } from '../limits.ts';
import { type Context, storageOf } from './context.ts';
import { loadKeys } from './keys.ts';
import { expectCluster, whichCluster } from './which-cluster.ts';

/** The archive of the cluster in the settings, else of the data directory's, else of the only one there is. For commands that read. */
export async function openArchive(context: Context): Promise<Archive> {
  const storage = await storageOf(context);
  const { dataDirectory } = context.settings;
  const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
  const own = { own: control?.systemIdentifier, dataDirectory };
  const systemIdentifier = await whichCluster(context, storage, own);
  const archive = { storage, systemIdentifier, keys: await loadKeys(context) };
  await expectCluster(archive, context);
  return archive;
}

export interface ListedBackup extends CatalogueEntry {
  readonly state: BackupState;
}

/** Oldest first. Whether a lease is alive is judged by this host's clock: good enough to tell a person. */
export async function readCatalogue({ signal }: Context, archive: Archive): Promise<ListedBackup[]> {
  const now = new Date();
  const entries = await listBackups(archive, { signal });
  return entries.map((entry) => ({ ...entry, state: stateOf(entry, { now, expiryMs: leaseExpiryMs }) }));
}

/** The one that is to be restored. @throws NotFoundError when there is no such backup, CheckError when it is not confirmed. */
export function chooseBackup(backups: readonly ListedBackup[], name: string): ListedBackup {
  const found = chooseNamed(backups, name);
  if (found.state === 'confirmed') return found;
  throw new CheckError(`backup "${name}" is ${found.state}: it cannot be relied on`, {
    detail: whatItLacks[found.state],
    hint: 'Choose a confirmed one: backup-list shows them.',
  });
}

/** The one of that name, in whatever state; for LATEST the newest confirmed. @throws NotFoundError when there is none. */
export function chooseNamed(backups: readonly ListedBackup[], name: string): ListedBackup {
  if (name === 'LATEST') {
    const latest = backups.findLast(({ state }) => state === 'confirmed');
    if (latest !== undefined) return latest;
    throw new NotFoundError('there is no confirmed backup', {
      detail: backups.length === 0 ? 'no backup was ever begun' : `there are ${backups.length}, none of them confirmed`,
      hint: 'backup-list shows what there is; basebackup-push takes one.',
    });
  }
  const found = backups.find(({ id }) => id === name);
  if (found !== undefined) return found;
  throw new NotFoundError(`there is no backup "${name}"`, { hint: 'backup-list shows the names of all backups.' });
}

const whatItLacks: Readonly<Record<Exclude<BackupState, 'confirmed'>, string>> = {
  unconfirmed: 'everything was stored, but nobody saw all of its parts and WAL in the archive',
  running: 'it is still being taken',
  failed: 'it was given up before it was whole',
};
