/** The worker's side of a crew: takes one task after another from the main thread, and tells it what happens. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Context } from '../commands/context.ts';
import type { CrewTask, Progressing } from '../commands/crew.ts';
import { type Log, type LogLevel, logLevels } from '../log.ts';
import { garbageCollector } from './large-garbage.ts';
import { type FromWorker, packError, type ToWorker, unpackError, type WorkerData } from './thread-messages.ts';

type PerformIn = (context: Context, task: CrewTask, progress: Progressing) => Promise<unknown>;

/** Between two messages of progress. */
const progressMs = 100;

/** Serves the crew until the main thread ends this one. */
export function serveCrew(perform: PerformIn): void {
  const port = parentPort as NonNullable<typeof parentPort>;
  const tell = (message: FromWorker, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer);
  const ending = new AbortController();
  const collect = garbageCollector();
  const context: Context = {
    ...(workerData as WorkerData),
    log: tellingLog(tell),
    signal: ending.signal,
    crew: () => {
      throw new Error('a worker has no workers of its own');
    },
  };

  async function doTask(task: CrewTask): Promise<void> {
    const meter = new Meter((bytes) => tell({ type: 'progress', bytes }));
    try {
      const result = await perform(context, task, (bytes, held = bytes) => {
        collect(held);
        meter.add(bytes);
      });
      meter.flush();
      tell({ type: 'done', result }, ownedBuffers(result));
    } catch (error) {
      meter.flush();
      tell({ type: 'failed', error: packError(error) });
    }
  }

  port.on('message', (message: ToWorker) => {
    if (message.type === 'abort') ending.abort(unpackError(message.reason));
    else void doTask(message.task);
  });
}

/** Adds up what is done, and passes it on now and then. */
class Meter {
  readonly #pass: (bytes: number) => void;
  #bytes = 0;
  #passedMs = performance.now();

  constructor(pass: (bytes: number) => void) {
    this.#pass = pass;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    if (performance.now() - this.#passedMs >= progressMs) this.flush();
  }

  flush(): void {
    if (this.#bytes > 0) this.#pass(this.#bytes);
    this.#bytes = 0;
    this.#passedMs = performance.now();
  }
}

/** The main thread writes what is logged here: one line after the other, and none through a progress bar. */
function tellingLog(tell: (message: FromWorker) => void): Log {
  const say =
    (severity: LogLevel): Log[LogLevel] =>
    (message, { detail, hint } = {}) =>
      tell({ type: 'log', severity, message, details: { detail, hint } });
  return Object.fromEntries(logLevels.map((level) => [level, say(level)])) as unknown as Log;
}

/** Memory that can be handed over instead of being copied: arrays of the result that own their buffer whole. */
function ownedBuffers(result: unknown): ArrayBuffer[] {
  const members = typeof result === 'object' && result !== null ? Object.values(result) : [];
  const found = new Set<ArrayBuffer>();
  for (const value of result instanceof Uint8Array ? [result] : members) {
    // a small Buffer is a piece of Node's pool, which others use, too
    if (
      value instanceof Uint8Array &&
      value.buffer instanceof ArrayBuffer &&
      value.byteLength === value.buffer.byteLength
    )
      found.add(value.buffer);
  }
  return [...found];
}
