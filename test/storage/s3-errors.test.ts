/** `judge`: what each answer of an S3 endpoint means, whether it is tried again, and what the operator is told to do. */
import { describe, expect, it } from 'vitest';
import { ConfigurationError, ObjectExists, ObjectNotFound, StorageError, UnsupportedError } from '../../src/errors.ts';
import { type Attempt, judge } from '../../src/storage/s3-errors.ts';

const attempt: Attempt = {
  verb: 'get',
  what: 'a/b',
  url: 's3://bucket/prefix',
  bucket: 'bucket',
  endpoint: 'http://s',
};

interface Told {
  readonly Code?: string;
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** The answer could not be read to its end. */
  readonly broken?: boolean;
}

/** An error as the SDK makes it of an answer. */
function answered({ Code, status, headers = {}, broken = false }: Told): Error {
  return Object.assign(new Error('the message\nof two lines'), {
    name: Code ?? 'Unknown',
    ...(Code === undefined ? {} : { Code }),
    ...(broken ? {} : { $fault: 'client' }),
    $metadata: { httpStatusCode: status },
    $response: { statusCode: status, headers },
  });
}

function failedCall(code: string): Error {
  return Object.assign(new Error(`call ${code}`), { code });
}

type Row = [what: string, failure: Error, verb: string, kind: unknown, retry: boolean, says: RegExp, hint?: RegExp];

