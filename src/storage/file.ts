/** A storage in a folder: local disk, NFS, SMB, FUSE. Each key is a file below the root; a file under its final name is whole and durable. */
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Bytes, bytesOf, compareBytes } from '../bytes.ts';
import { syncFolder } from '../durable-file.ts';
import {
  ObjectExists,
  ObjectNotFound,
  StorageError,
  systemErrorCode,
  systemErrorReason,
  WalTError,
} from '../errors.ts';
import { beforeDeadline, unlessAborted } from './deadline.ts';
import { exists, ignore, nameOnce, removeTemporary, writeTemporary } from './file-naming.ts';
import {
  assertKey,
  type DeleteReport,
  type GetOptions,
  type ListOptions,
  type PutOptions,
  type RequestOptions,
  type Storage,
  type StoredBody,
  type StoredObject,
} from './storage.ts';

const readChunkBytes = 1024 * 1024;
export interface FileStorageTimes {
  /** For one system call or a few. */
  readonly idleMs: number;
  /** For a whole put. */
  readonly requestMs: number;
}

/** Makes the root folder and those above it, durable. */
export async function makeRoot(root: string): Promise<void> {
  try {
    const first = await mkdir(root, { recursive: true, mode: 0o750 });
    if (first === undefined) return;
    for (let folder = root; folder !== dirname(first); folder = dirname(folder)) {
      await syncFolder(dirname(folder));
    }
  } catch (error) {
    throw new StorageError(`could not make the folder "${root}": ${systemErrorReason(error)}`, { cause: error });
  }
}

export class FileStorage implements Storage {
  readonly url: string;
  readonly #root: string;
  readonly #times: FileStorageTimes;
  /** Folders whose place in their parents this process has made durable. */
  readonly #settledFolders = new Set<string>();
  /** System calls that were given up and still have no answer: each holds one of Node's four threads, which other file systems need. */
  #hanging = 0;

  /** `root` is an absolute path and must exist: a folder that is not there may be one that is not mounted (H16). */
  constructor(root: string, times: FileStorageTimes) {
    this.#root = root;
    this.#times = times;
    this.url = `file://${root}`;
  }

  async put(key: string, body: Uint8Array | Bytes, { signal }: PutOptions = {}): Promise<void> {
    assertKey(key);
    const limitMs = this.#times.requestMs;
    await this.#answer(`write "${key}"`, { signal, limitMs }, async (givenUp) => {
      const path = this.#path(key);
      if (await exists(path)) return this.#refuse(key);
      await stat(this.#root);
      const bytes = body instanceof Uint8Array ? bytesOf(body) : body;
      const temporary = await writeTemporary(this.#root, abortable(bytes, givenUp));
      try {
        await this.#makeFolders(dirname(path));
        givenUp.throwIfAborted();
        if (!(await nameOnce(temporary, path))) return await this.#refuse(key);
        await this.#settle(dirname(path));
      } finally {
        await removeTemporary(temporary);
      }
    });
  }

