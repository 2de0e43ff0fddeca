/** The two documents that say "this is a repository" and "this cluster is archived here": `repository.json` and `cluster.json`. */
import { randomUUID } from 'node:crypto';
import { collect } from '../bytes.ts';
import { ConfigurationError, CorruptError, NoRepositoryError, ObjectExists, ObjectNotFound } from '../errors.ts';
import { limits } from '../limits.ts';
import type { StorageFindings } from '../storage/probe.ts';
import type { RequestOptions, Storage } from '../storage/storage.ts';
import { clusterKey, repositoryKey, systemIdentifierOf } from './keys.ts';

/** The newest format of either document that is understood. */
const formatVersion = 1;

export interface RepositoryDocument {
  readonly format: number;
  /** Random: two repositories are never mistaken for each other. */
  readonly repository: string;
  readonly createdAt: string;
  /** What the storage was seen to do. */
  readonly storage: StorageFindings;
}

export interface ClusterDocument {
  readonly format: number;
  /** The repository that it belongs to. */
  readonly repository: string;
  readonly systemIdentifier: string;
  readonly createdAt: string;
  readonly host: string;
  readonly storage: StorageFindings;
}

/** @throws ObjectNotFound when there is no repository. */
export async function readRepository(storage: Storage, options?: RequestOptions): Promise<RepositoryDocument> {
  const document = await readDocument(storage, repositoryKey, options);
  if (!isRepository(document)) throw unsound(repositoryKey, storage);
  return document;
}

/** Makes the repository, or finds the one that was made at the same time elsewhere. */
export async function makeRepository(
  storage: Storage,
  findings: StorageFindings,
  options?: RequestOptions,
): Promise<RepositoryDocument> {
  const document: RepositoryDocument = {
    format: formatVersion,
    repository: randomUUID(),
    createdAt: new Date().toISOString(),
    storage: findings,
  };
  await putDocument(storage, repositoryKey, document, { ...options, findings });
  return readRepository(storage, options);
}

/** @throws ObjectNotFound when nothing of this cluster was ever archived here. */
export async function readCluster(
  storage: Storage,
  systemIdentifier: string,
  options?: RequestOptions,
): Promise<ClusterDocument> {
  const key = clusterKey(systemIdentifier);
  const document = await readDocument(storage, key, options);
  if (!isCluster(document)) throw unsound(key, storage);
  if (document.systemIdentifier !== systemIdentifier) {
    throw new CorruptError(`"${key}" in ${storage.url} belongs to another cluster`, {
      detail: `it names system ${document.systemIdentifier}`,
    });
  }
  return document;
}

/** Enters a cluster into its repository, or finds it entered. */
export async function enterCluster(
  storage: Storage,
  entry: { readonly repository: RepositoryDocument; readonly systemIdentifier: string; readonly host: string },
  options?: RequestOptions,
): Promise<ClusterDocument> {
  const { repository, systemIdentifier, host } = entry;
  const document: ClusterDocument = {
    format: formatVersion,
    repository: repository.repository,
    systemIdentifier,
    createdAt: new Date().toISOString(),
    host,
    storage: repository.storage,
  };
  await putDocument(storage, clusterKey(systemIdentifier), document, { ...options, findings: repository.storage });
  return readCluster(storage, systemIdentifier, options);
}

/** The system identifiers that this repository holds something of, read with one short listing each. */
export async function listClusters(storage: Storage, options?: RequestOptions): Promise<string[]> {
  const found: string[] = [];
  for (let after = ''; ; ) {
    const key = await firstKey(storage, { ...options, after });
    if (key === undefined) return found;
    const [component = ''] = key.split('/');
    const systemIdentifier = systemIdentifierOf(key);
    if (systemIdentifier !== undefined && (await isEntered(storage, systemIdentifier, options)))
      found.push(systemIdentifier);
    after = key.includes('/') ? `${component}0` : key; // '0' is the byte behind '/'
  }
}

