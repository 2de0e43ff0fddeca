/** Ends the waiting for work that has no way to be cancelled, such as a system call on a dead network file system. */
import type { Bytes } from '../bytes.ts';

export interface Deadline {
  /** Aborted with the error to throw. */
  readonly signal: AbortSignal | undefined;
  readonly limitMs: number;
  /** The error to throw when the limit is over. */
  readonly late: () => Error;
  /** One of `limitMs` that the work itself may pause. */
  readonly limit?: Limit | undefined;
}

/** A limit that runs while the other side is waited for, and not while this one has nothing to give it. */
export class Limit {
  readonly #limitMs: number;
  #timer: NodeJS.Timeout | undefined;
  #over: () => void = () => undefined;

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  /** Calls `over` when the limit passes without a pause. */
  begin(over: () => void): void {
    this.#over = over;
    this.resume();
  }

  pause(): void {
    clearTimeout(this.#timer);
  }

  /** From its beginning: what was asked for before the pause has been answered. */
  resume(): void {
    this.pause();
    this.#timer = setTimeout(this.#over, this.#limitMs);
  }
}

/** What `work` gives, unless its time is over or `signal` is aborted first: then its result is forgotten. */
export async function beforeDeadline<T>(
  work: Promise<T>,
  { signal, limitMs, late, limit = new Limit(limitMs) }: Deadline,
): Promise<T> {
  const controller = new AbortController();
  limit.begin(() => controller.abort(late()));
  const stop = (): void => controller.abort(signal?.reason);
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  try {
    return await unlessAborted(work, controller.signal);
  } finally {
    signal?.removeEventListener('abort', stop);
    limit.pause();
  }
}

/** What `work` gives, unless `signal` is aborted first. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  work.catch(() => undefined); // its failure may come when nobody waits any more
  signal.throwIfAborted();
  let stop = (): void => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Ends when nobody waits for the result any more, also while the next chunk does not come: that time is not the storage's. */
export async function* abortable(bytes: Bytes, givenUp: AbortSignal, limit: Limit): AsyncGenerator<Uint8Array> {
  const source = bytes[Symbol.asyncIterator]();
  let ended = false;
  try {
    for (;;) {
      limit.pause();
      const next = await unlessAborted(source.next(), givenUp);
      limit.resume();
      ended = next.done === true;
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    if (!ended) source.return?.().catch(() => undefined);
  }
}
