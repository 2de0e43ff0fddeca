/** A storage in a folder: local disk, NFS, SMB, FUSE. Each key is a file below the root; a file under its final name is whole and durable. */
import { constants, type Dirent } from 'node:fs';
import { type FileHandle, lstat, open, readdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Bytes, bytesOf, compareBytes, spent } from '../bytes.ts';
import { makeFolders, syncFolder } from '../durable-file.ts';
import {
  ObjectExists,
  ObjectNotFound,
  StorageError,
  systemErrorCode,
  systemErrorReason,
  WalTError,
} from '../errors.ts';
import { limits } from '../limits.ts';
import { abortable } from './deadline.ts';
import { exists, ignore, makeFolder, nameOnce, removeTemporary, writeTemporary } from './file-naming.ts';
import { FilePatience, type FileStorageTimes } from './file-patience.ts';
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

/** Of one read. Those of a range lie one behind the other in memory, as far as a window goes: whoever takes it apart need not copy it. */
const readChunkBytes = 1024 * 1024;
/** Deeper than any key: a link to a folder above makes a folder without end. */
const maxDepth = 16;

/** Makes the root folder and those above it, durable. */
export async function makeRoot(root: string): Promise<void> {
  try {
    await makeFolders(root, 0o750);
  } catch (error) {
    throw new StorageError(`could not make the folder "${root}": ${systemErrorReason(error)}`, { cause: error });
  }
}

export class FileStorage implements Storage {
  readonly url: string;
  readonly #root: string;
  readonly #requestMs: number;
  readonly #patience: FilePatience;
  /** Folders whose place in their parents this process has made durable. */
  readonly #settledFolders = new Set<string>();
  /** Which folder the root was when it was last looked at: a mount that comes or goes makes it another. */
  #rootIs: string | undefined;

  /** `root` is an absolute path and must exist: a folder that is not there may be one that is not mounted (H16). */
  constructor(root: string, times: FileStorageTimes) {
    this.#root = root;
    this.url = `file://${root}`;
    this.#requestMs = times.requestMs;
    this.#patience = new FilePatience(this.url, times);
  }

