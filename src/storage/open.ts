/** From the setting WALT_REPO to a storage. */
import { fileURLToPath } from 'node:url';
import type { S3Settings } from '../config.ts';
import { ConfigurationError } from '../errors.ts';
import { FileStorage, makeRoot } from './file.ts';
import type { Storage } from './storage.ts';

export interface StorageSettings {
  readonly repository: string;
  readonly s3: S3Settings;
  readonly connections: number;
  /** The longest wait for a connection, silence of the storage, and single request, in milliseconds. */
  readonly times: { readonly connectMs: number; readonly idleMs: number; readonly requestMs: number };
  /** Without it a storage repeats its requests as often as its own limits say. */
  readonly patience?: Patience | undefined;
}

/** Told of a failure that may pass: for how many milliseconds more the command would have requests repeated. */
export type Patience = (failure: Error) => number | Promise<number>;

/** @throws ConfigurationError when the URL is none, or of a kind that WAL-T does not know. */
export async function openStorage(settings: StorageSettings): Promise<Storage> {
  const { repository, times } = settings;
  if (!isBucket(repository)) return new FileStorage(folderOf(repository), times);
  const { openS3 } = await import('./s3.ts'); // a third of the start-up of a push that needs it, and none of one that does not
  return openS3(repository, settings);
}

/** Makes the place that the URL names, where that is ours to make: `wal-t init` alone does it. */
export async function createStorage(repository: string): Promise<void> {
  if (!isBucket(repository)) await makeRoot(folderOf(repository));
}

function isBucket(repository: string): boolean {
  return repository.startsWith('s3:');
}

/** The absolute path in a `file://` URL. */
function folderOf(repository: string): string {
  if (!URL.canParse(repository)) {
    const hint = repository.startsWith('/')
      ? `A folder is given as a URL: WALT_REPO=file://${repository}`
      : 'Give it as a URL: WALT_REPO=s3://bucket/prefix or WALT_REPO=file:///absolute/path';
    throw new ConfigurationError(`WALT_REPO is not a URL: "${repository}"`, { hint });
  }
  const url = new URL(repository);
  if (url.protocol !== 'file:') {
    throw new ConfigurationError(`WALT_REPO has the unknown scheme "${url.protocol}"`, {
      hint: 'Use WALT_REPO=s3://bucket/prefix or WALT_REPO=file:///absolute/path.',
    });
  }
  if (url.host !== '') {
    throw new ConfigurationError(`WALT_REPO names a host: "${repository}"`, {
      hint: `A folder has three slashes: WALT_REPO=file:///${url.host}${url.pathname}`,
    });
  }
  if (url.search !== '' || url.hash !== '') {
    throw new ConfigurationError(`WALT_REPO has a "?" or "#": "${repository}"`, {
      hint: 'In a URL they are written %3F and %23.',
    });
  }
  const folder = decodePath(url).replace(/\/+$/, '');
  if (folder === '') throw new ConfigurationError('WALT_REPO is the root of the file system');
  return folder;
}

function decodePath(url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw new ConfigurationError(`WALT_REPO is not the URL of a folder: "${url}"`, {
      hint: 'In a URL a percent sign is written %25, and a slash stands for itself.',
      cause,
    });
  }
}
