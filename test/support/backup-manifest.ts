/** What `pg_verifybackup --no-parse-wal` does, in its words: for the versions of PostgreSQL whose own is not at hand. Itself checked against Debian's. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { crc32c } from '@node-rs/crc32';
import { type BytePath, showPath, toBytePath, toFilePath } from '../../src/byte-path.ts';
import { type ChecksumAlgorithm, checksumAlgorithms, formatCrc32c } from '../../src/postgres/backup-manifest.ts';
import { parseControlFile } from '../../src/postgres/control-file.ts';
import { isWhole } from '../../src/postgres/control-file-crc.ts';
import { parseLsn } from '../../src/postgres/lsn.ts';

interface Entry {
  readonly sizeBytes: number;
  readonly algorithm: ChecksumAlgorithm | undefined;
  readonly hex: string | undefined;
}

interface Manifest {
  readonly version: number;
  readonly systemIdentifier: string | undefined;
  readonly files: ReadonlyMap<BytePath, Entry>;
}

export interface VerifyOptions {
  /** Files and folders to pass over, besides those that pg_verifybackup passes over itself. */
  readonly skip?: readonly string[];
}

const alwaysSkipped = [
  'backup_manifest',
  'pg_wal',
  'postgresql.auto.conf',
  'recovery.signal',
  'standby.signal',
] as const;

/** Compares a backup, tablespaces behind their links included, with its `backup_manifest`. @returns what is wrong, one line each. */
export async function verifyBackup(dataDirectory: string, { skip = [] }: VerifyOptions = {}): Promise<string[]> {
  const manifestPath = join(dataDirectory, 'backup_manifest');
  if (!existsSync(manifestPath)) return [`could not open file "${manifestPath}"`];
  let manifest: Manifest;
  try {
    manifest = parseManifest(readFileSync(manifestPath));
  } catch (error) {
    return [error instanceof Error ? error.message : String(error)];
  }
  const isSkipped = skipper([...alwaysSkipped, ...skip.map(toBytePath)]);
  const { sizes, findings, unreadable } = walk(toBytePath(dataDirectory), isSkipped);
  for (const [path, sizeBytes] of sizes) {
    const wanted = manifest.files.get(path)?.sizeBytes;
    if (wanted === undefined) findings.push(`"${showPath(path)}" is present on disk but not in the manifest`);
    else if (wanted !== sizeBytes) {
      findings.push(`"${showPath(path)}" has size ${sizeBytes} on disk but size ${wanted} in the manifest`);
    }
  }
  const isPassed = skipper(unreadable);
  for (const [path, { sizeBytes, algorithm, hex }] of manifest.files) {
    if (isSkipped(path) || isPassed(path)) continue;
    if (!sizes.has(path)) findings.push(`"${showPath(path)}" is present in the manifest but not on disk`);
    else if (sizes.get(path) === sizeBytes && algorithm !== undefined) {
      const actual = await checksumOf(toFilePath(`${toBytePath(dataDirectory)}/${path}`), algorithm);
      if (actual !== hex) findings.push(`checksum mismatch for file "${showPath(path)}"`);
    }
  }
  return [...findings, ...compareIdentifier(dataDirectory, manifest)];
}

/** Is a path one of these, or below one? */
function skipper(skipped: readonly BytePath[]): (path: BytePath) => boolean {
  return (path) => skipped.some((prefix) => path === prefix || path.startsWith(`${prefix}/`));
}

/** The sizes of all files, with every link followed; what is neither file nor folder is a finding, what cannot be looked at is that and nothing more. */
function walk(root: BytePath, isSkipped: (path: BytePath) => boolean) {
  const sizes = new Map<BytePath, number>();
  const [findings, unreadable, folders]: [string[], BytePath[], BytePath[]] = [[], [], ['']];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const name of readdirSync(toFilePath(`${root}/${folder}`), 'latin1')) {
      const path = `${folder}${name}`;
      if (isSkipped(path)) continue;
      const stats = statSync(toFilePath(`${root}/${path}`), { throwIfNoEntry: false });
      if (stats === undefined) {
        findings.push(`could not stat file or directory "${showPath(path)}"`);
        unreadable.push(path);
      } else if (stats.isDirectory()) folders.push(`${path}/`);
      else if (stats.isFile()) sizes.set(path, stats.size);
      else findings.push(`"${showPath(path)}" is not a file or directory`);
    }
  }
  return { sizes, findings, unreadable };
}