  async put(key: string, body: Uint8Array | Bytes, { signal, spend = false }: PutOptions = {}): Promise<void> {
    assertKey(key);
    const limitMs = this.#requestMs;
    await this.#patience.answer(`write "${key}"`, { signal, limitMs }, async (givenUp, limit) => {
      const path = this.#path(key);
      await this.#expectSameRoot();
      if (await exists(path)) return this.#refuse(key);
      const bytes = body instanceof Uint8Array ? bytesOf(body) : body;
      const temporary = await writeTemporary(this.#root, abortable(spend ? spent(bytes) : bytes, givenUp, limit));
      try {
        await this.#makeFolders(dirname(path));
        givenUp.throwIfAborted();
        await this.#expectSameRoot();
        if (!(await nameOnce(temporary, path))) return await this.#refuse(key);
        await this.#settleNew(path);
        await this.#expectSameRoot();
      } finally {
        await removeTemporary(temporary);
      }
    });
  }

  async get(key: string, { range, signal }: GetOptions = {}): Promise<StoredBody> {
    assertKey(key);
    const size = await this.#patience.answer(`read "${key}"`, { signal }, () => this.#sizeOf(key));
    const start = range?.offset ?? 0;
    const end = range === undefined ? size : Math.min(start + range.length, size);
    const memoryBytes = range === undefined ? readChunkBytes : limits.windowBytes;
    return { sizeBytes: size, body: this.#read({ key, start, end, memoryBytes, signal }) };
  }

  async *list(prefix: string, { after = '', signal }: ListOptions = {}): AsyncGenerator<StoredObject> {
    const check = () => this.#patience.answer(`list "${prefix}"`, { signal }, () => this.#expectSameRoot());
    await check();
    yield* this.#listFolder('', { prefix, after, signal });
    await check();
  }

  async delete(keys: readonly string[], { signal }: RequestOptions = {}): Promise<DeleteReport> {
    const failed: { key: string; error: WalTError }[] = [];
    for (const key of keys) {
      assertKey(key);
      try {
        await this.#patience.answer(`delete "${key}"`, { signal }, () => this.#remove(this.#path(key)));
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
      await makeFolder(folder, this.#root);
    } catch (error) {
      if (systemErrorCode(error) !== 'ENOENT' || folder === this.#root) throw error;
      await this.#makeFolders(dirname(folder));
      await makeFolder(folder, this.#root);
    }
  }

  /** A name that could not be made durable is taken back: the kernel reports a failed fsync once, and the next one would be believed. */
  async #settleNew(path: string): Promise<void> {
    try {
      await this.#settle(dirname(path));
    } catch (error) {
      await unlink(path).catch(() => undefined);
      throw error;
    }
  }

  /** @throws StorageError when the root is not the folder that it was: what was read of one says nothing about the other (H16). */
  async #expectSameRoot(): Promise<void> {
    const { dev, ino } = await stat(this.#root);
    const [before, now] = [this.#rootIs, `${dev}:${ino}`];
    this.#rootIs = now;
    if (before === undefined || before === now) return;
    throw new StorageError(`${this.url} is another folder than a moment ago`, {
      hint: 'It was mounted or unmounted meanwhile: look at its mount. It is tried again.',
    });
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
    await this.#expectSameRoot(); // one that is gone is a failure, not an absence
    if (found === undefined) throw new ObjectNotFound(key);
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
  async *#read({ key, start, end, memoryBytes, signal }: ReadOptions): AsyncGenerator<Uint8Array> {
    if (start >= end) return;
    const doing = `read "${key}"`;
    const handle = await this.#patience.answer(doing, { signal }, async (givenUp) => {
      const opened = await this.#open(key).catch(ignore('ENOENT'));
      await this.#expectSameRoot();
      if (opened === undefined) throw new ObjectNotFound(key); // deleted since its size was asked for
      if (givenUp.aborted) await opened.close();
      return opened;
    });
    let waiting = false;
    try {
      let memory: Buffer = Buffer.alloc(0);
      for (let offset = start; offset < end; ) {
        if (memory.length === 0) memory = Buffer.allocUnsafeSlow(Math.min(memoryBytes, end - offset));
        const chunk = memory.subarray(0, readChunkBytes);
        waiting = true;
        const { bytesRead } = await this.#patience.answer(doing, { signal }, () =>
          handle.read(chunk, 0, chunk.length, offset),
        );
        waiting = false;
        if (bytesRead === 0) return; // it was truncated under us: the length that its header promises tells
        offset += bytesRead;
        memory = memory.subarray(bytesRead);
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
    const entries = await this.#patience.answer(`list "${folder}"`, { signal }, () =>
      readdir(this.#path(folder), { withFileTypes: true }).catch((error: unknown) => {
        if (folder === '' || systemErrorCode(error) !== 'ENOENT') throw error; // a root that is gone is not an empty one
        return [];
      }),
    );
    if (folder.split('/').length > maxDepth) throw new StorageError(`"${folder}" in ${this.url} has no end`);
    const names = entries.filter(({ name }) => !name.startsWith('.'));
    const keys = await Promise.all(
      names.map(async (entry) => `${folder}${entry.name}${(await this.#isFolder(folder, entry)) ? '/' : ''}`),
    );
    keys.sort(compareBytes);
    for (const key of keys) {
      if (key.endsWith('/')) {
        const overlaps = key.startsWith(prefix) || prefix.startsWith(key);
        const over = compareBytes(key, after) <= 0 && !after.startsWith(key);
        if (overlaps && !over) yield* this.#listFolder(key, options);
      } else if (key.startsWith(prefix) && compareBytes(key, after) > 0) {
        const found = await this.#patience.answer(`list "${key}"`, { signal }, () =>
          lstat(this.#path(key)).catch(ignore('ENOENT')),
        );
        if (found !== undefined) yield { key, sizeBytes: found.size, modifiedAt: found.mtime };
      }
    }
  }

  /** A link to a folder is one, as for `get`: a folder was moved to another disk. What is no file is listed nevertheless, and never absent. */
  async #isFolder(folder: string, entry: Dirent): Promise<boolean> {
    if (!entry.isSymbolicLink()) return entry.isDirectory();
    const target = await stat(this.#path(`${folder}${entry.name}`)).catch(ignore('ENOENT'));
    return target?.isDirectory() === true;
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
  readonly memoryBytes: number;
  readonly signal: AbortSignal | undefined;
}

interface ListFolderOptions {
  readonly prefix: string;
  readonly after: string;
  readonly signal: AbortSignal | undefined;
}
