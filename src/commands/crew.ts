/** Worker threads as a command sees them: whoever is free does the next task. The threads themselves are in cli/workers.ts. */

/** What a task is, by `kind`, and what it needs: all of it can be cloned to another thread, and so can its result. */
export type CrewTask = { readonly kind: string } & Readonly<Record<string, unknown>>;

export interface Crew {
  /** Tasks that run at the same time. */
  readonly size: number;
  /**
   * Runs a task as soon as a thread is free. A `Buffer` in its result arrives as a plain `Uint8Array`.
   * @throws what the task throws; the crew's own end, when a thread of it died or it was closed.
   */
  run<Result>(task: CrewTask, onProgress?: (bytes: number) => void): Promise<Result>;
  /** Aborts what still runs, waits until that has cleaned up, but not for ever, and ends the threads. May be called again. */
  close(): Promise<void>;
}

/** Tells that so many bytes are done; `held` says what passed through memory for them, where that was more. */
export type Progressing = (bytes: number, held?: number) => void;

/** Does one task. `signal` is aborted, with the reason to throw, when it must end. */
export type Perform = (task: CrewTask, progress: Progressing, signal: AbortSignal) => Promise<unknown>;

/** A crew without threads: `size` tasks at a time, in this one. */
export function inlineCrew(perform: Perform, size = 1): Crew {
  const pool = new Pool(Array.from({ length: size }, (_, index) => index));
  const closing = new AbortController();
  const running = new Set<Promise<unknown>>();
  return {
    size,
    run: async <Result>(task: CrewTask, onProgress: (bytes: number) => void = () => undefined) => {
      const seat = await pool.take();
      const work = perform(task, onProgress, closing.signal);
      running.add(work);
      try {
        return (await work) as Result;
      } finally {
        running.delete(work);
        pool.give(seat);
      }
    },
    close: async () => {
      pool.refuse(closedCrew());
      closing.abort(closedCrew());
      await Promise.allSettled(running);
    },
  };
}

/** What a task is told that runs, or is asked for, when its crew was closed. */
export function closedCrew(): Error {
  return new Error('the crew of workers is closed');
}

/** Things that serve one at a time; who finds none free waits in line. */
export class Pool<Item> {
  readonly #free: Item[];
  readonly #line: { readonly resolve: (item: Item) => void; readonly reject: (reason: unknown) => void }[] = [];
  #refusal: { readonly reason: unknown } | undefined;

  constructor(items: readonly Item[]) {
    this.#free = [...items];
  }

  async take(): Promise<Item> {
    if (this.#refusal !== undefined) throw this.#refusal.reason;
    const item = this.#free.shift();
    if (item !== undefined) return item;
    return new Promise((resolve, reject) => this.#line.push({ resolve, reject }));
  }

  give(item: Item): void {
    const next = this.#line.shift();
    if (next === undefined) this.#free.unshift(item);
    else next.resolve(item);
  }

  /** Everyone who waits is turned away, and everyone who comes. The first reason counts. */
  refuse(reason: unknown): void {
    this.#refusal ??= { reason };
    for (const { reject } of this.#line.splice(0)) reject(this.#refusal.reason);
  }
}
