/** For `vi.mock` of src/limits.ts: everything as it is, but the pauses between attempts, so that thousands of faults fit into a test. */
import type * as real from '../../src/limits.ts';

export function withShortPauses(limits: typeof real): typeof real {
  return {
    ...limits,
    retryPause: { ...limits.retryPause, minTimeout: 2 as 250, maxTimeout: 40 as 5000 },
    limits: { ...limits.limits, retryAfterMs: 20 as 30_000 },
  };
}
