/** Ends the waiting for work that has no way to be cancelled, such as a system call on a dead network file system. */

export interface Deadline {
  /** Aborted with the error to throw. */
  readonly signal: AbortSignal | undefined;
  readonly limitMs: number;
  /** The error to throw when the limit is over. */
  readonly late: () => Error;
}

/** What `work` gives, unless its time is over or `signal` is aborted first: then its result is forgotten. */
export async function beforeDeadline<T>(work: Promise<T>, { signal, limitMs, late }: Deadline): Promise<T> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(late()), limitMs);
  const stop = (): void => controller.abort(signal?.reason);
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  try {
    return await unlessAborted(work, controller.signal);
  } finally {
    signal?.removeEventListener('abort', stop);
    clearTimeout(timer);
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
