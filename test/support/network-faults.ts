/**
 * The faults that a network has, for a FaultProxy.
 * Where one takes place within a body, `at` is a byte's number, counted from the end when negative; by default it is in the middle.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import { Break, type Fault, fault, type S3Answer, type S3Request, untilGone, wholeOf } from './s3-exchange.ts';

/** Time passes before the server gets the request. */
export function delayRequest(ms: number): Fault {
  return fault('delayed request', async (request, next) => {
    await sleep(ms, undefined, request);
    return next(request);
  });
}

/** Time passes between the server's answer and the client. */
export function delayAnswer(ms: number): Fault {
  return fault('delayed answer', async (request, next) => {
    const answer = await next(request);
    await sleep(ms, undefined, request);
    return answer;
  });
}

/** The request is taken and never answered; the server gets nothing. */
export const stall = fault('stall', async (request) => {
  await wholeOf(request);
  return untilGone(request.signal);
});

/** A part of the request is read, and nothing more: not even that the client leaves. */
export function stallUpload(at?: number): Fault {
  return fault('stalled upload', (request, next) => next(cutAt(request, at, () => untilGone(request.signal))));
}

/** A part of the answer comes, and nothing more. */
export function stallDownload(at?: number): Fault {
  return fault('stalled download', async (request, next) =>
    cutAt(await sized(await next(request)), at, () => untilGone(request.signal)),
  );
}

/** The connection is reset, and the server gets nothing. */
export const reset = fault('reset', () => breakOff('reset'));

/** The server does what it was told; the client never learns of it. */
export const loseAnswer = fault('lost answer', async (request, next) => {
  await wholeOf(await next(request));
  return breakOff('reset');
});

/** The connection is reset within the request's body; the server sees the same. */
export function resetUpload(at?: number): Fault {
  return fault('reset upload', (request, next) => next(cutAt(request, at, () => breakOff('reset'))));
}

/** The connection is reset within the answer's body. */
export function resetDownload(at?: number): Fault {
  return fault('reset download', async (request, next) =>
    cutAt(await sized(await next(request)), at, () => breakOff('reset')),
  );
}

/** The connection is closed within the answer's body, whose whole length was told. */
export function truncate(at?: number): Fault {
  return fault('truncated answer', async (request, next) =>
    cutAt(await sized(await next(request)), at, () => breakOff('closed')),
  );
}

/** The answer's body is cut, and its length told as if that were all: HTTP sees nothing wrong. */
export function shorten(at?: number): Fault {
  return fault('shortened answer', async (request, next) => {
    const answer = await sized(await next(request));
    const length = placeOf(answer, at);
    return { ...cutAt(answer, at), headers: { ...answer.headers, 'content-length': `${length}` } };
  });
}

/** The answer's length is told wrong by so many bytes. Too many: the client waits for more. Too few: the rest looks like another answer. */
export function misstateLength(by: number): Fault {
  return fault('misstated length', async (request, next) => {
    const answer = await sized(await next(request));
    return { ...answer, headers: { ...answer.headers, 'content-length': `${lengthOf(answer) + by}` } };
  });
}

/** So many bytes each second are taken of the request. */
export function trickleUpload(bytesPerSecond: number): Fault {
  return fault('trickling upload', (request, next) =>
    next({ ...request, body: trickle(request.body, bytesPerSecond, request.signal) }),
  );
}

/** So many bytes each second come of the answer. */
export function trickleDownload(bytesPerSecond: number): Fault {
  return fault('trickling download', async (request, next) => {
    const answer = await next(request);
    return { ...answer, body: trickle(answer.body, bytesPerSecond, request.signal) };
  });
}

/** `Expect: 100-continue` is never answered, but the body taken when it comes nevertheless. */
export const swallowContinue = fault('no 100-continue', (request, next) =>
  next({ ...request, body: request.bodyWithoutContinue }),
);

async function breakOff(how: Break['how']): Promise<never> {
  throw new Break(how);
}

/** The message with its body's first bytes, behind which comes `then`. */
function cutAt<M extends S3Request | S3Answer>(message: M, at?: number, then?: () => Promise<never>): M {
  return { ...message, body: firstBytes(message.body, placeOf(message, at), then) };
}

async function* firstBytes(
  body: Bytes,
  count: number,
  then?: () => Promise<never>,
): Bytes & AsyncGenerator<Uint8Array> {
  let left = count;
  if (left > 0) {
    for await (const chunk of body) {
      yield chunk.subarray(0, left);
      left -= chunk.length;
      if (left <= 0) break;
    }
  }
  await then?.();
}

function placeOf(message: S3Request | S3Answer, at?: number): number {
  const length = lengthOf(message);
  const place = at ?? length >> 1;
  return Math.max(0, place < 0 ? length + place : Math.min(place, length));
}

function lengthOf({ headers }: S3Request | S3Answer): number {
  return Number(headers['content-length'] ?? 0);
}

/** The answer with a length that is told. */
async function sized(answer: S3Answer): Promise<S3Answer> {
  if (answer.headers['content-length'] !== undefined) return answer;
  const body = await wholeOf(answer);
  return { ...answer, headers: { ...answer.headers, 'content-length': `${body.length}` }, body: bytesOf(body) };
}

async function* trickle(body: Bytes, bytesPerSecond: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const size = Math.ceil(bytesPerSecond / 20);
  for await (const chunk of body) {
    for (let offset = 0; offset < chunk.length; offset += size) {
      await sleep((size / bytesPerSecond) * 1000, undefined, { signal });
      yield chunk.subarray(offset, offset + size);
    }
  }
}
