/**
 * The lines of a backup's list of files, one by one: their shapes, and their text in both directions.
 * A line is read as if an enemy had written it (H32): no path of it may lead out of the folder that is restored into.
 */
import { type BytePath, formatPath, parsePath } from '../byte-path.ts';
import type { StreamedCommitment } from '../codec/streamed.ts';
import { CorruptError } from '../errors.ts';
import { parseBackupId } from './backup-id.ts';
import { controlFilePath, tablespacePath } from './files-paths.ts';

/** A part that the files behind it refer to by its index. */
export interface PartLine extends StreamedCommitment {
  readonly type: 'part';
  /** How extents name it: no other part of the list has the same. */
  readonly index: number;
  /** The backup that stored it, of an increment perhaps an earlier one, and its number there. */
  readonly backup: string;
  readonly number: number;
  /** It holds what is copied last: the order of paths ends before it. */
  readonly last?: true;
}

/** So many bytes of the file, from raw offset `skip` of the part on: counted from where this line last stopped in that part. */
export type Extent = readonly [lengthBytes: number, partIndex: number, skipBytes: number];

interface Owned {
  readonly path: BytePath;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits. */
  readonly mode: number;
  readonly mtimeNs: bigint;
}

export interface FileLine extends Owned {
  readonly type: 'file';
  readonly sizeBytes: number;
  readonly ctimeNs: bigint;
  readonly inode: bigint;
  /** Hexadecimal, by the manifest's algorithm. Absent when not all of the file was read for this backup. */
  readonly checksum?: string | undefined;
  /** Base64 of 16 bytes for each begun MiB: the first half of its SHA-256, or zeros where it is not known. Absent when none is. */
  readonly hashes?: string | undefined;
  /**
   * Base64 of a bit for each page of a relation's main fork, from the lowest of the first byte on: is PD_ALL_VISIBLE set (H36)? Absent where that
   * is not known.
   */
  readonly allVisible?: string | undefined;
  /** Tile the file, from its beginning to its end. */
  readonly extents: readonly Extent[];
}

export interface FolderLine extends Owned {
  readonly type: 'folder';
}

export interface TablespaceLine extends Owned {
  readonly type: 'tablespace';
  /** Absolute: where the link leads on the server. */
  readonly target: BytePath;
}

export type EntryLine = FileLine | FolderLine | TablespaceLine;
export type FilesLine = PartLine | EntryLine;

/** One line, ended by a line feed. */
export function formatLine(line: FilesLine): string {
  return `${JSON.stringify(line.type === 'part' ? line : entryMembers(line))}\n`;
}

function entryMembers(line: EntryLine): object {
  const { type, path, uid, gid, mode, mtimeNs } = line;
  const owned = { type, ...formatPath(path), uid, gid, mode, mtimeNs: String(mtimeNs) };
  if (line.type === 'folder') return owned;
  if (line.type === 'tablespace') {
    const target = formatPath(line.target);
    return { ...owned, ...('path' in target ? { target: target.path } : { targetHex: target.pathHex }) };
  }
  const { sizeBytes, ctimeNs, inode, checksum, hashes, allVisible, extents } = line;
  const times = { ctimeNs: String(ctimeNs), inode: String(inode) };
  return { ...owned, size: sizeBytes, ...times, checksum, hashes, allVisible, extents };
}

/** A line of the list, the seal apart. @throws CorruptError when it is none that is known, or names an impossible path. */
export function parseLine(value: Record<string, unknown>): FilesLine {
  return value.type === 'part' ? parsePart(value) : parseEntry(value);
}

function isSafe(path: BytePath): boolean {
  return (
    path.length <= 4096 &&
    path.split('/').every((part) => part !== '' && part !== '.' && part !== '..') &&
    !path.includes('\0') &&
    !isOfRestore(path)
  );
}

/** What a restore itself writes, and no backup has: its marks, `backup_manifest`, and pg_control while it must not be found. */
function isOfRestore(path: BytePath): boolean {
  return path.startsWith('.wal-t') || path === 'backup_manifest' || path === `${controlFilePath}.wal-t-restore`;
}

function parsePart(value: Record<string, unknown>): PartLine {
  const { index, backup, number, objectBytes, storedBytes, rawBytes, sha256, tableSha256, keyCommitment, last } = value;
  const sound =
    [index, number, objectBytes, storedBytes, rawBytes].every(isCount) &&
    (number as number) > 0 &&
    typeof backup === 'string' &&
    parseBackupId(backup) !== undefined &&
    [sha256, tableSha256, ...(keyCommitment === undefined ? [] : [keyCommitment])].every(isHash) &&
    (last === undefined || last === true);
  if (!sound) throw unsound('a part line is malformed');
  return value as unknown as PartLine;
}

function parseEntry(value: Record<string, unknown>): EntryLine {
  const path = parsePath(value);
  const { type, uid, gid, mode, mtimeNs } = value;
  const sound = path !== undefined && isSafe(path) && [uid, gid].every(isCount) && isMode(mode) && isInteger(mtimeNs);
  if (!sound) throw unsound('a line is malformed');
  const owned = {
    path,
    uid: uid as number,
    gid: gid as number,
    mode: mode as number,
    mtimeNs: BigInt(mtimeNs as string),
  };
  if (type === 'folder') return { type, ...owned };
  if (type === 'file') return { type, ...owned, ...fileMembers(value) };
  const target = parsePath({ path: value.target, pathHex: value.targetHex });
  if (
    type !== 'tablespace' ||
    !tablespacePath.test(path) ||
    target?.startsWith('/') !== true ||
    target.includes('\0')
  ) {
    throw unsound(`"${path}" is of no kind that is known`);
  }
  return { type, ...owned, target };
}

function fileMembers(value: Record<string, unknown>) {
  const { size, ctimeNs, inode, checksum, hashes, allVisible, extents } = value;
  const sound =
    isCount(size) &&
    [ctimeNs, inode].every(isInteger) &&
    [hashes, allVisible].every((one) => one === undefined || (typeof one === 'string' && base64.test(one))) &&
    (checksum === undefined || (typeof checksum === 'string' && /^[0-9a-f]{8,128}$/.test(checksum))) &&
    Array.isArray(extents) &&
    extents.every(isExtent);
  if (!sound) throw unsound('a file line is malformed');
  return {
    sizeBytes: size as number,
    ctimeNs: BigInt(ctimeNs as string),
    inode: BigInt(inode as string),
    checksum: checksum as string | undefined,
    hashes: hashes as string | undefined,
    allVisible: allVisible as string | undefined,
    extents: extents as readonly Extent[],
  };
}

function isExtent(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [lengthBytes, index, skipBytes] = value as unknown[];
  return (
    isCount(lengthBytes) &&
    (lengthBytes as number) > 0 &&
    isCount((index as number) + 1) &&
    Number.isSafeInteger(skipBytes) &&
    (skipBytes as number) >= 0
  );
}

const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const isHash = (value: unknown) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
const base64 = /^[A-Za-z0-9+/]*={0,2}$/;
const isInteger = (value: unknown) => typeof value === 'string' && /^-?\d{1,20}$/.test(value);
/** Permission bits alone: no set-uid, no set-gid, no sticky bit. */
const isMode = (value: unknown) => isCount(value) && (value as number) <= 0o777;

/** The error for a list that cannot be what was stored. */
export function unsound(detail: string): CorruptError {
  return new CorruptError('the list of files is not sound', { detail });
}