  async get(key: string, { range, signal }: GetOptions = {}): Promise<StoredBody> {
    assertKey(key);
    const size = await this.#answer(`read "${key}"`, { signal }, () => this.#sizeOf(key));
    const start = range?.offset ?? 0;
    const end = range === undefined ? size : Math.min(start + range.length, size);
    return { sizeBytes: size, body: this.#read({ key, start, end, signal }) };
  }

  async *list(prefix: string, { after = '', signal }: ListOptions = {}): AsyncGenerator<StoredObject> {
    yield* this.#listFolder('', { prefix, after, signal });
  }

  async delete(keys: readonly string[], { signal }: RequestOptions = {}): Promise<DeleteReport> {
    const failed: { key: string; error: WalTError }[] = [];
    for (const key of keys) {
      assertKey(key);
      try {
        await this.#answer(`delete "${key}"`, { signal }, () => this.#remove(this.#path(key)));
      } catch (error) {
        if (!(error instanceof WalTError)) throw error;
        failed.push({ key, error });
      }
    }
    return { failed };
  }

  #path(key: string): string {
    return join(this.#root, key);
  }

  /**
   * Runs a request until its deadline and says what the system's errors mean.
   * A system call cannot be taken back: `givenUp` tells the work that nobody waits for it any more.
   */
  async #answer<T>(
    doing: string,
    { signal, limitMs = this.#times.idleMs }: { signal?: AbortSignal | undefined; limitMs?: number },
    work: (givenUp: AbortSignal) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    if (this.#hanging > 0) throw this.#hangs(doing, 'an earlier request still has no answer');
    const controller = new AbortController();
    const working = work(controller.signal);
    const late = () => {
      if (limitMs === this.#times.idleMs) this.#countUntilSettled(working); // a put may just wait for its body
      return this.#hangs(doing, `no answer for ${limitMs / 1000} s`);
    };
    try {
      return await beforeDeadline(working, { signal, limitMs, late });
    } catch (error) {
      controller.abort(error);
      throw this.#explain(doing, error);
    }
  }

  #countUntilSettled(work: Promise<unknown>): void {
    const settled = () => {
      this.#hanging -= 1;
    };
    this.#hanging += 1;
    work.then(settled, settled);
  }

  #hangs(doing: string, reason: string): StorageError {
    return new StorageError(`could not ${doing} in ${this.url}: ${reason}`, {
      hint: 'The file system hangs: look at its mount, network and server.',
    });
  }

  #explain(doing: string, error: unknown): unknown {
    const code = systemErrorCode(error);
    if (error instanceof WalTError || code === undefined || !/^E[A-Z0-9]+$/.test(code)) return error;
    return new StorageError(`could not ${doing} in ${this.url}: ${systemErrorReason(error)}`, {
      hint: hints[code] ?? 'Check that the folder is mounted and its file system is sound.',
      cause: error,
    });
  }

