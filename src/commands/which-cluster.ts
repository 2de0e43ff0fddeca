/** Which cluster of a repository a command is about, and whether it is archived there at all. */
import type { Archive } from '../archive/archive.ts';
import { listClusters, noRepository, readCluster, readRepository } from '../archive/repository.ts';
import { readControlFile } from '../cluster/data-directory.ts';
import { ConfigurationError, NothingArchivedError, ObjectNotFound } from '../errors.ts';
import type { RequestOptions, Storage } from '../storage/storage.ts';
import type { Context } from './context.ts';

/** What a data directory on this host says of itself. */
export interface OwnCluster {
  readonly own?: string | undefined;
  readonly dataDirectory?: string | undefined;
}

/** The data directory says it; else the settings; else there is only one in the repository, or the command runs in one's data directory. */
export async function whichCluster(
  { settings, signal, workingDirectory }: Context,
  storage: Storage,
  { own, dataDirectory }: OwnCluster = {},
): Promise<string> {
  const configured = settings.systemIdentifier;
  if (own !== undefined && configured !== undefined && own !== configured) {
    throw new ConfigurationError('WALT_SYSTEM_IDENTIFIER is of another cluster than the data directory', {
      detail: `the setting is ${configured}, "${dataDirectory}" is of system ${own}`,
      hint: 'Correct WALT_SYSTEM_IDENTIFIER, or remove it: the data directory tells which cluster it is.',
    });
  }
  const known = own ?? configured;
  if (known !== undefined) return known;
  const [only, ...others] = await listClusters(storage, { signal });
  if (only === undefined) {
    await expectRepository(storage, { signal });
    throw new ConfigurationError(`nothing was ever archived in ${storage.url}`, {
      hint: "Set archive_mode = on and archive_command = '… wal-push %p %f' in PostgreSQL, or correct WALT_REPO.",
    });
  }
  if (others.length === 0) return only;
  const here = (await readControlFile(workingDirectory))?.systemIdentifier;
  if (here !== undefined && others.concat(only).includes(here)) return here;
  throw new ConfigurationError('it is not clear which cluster is meant', {
    detail: `${storage.url} holds systems ${[only, ...others].join(', ')}`,
    hint: 'Run it in the data directory, or set WALT_SYSTEM_IDENTIFIER.',
  });
}

/** "Not stored" means nothing where this cluster is not archived at all: an unmounted folder, a mistyped prefix (H16). */
export async function expectCluster({ storage, systemIdentifier }: Archive, { signal }: RequestOptions): Promise<void> {
  try {
    await readCluster(storage, systemIdentifier, { signal });
    return;
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
  }
  await expectRepository(storage, { signal });
  throw new NothingArchivedError(`nothing of this cluster is archived in ${storage.url}`, {
    detail: `system ${systemIdentifier}`,
    hint: 'Correct WALT_REPO: it is the one that this cluster archived into that is needed.',
  });
}

async function expectRepository(storage: Storage, options: RequestOptions): Promise<void> {
  await readRepository(storage, options).catch((error: unknown) => {
    throw error instanceof ObjectNotFound ? noRepository(storage) : error;
  });
}