const rows: Row[] = [
  ['a missing key', answered({ Code: 'NoSuchKey', status: 404 }), 'get', ObjectNotFound, false, /^no object "a\/b"$/],
  ['NoSuchKey to a put', answered({ Code: 'NoSuchKey', status: 404 }), 'put', StorageError, false, /NoSuchKey 404$/],
  ['a 404 of a gateway', answered({ Code: 'NotFound', status: 404 }), 'get', StorageError, false, /NotFound 404$/],
  ['a 404 in HTML', answered({ status: 404, broken: true }), 'get', StorageError, true, /HTTP 404$/],
  [
    'a missing bucket',
    answered({ Code: 'NoSuchBucket', status: 404 }),
    'get',
    ConfigurationError,
    false,
    /^the bucket "bucket" does not exist$/,
    /Make the bucket/,
  ],
  ['a taken key', answered({ Code: 'PreconditionFailed', status: 412 }), 'put', ObjectExists, false, /already exists/],
  ['a 412 without a body', answered({ status: 412, broken: true }), 'put', ObjectExists, false, /already exists/],
  [
    'an object that changed',
    answered({ Code: 'PreconditionFailed', status: 412 }),
    'get',
    StorageError,
    false,
    /it was replaced while it was read$/,
  ],
  ...(['get', 'put', 'list', 'delete'] as const).map(
    (verb): Row => [
      `H35: a denied ${verb}`,
      answered({ Code: 'AccessDenied', status: 403 }),
      verb,
      StorageError,
      false,
      /access denied$/,
      { get: /s3:ListBucket/, put: /s3:PutObject/, list: /s3:ListBucket/, delete: /s3:DeleteObject/ }[verb],
    ],
  ),
  ['a 401', answered({ Code: 'Unauthorized', status: 401 }), 'put', StorageError, false, /key is not known$/, /KEY_ID/],
  [
    'an unknown key',
    answered({ Code: 'InvalidAccessKeyId', status: 403 }),
    'put',
    StorageError,
    false,
    /key is not known$/,
    /AWS_ACCESS_KEY_ID/,
  ],
  [
    'a wrong secret',
    answered({ Code: 'SignatureDoesNotMatch', status: 403 }),
    'put',
    StorageError,
    false,
    /the secret key is wrong$/,
    /AWS_SECRET_ACCESS_KEY/,
  ],
  ...['ExpiredToken', 'InvalidToken'].map(
    (Code): Row => [Code, answered({ Code, status: 400 }), 'put', StorageError, false, /session token/, /Renew/],
  ),
  ...['RequestTimeTooSkewed', 'RequestExpired'].map(
    (Code): Row => [Code, answered({ Code, status: 403 }), 'put', StorageError, false, /clocks differ$/, /chronyc/],
  ),
  ...['AuthorizationHeaderMalformed', 'PermanentRedirect', 'IllegalLocationConstraintException'].map(
    (Code): Row => [Code, answered({ Code, status: 400 }), 'put', StorageError, false, /region/, /AWS_REGION/],
  ),
  ['a full quota', answered({ Code: 'QuotaExceeded', status: 403 }), 'put', StorageError, false, /quota/, /Enlarge/],
  [
    'an unknown class',
    answered({ Code: 'InvalidStorageClass', status: 400 }),
    'put',
    StorageError,
    false,
    /storage class$/,
    /WALT_S3_STORAGE_CLASS/,
  ],
  [
    'a frozen object',
    answered({ Code: 'InvalidObjectState', status: 403 }),
    'get',
    StorageError,
    false,
    /must be restored/,
    /Restore/,
  ],
  [
    'no keys',
    answered({ Code: 'CredentialsProviderError' }),
    'get',
    ConfigurationError,
    false,
    /no S3 credentials/,
    /KEY/,
  ],
  [
    'a 501',
    answered({ Code: 'NotImplemented', status: 501 }),
    'put',
    UnsupportedError,
    false,
    /NotImplemented \(501\)$/,
  ],
  [
    'a bad request',
    answered({ Code: 'InvalidArgument', status: 400 }),
    'put',
    StorageError,
    false,
    /InvalidArgument 400$/,
  ],
  [
    'a timeout of the store',
    answered({ Code: 'RequestTimeout', status: 400 }),
    'put',
    StorageError,
    true,
    /Timeout 400$/,
  ],
  ['a lost part', answered({ Code: 'NoSuchUpload', status: 404 }), 'put', StorageError, false, /NoSuchUpload 404$/],
  ...[408, 409, 429, 500, 502, 503, 504].map(
    (status): Row => [
      `a ${status}`,
      answered({ Code: 'Some', status }),
      'put',
      StorageError,
      true,
      /Some \d+$/,
      /storage/,
    ],
  ),
  ['an HTML page', answered({ status: 200, broken: true }), 'list', StorageError, true, /HTTP 200$/],
  ['a broken answer', answered({ status: 400, broken: true }), 'get', StorageError, true, /HTTP 400$/],
  ...(
    [
      ['ECONNREFUSED', /connection refused$/],
      ['ECONNRESET', /connection reset by peer$/],
      ['ENOTFOUND', /host not found$/],
      ['EAI_AGAIN', /could not be resolved now$/],
      ['EPIPE', /connection closed by peer$/],
      ['ETIMEDOUT', /connection timed out$/],
    ] as const
  ).map(
    ([code, says]): Row => [code, failedCall(code), 'get', StorageError, true, says, /http:\/\/s right and reachable/],
  ),
  ...[
    'SELF_SIGNED_CERT_IN_CHAIN',
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'CERT_HAS_EXPIRED',
  ].map(
    (code): Row => [
      code,
      failedCall(code),
      'get',
      StorageError,
      false,
      /certificate is not trusted/,
      /WALT_S3_CA_FILE/,
    ],
  ),
];

describe('judge', () => {
  it.each(rows)('knows %s', (_, failure, verb, kind, retry, says, hint = /^/) => {
    const { error, retry: again } = judge(failure, { ...attempt, verb });
    expect(error.constructor).toBe(kind);
    expect(error.message).toMatch(says);
    expect(error.message).not.toContain('\n');
    expect((error as StorageError).hint ?? '').toMatch(hint);
    expect((error as StorageError).detail ?? '').not.toContain('\n');
    expect(again).toBe(retry);
  });

  it('hears how long to wait, in seconds or as a date', () => {
    const waits = (text: string) =>
      judge(answered({ Code: 'SlowDown', status: 503, headers: { 'retry-after': text } }), attempt).retryAfterMs;
    expect(waits('7')).toBe(7000);
    expect(waits(new Date(Date.now() + 60_000).toUTCString())).toBeGreaterThan(30_000);
    expect(waits(new Date(Date.now() - 60_000).toUTCString())).toBe(0);
    for (const none of ['', 'soon', '-1x']) expect(waits(none)).toBeUndefined();
  });

  it('leaves an error alone that knows itself what it is', () => {
    const known = new StorageError('known');
    expect(judge(known, attempt)).toEqual({ error: known, retry: true });
    expect(judge('a text', attempt).error.message).toContain('a text');
  });
});
