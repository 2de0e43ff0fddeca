/** The places that a backup is restored into, before anything is written: free of others' files, apart from each other, and large enough. */
import { readdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type BytePath, showPath, toBytePath, toFilePath } from '../byte-path.ts';
import { HostError, systemErrorCode, systemErrorReason, UsageError } from '../errors.ts';
import { formatBytes } from '../quantities.ts';
import { freeBytes } from './host-limits.ts';

export interface TablespacePlace {
  readonly oid: string;
  /** Absolute. */
  readonly location: BytePath;
}

/** The names in a folder; undefined when there is none. */
export async function namesIn(path: BytePath): Promise<readonly string[] | undefined> {
  try {
    return await readdir(toFilePath(path), 'latin1');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw unwritable(path, error);
  }
}

/** Below the data directory is a place, too, as in a restore beside the cluster. Those of `own` need not be empty. */
export async function expectFreePlaces(
  root: BytePath,
  tablespaces: readonly TablespacePlace[],
  own: readonly BytePath[] = [],
): Promise<void> {
  const seen = new Set<BytePath>();
  for (const { location } of tablespaces) {
    const where = showPath(location);
    const hint = 'Correct --tablespace-mapping.';
    if (seen.has(location)) throw new UsageError(`two tablespaces cannot both go to "${where}"`, { hint });
    if (`${root}/`.startsWith(`${location}/`)) {
      throw new UsageError(`a tablespace cannot go to "${where}": the data directory "${showPath(root)}" is there`, {
        hint,
      });
    }
    seen.add(location);
    if (own.includes(location)) continue;
    if (((await namesIn(location)) ?? []).length === 0) continue;
    throw new HostError(`the tablespace's place "${where}" is not empty`, {
      hint: `Another cluster may live there. Send it elsewhere: --tablespace-mapping ${where}=/another/folder`,
    });
  }
}

/** Counts what is free on each file system that something goes to, once. */
export async function expectSpace(
  path: string,
  { rawBytes, tablespaces }: { readonly rawBytes: number; readonly tablespaces: readonly TablespacePlace[] },
): Promise<void> {
  const free = new Map<number, number>();
  for (const place of [toBytePath(path), ...tablespaces.map(({ location }) => location)]) {
    const existing = await nearestFolder(place);
    const bytes = await freeBytes(toFilePath(existing));
    if (bytes === undefined) return;
    free.set((await stat(toFilePath(existing))).dev, bytes);
  }
  const total = [...free.values()].reduce((sum, bytes) => sum + bytes, 0);
  if (total >= rawBytes) return;
  throw new HostError(
    `there is not enough space for the backup: it has ${formatBytes(rawBytes)}, and ${formatBytes(total)} are free`,
    {
      detail: `in "${path}"${tablespaces.length > 0 ? ' and the places of its tablespaces' : ''}; nothing was written`,
      hint: 'Free space, or restore into a larger file system.',
    },
  );
}

async function nearestFolder(path: BytePath): Promise<BytePath> {
  const found = await stat(toFilePath(path)).catch(() => undefined);
  return found?.isDirectory() === true || path === dirname(path) ? path : nearestFolder(dirname(path));
}

/** The error for a system call that failed where something is to be restored. */
export function unwritable(target: BytePath, error: unknown): unknown {
  const code = systemErrorCode(error);
  if (code === undefined) return error;
  return new HostError(`could not make "${showPath(target)}": ${systemErrorReason(error)}`, {
    hint: 'Look at the permissions and at the disk there. root can restore anywhere, and gives all files to their owner.',
    cause: error,
  });
}