  /** The object is there already: it is made as durable as a put would have made it, since its writer may have died before. */
  async #refuse(key: string): Promise<never> {
    const handle = await this.#open(key);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await this.#settle(dirname(this.#path(key)));
    throw new ObjectExists(key);
  }

  /** Makes `folder` and those above it, below the root: the root itself is never made. */
  async #makeFolders(folder: string): Promise<void> {
    try {
      await mkdir(folder, { mode: 0o750 });
    } catch (error) {
      if (systemErrorCode(error) === 'EEXIST') return;
      if (systemErrorCode(error) !== 'ENOENT' || folder === this.#root) throw error;
      await this.#makeFolders(dirname(folder));
      await mkdir(folder, { mode: 0o750 }).catch(ignore('EEXIST'));
    }
  }

  /**
   * Makes durable what `folder` says, and that it is in its parent, up to the root.
   * All of them, not only those made here: another process may have made one and died before its fsync.
   */
  async #settle(folder: string): Promise<void> {
    await syncFolder(folder);
    if (this.#settledFolders.has(folder)) return;
    if (folder !== this.#root) await this.#settle(dirname(folder));
    this.#settledFolders.add(folder);
  }

  async #sizeOf(key: string): Promise<number> {
    const found = await lstat(this.#path(key)).catch(ignore('ENOENT'));
    if (found === undefined) {
      await stat(this.#root); // a root that is gone is a failure, not an absence
      throw new ObjectNotFound(key);
    }
    if (!found.isFile()) throw this.#notRegular(key);
    return found.size;
  }

  /** Never waits for the other end of a pipe, never follows a link out of the repository. */
  async #open(key: string): Promise<FileHandle> {
    const path = this.#path(key);
    if (!(await lstat(path)).isFile()) throw this.#notRegular(key);
    return open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  }

  #notRegular(key: string): StorageError {
    return new StorageError(`"${key}" in ${this.url} is not a regular file`, {
      hint: 'Something else than WAL-T wrote into the repository. Find out what it is before removing it.',
    });
  }

  /** Opens the file when the first byte is asked for: a body that nobody reads holds nothing. */
  async *#read({ key, start, end, signal }: ReadOptions): AsyncGenerator<Uint8Array> {
    if (start >= end) return;
    const doing = `read "${key}"`;
    const handle = await this.#answer(doing, { signal }, async (givenUp) => {
      const opened = await this.#open(key);
      if (givenUp.aborted) await opened.close();
      return opened;
    });
    let waiting = false;
    try {
      for (let offset = start; offset < end; ) {
        const chunk = Buffer.allocUnsafeSlow(Math.min(readChunkBytes, end - offset));
        waiting = true;
        const { bytesRead } = await this.#answer(doing, { signal }, () => handle.read(chunk, 0, chunk.length, offset));
        waiting = false;
        if (bytesRead === 0) return; // it was truncated under us: the length that its header promises tells
        offset += bytesRead;
        yield chunk.subarray(0, bytesRead);
      }
    } finally {
      const closing = handle.close().catch(() => undefined);
      if (!waiting) await closing; // else it would wait for a read that may hang for ever
    }
  }

  /** Depth first is not byte order ("a/b" stands behind "a.b"), unless a folder is sorted as its name with a '/' behind. */
  async *#listFolder(folder: string, options: ListFolderOptions): AsyncGenerator<StoredObject> {
    const { prefix, after, signal } = options;
    const entries = await this.#answer(`list "${folder}"`, { signal }, () =>
      readdir(this.#path(folder), { withFileTypes: true }).catch((error: unknown) => {
        if (folder === '' || systemErrorCode(error) !== 'ENOENT') throw error; // a root that is gone is not an empty one
        return [];
      }),
    );
    const keys = entries
      .filter((entry) => !entry.name.startsWith('.') && (entry.isFile() || entry.isDirectory()))
      .map((entry) => `${folder}${entry.name}${entry.isDirectory() ? '/' : ''}`)
      .sort(compareBytes);
    for (const key of keys) {
      if (key.endsWith('/')) {
        const overlaps = key.startsWith(prefix) || prefix.startsWith(key);
        const over = compareBytes(key, after) <= 0 && !after.startsWith(key);
        if (overlaps && !over) yield* this.#listFolder(key, options);
      } else if (key.startsWith(prefix) && compareBytes(key, after) > 0) {
        const found = await this.#answer(`list "${key}"`, { signal }, () =>
          lstat(this.#path(key)).catch(ignore('ENOENT')),
        );
        if (found !== undefined) yield { key, sizeBytes: found.size, modifiedAt: found.mtime };
      }
    }
  }

  /** Folders stay, also empty ones: removing one would race with a put that has just found it. */
  async #remove(path: string): Promise<void> {
    await stat(this.#root);
    await unlink(path).catch(ignore('ENOENT'));
    await syncFolder(dirname(path)).catch(ignore('ENOENT'));
  }
}

interface ReadOptions {
  readonly key: string;
  readonly start: number;
  readonly end: number;
  readonly signal: AbortSignal | undefined;
}

interface ListFolderOptions {
  readonly prefix: string;
  readonly after: string;
  readonly signal: AbortSignal | undefined;
}

const hints: Readonly<Record<string, string>> = {
  ENOSPC: 'Free space in the repository or enlarge it. PostgreSQL keeps the WAL and tries again.',
  EDQUOT: 'Free space in the repository or raise the quota. PostgreSQL keeps the WAL and tries again.',
  EACCES: 'Give the user that PostgreSQL runs as the right to read and write the repository.',
  EPERM: 'Give the user that PostgreSQL runs as the right to read and write the repository.',
  EROFS: 'Mount the repository for writing.',
  ENOENT: 'Check that the folder is mounted and WALT_REPO is spelled right; "wal-t init" makes a new repository.',
};

/** Ends when nobody waits for the result any more, also while the next chunk does not come. */
async function* abortable(bytes: Bytes, givenUp: AbortSignal): AsyncGenerator<Uint8Array> {
  const source = bytes[Symbol.asyncIterator]();
  let ended = false;
  try {
    for (;;) {
      const next = await unlessAborted(source.next(), givenUp);
      ended = next.done === true;
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    if (!ended) source.return?.().catch(() => undefined);
  }
}
