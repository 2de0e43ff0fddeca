import { setTimeout as sleep } from 'node:timers/promises';

/** Holds a reader to a rate, on average since it began. */
export class Pace {
  readonly #bytesPerSecond: number | undefined;
  readonly #signal: AbortSignal;
  readonly #startedMs = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number | undefined, signal: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#signal = signal;
  }

  async passed(bytes: number): Promise<void> {
    if (this.#bytesPerSecond === undefined) return;
    this.#bytes += bytes;
    const aheadMs = (this.#bytes / this.#bytesPerSecond) * 1000 - (performance.now() - this.#startedMs);
    if (aheadMs > 0) await sleep(aheadMs, undefined, { signal: this.#signal });
  }
}
