/** Sends one request until it is answered: deadline, judgement, pause, and again. The only place where S3 requests are repeated. */
import { setTimeout as sleep } from 'node:timers/promises';
import pRetry from 'p-retry';
import { StorageError } from '../errors.ts';
import { limits, retryPause } from '../limits.ts';
import { beforeDeadline } from './deadline.ts';
import type { Patience } from './open.ts';
import { type Attempt, failed, judge, type Verdict } from './s3-errors.ts';

export interface RequestLimits {
  readonly signal?: AbortSignal | undefined;
  readonly idleMs: number;
  readonly requestMs: number;
  /** When it is over nothing is repeated: what failed last is the answer. */
  readonly patience?: Patience | undefined;
}

export interface SendOptions<Output> extends RequestLimits {
  /** Is this a whole answer? Some gateways say 200 around an error. */
  readonly isWhole?: (output: Output) => boolean;
}

/** A failed request that judged itself. */
class Failure extends Error {
  readonly verdict: Verdict;
  constructor(verdict: Verdict) {
    super(verdict.error.message);
    this.verdict = verdict;
  }
}

/**
 * What `send` is answered with, in the end.
 * @throws the error that `judge` makes of the last failure, or the signal's reason.
 */
export async function request<Output>(
  send: (options: { readonly abortSignal: AbortSignal }) => Promise<Output>,
  attempt: Attempt,
  options: SendOptions<Output>,
): Promise<Output> {
  const { signal, patience = unlimited } = options;
  let leftMs = Number.POSITIVE_INFINITY;
  try {
    return await pRetry(() => sendOnce(send, attempt, options), {
      ...retryPause,
      ...(signal === undefined ? {} : { signal }),
      retries: limits.requestRetries,
      shouldRetry: ({ error }) => error instanceof Failure && error.verdict.retry && leftMs > 0,
      onFailedAttempt: async ({ error, retriesLeft }) => {
        if (!(error instanceof Failure) || !error.verdict.retry || retriesLeft === 0) return;
        leftMs = await patience(error.verdict.error);
        const wait = Math.min(error.verdict.retryAfterMs ?? 0, limits.retryAfterMs, leftMs);
        if (wait > 0) await pause(wait, signal);
      },
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof Failure ? error.verdict.error : error;
  }
}

async function sendOnce<Output>(
  send: (options: { readonly abortSignal: AbortSignal }) => Promise<Output>,
  attempt: Attempt,
  { signal, requestMs, isWhole = () => true }: SendOptions<Output>,
): Promise<Output> {
  const controller = new AbortController();
  const abortSignal = signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal]);
  const late = () => failed(attempt, `no answer for ${requestMs / 1000} s`, { hint: 'The storage hangs.' });
  try {
    const output = await beforeDeadline(send({ abortSignal }), { signal, limitMs: requestMs, late });
    if (!isWhole(output))
      throw failed(attempt, 'the answer says success but is none', { hint: 'Look at what stands before the storage.' });
    return output;
  } catch (error) {
    controller.abort(); // when it was late it is still on its way
    signal?.throwIfAborted();
    throw new Failure(judge(error, attempt));
  }
}

/** How much longer the storage may keep a reader waiting; the reader's own time does not count. */
export interface Budget {
  leftMs: number;
}

/** The chunks of a response's body, none of which may be late, nor all of them together: a trickle is a kind of hanging. */
export async function* readBody(
  body: NodeJS.ReadableStream & { destroy(): void },
  attempt: Attempt,
  { signal, idleMs, requestMs, budget }: RequestLimits & { readonly budget: Budget },
): AsyncGenerator<Uint8Array> {
  const hint = 'The storage or the network hangs.';
  const late = () =>
    budget.leftMs > idleMs
      ? failed(attempt, `nothing came for ${idleMs / 1000} s`, { hint })
      : failed(attempt, `it took more than ${requestMs / 1000} s`, { hint });
  const chunks = (body as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  try {
    for (;;) {
      const startedMs = performance.now();
      const limitMs = Math.max(1, Math.min(idleMs, budget.leftMs));
      const next = await beforeDeadline(chunks.next(), { signal, limitMs, late });
      budget.leftMs -= performance.now() - startedMs;
      if (next.done === true) return;
      yield next.value;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof StorageError ? error : judge(error, attempt).error;
  } finally {
    body.destroy();
  }
}

/** That of whoever sets no limit. */
export const unlimited: Patience = () => Number.POSITIVE_INFINITY;

/** Waits, with jitter, so that many that failed together do not come back together. */
export async function pause(aboutMs: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(aboutMs * (0.75 + Math.random() / 2), undefined, signal === undefined ? {} : { signal }).catch(() => {
    signal?.throwIfAborted();
  });
}
