/** AWS's Signature Version 4 for S3, written from its specification: for requests that tests send, and that the fault proxy changes. */
import { createHash, createHmac } from 'node:crypto';
import type { S3Endpoint } from './s3-server.ts';

export interface UnsignedRequest {
  readonly method: string;
  /** With the query, encoded as it is sent. */
  readonly path: string;
  /** By names in lower case, `host` and `x-amz-content-sha256` included. */
  readonly headers: Readonly<Record<string, string>>;
}

const terminator = 'aws4_request';

/**
 * The headers with `x-amz-date` and `authorization`, which signs all others that are there.
 * @see https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
export function signed({ method, path, headers }: UnsignedRequest, s3: S3Endpoint, now = new Date()) {
  const date = now.toISOString().replace(/[-:]|\.\d+/g, '');
  const scope = [date.slice(0, 8), s3.region, 's3', terminator];
  const all: Record<string, string> = { ...headers, 'x-amz-date': date };
  delete all.authorization;
  const names = Object.keys(all).sort();
  const [route = '/', query = ''] = path.split('?');
  const canonicalRequest = [
    method,
    route,
    canonicalQuery(query),
    ...names.map((name) => `${name}:${all[name]?.trim().replace(/ +/g, ' ')}`),
    '',
    names.join(';'),
    all['x-amz-content-sha256'],
  ].join('\n');
  const stringToSign = ['AWS4-HMAC-SHA256', date, scope.join('/'), sha256(canonicalRequest)].join('\n');
  const key = scope.reduce<string | Buffer>((key, part) => hmac(key, part), `AWS4${s3.secretAccessKey}`);
  const credential = `Credential=${s3.accessKeyId}/${scope.join('/')}`;
  const signature = `Signature=${hmac(key, stringToSign).toString('hex')}`;
  return { ...all, authorization: `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${names.join(';')}, ${signature}` };
}

export function sha256(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Percent-encodes all but letters, digits and `-._~`, as a signature wants it. */
export function encodeForAws(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

function canonicalQuery(query: string): string {
  const pairs = [...new URLSearchParams(query)].map((pair) => pair.map(encodeForAws));
  return pairs
    .sort(([a = ''], [b = '']) => (a < b ? -1 : 1))
    .map((pair) => pair.join('='))
    .join('&');
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}
