/** A clock that stands still until it is moved: from one callback to the next, or wherever a test sets it. */
import type { Clock } from '../../src/commands/sidecar/clock.ts';

interface Timer {
  /** By elapsed time, which no setting of the clock changes. */
  readonly at: number;
  readonly callback: () => void;
}

export class VirtualClock implements Clock {
  #now: number;
  #elapsed = 0;
  readonly #timers = new Set<Timer>();

  constructor(start: number | string) {
    this.#now = new Date(start).getTime();
  }

  now(): number {
    return this.#now;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { at: this.#elapsed + delayMs, callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Somebody sets the clock; no time goes by. */
  set(time: number | string): void {
    this.#now = new Date(time).getTime();
  }

  /** Goes to the next callback, at most `untilMs` of the clock. @returns false when there is none until then. */
  step(untilMs: number): boolean {
    const [next] = [...this.#timers].sort((a, b) => a.at - b.at);
    if (next === undefined || this.#now + next.at - this.#elapsed > untilMs) {
      this.#elapsed += Math.max(0, untilMs - this.#now);
      this.#now = Math.max(this.#now, untilMs);
      return false;
    }
    this.#timers.delete(next);
    this.#now += next.at - this.#elapsed;
    this.#elapsed = next.at;
    next.callback();
    return true;
  }
}
