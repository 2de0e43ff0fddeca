/**
 * Walks a data directory and its tablespaces in the order of path bytes and names what goes into a base backup. Reads names and
 * attributes, no content. What a running server removes meanwhile is left out; what cannot be read is an error, never a gap.
 */
import type { BigIntStats } from 'node:fs';
import { access, readlink } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type BytePath, showPath, toBytePath, toFilePath } from '../byte-path.ts';
import { HostError } from '../errors.ts';
import { tablespaceDropMs } from '../limits.ts';
import {
  isBackedUpEmpty,
  isExcluded,
  isTablespacePath,
  tablespaceVersionFolder,
  withoutUnlogged,
} from './exclusions.ts';
import { attributesOf, ifThere, readNames, realPathOf, targetAttributesOf, unreadable } from './source-files.ts';
import type { FileTimes } from './unchanged-file.ts';

/** How many files are looked at together; also how far the walk is ahead of its reader. */
const batchFiles = 64;

interface FolderAttributes {
  /** Relative to the data directory. */
  readonly path: BytePath;
  /** Absolute: what to open. A folder that is made up (`pg_wal/summaries`) need not be there. */
  readonly source: BytePath;
  /** Permissions, without the type of file. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
}

export type WalkEntry =
  | ({ readonly type: 'file'; readonly path: BytePath; readonly source: BytePath } & FileTimes)
  | ({ readonly type: 'folder' } & FolderAttributes)
  /** `path` is `pg_tblspc/<oid>`, `target` the absolute path that it leads to; the attributes are the target's. */
  | ({ readonly type: 'tablespace'; readonly target: BytePath } & FolderAttributes);

export interface WalkOptions {
  readonly dataDirectory: string;
  readonly postgresMajor: number;
  readonly catalogVersion: number;
  readonly signal?: AbortSignal;
  readonly warn: (message: string, details?: { detail?: string; hint?: string }) => void;
}

/**
 * Yields strictly ascending by path bytes. `base/1` < `base/1.x` < `base/1/2`: a folder stands at its own name, its contents at name + '/'.
 * Holds one folder's names, and those of the folders above it, in memory.
 * @throws HostError when a file or folder cannot be looked at, or a tablespace's link is broken.
 */
export async function* walkDataDirectory(options: WalkOptions): AsyncGenerator<WalkEntry> {
  const bare: Folder[] = [];
  yield* walkFrom(options, { bare });
  for (const folder of bare) await warnOfBare(options, folder);
}

export type FileCheck = (source: BytePath, stats: BigIntStats) => Promise<void>;

export interface Findings {
  /** Looks whether a file may be read. */
  readonly check?: FileCheck;
  /** Takes the tablespaces that hold nothing of this server's version, though their links are there. */
  readonly bare?: Folder[];
}

interface Walk extends WalkOptions, Findings {
  readonly versionFolder: BytePath;
  /** Contents of tablespaces that lie inside the data directory: they come once, as the tablespace's. */
  readonly insideTablespaces: ReadonlySet<BytePath>;
}

interface Folder {
  /** Relative to the data directory, which itself is `''`. */
  readonly path: BytePath;
  readonly source: BytePath;
  /** The real paths of the data directory, and of each link followed on the way here. */
  readonly lineage: readonly BytePath[];
}

/** An entry, and what is below it. */
interface Found {
  readonly entry: WalkEntry;
  readonly contents?: () => AsyncIterable<WalkEntry> | Iterable<WalkEntry>;
}

/** The walk itself, for whoever wants to know more of it. */
export async function* walkFrom(options: WalkOptions, findings: Findings): AsyncGenerator<WalkEntry> {
  const source = toBytePath(resolve(options.dataDirectory));
  const root = await realFolder(source);
  const versionFolder = tablespaceVersionFolder(options.postgresMajor, options.catalogVersion);
  const insideTablespaces = await findInsideTablespaces(root, versionFolder);
  const walk = { ...options, ...findings, versionFolder, insideTablespaces };
  yield* walkFolder(walk, { path: '', source, lineage: [root] });
}

/** The data directory alone must be there: else a wrong path would make an empty backup. */
async function realFolder(source: BytePath): Promise<BytePath> {
  try {
    await access(toFilePath(`${source}/.`)); // the dot: a file does for no folder
  } catch (error) {
    throw unreadable(source, error);
  }
  return (await realPathOf(source)) ?? source;
}

async function findInsideTablespaces(root: BytePath, versionFolder: BytePath): Promise<Set<BytePath>> {
  const inside = new Set<BytePath>();
  for (const name of (await readNames(`${root}/pg_tblspc`)) ?? []) {
    const source = `${root}/pg_tblspc/${name}`;
    const target = await realPathOf(source);
    if (target === undefined || target === source) continue; // the walk will tell; and a folder is its own place
    if (isWithin(target, root)) inside.add(`${target}/${versionFolder}`.slice(root.length + 1));
  }
  return inside;
}

async function* walkFolder(walk: Walk, folder: Folder): AsyncGenerator<WalkEntry> {
  walk.signal?.throwIfAborted();
  const names = await readNames(folder.source, (name) => !isExcluded(folder.path, name));
  yield* walkNames(walk, folder, withoutUnlogged(folder.path, names ?? []));
}

async function* walkNames(walk: Walk, folder: Folder, names: readonly BytePath[]): AsyncGenerator<WalkEntry> {
  const waiting: Found[] = []; // folders whose contents come after siblings such as `1.x`, innermost last
  for (let start = 0; start < names.length; start += batchFiles) {
    walk.signal?.throwIfAborted();
    const batch = names.slice(start, start + batchFiles);
    for (const found of await Promise.all(batch.map((name) => look(walk, folder, name)))) {
      if (found === undefined) continue;
      yield* contentsBefore(found.entry.path, waiting);
      yield found.entry;
      if (found.contents !== undefined) waiting.push(found);
    }
  }
  yield* contentsBefore(undefined, waiting);
}

/** The contents of the waiting folders that sort before `path`; of all when there is no further sibling. */
async function* contentsBefore(path: BytePath | undefined, waiting: Found[]): AsyncGenerator<WalkEntry> {
  for (let last = waiting.at(-1); last?.contents !== undefined; last = waiting.at(-1)) {
    if (path !== undefined && path < `${last.entry.path}/`) return;
    waiting.pop();
    yield* last.contents();
  }
}

async function look(walk: Walk, folder: Folder, name: BytePath): Promise<Found | undefined> {
  const path = folder.path === '' ? name : `${folder.path}/${name}`;
  const source = `${folder.source}/${name}`;
  if (walk.insideTablespaces.has(path)) return undefined;
  const stats = await attributesOf(source);
  if (stats === undefined) return undefined;
  const here: Folder = { path, source, lineage: folder.lineage };
  if (stats.isFile()) return file(walk, here, stats);
  const isLink = stats.isSymbolicLink();
  if (isTablespacePath(path) && isLink) return tablespace(walk, here);
  if (isLink) return throughLink(walk, here);
  if (stats.isDirectory()) return directory(walk, here);
  walk.warn(`left out "${showPath(path)}": not a regular file, folder or link`, {
    hint: 'PostgreSQL has no use for it in its data directory.',
  });
  return undefined;
}

async function file({ check }: Walk, { path, source }: Folder, stats: BigIntStats): Promise<Found> {
  await check?.(source, stats);
  const { size, mtimeNs, ctimeNs, ino } = stats;
  return { entry: { type: 'file', path, source, sizeBytes: Number(size), mtimeNs, ctimeNs, inode: ino } };
}

async function directory(walk: Walk, folder: Folder): Promise<Found | undefined> {
  const attributes = await folderAttributes(folder);
  if (attributes === undefined) return undefined;
  const entry = { type: 'folder', ...attributes } as const;
  if (folder.path === 'pg_wal') return { entry, contents: () => insidePgWal(walk, attributes) };
  if (isBackedUpEmpty(folder.path)) return { entry };
  if (isTablespacePath(folder.path)) return { entry, contents: () => insideTablespace(walk, folder) };
  return { entry, contents: () => walkFolder(walk, folder) };
}

/** The folders that a server expects in `pg_wal`, with the attributes of `pg_wal` itself. */
function* insidePgWal({ postgresMajor }: Walk, { path, source, ...rest }: FolderAttributes): Generator<WalkEntry> {
  for (const name of postgresMajor >= 17 ? ['archive_status', 'summaries'] : ['archive_status']) {
    yield { type: 'folder', path: `${path}/${name}`, source: `${source}/${name}`, ...rest };
  }
}

/** @throws HostError when the link leads nowhere. */
async function tablespace(walk: Walk, folder: Folder): Promise<Found | undefined> {
  const { path, source, lineage } = folder;
  const link = await ifThere(source, readlink(toFilePath(source), { encoding: 'latin1' }));
  if (link === undefined) return undefined;
  const attributes = await folderAttributes(folder);
  const real = await realPathOf(source);
  if (attributes === undefined || real === undefined) {
    if ((await attributesOf(source)) === undefined) return undefined;
    throw new HostError(`the link "${showPath(path)}" of a tablespace leads to no folder`, {
      detail: `It leads to "${showPath(link)}".`,
      hint: 'Mount what is missing there, or drop the tablespace.',
    });
  }
  const target = link.startsWith('/') ? link : real;
  const followed = { path, source, lineage: [...lineage, real] };
  return { entry: { type: 'tablespace', target, ...attributes }, contents: () => insideTablespace(walk, followed) };
}

async function* insideTablespace(walk: Walk, folder: Folder): AsyncGenerator<WalkEntry> {
  let isEmpty = true;
  for await (const entry of walkNames(walk, folder, [walk.versionFolder])) {
    isEmpty = false;
    yield entry;
  }
  if (isEmpty && (await attributesOf(folder.source)) !== undefined) walk.bare?.push(folder);
}

/** PostgreSQL drops a tablespace by removing its folder first, and then the link: it is given the time for that. */
async function warnOfBare(options: WalkOptions, { path, source }: Folder): Promise<void> {
  if ((await attributesOf(source)) !== undefined) await pause(tablespaceDropMs);
  options.signal?.throwIfAborted();
  if ((await attributesOf(source)) === undefined) return;
  const name = tablespaceVersionFolder(options.postgresMajor, options.catalogVersion);
  options.warn(`the tablespace "${showPath(path)}" holds no folder "${name}"`, {
    hint: 'If it was not being dropped just now, its disk may not be mounted: then nothing of it is in this backup.',
  });
}

/** A link that PostgreSQL did not make: what it leads to is stored in its place, unless that would lead round in a circle. */
async function throughLink(walk: Walk, folder: Folder): Promise<Found | undefined> {
  const { path, source, lineage } = folder;
  const stats = await targetAttributesOf(source);
  const real = await realPathOf(source);
  const name = `"${showPath(path)}"`;
  if (stats === undefined || real === undefined) {
    if ((await attributesOf(source)) !== undefined) walk.warn(`left out ${name}: a symbolic link that leads nowhere`);
    return undefined;
  }
  const detail = `It leads to "${showPath(real)}".`;
  if (stats.isFile()) {
    walk.warn(`${name} is a symbolic link`, {
      detail,
      hint: 'The restored cluster will hold a plain file in its place.',
    });
    return file(walk, folder, stats);
  }
  if (!stats.isDirectory()) {
    walk.warn(`left out ${name}: a symbolic link to neither a regular file nor a folder`, { detail });
    return undefined;
  }
  if (isBackedUpEmpty(path)) return directory(walk, folder); // a link from pg_wal to another disk is nothing unusual
  if (lineage.some((above) => isWithin(real, above) || isWithin(above, real))) {
    const hint = 'What it leads to is stored at its own place, if at all. Make the link anew in a restored cluster.';
    walk.warn(`left out ${name}: a symbolic link into what is backed up anyway, or to a folder above it`, {
      detail,
      hint,
    });
    return undefined;
  }
  walk.warn(`${name} is a symbolic link`, {
    detail,
    hint: 'The restored cluster will hold a plain folder in its place.',
  });
  return directory(walk, { path, source, lineage: [...lineage, real] });
}

/** Of the folder, or of the one that a link leads to; undefined when neither is there. */
async function folderAttributes({ path, source }: Folder): Promise<FolderAttributes | undefined> {
  const stats = await targetAttributesOf(source);
  if (stats === undefined || !stats.isDirectory()) return undefined;
  const mode = Number(stats.mode & 0o7777n);
  return { path, source, mode, uid: Number(stats.uid), gid: Number(stats.gid), mtimeNs: stats.mtimeNs };
}

function isWithin(path: BytePath, folder: BytePath): boolean {
  return path === folder || path.startsWith(folder === '/' ? folder : `${folder}/`);
}
