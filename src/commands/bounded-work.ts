/** What one call does ahead of PostgreSQL, besides what it was asked for: how it comes to an end soon, whatever happens. */
import { StorageError } from '../errors.ts';
import { cleanUpMs } from '../limits.ts';

export class BoundedWork {
  readonly #controller = new AbortController();
  readonly #whenStopped: () => void;
  /** Aborted when what is on its way is given up, or the command must end. */
  readonly signal: AbortSignal;
  #isStopped = false;
  #isLate = false;
  #mayHang = false;

  /** `whenStopped` wakes who waits to begin something. */
  constructor(signal: AbortSignal, whenStopped: () => void = () => undefined) {
    this.signal = AbortSignal.any([signal, this.#controller.signal]);
    this.#whenStopped = whenStopped;
  }

  /** Nothing more may be begun. */
  get isStopped(): boolean {
    return this.#isStopped || this.signal.aborted;
  }

  /** It was stopped, since it took too long. */
  get isLate(): boolean {
    return this.#isLate;
  }

  /** Begins nothing more. */
  readonly stop = (): void => {
    this.#isStopped = true;
    this.#whenStopped();
  };

  /** Gives up what is on its way, too. It is not waited for, and a system call that hangs would keep the process. */
  readonly leave = (): void => {
    this.#isLate = true;
    this.#mayHang = true;
    this.stop();
    this.#controller.abort(new Error('PostgreSQL waits'));
  };

  /** @returns what to say of it; undefined where it failed only because it was given up. */
  failed(error: unknown): string | undefined {
    if (error instanceof StorageError) this.#mayHang = true;
    if (this.signal.aborted) return undefined;
    return error instanceof Error ? error.message : String(error);
  }

  /** Waits for `work`, which never rejects: after `aheadMs` nothing more is begun, after twice as long the rest is given up. */
  async end(work: Promise<unknown>, aheadMs: number): Promise<'done' | 'hanging'> {
    const stopLate = (): void => {
      this.#isLate = true;
      this.stop();
    };
    const timers = [setTimeout(stopLate, aheadMs), setTimeout(this.leave, 2 * aheadMs)];
    const late = new Promise<'hanging'>((resolve) => {
      timers.push(setTimeout(resolve, 2 * aheadMs + cleanUpMs, 'hanging'));
    });
    const end = await Promise.race([work.then(() => 'done' as const), late]);
    timers.map(clearTimeout);
    return this.#mayHang ? 'hanging' : end;
  }
}
