/**
 * The lines of a backup's list of files: which parts there are, and of each file where its content stands in them. Both directions.
 * A list is read as if an enemy had written it (H32): nothing of it may lead out of the folder that is restored into.
 */
import { createHash } from 'node:crypto';
import { type BytePath, formatPath, parsePath } from '../byte-path.ts';
import { ByteReader, type Bytes } from '../bytes.ts';
import type { StreamedCommitment } from '../codec/streamed.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { parseBackupId } from './backup-id.ts';

/** A part that the files behind it refer to by its index. */
export interface PartLine extends StreamedCommitment {
  readonly type: 'part';
  /** How extents name it. */
  readonly index: number;
  /** The backup that stored it, and its number there. */
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
  /** Hexadecimal, by the manifest's algorithm. */
  readonly checksum?: string | undefined;
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

/** How many lines there are of each kind. */
export interface FilesCount {
  readonly parts: number;
  readonly files: number;
  readonly folders: number;
  readonly tablespaces: number;
}

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
  const { sizeBytes, ctimeNs, inode, checksum, extents } = line;
  return { ...owned, size: sizeBytes, ctimeNs: String(ctimeNs), inode: String(inode), checksum, extents };
}

/** Ends a list with a line that counts and hashes all before it. */
export async function* sealLines(lines: Bytes, count: () => FilesCount): Bytes {
  const hash = createHash('sha256');
  for await (const chunk of lines) {
    hash.update(chunk);
    yield chunk;
  }
  yield Buffer.from(`${JSON.stringify({ type: 'seal', ...count(), sha256: hash.digest('hex') })}\n`);
}

/**
 * The lines of a list, in order. That the list is whole is known when it ends.
 * @throws CorruptError when a line is none, is out of order, names an impossible path or part, or the seal does not fit.
 */
export async function* parseLines(list: Bytes): AsyncGenerator<FilesLine> {
  const hash = createHash('sha256');
  const order = new Order();
  const reader = new ByteReader(list);
  try {
    for (;;) {
      const text = await readLine(reader);
      const value = parseJson(text);
      if (value.type === 'seal') {
        order.expectSeal(value, hash.digest('hex'));
        if (!(await reader.ended())) throw unsound('lines follow after the seal');
        return;
      }
      hash.update(text).update('\n');
      const line = value.type === 'part' ? parsePart(value) : parseEntry(value);
      order.expect(line);
      yield line;
    }
  } finally {
    await reader.close();
  }
}

/**
 * The same lines, of a list that a cluster can be made of: without pg_control it would not start, and without backup_label
 * it would, from the wrong point.
 * @throws CorruptError when one of the two is missing, or the folder of a configuration file.
 */
export async function* clusterLines(lines: AsyncIterable<FilesLine>): AsyncGenerator<FilesLine> {
  const missing = new Set<BytePath>([controlFilePath, backupLabelPath]);
  const folders = new Set<BytePath>(['']);
  for await (const line of lines) {
    if (line.type === 'file') missing.delete(line.path);
    if (line.type === 'folder' && isCopiedLast(line.path)) folders.add(line.path);
    if (line.type !== 'part' && isConfig(line.path) && !folders.has(parentOf(line.path))) {
      throw unsound(`the folder of "${line.path}" is not listed`);
    }
    yield line;
  }
  for (const path of missing) throw unsound(`"${path}" is not listed`);
}

/** What the lines before allow the next one to be. */
class Order {
  readonly #count = { parts: 0, files: 0, folders: 0, tablespaces: 0 };
  readonly #parts = new Map<number, PartLine>();
  /** The folders that later paths may lie in, outer ones first: what is in `a` comes after `a.b` and what is in that. */
  #folders: BytePath[] = [''];
  #path = '';
  #isLast = false;

