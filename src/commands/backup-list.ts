/** backup-list: every backup of a cluster, with what is known of it. */
import type { Archive } from '../archive/archive.ts';
import type { BackupState } from '../archive/backup-catalogue.ts';
import type { BackupType } from '../archive/backup-id.ts';
import { type BackupManifest, type BadPage, readManifest } from '../archive/manifest.ts';
import { ConfigurationError, CorruptError, NotFoundError, ObjectNotFound } from '../errors.ts';
import { formatLsn } from '../postgres/lsn.ts';
import { segmentNameAt } from '../postgres/wal-file-name.ts';
import { type ListedBackup, openArchive, readCatalogue } from './backups.ts';
import type { Context } from './context.ts';
import { type BackupWindow, windowsOfBackups } from './windows.ts';

/** One backup; the first three members bear the names that scripts for WAL-G look for. Times are ISO 8601, UTC. */
export interface BackupRow {
  readonly backup_name: string;
  readonly modified: string;
  readonly wal_file_name: string;
  readonly type: BackupType;
  readonly state: BackupState;
  readonly timeline: number;
  readonly started_at: string;
  /** This and all below only where its manifest could be read. */
  readonly finished_at?: string;
  readonly start_lsn?: string;
  readonly stop_lsn?: string;
  /** Lengths of all files as they are restored, and of all that it stored itself. */
  readonly raw_bytes?: number;
  readonly stored_bytes?: number;
  /** Of an increment: the backup that it was compared with. */
  readonly parent?: string;
  /** Length of all parts that it needs, those of other backups included. */
  readonly used_bytes?: number;
  /** Other backups whose parts it needs. */
  readonly uses?: readonly string[];
  readonly postgres_version?: string;
  /** Pages whose checksum was wrong when they were copied. */
  readonly checksum_failures?: number;
  /** The first of them; `block` is counted over all files of the relation. */
  readonly bad_pages?: readonly BadPage[];
  readonly host?: string;
  readonly from_standby?: boolean;
  readonly annotations?: Readonly<Record<string, string>>;
  /** Which moments it leads to: the last transaction's end, ISO 8601, and the last record, before WAL ends or has a hole. */
  readonly window_until?: string;
  readonly window_until_lsn?: string;
  /** The segment that is missing behind the window. */
  readonly window_hole?: string;
  /** Why its manifest could not be read. */
  readonly problem?: string;
}

export interface BackupList {
  readonly systemIdentifier: string;
  readonly backups: readonly BackupRow[];
}

/** Manifests that are read at the same time. */
const readsInFlight = 8;

/** Oldest first. A manifest that cannot be read leaves what the keys tell. */
export async function backupList(context: Context, { window }: { readonly window: boolean }): Promise<BackupList> {
  const archive = await openArchive(context);
  const catalogue = await readCatalogue(context, archive);
  const backups: BackupRow[] = [];
  let hidden: string | undefined;
  for (let start = 0; start < catalogue.length; start += readsInFlight) {
    const some = catalogue.slice(start, start + readsInFlight);
    const rows = await Promise.all(
      some.map(async (entry) => {
        const read = entry.hasManifest ? await tryManifest(context, archive, entry.id) : {};
        if (read.hidden !== undefined) hidden ??= read.hidden;
        return rowOf(entry, read);
      }),
    );
    backups.push(...rows);
  }
  if (hidden !== undefined) {
    context.log.warning('only what the keys tell is shown', {
      detail: hidden,
      hint: 'Set WALT_AGE_IDENTITY_FILE to an identity that may read manifests, to see sizes, LSNs and versions.',
    });
  }
  const windows = window && hidden === undefined ? await tryWindows(context, archive, backups) : new Map();
  const withWindows = backups.map((row) => ({ ...row, ...windowMembers(windows.get(row.backup_name)) }));
  return { systemIdentifier: archive.systemIdentifier, backups: withWindows };
}

/** Windows need the WAL itself: what cannot be read is no reason to show no list. */
async function tryWindows(
  context: Context,
  archive: Archive,
  backups: readonly BackupRow[],
): Promise<ReadonlyMap<string, BackupWindow>> {
  if (!backups.some(({ state }) => state === 'confirmed')) return new Map();
  try {
    return await windowsOfBackups(context, archive);
  } catch (error) {
    if (!(error instanceof CorruptError || error instanceof ConfigurationError || error instanceof NotFoundError))
      throw error;
    context.log.warning('how far the backups lead is not shown', {
      detail: error.message,
      hint: '--no-window leaves it away.',
    });
    return new Map();
  }
}

function windowMembers(window: BackupWindow | undefined): Partial<BackupRow> {
  if (window === undefined) return {};
  const { untilTime, untilLsn, hole } = window;
  return {
    ...(untilTime === undefined ? {} : { window_until: new Date(Number(untilTime / 1000n)).toISOString() }),
    window_until_lsn: formatLsn(untilLsn),
    ...(hole === undefined ? {} : { window_hole: hole.missing }),
  };
}

interface ReadManifest {
  readonly manifest?: BackupManifest;
  readonly problem?: string;
  /** It is sound perhaps, but not for this host to read. */
  readonly hidden?: string;
}

async function tryManifest({ signal }: Context, archive: Archive, id: string): Promise<ReadManifest> {
  try {
    return { manifest: await readManifest(archive, id, { signal }) };
  } catch (error) {
    if (error instanceof ObjectNotFound) return {}; // deleted since it was listed
    if (error instanceof ConfigurationError) return { hidden: error.message };
    if (error instanceof CorruptError) return { problem: error.message };
    throw error;
  }
}

function rowOf(
  { id, segment, type, state, timeline, startedAt }: ListedBackup,
  { manifest, problem }: ReadManifest,
): BackupRow {
  const known = {
    backup_name: id,
    modified: startedAt.toISOString(),
    wal_file_name: segment,
    type,
    state,
    timeline,
    started_at: startedAt.toISOString(),
  };
  if (manifest === undefined) return problem === undefined ? known : { ...known, problem };
  const { startLsn, stopLsn, walSegmentBytes, finishedAt, statistics, uses, parent, postgres, badPages, source } =
    manifest;
  return {
    ...known,
    modified: finishedAt,
    wal_file_name: segmentNameAt(manifest.timeline, startLsn, walSegmentBytes),
    started_at: manifest.startedAt,
    finished_at: finishedAt,
    start_lsn: formatLsn(startLsn),
    stop_lsn: formatLsn(stopLsn),
    raw_bytes: statistics.rawBytes,
    stored_bytes: statistics.storedBytes,
    used_bytes: statistics.usedBytes ?? statistics.storedBytes,
    ...(parent === undefined ? {} : { parent }),
    uses: Object.keys(uses).filter((other) => other !== id),
    postgres_version: postgres.version,
    checksum_failures: badPages.count,
    bad_pages: badPages.pages,
    host: source.host,
    from_standby: source.standby,
    annotations: manifest.annotations,
  };
}
