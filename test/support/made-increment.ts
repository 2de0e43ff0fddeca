/**
 * Base backups and increments made with the archive's own functions and without a server: parts of any content, and files of any pieces of them.
 * A test chooses both, as hostile as the format allows.
 */
import type { Archive } from '../../src/archive/archive.ts';
import { extentsOf, type Piece, replaced } from '../../src/archive/extents.ts';
import { type FileLine, type FilesLine, formatLine, type PartLine } from '../../src/archive/files-line.ts';
import { sealLines } from '../../src/archive/files-list.ts';
import { leaseName } from '../../src/archive/keys.ts';
import { type BackupManifest, storeManifest } from '../../src/archive/manifest.ts';
import { storeStream } from '../../src/archive/part.ts';
import { usesOf } from '../../src/archive/part-uses.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { bytesOf } from '../../src/bytes.ts';
import { makeChecksum } from '../../src/postgres/file-checksum.ts';
import { makePageSum } from '../../src/postgres/page-sum.ts';
import { plainManifest } from './forged-backup.ts';
import { seededRandom } from './random.ts';
import { makeControlFile } from './segment.ts';

const stream = { level: 1, sizeHint: 0 };
const host = 'test-host';
const owned = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mtimeNs: 1_000_000_000n };

/** The name of the backup that is taken in this minute. */
export function madeId(minute: number, type: 'full' | 'incr' = minute === 0 ? 'full' : 'incr'): string {
  const digits = (value: number) => String(value).padStart(2, '0');
  const segment = (2 + minute).toString(16).toUpperCase().padStart(8, '0');
  return `20261120T${digits(8 + Math.floor(minute / 60))}${digits(minute % 60)}00Z-0000000100000000${segment}-${type}-0badcafe`;
}

/** A part that is stored, with its content. */
export interface MadePart {
  readonly line: Omit<PartLine, 'type' | 'index' | 'last'>;
  readonly content: Buffer;
}

export async function storePart(archive: Archive, backup: string, number: number, content: Buffer): Promise<MadePart> {
  const commitment = await storeStream(archive, { backup, part: number }, bytesOf(content), stream);
  return { line: { backup, number, ...commitment }, content };
}

export interface MadeFile {
  /** `base/5/16384`: the folders above it are listed, too. */
  readonly path: string;
  /** Of the parts by their position in the backup's. */
  readonly pieces: readonly Piece[];
  /** Was all of it read for this backup? */
  readonly isRead?: boolean;
  /** What stands in its line instead. */
  readonly members?: Partial<FileLine>;
}

export interface MadeBackup {
  readonly id: string;
  /** Own parts and those of earlier backups, in any order. The one with the control file is added. */
  readonly parts: readonly MadePart[];
  /** By their paths. */
  readonly files: readonly MadeFile[];
  readonly manifest?: Partial<BackupManifest>;
}

export function contentOf({ pieces }: Pick<MadeFile, 'pieces'>, parts: readonly MadePart[]): Buffer {
  return Buffer.concat(
    pieces.map(({ lengthBytes, part, offset }) =>
      part === -1
        ? Buffer.alloc(lengthBytes)
        : (parts[part]?.content ?? Buffer.alloc(0)).subarray(offset, offset + lengthBytes),
    ),
  );
}

/** Stores list, last part and manifest, and confirms. @returns what the manifest says. */
export async function storeMade(archive: Archive, made: MadeBackup): Promise<BackupManifest> {
  const { id, parts, files } = made;
  const [control, label] = [makeControlFile(), Buffer.from('START WAL LOCATION: 0/200028\n')];
  const own = parts.filter(({ line }) => line.backup === id);
  const last = await storePart(archive, id, own.length + 1, Buffer.concat([control, label]));
  const lines = [
    ...linesOf(made),
    partLine(last, parts.length, true),
    fileLine('global/pg_control', control, [[control.length, parts.length, 0]]),
    fileLine('backup_label', label, [[label.length, parts.length, control.length]]),
  ];
  const count = (type: string) => lines.filter((line) => line.type === type).length;
  const counts = { parts: count('part'), files: count('file'), folders: count('folder'), tablespaces: 0 };
  const text = Buffer.from(lines.map(formatLine).join(''));
  const commitment = await storeStream(
    archive,
    { backup: id, part: 'files' },
    sealLines(bytesOf(text), () => counts),
    stream,
  );
  const rawBytes = lines.reduce((sum, line) => sum + (line.type === 'file' ? line.sizeBytes : 0), 0);
  const bytesIn = (some: readonly MadePart[]) => some.reduce((sum, { line }) => sum + line.objectBytes, 0);
  const isFull = id.includes('-full-');
  const manifest: BackupManifest = {
    ...plainManifest,
    id,
    type: isFull ? 'full' : 'incremental',
    statistics: { ...counts, rawBytes, storedBytes: bytesIn([...own, last]), usedBytes: bytesIn([...parts, last]) },
    files: commitment,
    uses: usesOf([...parts.filter((_, index) => files.some(needs(index))), last].map(({ line }) => line)),
    ...made.manifest,
  };
  await storeManifest(archive, manifest, { host });
  await putDocument(archive, { kind: 'lease', name: leaseName(id, 'closed') }, { id }, { host });
  return manifest;
}

