/**
 * The pg_wal of a cluster that is restored over: perhaps the only copy of commits that were never archived (H31). It is moved, never removed;
 * and what of it is to be archived is found.
 */
import { chmod, chown, lstat, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { toBytePath } from '../byte-path.ts';
import { makeFolders, syncFolder } from '../durable-file.ts';
import { HostError, systemErrorCode } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseWalFileName, type SegmentName, segmentStart, type WalFileName } from '../postgres/wal-file-name.ts';
import { longPageHeaderBytes, parseLongPageHeader } from '../postgres/wal-page.ts';
import { findWaitingFiles } from './archive-status.ts';
import { unwritable } from './restore-places.ts';

export interface AsideWal {
  /** The real path of the pg_wal. */
  readonly from: string;
  /** A folder named `pg_wal`, too: all that works on one works on it. */
  readonly to: string;
  /** Does `to` lie below `from`, since nothing could be put beside it? */
  readonly isWithin: boolean;
}

export interface OldPlace {
  /** The data directory's real path. */
  readonly root: string;
  /** Where its pg_wal is, when a link leads there. */
  readonly linkedWal: string | undefined;
  readonly systemIdentifier: string;
}

/** Everything that PostgreSQL and this program put there. */
const ownNames = /^(?:archive_status|summaries|\.wal-t.*|xlogtemp\..*|RECOVERY.*|lost\+found)$/;

/**
 * Where the pg_wal of `root` is to go: beside the data directory, or beside what its link leads to. Undefined when there is nothing to move.
 * @throws HostError when a link leads to something else than a pg_wal.
 */
export async function planAside(
  { root, linkedWal, systemIdentifier }: OldPlace,
  now: Date,
): Promise<AsideWal | undefined> {
  const from = linkedWal ?? join(root, 'pg_wal');
  const found = await lstat(from).catch(() => undefined);
  if (found?.isDirectory() !== true) return undefined;
  const names = await readdir(from);
  if (linkedWal !== undefined) await expectWalFolder(from, names, systemIdentifier);
  if (!names.some((name) => parseWalFileName(name) !== undefined)) return undefined;
  const ending = `.wal-t-pg_wal-${now.toISOString().replace(/[-:]|\.\d+/g, '')}`;
  const beside = `${linkedWal ?? root}${ending}/pg_wal`;
  const isWithin = !(await canPutBeside(from, dirname(beside)));
  return { from, to: isWithin ? join(from, ending, 'pg_wal') : beside, isWithin };
}

/** A link may lead anywhere, and root may move anything. */
async function expectWalFolder(from: string, names: readonly string[], systemIdentifier: string): Promise<void> {
  const hint = 'It would be moved. Look at what it is, and move it, or correct the link. Nothing was changed.';
  for (const name of names) {
    const file = parseWalFileName(name);
    if (file === undefined && !ownNames.test(name)) {
      throw new HostError(`"pg_wal" leads to "${from}", which holds more than WAL`, {
        detail: `"${name}" is there`,
        hint,
      });
    }
    const header = file?.kind === 'segment' ? await headerOf(join(from, name)) : undefined;
    if (header === undefined || header.systemIdentifier === systemIdentifier) continue;
    throw new HostError(`"pg_wal" leads to "${from}", which is another cluster's`, {
      detail: `"${name}" is of system ${header.systemIdentifier}`,
      hint,
    });
  }
}

/** Is it one that `planAside` makes of this data directory? What the directory itself says is not believed. */
export function isOwnAside(
  { root, linkedWal }: Omit<OldPlace, 'systemIdentifier'>,
  { from, to, isWithin }: AsideWal,
): boolean {
  const own = linkedWal ?? join(root, 'pg_wal');
  if (from !== own) return false;
  const start = isWithin ? `${from}/` : (linkedWal ?? root);
  return to.startsWith(start) && /^\.wal-t-pg_wal-[0-9TZ]+\/pg_wal$/.test(to.slice(start.length));
}

/** Is `folder` on the same file system as `from`, may it be made, and `from` be moved into it? */
async function canPutBeside(from: string, folder: string): Promise<boolean> {
  try {
    const [inner, outer] = await Promise.all([stat(from), stat(dirname(from))]);
    if (inner.dev !== outer.dev) return false; // it is a mount point
    await mkdir(folder, { mode: 0o700 });
    const made = await stat(folder);
    await rm(folder, { recursive: true });
    return made.dev === inner.dev;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return false;
  }
}

