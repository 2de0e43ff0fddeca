/** How long a file system may take for an answer, and what its errors mean. Knows no keys and no files. */
import { StorageError, systemErrorCode, systemErrorReason, WalTError } from '../errors.ts';
import { beforeDeadline, Limit } from './deadline.ts';

export interface FileStorageTimes {
  /** For one system call or a few. */
  readonly idleMs: number;
  /** For a put, without the time in which it waits for its body. */
  readonly requestMs: number;
}

export interface Patience {
  readonly signal?: AbortSignal | undefined;
  readonly limitMs?: number;
}

export class FilePatience {
  readonly #url: string;
  readonly #idleMs: number;
  /** System calls that were given up and still have no answer: each holds one of Node's four threads, which other file systems need. */
  #hanging = 0;

  constructor(url: string, { idleMs }: FileStorageTimes) {
    this.#url = url;
    this.#idleMs = idleMs;
  }

  /**
   * Runs a request until its deadline and says what the system's errors mean.
   * A system call cannot be taken back: `givenUp` tells the work that nobody waits for it any more.
   */
  async answer<T>(
    doing: string,
    { signal, limitMs = this.#idleMs }: Patience,
    work: (givenUp: AbortSignal, limit: Limit) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    if (this.#hanging > 0) throw this.#hangs(doing, 'an earlier request still has no answer');
    const controller = new AbortController();
    const limit = new Limit(limitMs);
    const working = work(controller.signal, limit);
    const late = () => {
      if (limitMs === this.#idleMs) this.#countUntilSettled(working); // a put may just wait for its body
      return this.#hangs(doing, `no answer for ${limitMs / 1000} s`);
    };
    try {
      return await beforeDeadline(working, { signal, limitMs, late, limit });
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
    return new StorageError(`could not ${doing} in ${this.#url}: ${reason}`, {
      hint: 'The file system hangs: look at its mount, network and server.',
    });
  }

  #explain(doing: string, error: unknown): unknown {
    const code = systemErrorCode(error);
    if (error instanceof WalTError || code === undefined || !/^E[A-Z0-9]+$/.test(code)) return error;
    return new StorageError(`could not ${doing} in ${this.#url}: ${systemErrorReason(error)}`, {
      hint: hints[code] ?? 'Check that the folder is mounted and its file system is sound.',
      cause: error,
    });
  }
}

const hints: Readonly<Record<string, string>> = {
  ENOSPC: 'Free space in the repository or enlarge it. PostgreSQL keeps the WAL and tries again.',
  EDQUOT: 'Free space in the repository or raise the quota. PostgreSQL keeps the WAL and tries again.',
  EACCES: 'Give the user that PostgreSQL runs as the right to read and write the repository.',
  EPERM: 'Give the user that PostgreSQL runs as the right to read and write the repository.',
  EROFS: 'Mount the repository for writing.',
  ENOENT: 'Check that the folder is mounted and WALT_REPO is spelled right; "wal-t init" makes a new repository.',
};