  expect(line: FilesLine): void {
    if (line.type === 'part') {
      if (this.#isLast || line.index !== this.#parts.size) throw unsound('a part is out of order');
      if (line.last === true) {
        this.#isLast = true;
        this.#path = '';
      }
      this.#parts.set(line.index, line);
      this.#count.parts += 1;
      return;
    }
    this.#expectPath(line);
    if (line.type === 'file') this.#expectExtents(line);
    this.#count[`${line.type}s`] += 1;
  }

  #expectPath({ path, type }: EntryLine): void {
    if (isCopiedLast(path) !== this.#isLast) throw unsound(`"${path}" stands where it may not`);
    const inOrder = this.#isLast ? lastOrder(path) > lastOrder(this.#path) || this.#path === '' : path > this.#path;
    if (!inOrder) throw unsound(`"${path}" is out of order`);
    this.#path = path;
    if (this.#isLast) {
      if (type === 'tablespace' || (type === 'folder' && lastPaths.includes(path))) {
        throw unsound(`"${path}" stands where it may not`);
      }
      return;
    }
    const parent = parentOf(path);
    while (isOver(this.#folders.at(-1) ?? '', path)) this.#folders.pop();
    if (!this.#folders.includes(parent)) throw unsound(`the folder of "${path}" is not listed`);
    if (type !== 'file') this.#folders.push(path);
    this.#expectVersionFolder(parent, path, type);
  }

  /** Where a tablespace's link leads may be anywhere: nothing but what PostgreSQL has there is made. */
  #expectVersionFolder(parent: BytePath, path: BytePath, type: EntryLine['type']): void {
    if (!tablespacePath.test(parent)) return;
    const isOne = type === 'folder' && /^PG_\d+_\d+$/.test(path.slice(parent.length + 1));
    if (!isOne) throw unsound(`"${path}" is nothing of a tablespace`);
  }

  #expectExtents({ path, sizeBytes, extents }: FileLine): void {
    let total = 0;
    const stopped = new Map<number, number>();
    for (const [lengthBytes, index, skipBytes] of extents) {
      total += lengthBytes;
      if (index === -1) continue;
      const end = (stopped.get(index) ?? 0) + skipBytes + lengthBytes;
      stopped.set(index, end);
      if (end > (this.#parts.get(index)?.rawBytes ?? -1)) throw unsound(`"${path}" is not where it is said to be`);
    }
    if (total !== sizeBytes) throw unsound(`"${path}" has another length than its extents`);
  }

  expectSeal(seal: Record<string, unknown>, sha256: string): void {
    const agrees = Object.entries(this.#count).every(([name, number]) => seal[name] === number);
    if (!agrees || seal.sha256 !== sha256) throw unsound('its seal does not fit');
  }
}

/** Where files outside the data directory are kept, below their own absolute paths. */
export const configFolder = 'wal-t-config';
export const controlFilePath = 'global/pg_control';
export const backupLabelPath = 'backup_label';
export const tablespaceMapPath = 'tablespace_map';
const lastPaths: readonly BytePath[] = [controlFilePath, backupLabelPath, tablespaceMapPath];

/** Is it one of the few that are copied when all others are? They have an order of their own. */
export function isCopiedLast(path: BytePath): boolean {
  return lastPaths.includes(path) || isConfig(path);
}

function isConfig(path: BytePath): boolean {
  return path === configFolder || path.startsWith(`${configFolder}/`);
}

function parentOf(path: BytePath): BytePath {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

/** Configuration, then pg_control, then the labels. */
function lastOrder(path: BytePath): string {
  const index = lastPaths.indexOf(path);
  return index === -1 ? `0${path}` : String(index + 1);
}

/** Can nothing of `folder` come any more, from `path` on? */
function isOver(folder: BytePath, path: BytePath): boolean {
  const start = `${folder}/`;
  return folder !== '' && path > start && !path.startsWith(start);
}

/** Below `pg_tblspc/`, where PostgreSQL has its links. */
const tablespacePath = /^pg_tblspc\/[1-9]\d{0,9}$/;

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
  const { size, ctimeNs, inode, checksum, extents } = value;
  const sound =
    isCount(size) &&
    [ctimeNs, inode].every(isInteger) &&
    (checksum === undefined || (typeof checksum === 'string' && /^[0-9a-f]{8,128}$/.test(checksum))) &&
    Array.isArray(extents) &&
    extents.every(isExtent);
  if (!sound) throw unsound('a file line is malformed');
  return {
    sizeBytes: size as number,
    ctimeNs: BigInt(ctimeNs as string),
    inode: BigInt(inode as string),
    checksum: checksum as string | undefined,
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
const isInteger = (value: unknown) => typeof value === 'string' && /^-?\d{1,20}$/.test(value);
/** Permission bits alone: no set-uid, no set-gid, no sticky bit. */
const isMode = (value: unknown) => isCount(value) && (value as number) <= 0o777;

async function readLine(reader: ByteReader): Promise<string> {
  const text = await reader.readUntil(0x0a, limits.lineBytes);
  if (text === undefined) throw unsound('it ends without its seal');
  return text.toString('utf8');
}

function parseJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // said below
  }
  throw unsound('a line is not a JSON object');
}

function unsound(detail: string): CorruptError {
  return new CorruptError('the list of files is not sound', { detail });
}