/** Moves it, durable when it returns; goes on where it was interrupted. */
export async function setAside({ from, to, isWithin }: AsideWal): Promise<void> {
  try {
    await makeFolders(dirname(to), 0o700);
    const was = await stat(from).catch(() => undefined);
    if (isWithin) await moveContent(from, to);
    else if (!(await isThere(to))) await rename(from, to);
    await giveLike(dirname(to), await stat(to));
    await syncFolder(dirname(to));
    await syncFolder(dirname(dirname(to)));
    await remake(from, was ?? (await stat(to)));
    await syncFolder(dirname(from));
    await removeCopies(from, to);
  } catch (error) {
    throw unwritable(toBytePath(from), error);
  }
}

async function moveContent(from: string, to: string): Promise<void> {
  await makeFolders(to, 0o700);
  const [own = ''] = to.slice(from.length + 1).split('/');
  for (const name of await readdir(from)) {
    if (name.startsWith('.wal-t-pg_wal-') || name === own || name === 'lost+found') continue;
    if (!(await isThere(join(to, name)))) await rename(join(from, name), join(to, name));
  }
  await syncFolder(to);
  await syncFolder(from);
}

type Attributes = Awaited<ReturnType<typeof stat>>;

async function remake(folder: string, like: Attributes): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
    return;
  }
  await giveLike(folder, like);
}

async function giveLike(folder: string, { uid, gid, mode }: Attributes): Promise<void> {
  const found = await stat(folder);
  if (found.uid !== uid || found.gid !== gid) await chown(folder, Number(uid), Number(gid));
  await chmod(folder, Number(mode) & 0o777);
}

/** What an interrupted restore had offered to recovery is a copy of what was set aside. */
async function removeCopies(from: string, to: string): Promise<void> {
  const originals = new Set(await readdir(to));
  for (const name of await readdir(from)) {
    if (parseWalFileName(name) !== undefined && originals.has(name)) await rm(join(from, name));
  }
}

const isThere = (path: string) =>
  lstat(path).then(
    () => true,
    (error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return false;
      throw error;
    },
  );

export interface OldSegment extends SegmentName {
  readonly startLsn: Lsn;
}

/** Segments whose first page is the one that belongs there, by name: what PostgreSQL keeps for later has an older one's. */
export async function soundSegments(walFolder: string, systemIdentifier: string): Promise<OldSegment[]> {
  const found: OldSegment[] = [];
  for (const name of (await readdir(walFolder)).sort()) {
    const file = parseWalFileName(name);
    if (file?.kind !== 'segment') continue;
    const header = await headerOf(join(walFolder, name));
    if (header === undefined || header.systemIdentifier !== systemIdentifier) continue;
    const startLsn = segmentStart(file, header.segmentSizeBytes);
    if (startLsn === undefined || header.pageAddress !== startLsn || header.timeline > file.timeline) continue;
    found.push({ ...file, startLsn });
  }
  return found;
}

async function headerOf(path: string) {
  const handle = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(longPageHeaderBytes), 0, longPageHeaderBytes, 0);
    return parseLongPageHeader(buffer.subarray(0, bytesRead));
  } finally {
    await handle.close();
  }
}

/**
 * What PostgreSQL would still have archived, in its order, and full segments that it had no time to say so of: those behind one that it did, and
 * before another. Where it archived nothing, as in a copy beside, there are none: its WAL is no part of the archive.
 */
export async function findUnarchived(walFolder: string, systemIdentifier: string): Promise<WalFileName[]> {
  const isKept = await isThere(join(walFolder, 'archive_status'));
  if (!isKept) return [];
  const marks = new Set(await readdir(join(walFolder, 'archive_status')));
  const isMarked = ({ name }: OldSegment) => marks.has(`${name}.ready`) || marks.has(`${name}.done`);
  const segments = await soundSegments(walFolder, systemIdentifier);
  const found: WalFileName[] = await findWaitingFiles(walFolder);
  let before: OldSegment | undefined;
  let isBehind = false;
  for (const [index, segment] of segments.entries()) {
    const follows = before?.timeline === segment.timeline;
    const isFull = segments[index + 1]?.timeline === segment.timeline;
    if (isMarked(segment)) isBehind = true;
    else if (!follows) isBehind = false;
    else if (isBehind && isFull) found.push(segment);
    before = segment;
  }
  return found;
}
