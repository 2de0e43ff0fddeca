/** wal-t init: makes the repository, once. No push ever does it by itself, lest it archives into an unmounted folder (H16). */

import { join } from 'node:path';
import {
  listClusters,
  makeRepository,
  type RepositoryDocument,
  readCluster,
  readRepository,
} from '../archive/repository.ts';
import { readControlFile } from '../cluster/data-directory.ts';
import { readKnownRepository, rememberRepository } from '../cluster/known-repository.ts';
import { removeMarkers } from '../cluster/push-markers.ts';
import { ConfigurationError, CorruptError, ObjectNotFound } from '../errors.ts';
import { createStorage } from '../storage/open.ts';
import { probeStorage } from '../storage/probe.ts';
import type { RequestOptions, Storage } from '../storage/storage.ts';
import { type Context, repositoryUrl, storageOf } from './context.ts';

export interface InitArguments {
  /** Let the data directory's cluster be archived here from now on, though it was archived elsewhere before. */
  readonly adopt: boolean;
}

export interface InitResult {
  readonly url: string;
  readonly repository: RepositoryDocument;
  /** Was it made now? Else it was there. */
  readonly created: boolean;
  /** The repository that the cluster was archived into before, when it was adopted. */
  readonly adoptedFrom: string | undefined;
}

/** Idempotent. */
export async function init(context: Context, { adopt }: InitArguments): Promise<InitResult> {
  await createStorage(repositoryUrl(context));
  const storage = await storageOf(context);
  const { repository, created } = await initialise(context, storage);
  const adoptedFrom = adopt ? await adoptCluster(context, storage, repository) : undefined;
  return { url: storage.url, repository, created, adoptedFrom };
}

/** The repository: found, or made after the storage has shown what it can do. */
export async function initialise(
  options: RequestOptions,
  storage: Storage,
): Promise<{ readonly repository: RepositoryDocument; readonly created: boolean }> {
  try {
    return { repository: await readRepository(storage, options), created: false };
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
  }
  const [cluster] = await listClusters(storage, options);
  if (cluster !== undefined) {
    throw new CorruptError(`${storage.url} holds an archive, but its repository.json is missing`, {
      detail: `it holds system ${cluster}`,
      hint: 'Restore repository.json from another copy of the repository, or choose an empty place.',
    });
  }
  const findings = await probeStorage(storage);
  return { repository: await makeRepository(storage, findings, options), created: true };
}

async function adoptCluster(
  context: Context,
  storage: Storage,
  { repository }: RepositoryDocument,
): Promise<string | undefined> {
  const { dataDirectory } = context.settings;
  if (dataDirectory === undefined) {
    throw new ConfigurationError('it is not clear which cluster is to be adopted', {
      hint: 'Set WALT_PGDATA to its data directory.',
    });
  }
  await expectOwnEntry(context, storage, { dataDirectory, repository });
  const walFolder = join(dataDirectory, 'pg_wal');
  const known = await readKnownRepository(walFolder);
  await removeMarkers(walFolder); // what was archived elsewhere is not here
  if (known !== repository) await rememberRepository(walFolder, repository);
  return known;
}

/** A cluster's folder that was copied in from another repository names that one, and every push would be refused. */
async function expectOwnEntry(
  { signal }: Context,
  storage: Storage,
  { dataDirectory, repository }: { readonly dataDirectory: string; readonly repository: string },
): Promise<void> {
  const control = await readControlFile(dataDirectory);
  if (control === undefined) return;
  const { systemIdentifier } = control;
  const entered = await readCluster(storage, systemIdentifier, { signal }).catch((error: unknown) => {
    if (error instanceof ObjectNotFound) return undefined;
    throw error;
  });
  if (entered === undefined || entered.repository === repository) return;
  throw new ConfigurationError(`what ${storage.url} holds of this cluster belongs to another repository`, {
    detail: `"${systemIdentifier}/cluster.json" names ${entered.repository}, repository.json names ${repository}`,
    hint: 'Put the repository.json that belongs to it beside it, or choose an empty place for a new archive.',
  });
}