/** Others may have folders with a number for a name. */
async function isEntered(
  storage: Storage,
  systemIdentifier: string,
  options: RequestOptions | undefined,
): Promise<boolean> {
  const key = clusterKey(systemIdentifier);
  for await (const found of storage.list(key, options)) return found.key === key;
  return false;
}

async function firstKey(
  storage: Storage,
  options: RequestOptions & { readonly after: string },
): Promise<string | undefined> {
  for await (const { key } of storage.list('', options)) return key;
  return undefined;
}

/** What to say where no repository is: it was never made, is not mounted, or the settings point elsewhere. */
export function noRepository(storage: Storage, known?: string): NoRepositoryError {
  if (known !== undefined) {
    return new NoRepositoryError(`the repository is not at ${storage.url}`, {
      detail: `this cluster was archived into repository ${known}`,
      hint: 'Mount its folder or correct WALT_REPO. For a new archive run "wal-t init", then "wal-t init --adopt".',
    });
  }
  return new NoRepositoryError(`there is no repository at ${storage.url}`, {
    hint: 'Run "wal-t init" once. If it was there before, its folder is not mounted or WALT_REPO is misspelled.',
  });
}

async function readDocument(storage: Storage, key: string, options: RequestOptions | undefined): Promise<object> {
  const { body } = await storage.get(key, options);
  const text = (await collect(body, limits.documentBytes)).toString('utf8');
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    throw unsound(key, storage, cause);
  }
  if (typeof document !== 'object' || document === null) throw unsound(key, storage);
  if ('format' in document && typeof document.format === 'number' && document.format > formatVersion) {
    throw new CorruptError(`"${key}" in ${storage.url} needs a newer WAL-T: format ${document.format}`, {
      hint: 'Install at least the version of WAL-T that wrote it.',
    });
  }
  return document;
}

/** Where writes are not conditional, two that make the same document at once both succeed, and the later one stays: both read it afterwards. */
async function putDocument(
  storage: Storage,
  key: string,
  document: object,
  { findings, ...options }: RequestOptions & { readonly findings: StorageFindings },
): Promise<void> {
  const body = Buffer.from(`${JSON.stringify(document, undefined, 2)}\n`);
  const conditional = isConditional(findings);
  try {
    if (!conditional && (await isStored(storage, key, options))) return;
    await storage.put(key, body, { ...options, ifAbsent: conditional });
  } catch (error) {
    if (!(error instanceof ObjectExists)) throw error;
  }
}

/** May a put be left to the storage to refuse? */
export function isConditional({ conditionalPut }: StorageFindings): boolean {
  return conditionalPut === 'honoured';
}

async function isStored(storage: Storage, key: string, options: RequestOptions): Promise<boolean> {
  try {
    const { body } = await storage.get(key, options);
    await collect(body, limits.documentBytes);
    return true;
  } catch (error) {
    if (error instanceof ObjectNotFound) return false;
    throw error;
  }
}

function isFindings(value: unknown): boolean {
  const findings = value as Partial<StorageFindings> | null | undefined;
  return typeof findings?.conditionalPut === 'string';
}

function isRepository(document: object): document is RepositoryDocument {
  const fields = document as Partial<RepositoryDocument>;
  return typeof fields.repository === 'string' && fields.repository !== '' && isFindings(fields.storage);
}

function isCluster(document: object): document is ClusterDocument {
  return isRepository(document) && 'systemIdentifier' in document;
}

function unsound(key: string, storage: Storage, cause?: unknown): CorruptError {
  return new CorruptError(`"${key}" in ${storage.url} is damaged`, {
    hint: 'Restore it from another copy of the repository. Do not make a new one over it.',
    cause,
  });
}

/** @throws ConfigurationError when the settings point to another repository than the one that this cluster was archived into (H16). */
export function checkSameRepository(known: string, found: string, storage: Storage): void {
  if (known === found) return;
  throw new ConfigurationError(`${storage.url} is another repository than the one this cluster was archived into`, {
    detail: `archived into ${known}, found ${found}`,
    hint: 'Correct WALT_REPO or mount the right folder. If the change is meant, run "wal-t init --adopt".',
  });
}
