/** The paths of a list of files that have a meaning: where what is copied last stands, and what lies outside the data directory. */
import type { BytePath } from '../byte-path.ts';

/** Where files outside the data directory are kept, below their own absolute paths. */
export const configFolder = 'wal-t-config';
export const controlFilePath = 'global/pg_control';
export const backupLabelPath = 'backup_label';
export const tablespaceMapPath = 'tablespace_map';
export const lastPaths: readonly BytePath[] = [controlFilePath, backupLabelPath, tablespaceMapPath];

/** Is it one of the few that are copied when all others are? They have an order of their own. */
export function isCopiedLast(path: BytePath): boolean {
  return lastPaths.includes(path) || isConfig(path);
}

export function isConfig(path: BytePath): boolean {
  return path === configFolder || path.startsWith(`${configFolder}/`);
}

/** Below `pg_tblspc/`, where PostgreSQL has its links. */
export const tablespacePath = /^pg_tblspc\/[1-9]\d{0,9}$/;
