/** A backup's manifest: a few kilobytes that tell what it is, what it needs and where its list of files is. The commit point. Both directions. */
import { parsePath } from '../byte-path.ts';
import type { StreamedCommitment } from '../codec/streamed.ts';
import { CorruptError } from '../errors.ts';
import { type ManifestChecksums, manifestChecksums } from '../postgres/file-checksum.ts';
import { formatLsn, type Lsn, parseLsn } from '../postgres/lsn.ts';
import { isSegmentSize } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import { type Archive, about } from './archive.ts';
import { type BackupType, parseBackupId } from './backup-id.ts';
import type { FilesCount } from './files-list.ts';
import { manifestName, objectKey } from './keys.ts';
import { isUses, type PartUses } from './part-uses.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

export interface BackupManifest {
  readonly id: string;
  readonly type: BackupType;
  /** Of an increment: the backup whose unchanged pages it refers to. It may be deleted, and nothing ever reads it again. */
  readonly parent?: string | undefined;
  readonly systemIdentifier: string;
  /** `17.10`, and as a number 170010. */
  readonly postgres: { readonly version: string; readonly versionNumber: number };
  readonly timeline: number;
  /** Recovery begins here, as backup_label says. */
  readonly startLsn: Lsn;
  /** What `pg_backup_stop` gave. */
  readonly stopLsn: Lsn;
  /** Recovery must go so far at least: the later of `stopLsn` and pg_control's minRecoveryPoint (H20). */
  readonly consistentLsn: Lsn;
  /** ISO 8601, UTC, by the clock of `source.host`. */
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly walSegmentBytes: number;
  readonly pageBytes: number;
  /** Does the cluster have page checksums? */
  readonly checksums: boolean;
  readonly badPages: BadPages;
  readonly source: { readonly host: string; readonly dataDirectory: string; readonly standby: boolean };
  readonly tablespaces: readonly ({ readonly oid: string } & (
    | { readonly path: string }
    | { readonly pathHex: string }
  ))[];
  /** What `pg_backup_start` was given. */
  readonly label: string;
  /** Base64: the files of these names, byte for byte. */
  readonly backupLabel: string;
  readonly tablespaceMap: string;
  /** Of each file that was read whole. */
  readonly manifestChecksums: ManifestChecksums;
  readonly annotations: Readonly<Record<string, string>>;
  readonly statistics: BackupStatistics;
  readonly files: StreamedCommitment;
  /** The parts that it needs: for each backup that stored any, ranges of their numbers. */
  readonly uses: PartUses;
}

/** Pages whose checksum was wrong when they were copied: all are counted, the first ones named. */
export interface BadPages {
  readonly count: number;
  readonly pages: readonly BadPage[];
}

export type BadPage = { readonly block: number } & ({ readonly path: string } | { readonly pathHex: string });

export interface BackupStatistics extends FilesCount {
  /** Length of all files as restored, and of all that was stored for them. */
  readonly rawBytes: number;
  readonly storedBytes: number;
  /** Length of all parts that it needs, as stored: what a restore reads at most. */
  readonly usedBytes?: number | undefined;
}

/** Stores a backup's manifest: from here on it exists, and counts when it is confirmed. */
export async function storeManifest(archive: Archive, manifest: BackupManifest, writer: DocumentWriter): Promise<void> {
  const { startLsn, stopLsn, consistentLsn, ...members } = manifest;
  const document = {
    ...members,
    startLsn: formatLsn(startLsn),
    stopLsn: formatLsn(stopLsn),
    consistentLsn: formatLsn(consistentLsn),
  };
  await putDocument(archive, { kind: 'manifest', name: manifestName(manifest.id) }, document, writer);
}

/** @throws ObjectNotFound when there is none, CorruptError when it is not one that was stored. */
export async function readManifest(archive: Archive, id: string, options?: RequestOptions): Promise<BackupManifest> {
  const name = manifestName(id);
  const document = await getDocument(archive, { kind: 'manifest', name }, options);
  const lsns = {
    startLsn: parseLsn(String(document.startLsn)),
    stopLsn: parseLsn(String(document.stopLsn)),
    consistentLsn: parseLsn(String(document.consistentLsn)),
  };
  const manifest = { ...document, ...lsns };
  if (isManifest(manifest) && manifest.id === id && manifest.systemIdentifier === archive.systemIdentifier) {
    return manifest;
  }
  const key = objectKey(archive.systemIdentifier, name);
  throw about(new CorruptError('the manifest lacks what it must say'), archive, key);
}

function isManifest(value: object): value is BackupManifest {
  const m = value as { readonly [member in keyof BackupManifest]?: unknown };
  const source = m.source as Partial<BackupManifest['source']> | undefined;
  const postgres = m.postgres as Partial<BackupManifest['postgres']> | undefined;
  return (
    typeof m.id === 'string' &&
    parseBackupId(m.id)?.type === m.type &&
    (m.parent === undefined || (typeof m.parent === 'string' && parseBackupId(m.parent) !== undefined)) &&
    [m.startLsn, m.stopLsn, m.consistentLsn].every((lsn) => typeof lsn === 'bigint') &&
    [m.startedAt, m.finishedAt].every((time) => typeof time === 'string' && !Number.isNaN(Date.parse(time))) &&
    isCount(m.timeline) &&
    isCount(postgres?.versionNumber) &&
    typeof postgres?.version === 'string' &&
    typeof m.walSegmentBytes === 'number' &&
    isSegmentSize(m.walSegmentBytes) &&
    isCount(m.pageBytes) &&
    typeof m.checksums === 'boolean' &&
    typeof source?.host === 'string' &&
    typeof source.dataDirectory === 'string' &&
    typeof source.standby === 'boolean' &&
    [m.label, m.backupLabel, m.tablespaceMap].every((text) => typeof text === 'string') &&
    manifestChecksums.includes(m.manifestChecksums as ManifestChecksums) &&
    isTexts(m.annotations) &&
    isTablespaces(m.tablespaces) &&
    isBadPages(m.badPages) &&
    isStatistics(m.statistics) &&
    isCommitment(m.files) &&
    isUses(m.uses)
  );
}

const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function isTexts(value: unknown): boolean {
  return isObject(value) && Object.values(value).every((text) => typeof text === 'string');
}

const isOid = (value: unknown) => typeof value === 'string' && /^[1-9]\d{0,9}$/.test(value);

function isTablespaces(value: unknown): boolean {
  return Array.isArray(value) && value.every((one) => isObject(one) && isOid(one.oid) && parsePath(one) !== undefined);
}

function isBadPages(value: unknown): boolean {
  return (
    isObject(value) &&
    isCount(value.count) &&
    Array.isArray(value.pages) &&
    value.pages.every((page) => isObject(page) && isCount(page.block) && parsePath(page) !== undefined)
  );
}

function isStatistics(value: unknown): boolean {
  const names = ['parts', 'files', 'folders', 'tablespaces', 'rawBytes', 'storedBytes'];
  const isOptional = isObject(value) && (value.usedBytes === undefined || isCount(value.usedBytes));
  return isOptional && names.every((name) => isCount(value[name]));
}

function isCommitment(value: unknown): boolean {
  const isHash = (hash: unknown) => typeof hash === 'string' && /^[0-9a-f]{64}$/.test(hash);
  return (
    isObject(value) &&
    [value.objectBytes, value.storedBytes, value.rawBytes].every(isCount) &&
    [value.sha256, value.tableSha256].every(isHash) &&
    (value.keyCommitment === undefined || isHash(value.keyCommitment))
  );
}
