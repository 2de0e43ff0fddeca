/** The cluster on this host: where its data directory is, which cluster it is, and what PostgreSQL is doing with it. Reads only. */
import { access, readFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { type ControlFile, parseControlFile } from '../postgres/control-file.ts';

export interface DataDirectoryOptions {
  /** PostgreSQL runs its commands in the data directory. */
  readonly workingDirectory: string;
  /** The setting WALT_PGDATA. */
  readonly configured: string | undefined;
}

/**
 * The data directory that a `%p` belongs to: the one above `pg_wal` when it is absolute, as pg_rewind gives it (H6);
 * else the working directory; else the configured one.
 */
export async function findDataDirectory(
  walPath: string,
  { workingDirectory, configured }: DataDirectoryOptions,
): Promise<string | undefined> {
  const folder = dirname(walPath);
  if (isAbsolute(walPath) && basename(folder) === 'pg_wal') return dirname(folder);
  if (await isThere(join(workingDirectory, 'PG_VERSION'))) return workingDirectory;
  return configured;
}

/** `global/pg_control`; undefined when it cannot be read, or not be understood. */
export async function readControlFile(dataDirectory: string): Promise<ControlFile | undefined> {
  try {
    return parseControlFile(await readFile(join(dataDirectory, 'global', 'pg_control')));
  } catch {
    return undefined; // a copy of WAL without its cluster is pushed and fetched as well
  }
}

/** Is it a standby, which PostgreSQL shuts down over an exit above 125? `standby.signal` wins over `recovery.signal`. */
export function isStandby(dataDirectory: string): Promise<boolean> {
  return isThere(join(dataDirectory, 'standby.signal'));
}

/**
 * Does PostgreSQL ask for a history that it has itself? At the very end of a recovery or promotion, when the signal files are gone,
 * it looks once more for its timeline's own: an exit above 125 would stop it there, neither a standby any more nor on a new timeline.
 */
export async function isEndingRecovery(dataDirectory: string, history: string): Promise<boolean> {
  if (await isThere(join(dataDirectory, 'recovery.signal'))) return false;
  return history === '00000001.history' || isThere(join(dataDirectory, 'pg_wal', history));
}

/** Has somebody asked for its promotion, and PostgreSQL not yet seen it? */
export function isPromoting(dataDirectory: string): Promise<boolean> {
  return isThere(join(dataDirectory, 'promote'));
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
