/** Files that survive a power failure: written beside, fsynced, renamed, and their folder fsynced. Errors are the system's own. */
import type { FileHandle } from 'node:fs/promises';
import { lstat, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Bytes } from './bytes.ts';
import { HostError, systemErrorCode } from './errors.ts';
import { ownerOf, temporarySuffix } from './left-overs.ts';

/** Longer than any command takes to write one file. */
const elsewhereLeftOverMs = 60 * 60 * 1000;

/**
 * Makes what a folder says about its entries durable.
 * EINVAL is tolerated: some network and FUSE file systems have no fsync for folders and need none.
 */
export async function syncFolder(folder: string | Buffer): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } catch (error) {
    if (systemErrorCode(error) !== 'EINVAL') throw error;
  } finally {
    await handle.close();
  }
}

/** Makes a folder and those above it that are missing, each durable in its parent. */
export async function makeFolders(folder: string | Buffer, mode: number): Promise<void> {
  const path = (one: string): string | Buffer => (typeof folder === 'string' ? one : Buffer.from(one, 'latin1'));
  const text = typeof folder === 'string' ? folder : folder.toString('latin1');
  const made = await mkdir(folder, { recursive: true, mode });
  if (made === undefined) return;
  // where bytes are no text, the system's answer does not tell how many were made: all of them are made durable
  const first = typeof folder === 'string' ? dirname(made) : '/';
  for (let one = text; one !== first && one !== dirname(one); one = dirname(one)) await syncFolder(path(dirname(one)));
}

/** Writes all of `body` to a file that must not exist yet, and fsyncs it. A failed fsync is never tried a second time. */
export async function writeNewFile(path: string, body: Bytes, mode = 0o600): Promise<void> {
  const handle = await open(path, 'wx', mode);
  try {
    for await (const chunk of body) await writeAll(handle, chunk);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  let written = 0;
  while (written < chunk.length) {
    written += (await handle.write(chunk, written, chunk.length - written)).bytesWritten;
  }
}

/**
 * Puts `body` at `path`, replacing what is there: either all of it appears, durable, or nothing changes.
 * A temporary file of an earlier process that was killed is removed on the way. A device or a folder is never replaced.
 */
export async function replaceFile(path: string, body: Bytes, mode = 0o600): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found !== undefined && !found.isFile()) {
    throw new HostError(`"${path}" is not a regular file`, {
      hint: 'Nothing was written: a folder, a link or a device is never replaced. Give another path.',
    });
  }
  await removeLeftOvers(path);
  const temporary = `${path}.wal-t-${temporarySuffix()}`;
  try {
    await writeNewFile(temporary, body, mode);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Another container's, which cannot be asked: old enough that no command would still be at it. */
async function isOld(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Date.now() - found.mtimeMs > elsewhereLeftOverMs;
}

async function removeLeftOvers(path: string): Promise<void> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.wal-t-`;
  for (const name of await readdir(folder)) {
    if (!name.startsWith(prefix)) continue;
    const owner = ownerOf(name.slice(prefix.length));
    const path = join(folder, name);
    if (owner === 'nobody' || (owner === 'elsewhere' && (await isOld(path)))) await rm(path, { force: true });
  }
}
