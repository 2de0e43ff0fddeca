/** The errors and ways of S3 servers, for a FaultProxy: what stores out there really answer, and where they differ. */
import { setTimeout as sleep } from 'node:timers/promises';
import { bytesOf } from '../../src/bytes.ts';
import {
  buffered,
  errorAnswer,
  type Fault,
  fault,
  type Headers,
  resigned,
  type S3Answer,
  type S3Request,
  wholeOf,
  withBody,
  without,
  withText,
} from './s3-exchange.ts';

const maximalSkewMs = 15 * 60 * 1000;

/** Any error of S3; the server gets nothing. `early`: told without reading the request's body, and the connection closed. */
export function refuse(
  status: number,
  code: string,
  { headers = {}, early = false }: { readonly headers?: Headers; readonly early?: boolean } = {},
): Fault {
  return fault(`${status} ${code}`, async (request) => {
    if (!early) await wholeOf(request);
    return errorAnswer(status, code, '', early ? { ...headers, connection: 'close' } : headers);
  });
}

/** "Slow down", as a store under load says; many of them make a storm. */
export function slowDown(retryAfterSeconds?: number): Fault {
  return refuse(503, 'SlowDown', {
    headers: retryAfterSeconds === undefined ? {} : { 'retry-after': `${retryAfterSeconds}` },
  });
}

export const internalError = refuse(500, 'InternalError');
export const tooManyRequests = refuse(429, 'TooManyRequests');
export const accessDenied = refuse(403, 'AccessDenied');
/** What AWS answers to one of several conditional requests at the same time. */
export const conflict = refuse(409, 'ConditionalRequestConflict');

/** AWS without s3:ListBucket: whether a key is missing may not be known. */
export const denyMissing = fault('missing keys denied', async (request, next) => {
  const answer = await next(request);
  return answer.status === 404 ? errorAnswer(403, 'AccessDenied') : answer;
});

/** The request is done and said to have met a condition that forbids it, as after a gateway's own retry. */
export const falsePreconditionFailed = fault('false 412', async (request, next) => {
  const answer = await next(request);
  return answer.status < 300 ? errorAnswer(412, 'PreconditionFailed') : answer;
});

/** Conditional writes are refused. */
export const refuseIfNoneMatch = fault('501 for If-None-Match', async (request, next) => {
  if (request.headers['if-none-match'] === undefined) return next(request);
  await wholeOf(request);
  return errorAnswer(501, 'NotImplemented', '<Header>If-None-Match</Header>');
});

/** Conditional writes replace what is there. */
export const ignoreIfNoneMatch = fault('If-None-Match ignored', (request, next) =>
  next(withoutHeader(request, 'if-none-match')),
);

/** Conditional writes look first and write later, so that several may win that come within this time. */
export function racyIfNoneMatch(windowMs: number): Fault {
  return fault('racy If-None-Match', async (request, next) => {
    if (request.headers['if-none-match'] === undefined) return next(request);
    const put = await buffered(request);
    const { host = '' } = put.headers;
    const look = { method: 'HEAD', headers: { host, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' }, body: bytesOf() };
    const { status } = await next(resigned(put, look));
    await sleep(windowMs, undefined, request);
    return status === 404 ? next(withoutHeader(put, 'if-none-match')) : errorAnswer(412, 'PreconditionFailed');
  });
}

/** Ranges are answered with the whole object and 200. */
export const ignoreRange = fault('Range ignored', (request, next) => next(withoutHeader(request, 'range')));

/** 200, and an error in the body; the server gets nothing. */
export function errorInOk(code = 'InternalError'): Fault {
  return refuse(200, code);
}

/** Listings come in pages of so few keys, made by the server as it makes its own of a thousand. */
export function smallPages(keys: number): Fault {
  return fault('small pages', (request, next) =>
    next(request.kind === 'ListObjects' ? resigned(request, { path: `${request.path}&max-keys=${keys}` }) : request),
  );
}

/** A gateway that cannot reach the server says so to a browser. */
export const gatewayError = fault('502 in HTML', async (request) => {
  await wholeOf(request);
  const empty = { status: 502, headers: { 'content-type': 'text/html' }, body: bytesOf() };
  return withText(empty, '<html><body><h1>502 Bad Gateway</h1><hr>nginx</body>');
});

/** The answer's Date is wrong, and nothing else. */
export function wrongDate(byMs: number): Fault {
  return fault('wrong Date', async (request, next) => withDate(await next(request), Date.now() + byMs));
}

/** The server's clock, or the client's, is wrong: signatures of another time are refused as too skewed, until the client follows. */
export function skewedClock(byMs: number): Fault {
  return fault('skewed clock', async (request, next) => {
    const serverMs = Date.now() + byMs;
    if (Math.abs(serverMs - signedAt(request)) <= maximalSkewMs) {
      return withDate(await next(resigned(request, {})), serverMs);
    }
    await wholeOf(request);
    const serverTime = `<ServerTime>${new Date(serverMs).toISOString()}</ServerTime>`;
    return withDate(errorAnswer(403, 'RequestTimeTooSkewed', serverTime), serverMs);
  });
}

/** Each page of a listing is in reverse. */
export const unorderedListing = fault('unordered listing', async (request, next) => {
  const answer = await next(request);
  const text = `${await wholeOf(answer)}`;
  const entries = text.match(/<Contents>.*?<\/Contents>/gs) ?? [];
  return withText(
    answer,
    text.replace(entries.join(''), () => entries.reverse().join('')),
  );
});

/** Of the keys to delete together, those that match are left and named as Errors in a 200. */
export function deleteErrors(keys: RegExp, code = 'AccessDenied'): Fault {
  return fault('delete errors', async (request, next) => {
    const text = `${await wholeOf(request)}`;
    const failed: string[] = [];
    const rest = text.replace(/<Object>.*?<Key>(.*?)<\/Key>.*?<\/Object>/gs, (object, key: string) => {
      if (!keys.test(key)) return object;
      failed.push(
        `<Error><Key>${key}</Key><Code>${code}</Code><Message>the fault proxy says ${code}</Message></Error>`,
      );
      return '';
    });
    const none = withText({ status: 200, headers: {}, body: bytesOf() }, '<DeleteResult></DeleteResult>');
    const answer = rest.includes('<Object>') ? await next(withBody(request, Buffer.from(rest))) : none;
    return withText(answer, `${await wholeOf(answer)}`.replace('</DeleteResult>', `${failed.join('')}</DeleteResult>`));
  });
}

function withoutHeader(request: S3Request, name: string): S3Request {
  if (request.headers[name] === undefined) return request;
  return resigned(request, { headers: without(request.headers, name) });
}

function withDate(answer: S3Answer, ms: number): S3Answer {
  return { ...answer, headers: { ...answer.headers, date: new Date(ms).toUTCString() } };
}

function signedAt({ headers }: S3Request): number {
  const basic = headers['x-amz-date'] ?? '';
  return Date.parse(basic.replace(/^(....)(..)(..T..)(..)(..Z)$/, '$1-$2-$3:$4:$5'));
}
