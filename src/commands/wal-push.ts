/**
 * wal-push %p [%f]: PostgreSQL's archive_command.
 *
 * PostgreSQL calls it for one finished file at a time and recycles that file once the answer was 0. So the contract is:
 *   0          the file is durable in the archive under its name, now or already before, with this very content
 *   1 … 125    it is not; PostgreSQL keeps it and calls again, three times at once and then every minute
 *   above 125  never: the archiver process itself would die of it, and nothing would be counted (bin/wal-push sees to that)
 *
 * @see https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-ARCHIVING-WAL
 */

import { readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import {
  type ClusterDocument,
  checkSameRepository,
  enterCluster,
  isConditional,
  noRepository,
  type RepositoryDocument,
  readCluster,
  readRepository,
} from '../archive/repository.ts';
import { besideName, storeWalFile, walIdentity } from '../archive/wal-archive.ts';
import { findDataDirectory, readControlFile } from '../cluster/data-directory.ts';
import { readKnownRepository, rememberRepository, walFolderOf } from '../cluster/known-repository.ts';
import { inspectWalFile, type WalFile } from '../cluster/wal-file.ts';
import { manifestKeys } from '../codec/keys.ts';
import { type SealedObject, sealObject } from '../codec/object.ts';
import {
  ConfigurationError,
  ConflictError,
  CorruptError,
  ObjectNotFound,
  StorageError,
  UsageError,
  WalTError,
} from '../errors.ts';
import { parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { Patience } from '../storage/open.ts';
import type { StorageFindings } from '../storage/probe.ts';
import type { Storage } from '../storage/storage.ts';
import { type Context, storageOf, withDeadline } from './context.ts';
import { initialise } from './init.ts';
import { keysToSeal } from './keys.ts';

export interface WalPushArguments {
  /** `%p`: the file, relative to the data directory or absolute. */
  readonly path: string;
  /** `%f`: its name; PostgreSQL always gives the last part of `%p`. */
  readonly name?: string | undefined;
  /** PostgreSQL does not wait for this push, and may overwrite the file meanwhile. */
  readonly mayBeRecycled?: boolean;
}

/** Returns when the file is durable in the archive. */
export async function walPush(context: Context, { path, name, mayBeRecycled }: WalPushArguments): Promise<void> {
  const file = archivedName(path, name);
  const limitMs = context.settings.times.walPushMs;
  let failure: Error | undefined;
  const signal = withDeadline(context.signal, limitMs, () => tooLate(file, limitMs, failure));
  const patience: Patience = (last) => {
    failure = last;
    return limitMs;
  };
  const push: Push = {
    ...context,
    signal,
    storage: await storageOf(context, patience),
    path: resolve(context.workingDirectory, path),
  };

  const source = await inspectWalFile(push.path, file);
  const systemIdentifier = await identify(push, path, source);
  const archive = { storage: push.storage, systemIdentifier, keys: await keysToSeal(context) };
  const [cluster, sealed] = await Promise.all([
    findCluster(push, archive, file),
    seal(push, archive, { file, source }),
  ]);
  if (mayBeRecycled === true) await inspectWalFile(push.path, file); // was it this segment to the end?
  await store(push, archive, { file, source, sealed, findings: cluster.storage });
  await remember(push, cluster);
}

interface Push extends Context {
  readonly storage: Storage;
  /** `%p`, absolute. */
  readonly path: string;
}

interface Source {
  readonly file: WalFileName;
  readonly source: WalFile;
}

function archivedName(path: string, name: string | undefined): WalFileName {
  const usage = "Set archive_command = '… wal-push %p %f'.";
  if (name?.includes('/')) {
    throw new UsageError(`"${name}" is a path, not a file name`, { hint: `The path stands first. ${usage}` });
  }
  const file = parseWalFileName(name ?? basename(path));
  if (file === undefined) {
    throw new UsageError(`"${name ?? basename(path)}" is not the name of a file that PostgreSQL archives`, {
      hint: usage,
    });
  }
  if (basename(path) !== file.name) {
    throw new UsageError(`"${path}" is not a file named "${file.name}"`, { hint: usage });
  }
  return file;
}

/** Which cluster's archive the file belongs to. Segments say it themselves; what the data directory and the settings say must agree (H17). */
async function identify(push: Push, givenPath: string, source: WalFile): Promise<string> {
  const { settings, workingDirectory } = push;
  const configured = settings.dataDirectory;
  const dataDirectory = await findDataDirectory(givenPath, { workingDirectory, configured });
  const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
  const own = source.systemIdentifier ?? control?.systemIdentifier ?? settings.systemIdentifier;
  if (own === undefined) {
    throw new ConfigurationError(`"${givenPath}" does not say which cluster it belongs to`, {
      hint: 'Run it in the data directory, or set WALT_PGDATA or WALT_SYSTEM_IDENTIFIER.',
    });
  }
  if (control !== undefined && control.systemIdentifier !== own) {
    throw new CorruptError(`"${givenPath}" belongs to another cluster`, {
      detail: `it was written by system ${own}, the data directory "${dataDirectory}" is of system ${control.systemIdentifier}`,
      hint: 'Nothing was archived. Find out how the file came into this pg_wal.',
    });
  }
  if (settings.systemIdentifier !== undefined && settings.systemIdentifier !== own) {
    throw new ConfigurationError(`"${givenPath}" belongs to another cluster than WALT_SYSTEM_IDENTIFIER`, {
      detail: `it was written by system ${own}, the setting is ${settings.systemIdentifier}`,
      hint: 'Correct WALT_SYSTEM_IDENTIFIER, or remove it: every segment says itself which cluster wrote it.',
    });
  }
  return own;
}

/** The cluster's entry in the repository: made by its first push, and never where this cluster was archived elsewhere before (H16). */
async function findCluster(push: Push, archive: Archive, file: WalFileName): Promise<ClusterDocument> {
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

async function seal(push: Push, archive: Archive, { file, source }: Source): Promise<SealedObject> {
  const sealed = await sealObject(source.read, {
    ...walIdentity(archive, file),
    // who may list and delete must know where timelines begin
    keys: file.kind === 'history' ? manifestKeys(archive.keys) : archive.keys,
    level: push.settings.compressionLevel,
    pushedAt: new Date(),
    host: push.host,
  });
  push.signal.throwIfAborted();
  return sealed;
}

interface Sealed extends Source {
  readonly sealed: SealedObject;
  readonly findings: StorageFindings;
}

async function store(push: Push, archive: Archive, { file, source, sealed, findings }: Sealed): Promise<void> {
  const options = { signal: push.signal, conditionalPut: isConditional(findings) };
  try {
    await storeWalFile(archive, file, sealed, options);
  } catch (error) {
    if (!(error instanceof ConflictError) || file.kind !== 'partial') throw error;
    // two standbys promoted out of one segment leave two different ones, and both are right (H12)
    const beside = besideName(file, sealed.header.sha256);
    await storeWalFile(archive, beside, await seal(push, archive, { file: beside, source }), options);
    push.log.info(`another "${file.name}" is archived already; this one is kept beside it as "${beside.name}"`);
  }
}

async function remember({ path, log }: Push, { repository }: ClusterDocument): Promise<void> {
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

function tooLate({ name }: WalFileName, limitMs: number, failure: Error | undefined): StorageError {
  return new StorageError(`"${name}" was not archived within ${limitMs / 1000} s`, {
    detail: failure?.message,
    hint: 'The storage is too slow or hangs. PostgreSQL keeps the file and tries again; WALT_WAL_PUSH_TIMEOUT sets the limit.',
  });
}
