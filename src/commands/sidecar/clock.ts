/** What time it is, and waiting: given to the sidecar, so that a month can pass in a minute. */

export interface Clock {
  /** Milliseconds since 1970. May step, in both directions. */
  now(): number;
  /** Calls back once after so many milliseconds, however the clock steps meanwhile. @returns what forgets it. */
  after(delayMs: number, callback: () => void): () => void;
}

/** This host's. */
export const hostClock: Clock = {
  now: () => Date.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};
