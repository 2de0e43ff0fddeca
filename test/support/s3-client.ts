/** Requests to an S3 server without an SDK: shows what came over the wire, and looks at what is stored without the code under test. */
import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { S3Endpoint } from './s3-server.ts';
import { encodeForAws, sha256, signed } from './sigv4.ts';

export interface WireRequest {
  /** Empty: the bucket. */
  readonly key?: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly agent?: Agent;
  readonly signal?: AbortSignal;
  /** Asks for a 100-continue, and waits for it before it sends the body, or does not. */
  readonly expectContinue?: 'wait' | 'send';
  /** What the client's clock says. */
  readonly now?: Date;
}

export interface WireAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** An answer that broke off. */
export class BrokenAnswer extends Error {
  readonly code: string | undefined;
  /** What came of it; undefined when nothing did. */
  readonly answer: WireAnswer | undefined;

  constructor(cause: NodeJS.ErrnoException, answer?: WireAnswer) {
    super(`the answer broke off: ${cause.message}`, { cause });
    this.code = cause.code;
    this.answer = answer;
  }
}

/** One signed request; nothing is tried again. @throws BrokenAnswer */
export function sendS3(s3: S3Endpoint, method: string, request: WireRequest = {}): Promise<WireAnswer> {
  const { key = '', query = {}, headers = {}, body = Buffer.alloc(0), agent = new Agent(), signal, now } = request;
  const expect = request.expectContinue === undefined ? {} : { expect: '100-continue' };
  const url = new URL(s3.endpoint);
  const path = [url.pathname.replace(/\/$/, ''), s3.bucket, ...(key === '' ? [] : key.split('/').map(encodeForAws))];
  const search = Object.entries(query).map((pair) => pair.map(encodeForAws).join('='));
  const unsigned = {
    method,
    path: [path.join('/'), ...(search.length > 0 ? [search.join('&')] : [])].join('?'),
    headers: { ...headers, host: url.host, 'x-amz-content-sha256': sha256(body) },
  };
  const length = method === 'GET' || method === 'HEAD' ? {} : { 'content-length': `${body.length}` };
  return new Promise((resolve, reject) => {
    const { hostname: host, port } = url;
    const sending = httpRequest({
      ...{ host, port, method, path: unsigned.path, agent },
      headers: { ...signed(unsigned, s3, now), ...length, ...expect },
      ...(signal === undefined ? {} : { signal }),
    });
    let answer = (): WireAnswer | undefined => undefined;
    const fail = (error: NodeJS.ErrnoException) => reject(new BrokenAnswer(error, answer()));
    sending.on('error', fail);
    sending.on('response', (response) => {
      const { statusCode: status = 0, headers } = response;
      const chunks: Uint8Array[] = [];
      const whole = () => ({ status, headers, body: Buffer.concat(chunks) });
      answer = whole;
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve(whole()));
      response.on('error', fail);
    });
    if (request.expectContinue === 'wait') sending.on('continue', () => sending.end(body)).flushHeaders();
    else sending.end(body);
  });
}