const needs = (index: number) => (file: MadeFile) => file.pieces.some(({ part }) => part === index);

/** Each part stands before the first file that needs it. */
function linesOf({ parts, files }: MadeBackup): FilesLine[] {
  const lines: FilesLine[] = [];
  const folders = new Set<string>(['', 'global']);
  const named = new Set<number>();
  const entries = [...files.map((file) => ({ path: file.path, file })), { path: 'global', file: undefined }];
  for (const { path, file } of entries.sort((a, b) => (a.path < b.path ? -1 : 1))) {
    for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) {
      const folder = path.slice(0, at);
      if (!folders.has(folder)) lines.push({ type: 'folder', path: folder, ...owned, mode: 0o700 });
      folders.add(folder);
    }
    if (file === undefined) lines.push({ type: 'folder', path, ...owned, mode: 0o700 });
    else {
      for (const { part } of file.pieces) {
        const found = parts[part];
        if (found === undefined || named.has(part)) continue;
        named.add(part);
        lines.push(partLine(found, part));
      }
      const line = fileLine(path, contentOf(file, parts), extentsOf(file.pieces));
      lines.push({ ...line, ...(file.isRead === true ? {} : { checksum: undefined }), ...file.members });
    }
  }
  return lines;
}

function partLine({ line }: MadePart, index: number, last?: true): PartLine {
  return { type: 'part', index, ...line, ...(last === true ? { last } : {}) };
}

function fileLine(path: string, content: Buffer, extents: FileLine['extents']): FileLine {
  const checksum = makeChecksum('CRC32C');
  checksum.update(content);
  const attributes = { mode: 0o600, ctimeNs: 0n, inode: 7n, checksum: checksum.end() };
  return { type: 'file', path, ...owned, ...attributes, sizeBytes: content.length, extents };
}

const pageSum = makePageSum();

/** A page of 8 KiB with a right checksum, if it stands at this block. */
export function makePage(content: Uint8Array, block: number, lsn = 0x100_000n): Buffer {
  const page = Buffer.alloc(8192);
  page.set(content.subarray(0, 8192 - 24), 24);
  page.writeUInt32LE(Number(lsn >> 32n), 0);
  page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  page.writeUInt16LE(24, 12);
  page.writeUInt16LE(8192, 14);
  pageSum.memory.set(page);
  page.writeUInt16LE((((pageSum.sum(8192) ^ block) >>> 0) % 65535) + 1, 8);
  return page;
}

export interface Chain {
  readonly increments: number;
  /** Pages of the relation that changes. */
  readonly pages: number;
  /** So many of them before each increment. */
  readonly changed: number;
  readonly seed?: number;
}

/** The relation whose pages change, and one that never does. */
export const changing = 'base/5/16384';
const unchanging = 'base/5/16385';

/** A full backup, and increments that each changed some pages at random: the oldest first. Their pages have checksums. */
export async function storeChain(
  archive: Archive,
  { increments, pages, changed, seed = 1 }: Chain,
): Promise<MadeBackup[]> {
  const random = seededRandom(seed);
  const page = (block: number) => {
    const content = Buffer.alloc(8168, `block ${block} `);
    for (let at = 0; at < 4096; at += 4) content.writeUInt32LE(random(2 ** 32), at);
    return makePage(content, block);
  };
  const stored: MadePart[] = [];
  const backups: MadeBackup[] = [];
  let pieces: readonly Piece[] = [{ lengthBytes: pages * 8192, part: 0, offset: 512 }];
  const still: Piece = { lengthBytes: 16 * 8192, part: 0, offset: 1024 + pages * 8192 };
  for (let minute = 0; minute <= increments; minute += 1) {
    const id = madeId(minute);
    const blocks = minute === 0 ? numbers(pages) : numbers(pages).filter(() => random(pages) < changed);
    const rest = minute === 0 ? [Buffer.alloc(512), ...numbers(16).map(page)] : [];
    const content = Buffer.concat([Buffer.alloc(512), ...blocks.map(page), ...rest]);
    stored.push(await storePart(archive, id, 1, content));
    const fresh = blocks.map((block) => ({ offset: block * 8192, lengthBytes: 8192 }));
    if (minute > 0) pieces = replaced(pieces, fresh, { sizeBytes: pages * 8192, part: minute, start: 512 });
    const files = [
      { path: changing, pieces, isRead: minute === 0 },
      { path: unchanging, pieces: [still], isRead: true },
    ];
    const parent = minute === 0 ? {} : { parent: madeId(minute - 1) };
    const backup = { id, parts: [...stored], files, manifest: { checksums: true, startLsn: 0x200_028n, ...parent } };
    await storeMade(archive, backup);
    backups.push(backup);
  }
  return backups;
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);
