/** Where in the repository the cluster stands: entered by its first push, and never where it was archived elsewhere before (H16). */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import {
  type ClusterDocument,
  checkSameRepository,
  enterCluster,
  noRepository,
  type RepositoryDocument,
  readCluster,
  readRepository,
} from '../../archive/repository.ts';
import { readKnownRepository, rememberRepository, walFolderOf } from '../../cluster/known-repository.ts';
import { inspectWalFile } from '../../cluster/wal-file.ts';
import { ObjectNotFound, WalTError } from '../../errors.ts';
import { parseWalFileName, type WalFileName } from '../../postgres/wal-file-name.ts';
import type { StorageFindings } from '../../storage/probe.ts';
import { initialise } from '../init.ts';
import { type Push, seal, store } from './push.ts';

/** The cluster's entry, made if need be. */
export async function findCluster(push: Push, archive: Archive, file: WalFileName): Promise<ClusterDocument> {
  const { storage, systemIdentifier } = archive;
  const walFolder = walFolderOf(push.path);
  const known = walFolder === undefined ? undefined : await readKnownRepository(walFolder);
  const entered = await readCluster(storage, systemIdentifier, push).catch(absent);
  if (entered !== undefined) {
    checkSameRepository(known ?? entered.repository, entered.repository, storage);
    return entered;
  }
  const repository = await findRepository(push, known);
  checkSameRepository(known ?? repository.repository, repository.repository, storage);
  await storeHistories(push, archive, { file, findings: repository.storage });
  return enterCluster(storage, { repository, systemIdentifier, host: push.host }, push);
}

async function findRepository(push: Push, known: string | undefined): Promise<RepositoryDocument> {
  const repository = await readRepository(push.storage, push).catch(absent);
  if (repository !== undefined) return repository;
  const automatic = push.settings.init === 'auto' && known === undefined;
  if (!automatic) throw noRepository(push.storage, known);
  return (await initialise(push, push.storage)).repository;
}

/** A new archive for a server that was promoted before would never receive the histories of its timelines: they were archived long ago, elsewhere (H14). */
async function storeHistories(
  push: Push,
  archive: Archive,
  { file, findings }: { readonly file: WalFileName; readonly findings: StorageFindings },
): Promise<void> {
  const walFolder = walFolderOf(push.path);
  if (walFolder === undefined || file.timeline === 1) return;
  for (const name of (await readdir(walFolder)).sort()) {
    const history = parseWalFileName(name);
    if (history?.kind !== 'history' || history.timeline > file.timeline) continue;
    const source = await inspectWalFile(join(walFolder, name), history);
    const sealed = await seal(push, archive, { file: history, source });
    await store(push, archive, { file: history, source, sealed, findings });
  }
}

/** Remembers the repository at pg_wal, where none is remembered yet. */
export async function remember({ path, log }: Push, { repository }: ClusterDocument): Promise<void> {
  const walFolder = walFolderOf(path);
  if (walFolder === undefined) return;
  try {
    if ((await readKnownRepository(walFolder)) === undefined) await rememberRepository(walFolder, repository);
  } catch (error) {
    if (!(error instanceof WalTError)) throw error;
    log.warning(error.message, {
      detail: 'the file is archived; only the guard against a changed repository is missing',
    });
  }
}

/** Absence as an answer. */
function absent(error: unknown): undefined {
  if (error instanceof ObjectNotFound) return undefined;
  throw error;
}