async function checksumOf(path: Buffer, algorithm: ChecksumAlgorithm): Promise<string> {
  const hash = algorithm === 'CRC32C' ? undefined : createHash(algorithm.toLowerCase());
  let crc = 0;
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    if (hash === undefined) crc = crc32c(chunk, crc);
    else hash.update(chunk);
  }
  return hash === undefined ? formatCrc32c(crc) : hash.digest('hex');
}

/** From version 2 on, the manifest is also of one cluster. */
function compareIdentifier(dataDirectory: string, { version, systemIdentifier }: Manifest): readonly string[] {
  const path = join(dataDirectory, 'global/pg_control');
  if (version === 1 || statSync(path, { throwIfNoEntry: false }) === undefined) return [];
  const file = readFileSync(path);
  const control = parseControlFile(file);
  if (control === undefined || !isWhole(file, control)) return ['global/pg_control: CRC is incorrect'];
  if (control.systemIdentifier === systemIdentifier) return [];
  return [
    `global/pg_control: manifest system identifier is ${systemIdentifier}, but control file has ${control.systemIdentifier}`,
  ];
}

/** @throws Error in pg_verifybackup's words when it is no sound manifest. */
function parseManifest(bytes: Buffer): Manifest {
  const text = bytes.toString('utf8');
  const json = parseJson(text);
  const version = json['PostgreSQL-Backup-Manifest-Version'];
  if (version !== 1 && version !== 2) throw unsound('unexpected manifest version');
  // not from the JSON: its 64 bits would be rounded
  const systemIdentifier = /^"System-Identifier": ([0-9]+),$/m.exec(text)?.[1];
  if (version === 2 && systemIdentifier === undefined) throw unsound('missing system identifier');
  const files = new Map<BytePath, Entry>();
  for (const member of membersOf(json.Files)) {
    const [path, entry] = parseEntry(member);
    if (files.has(path)) throw new Error(`duplicate path name in backup manifest: "${showPath(path)}"`);
    files.set(path, entry);
  }
  for (const { Timeline, ...lsns } of membersOf(json['WAL-Ranges'])) {
    const isSound = ['Start-LSN', 'End-LSN'].every((name) => parseLsn(String(lsns[name])) !== undefined);
    if (!Number.isInteger(Timeline) || !isSound) throw unsound('unsound WAL range');
  }
  checkSeal(bytes, String(json['Manifest-Checksum']));
  return { version, systemIdentifier, files };
}

type Members = Readonly<Record<string, unknown>>;

function unsound(detail: string): Error {
  return new Error(`could not parse backup manifest: ${detail}`);
}

function parseJson(text: string): Members {
  try {
    return JSON.parse(text);
  } catch {
    throw unsound('parsing failed');
  }
}

function membersOf(list: unknown): readonly Members[] {
  if (!Array.isArray(list)) throw unsound('parsing failed');
  return list;
}

function parseEntry(member: Members): readonly [BytePath, Entry] {
  const { Path: path, 'Encoded-Path': encoded, Size: sizeBytes } = member;
  const { 'Checksum-Algorithm': name, Checksum: checksum } = member;
  if (path !== undefined && encoded !== undefined) throw unsound('both path name and encoded path name');
  if (path === undefined && encoded === undefined) throw unsound('missing path name');
  if (encoded !== undefined && !/^(?:[0-9a-f]{2})+$/.test(String(encoded))) throw unsound('could not decode file name');
  if (!Number.isSafeInteger(sizeBytes)) throw unsound('file size is not an integer');
  if (name === undefined && checksum !== undefined) throw unsound('checksum without algorithm');
  const algorithm = checksumAlgorithms.find((known) => known === name);
  if (algorithm !== name) throw new Error(`unrecognized checksum algorithm: "${name}"`);
  const hex = checksum === undefined ? undefined : String(checksum).toLowerCase();
  const bytes = path === undefined ? Buffer.from(String(encoded), 'hex') : Buffer.from(String(path));
  return [bytes.toString('latin1'), { sizeBytes: Number(sizeBytes), algorithm, hex }];
}

/** The last line holds the SHA-256 of all before it. */
function checkSeal(bytes: Buffer, checksum: string): void {
  if (bytes.at(-1) !== 0x0a) throw unsound('last line not newline-terminated');
  if (!/^[0-9a-f]{64}$/.test(checksum)) throw new Error(`invalid manifest checksum: "${checksum}"`);
  const lastLine = bytes.lastIndexOf(0x0a, bytes.length - 2) + 1;
  const actual = createHash('sha256').update(bytes.subarray(0, lastLine)).digest('hex');
  if (actual !== checksum) throw new Error('manifest checksum mismatch');
}
