/**
 * What of a data directory is no part of a base backup, by names alone: what `pg_basebackup` leaves out, and what would
 * make a restored server something else than its backup (H22). Reads nothing.
 * @see PostgreSQL `src/backend/backup/basebackup.c`, the union of 15 to 18
 */
import type { BytePath } from '../byte-path.ts';
import { isTemporaryRelation, parseRelationFile } from '../postgres/relation-file.ts';

/** In whatever folder they lie, as PostgreSQL has it. */
const excludedNames: ReadonlySet<BytePath> = new Set([
  'postgresql.auto.conf.tmp',
  'current_logfiles.tmp',
  'backup_label',
  'tablespace_map',
  'backup_manifest',
  'postmaster.pid',
  'postmaster.opts',
  '.DS_Store',
]);
const excludedPrefixes = ['pgsql_tmp', 'pg_internal.init'];

/** At the top of the data directory alone: orders to one server, and what an earlier restore left. */
const excludedAtTop: ReadonlySet<BytePath> = new Set([
  'standby.signal',
  'recovery.signal',
  'promote',
  'fallback_promote',
  'wal-t-config',
]);

/** Emptied or made anew when a server starts; `pg_wal` comes out of the archive. */
const emptyFolders: ReadonlySet<BytePath> = new Set([
  'pg_stat_tmp',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_subtrans',
]);

/** The one folder of a tablespace that belongs to this cluster, such as `PG_15_202209061`: others may share the place. */
export function tablespaceVersionFolder(major: number, catalogVersion: number): BytePath {
  return `PG_${major}_${catalogVersion}`;
}

/** Is this the place of a tablespace, `pg_tblspc/<oid>`? */
export function isTablespacePath(path: BytePath): boolean {
  return /^pg_tblspc\/[1-9]\d*$/.test(path);
}

/** Is this a folder that relations of a database lie in, `base/<oid>` or `pg_tblspc/<oid>/PG_…/<oid>`? */
export function isDatabaseFolder(path: BytePath): boolean {
  return /^(?:base|pg_tblspc\/\d+\/PG_[^/]+)\/\d+$/.test(path);
}

/** Does the folder at this path belong into a backup, but nothing that it holds? */
export function isBackedUpEmpty(path: BytePath): boolean {
  return path === 'pg_wal' || emptyFolders.has(path.slice(path.lastIndexOf('/') + 1));
}

/** Is the file or folder `name` of `folder` (`''`: the top) no part of a backup? `global/pg_control` is: the caller copies it last (H20). */
export function isExcluded(folder: BytePath, name: BytePath): boolean {
  if (excludedNames.has(name) || excludedPrefixes.some((prefix) => name.startsWith(prefix))) return true;
  if (folder === '') return excludedAtTop.has(name) || name.startsWith('.wal-t');
  if (folder === 'global') return name === 'pg_control' || name.startsWith('pg_control.wal-t'); // of a restore that never ended
  return isDatabaseFolder(folder) && isTemporaryRelation(name);
}

/** Of a folder's names those that remain without unlogged relations: of these only the init fork is kept, which recovery makes them anew from. */
export function withoutUnlogged(folder: BytePath, names: readonly BytePath[]): readonly BytePath[] {
  if (!isDatabaseFolder(folder)) return names;
  const unlogged = new Set<BytePath>();
  for (const name of names) {
    if (name.endsWith('_init')) unlogged.add(parseRelationFile(`${folder}/${name}`)?.relation ?? '');
  }
  if (unlogged.size === 0) return names;
  return names.filter((name) => {
    const file = parseRelationFile(`${folder}/${name}`);
    return file === undefined || file.fork === 'init' || !unlogged.has(file.relation);
  });
}
