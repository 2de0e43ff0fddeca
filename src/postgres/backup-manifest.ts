/**
 * PostgreSQL's `backup_manifest`, which `pg_verifybackup` reads: every file of a base backup and the WAL that it needs. Writes only, as a stream.
 * @see PostgreSQL `src/backend/backup/backup_manifest.c`, manual "Backup Manifest Format"
 */
import assert from 'node:assert';
import { createHash } from 'node:crypto';
import { type BytePath, formatPath } from '../byte-path.ts';
import { formatLsn, type Lsn } from './lsn.ts';

export const checksumAlgorithms = ['CRC32C', 'SHA224', 'SHA256', 'SHA384', 'SHA512'] as const;
export type ChecksumAlgorithm = (typeof checksumAlgorithms)[number];

export interface ManifestFile {
  /** Relative to the data directory, a tablespace's below `pg_tblspc/<oid>/`. */
  readonly path: BytePath;
  readonly sizeBytes: number;
  readonly modifiedAt: Date;
  /** In small hexadecimal digits; of a CRC32C as `formatCrc32c` gives them. */
  readonly checksum?: { readonly algorithm: ChecksumAlgorithm; readonly hex: string } | undefined;
}

export interface WalRange {
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface ManifestOptions {
  readonly postgresMajor: number;
  /** Decimal. */
  readonly systemIdentifier: string;
  /** The newest timeline first, as PostgreSQL lists them. */
  readonly walRanges: readonly WalRange[];
}

/** The chunks of the manifest have about this size. */
const chunkChars = 64 * 1024;

/** Writes the manifest, byte for byte in PostgreSQL's form. Its last line is the SHA-256 of all before. */
export async function* formatBackupManifest(
  files: AsyncIterable<ManifestFile>,
  options: ManifestOptions,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  const seal = (text: string): Buffer => {
    const chunk = Buffer.from(text, 'utf8');
    hash.update(chunk);
    return chunk;
  };
  let text = formatHead(options);
  let separator = '\n';
  for await (const file of files) {
    text += separator + formatFile(file);
    separator = ',\n';
    if (text.length < chunkChars) continue;
    yield seal(text);
    text = '';
  }
  yield seal(`${text}\n],\n"WAL-Ranges": [\n${options.walRanges.map(formatRange).join(',\n')}\n],\n`);
  yield Buffer.from(`"Manifest-Checksum": "${hash.digest('hex')}"}\n`);
}

function formatHead({ postgresMajor, systemIdentifier }: ManifestOptions): string {
  if (postgresMajor < 17) return '{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [';
  // a bare number of 64 bits, which JSON.stringify would round (H46)
  assert(/^[1-9][0-9]{0,19}$/.test(systemIdentifier));
  return `{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": ${systemIdentifier},\n"Files": [`;
}

function formatFile({ path, sizeBytes, modifiedAt, checksum }: ManifestFile): string {
  const name = formatPath(path);
  const members = [
    'path' in name ? `"Path": ${JSON.stringify(name.path)}` : `"Encoded-Path": "${name.pathHex}"`,
    `"Size": ${sizeBytes}`,
    `"Last-Modified": "${formatTime(modifiedAt)}"`,
  ];
  if (checksum !== undefined) {
    members.push(`"Checksum-Algorithm": "${checksum.algorithm}"`, `"Checksum": "${checksum.hex}"`);
  }
  return `{ ${members.join(', ')} }`;
}

/** "2026-11-20 08:30:00 GMT" */
function formatTime(time: Date): string {
  return time
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' GMT');
}

function formatRange({ timeline, startLsn, endLsn }: WalRange): string {
  return `{ "Timeline": ${timeline}, "Start-LSN": "${formatLsn(startLsn)}", "End-LSN": "${formatLsn(endLsn)}" }`;
}

/** A CRC-32C in PostgreSQL's hexadecimal digits: of the number's four bytes as they stand in memory, the low one first (seen in a backup of PostgreSQL 15). */
export function formatCrc32c(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(crc);
  return bytes.toString('hex');
}
