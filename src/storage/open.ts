/** From the setting WALT_REPO to a storage. */
import { fileURLToPath } from 'node:url';
import { ConfigurationError } from '../errors.ts';
import { FileStorage, makeRoot } from './file.ts';
import type { Storage } from './storage.ts';

export interface StorageSettings {
  readonly repository: string;
  /** The longest silence of the storage, in milliseconds. */
  readonly idleMs: number;
  /** The limit of one request, in milliseconds. */
  readonly requestMs: number;
}

/** @throws ConfigurationError when the URL is none, or of a kind that WAL-T does not know. */
export function openStorage({ repository, ...times }: StorageSettings): Storage {
  return new FileStorage(folderOf(repository), times);
}

/** Makes the place that the URL names, where that is ours to make: `wal-t init` alone does it. */
export async function createStorage(repository: string): Promise<void> {
  await makeRoot(folderOf(repository));
}

/** The absolute path in a `file://` URL. */
function folderOf(repository: string): string {
  if (!URL.canParse(repository)) {
    const hint = repository.startsWith('/')
      ? `A folder is given as a URL: WALT_REPO=file://${repository}`
      : 'Give it as a URL: WALT_REPO=file:///absolute/path';
    throw new ConfigurationError(`WALT_REPO is not a URL: "${repository}"`, { hint });
  }
  const url = new URL(repository);
  if (url.protocol !== 'file:') {
    throw new ConfigurationError(`WALT_REPO has the unknown scheme "${url.protocol}"`, {
      hint: 'This version stores into folders: WALT_REPO=file:///absolute/path',
    });
  }
  if (url.host !== '') {
    throw new ConfigurationError(`WALT_REPO names a host: "${repository}"`, {
      hint: `A folder has three slashes: WALT_REPO=file:///${url.host}${url.pathname}`,
    });
  }
  const folder = fileURLToPath(url).replace(/\/+$/, '');
  if (folder === '') throw new ConfigurationError('WALT_REPO is the root of the file system');
  return folder;
}
