/** A crew of worker threads: the main thread's side. The worker's is worker-thread.ts; what a crew promises stands in commands/crew.ts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ResourceLimits, Worker } from 'node:worker_threads';
import { type Crew, type CrewTask, closedCrew, Pool } from '../commands/crew.ts';
import { cleanUpMs } from '../limits.ts';
import type { Log } from '../log.ts';
import { type FromWorker, packError, type ToWorker, unpackError, type WorkerData } from './thread-messages.ts';

export interface ThreadOptions {
  readonly data: WorkerData;
  /** When it is aborted, every task is. */
  readonly signal: AbortSignal;
  /** Gets what the workers log. */
  readonly log: Log;
  /** The worker's bundle, where it is not the one beside this bundle. */
  readonly bundle?: URL;
  readonly resourceLimits?: ResourceLimits;
}

/** A crew of `size` threads, each started when it is first needed. */
export function threadCrew(size: number, options: ThreadOptions): Crew {
  return new ThreadCrew(size, options);
}

const living = new Set<Worker>();

/** Is there a thread that has not ended? `process.exit` would wait for its system calls, and some never come back. */
export function hasThreads(): boolean {
  return living.size > 0;
}

class ThreadCrew implements Crew {
  readonly size: number;
  readonly #signal: AbortSignal;
  readonly #threads: readonly Thread[];
  readonly #pool: Pool<Thread>;
  readonly #running = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  constructor(size: number, options: ThreadOptions) {
    this.size = size;
    this.#signal = options.signal;
    const onDeath = (error: Error) => this.#abort(error);
    this.#threads = Array.from({ length: size }, (_, index) => new Thread(index + 1, { ...options, onDeath }));
    this.#pool = new Pool(this.#threads);
    if (this.#signal.aborted) this.#onAbort();
    else this.#signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  async run<Result>(task: CrewTask, onProgress: (bytes: number) => void = () => undefined): Promise<Result> {
    const thread = await this.#pool.take();
    const work = thread.perform(task, onProgress);
    this.#running.add(work);
    try {
      return (await work) as Result;
    } finally {
      this.#running.delete(work);
      this.#pool.give(thread);
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#signal.removeEventListener('abort', this.#onAbort);
    this.#abort(closedCrew());
    await atMost(cleanUpMs, Promise.allSettled(this.#running));
    await atMost(cleanUpMs, Promise.all(this.#threads.map((thread) => thread.end())));
  }

  readonly #onAbort = (): void => this.#abort(this.#signal.reason);

  #abort(reason: unknown): void {
    this.#pool.refuse(reason);
    for (const thread of this.#threads) thread.abort(reason);
  }
}

/** Waits for the promise, or so long. */
async function atMost(limitMs: number, promise: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  try {
    await Promise.race([promise, sleep(limitMs, undefined, { signal: timer.signal }).catch(() => undefined)]);
  } finally {
    timer.abort();
  }
}

/** The task that a thread is busy with. */
interface Assignment {
  readonly resolve: (result: unknown) => void;
  readonly reject: (reason: unknown) => void;
  readonly onProgress: (bytes: number) => void;
}

class Thread {
  readonly #number: number;
  readonly #options: ThreadOptions & { readonly onDeath: (error: Error) => void };
  #worker: Worker | undefined;
  #assignment: Assignment | undefined;
  #isEnding = false;

  constructor(number: number, options: ThreadOptions & { readonly onDeath: (error: Error) => void }) {
    this.#number = number;
    this.#options = options;
  }

  perform(task: CrewTask, onProgress: (bytes: number) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#isEnding) throw closedCrew();
      this.#worker ??= this.#start();
      this.#assignment = { resolve, reject, onProgress };
      this.#worker.ref();
      try {
        this.#tell({ type: 'perform', task });
      } catch (error) {
        this.#release()?.reject(error); // a task that cannot be cloned
      }
    });
  }

  abort(reason: unknown): void {
    this.#tell({ type: 'abort', reason: packError(reason) });
  }

  /** Resolves when the thread has ended, which a system call that hangs puts off for ever. */
  async end(): Promise<void> {
    this.#isEnding = true;
    this.#worker?.ref(); // the process must not run out of work before
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const { data, bundle = workerBundle(), resourceLimits = {} } = this.#options;
    const worker = new Worker(bundle, { workerData: data, resourceLimits, name: `worker ${this.#number}` });
    living.add(worker);
    worker.on('message', (message: FromWorker) => this.#hear(message));
    worker.on('messageerror', (error) => this.#die(error.message, error));
    worker.on('error', (error) => this.#die(error.message, error));
    worker.on('exit', (code) => {
      living.delete(worker);
      this.#die(`exit code ${code}`);
    });
    return worker;
  }

  #tell(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case 'log':
        this.#options.log[message.severity](message.message, message.details);
        break;
      case 'progress':
        this.#assignment?.onProgress(message.bytes);
        break;
      case 'done':
        this.#release()?.resolve(message.result);
        break;
      case 'failed':
        this.#release()?.reject(unpackError(message.error));
        break;
    }
  }

  /** The thread is gone, or good for nothing any more. */
  #die(why: string, cause?: Error): void {
    const error = new Error(`worker thread ${this.#number} ended: ${why}`, { cause });
    this.#release()?.reject(this.#isEnding ? closedCrew() : error);
    if (!this.#isEnding) this.#options.onDeath(error);
    this.#isEnding = true;
  }

  /** An idle thread keeps no process alive. */
  #release(): Assignment | undefined {
    const assignment = this.#assignment;
    this.#assignment = undefined;
    this.#worker?.unref();
    return assignment;
  }
}

/** Beside this bundle, or above the folder of its chunks. */
function workerBundle(): URL {
  return new URL(/\/chunks\/[^/]*$/.test(import.meta.url) ? '../worker.mjs' : './worker.mjs', import.meta.url);
}
