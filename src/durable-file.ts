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

/**
 * Makes a folder and those above it that are missing, each durable in its parent.
 * One by one, since Node.js's own way never ends where the system says "no such folder" of one whose parent is there, as below /proc.
 */
export async function makeFolders(folder: string | Buffer, mode: number): Promise<void> {
  const isText = typeof folder === 'string';
  await makeFolder(isText ? folder : folder.toString('latin1'), {
    mode,
    pathOf: (text) => (isText ? text : Buffer.from(text, 'latin1')),
  });
}

interface FolderOptions {
  readonly mode: number;
  /** The path as the file system knows it. */
  readonly pathOf: (text: string) => string | Buffer;
}

async function makeFolder(text: string, { mode, pathOf }: FolderOptions): Promise<void> {
  const parent = dirname(text);
  try {
    await mkdir(pathOf(text), { mode });
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' && parent !== text && !(await isFolder(pathOf(parent)))) {
      await makeFolder(parent, { mode, pathOf });
      return makeFolder(text, { mode, pathOf });
    }
    // where it cannot be made, as on a read-only file system, it may be there all the same
    if (code !== 'ENOENT' && (await isFolder(pathOf(text)))) return;
    throw error;
  }
  await syncFolder(pathOf(parent));
}

function isFolder(path: string | Buffer): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** Writes all of `body` to a file that must not exist yet, and fsyncs it. A failed fsync is never tried a second time. */
export async function writeNewFile(path: string, body: Bytes, mode = 0o600): Promise<void> {
  const handle = await open(path, 'wx', mode);
  const behind = new WriteBehind(() => handle.datasync());
  try {
    for await (const chunk of body) {
      await writeAll(handle, chunk);
      behind.wrote(chunk.length);
    }
    await behind.end();
    await handle.sync();
  } finally {
    await behind.end().catch(() => undefined);
    await handle.close();
  }
}

/** What a large file has so far is sent to the disk after so many bytes. */
const behindBytes = 16 * 1024 * 1024;

/** Keeps the disk busy while a large file is written: else all of it would wait for the fsync at the end. Makes nothing durable. */
export class WriteBehind {
  readonly #flush: () => Promise<void>;
  #waitingBytes = 0;
  #flushing: Promise<void> | undefined;
  #failure: { readonly error: unknown } | undefined;

  constructor(flush: () => Promise<void>) {
    this.#flush = flush;
  }

  /** @throws what an earlier flush has thrown: the system tells of a failure once, and a later fsync would know nothing of it. */
  wrote(bytes: number): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#waitingBytes += bytes;
    if (this.#waitingBytes < behindBytes || this.#flushing !== undefined) return;
    this.#waitingBytes = 0;
    this.#flushing = this.#flush().then(
      () => this.#ended(),
      (error: unknown) => {
        this.#failure = { error };
        this.#ended();
      },
    );
  }

  #ended(): void {
    this.#flushing = undefined;
  }

  /** Nothing is under way any more. @throws as `wrote`. */
  async end(): Promise<void> {
    await this.#flushing;
    if (this.#failure !== undefined) throw this.#failure.error;
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
