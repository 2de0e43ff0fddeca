/** What the fault proxy knows of a request to an S3 server and of its answer, and how both are changed on their way. */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { type Bytes, bytesOf, collect } from '../../src/bytes.ts';
import type { S3Endpoint } from './s3-server.ts';
import { sha256, signed } from './sigv4.ts';

/** An operation by its name in the S3 API. */
export type Kind =
  | 'PutObject'
  | 'GetObject'
  | 'HeadObject'
  | 'DeleteObject'
  | 'ListObjects'
  | 'DeleteObjects'
  | 'CreateMultipartUpload'
  | 'UploadPart'
  | 'CompleteMultipartUpload'
  | 'AbortMultipartUpload'
  | 'ListMultipartUploads'
  | 'HeadBucket'
  | 'Other';

export type Headers = Readonly<Record<string, string>>;

export interface S3Request {
  readonly kind: Kind;
  readonly method: string;
  /** With the query, as it came. */
  readonly path: string;
  readonly bucket: string;
  /** Decoded; empty for the bucket itself. */
  readonly key: string;
  readonly headers: Headers;
  /** Reading it answers an `Expect: 100-continue`. */
  readonly body: Bytes;
  readonly bodyWithoutContinue: Bytes;
  /** Aborted when the client is gone or the proxy stops. */
  readonly signal: AbortSignal;
  /** The server behind, with the keys to sign what is changed. */
  readonly s3: S3Endpoint;
}

export interface S3Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Bytes;
}

/** Something that goes wrong with a request on its way or with what comes back. */
export interface Fault {
  /** What the log calls it. */
  readonly name: string;
  /** `next` lets the request on: to the next fault, at last to the server. */
  readonly run: (request: S3Request, next: Next) => Promise<S3Answer>;
}

export type Next = (request: S3Request) => Promise<S3Answer>;

/** Ends the client's connection: by a reset, or closed in order behind what was written. */
export class Break extends Error {
  readonly how: 'reset' | 'closed';

  constructor(how: 'reset' | 'closed') {
    super(how);
    this.how = how;
  }
}

export function fault(name: string, run: Fault['run']): Fault {
  return { name, run };
}

/** Waits until the client is gone. */
export function untilGone(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

const bodyLimitBytes = 2 ** 31;

/** What a request is about: `basePath` is the path of the endpoint. */
export function describeRequest(request: IncomingMessage, basePath: string) {
  const { method = '', url: path = '/' } = request;
  const { pathname, searchParams } = new URL(path, 'http://proxy');
  const [bucket = '', ...rest] = pathname.slice(basePath.length).replace(/^\//, '').split('/').map(decodeURIComponent);
  const key = rest.join('/');
  return { method, path, bucket, key, kind: kindOf(method, key, searchParams), headers: flat(request.headers) };
}

function kindOf(method: string, key: string, query: URLSearchParams): Kind {
  const place = key === '' ? 'bucket' : query.has('uploadId') ? 'upload' : query.has('uploads') ? 'uploads' : 'object';
  const kinds: Readonly<Record<string, Kind>> = {
    'PUT object': 'PutObject',
    'GET object': 'GetObject',
    'HEAD object': 'HeadObject',
    'DELETE object': 'DeleteObject',
    'POST uploads': 'CreateMultipartUpload',
    'PUT upload': 'UploadPart',
    'POST upload': 'CompleteMultipartUpload',
    'DELETE upload': 'AbortMultipartUpload',
    'GET bucket': query.has('uploads') ? 'ListMultipartUploads' : query.has('location') ? 'Other' : 'ListObjects',
    'POST bucket': 'DeleteObjects',
    'HEAD bucket': 'HeadBucket',
  };
  return kinds[`${method} ${place}`] ?? 'Other';
}

/** Headers of one value each, without those that belong to a connection. */
export function flat(headers: IncomingMessage['headers']): Headers {
  const own = ['connection', 'keep-alive', 'transfer-encoding', 'expect'];
  const entries = Object.entries(headers).filter(([name]) => !own.includes(name));
  return Object.fromEntries(entries.map(([name, value]) => [name, String(value)]));
}

export function without(headers: Headers, ...names: string[]): Headers {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name)));
}

/** The request with other members, signed anew, as of the server's clock. */
export function resigned(request: S3Request, changes: Partial<S3Request>): S3Request {
  const changed = { ...request, ...changes };
  const unsignable = ['content-length', 'user-agent', 'x-amz-user-agent', 'amz-sdk-request', 'accept'];
  const kept = Object.entries(changed.headers).filter(([name]) => unsignable.includes(name));
  const headers = without(changed.headers, ...unsignable);
  return { ...changed, headers: { ...signed({ ...changed, headers }, request.s3), ...Object.fromEntries(kept) } };
}

/** The request with another body and all that tells its length or hash. */
export function withBody(request: S3Request, body: Uint8Array): S3Request {
  const sums = Object.keys(request.headers).filter((name) => name.startsWith('x-amz-checksum-'));
  const headers = {
    ...without(request.headers, ...sums),
    'content-length': `${body.length}`,
    'content-md5': createHash('md5').update(body).digest('base64'),
    'x-amz-content-sha256': sha256(body),
  };
  return resigned(request, { headers, body: bytesOf(body) });
}

/** All of a request's or an answer's body. */
export function wholeOf({ body }: { readonly body: Bytes }): Promise<Buffer> {
  return collect(body, bodyLimitBytes);
}

/** The request, read whole: it can be sent when its client is gone, and more than once. */
export async function buffered(request: S3Request): Promise<S3Request> {
  const body = await wholeOf(request);
  return { ...request, body: { [Symbol.asyncIterator]: () => bytesOf(body) } };
}

/** The answer with another text. */
export function withText(answer: S3Answer, text: string): S3Answer {
  const body = Buffer.from(text);
  return { ...answer, headers: { ...answer.headers, 'content-length': `${body.length}` }, body: bytesOf(body) };
}

/** An error as S3 tells it; `more` are elements beside code and message. */
export function errorAnswer(status: number, code: string, more = '', headers: Headers = {}): S3Answer {
  const empty = { status, headers: { 'content-type': 'application/xml', ...headers }, body: bytesOf() };
  const message = `the fault proxy says ${code}`;
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>${message}</Message>${more}<RequestId>FAULT</RequestId></Error>`;
  return withText(empty, text);
}
