/** What `pg_wal/.wal-t/repository` remembers: the repository that this cluster is archived into, so that no other is taken for it (H16). */
import { chown, mkdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { bytesOf } from '../bytes.ts';
import { replaceFile, syncFolder } from '../durable-file.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';

/** In pg_wal: it goes where the WAL goes, is no part of a base backup, and PostgreSQL leaves it alone. */
const ownFolder = '.wal-t';

/** The folder of a `%p`, when that is a pg_wal. */
export function walFolderOf(walPath: string): string | undefined {
  const folder = dirname(walPath);
  return basename(folder) === 'pg_wal' ? folder : undefined;
}

/** The repository's id; undefined when none was remembered yet. */
export async function readKnownRepository(walFolder: string): Promise<string | undefined> {
  const path = knownRepositoryPath(walFolder);
  try {
    return (await readFile(path, 'utf8')).trim() || undefined;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw new HostError(`could not read "${path}": ${systemErrorReason(error)}`, {
      hint: `It must belong to the user that PostgreSQL runs as, as "${walFolder}" does.`,
      cause: error,
    });
  }
}

/** @throws HostError when pg_wal cannot be written. */
export async function rememberRepository(walFolder: string, repository: string): Promise<void> {
  const path = knownRepositoryPath(walFolder);
  try {
    if ((await mkdir(dirname(path), { recursive: true, mode: 0o700 })) !== undefined) {
      await syncFolder(walFolder);
    }
    await replaceFile(path, bytesOf(Buffer.from(`${repository}\n`)));
    await giveToServer(path, walFolder);
  } catch (error) {
    throw new HostError(`could not write "${path}": ${systemErrorReason(error)}`, { cause: error });
  }
}

/** Made by root by hand, it would shut the server's own archive_command out. */
async function giveToServer(path: string, walFolder: string): Promise<void> {
  const { uid, gid } = await stat(walFolder);
  for (const made of [dirname(path), path]) await chown(made, uid, gid).catch(() => undefined);
}

function knownRepositoryPath(walFolder: string): string {
  return join(walFolder, ownFolder, 'repository');
}
