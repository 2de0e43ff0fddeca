/** What an S3 endpoint's errors mean: absence, "exists already", something to mend, or something that passes. */
import {
  ConfigurationError,
  ObjectExists,
  ObjectNotFound,
  StorageError,
  systemErrorCode,
  systemErrorReason,
  UnsupportedError,
  WalTError,
} from '../errors.ts';

/** A request, for messages. */
export interface Attempt {
  /** "put", "get", "list", "delete". */
  readonly verb: string;
  /** The key below the repository, or what stands in its place. */
  readonly what: string;
  /** The repository's URL. */
  readonly url: string;
  readonly bucket: string;
  readonly endpoint: string | undefined;
}

/** A failure, and whether the same request may succeed a moment later. */
export interface Verdict {
  readonly error: Error;
  readonly retry: boolean;
  /** What the endpoint itself asked to wait. */
  readonly retryAfterMs?: number | undefined;
}

/** The fields of an SDK error that are read here; each may be missing, since some endpoints answer with HTML. */
interface ServiceFailure extends Error {
  readonly Code?: string;
  /** Whose fault the endpoint said it is; missing where its answer could not be read to the end. */
  readonly $fault?: string;
  readonly $metadata?: { readonly httpStatusCode?: number };
  readonly $response?: { readonly statusCode?: number; readonly headers?: Readonly<Record<string, string>> };
}

const clockHint =
  "This host's clock and the storage's differ by more than 15 minutes: set it right (chronyc tracking, timedatectl).";

interface Meaning {
  readonly says: string;
  readonly hint: string;
}

/** Codes that a person must mend: trying again at once is of no use. */
const toMend: Readonly<Record<string, Meaning>> = {
  InvalidAccessKeyId: { says: 'the access key is not known', hint: 'Correct AWS_ACCESS_KEY_ID.' },
  SignatureDoesNotMatch: {
    says: 'the secret key is wrong',
    hint: 'Correct AWS_SECRET_ACCESS_KEY; some endpoints also demand the right AWS_REGION.',
  },
  ExpiredToken: { says: 'the session token has expired', hint: 'Renew the credentials.' },
  InvalidToken: { says: 'the session token is not valid', hint: 'Renew the credentials.' },
  RequestTimeTooSkewed: { says: 'the clocks differ', hint: clockHint },
  RequestExpired: { says: 'the clocks differ', hint: clockHint },
  AuthorizationHeaderMalformed: { says: 'the region is wrong', hint: 'Set AWS_REGION to the region of the bucket.' },
  PermanentRedirect: { says: 'the bucket is in another region', hint: 'Set AWS_REGION to the region of the bucket.' },
  IllegalLocationConstraintException: {
    says: 'the region is wrong',
    hint: 'Set AWS_REGION to the region of the bucket.',
  },
  QuotaExceeded: { says: 'its quota is used up', hint: 'Enlarge the quota. PostgreSQL keeps the WAL and tries again.' },
  InvalidObjectState: {
    says: 'it lies in a storage class that must be restored before it is read',
    hint: 'Restore the objects there. WALT_S3_STORAGE_CLASS must be one that is read at once.',
  },
  InvalidStorageClass: { says: 'it does not know the storage class', hint: 'Correct WALT_S3_STORAGE_CLASS.' },
};

/** What a failed request means. */
export function judge(failure: unknown, attempt: Attempt): Verdict {
  if (failure instanceof WalTError) return { error: failure, retry: failure.mayPass };
  const error: ServiceFailure = failure instanceof Error ? failure : new Error(String(failure));
  const code = error.Code ?? systemErrorCode(error) ?? error.name;
  const status = error.$metadata?.httpStatusCode ?? error.$response?.statusCode;
  return (
    judgeMeaningful(code, status, attempt, error) ?? {
      ...judgeStatus(code, status, attempt, error),
      retryAfterMs: retryAfter(error),
    }
  );
}

function judgeMeaningful(
  code: string,
  status: number | undefined,
  attempt: Attempt,
  cause: Error,
): Verdict | undefined {
  if (code === 'NoSuchKey' && attempt.verb === 'get')
    return { error: new ObjectNotFound(attempt.what, { cause }), retry: false };
  if ((code === 'PreconditionFailed' || status === 412) && attempt.verb === 'get')
    return { error: failed(attempt, 'it was replaced while it was read', { cause }), retry: false };
  if (code === 'PreconditionFailed' || status === 412)
    return { error: new ObjectExists(attempt.what, { cause }), retry: false };
  if (code === 'NoSuchBucket') {
    const hint = 'Make the bucket, or correct WALT_REPO and the endpoint.';
    return {
      error: new ConfigurationError(`the bucket "${attempt.bucket}" does not exist`, { hint, cause }),
      retry: false,
    };
  }
  if (code === 'CredentialsProviderError' || code === 'TokenProviderError') {
    const hint = 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the settings file, or AWS_PROFILE.';
    return {
      error: new ConfigurationError('no S3 credentials were found', { detail: oneLine(cause), hint, cause }),
      retry: false,
    };
  }
  const meaning = toMend[code];
  if (meaning !== undefined)
    return { error: failed(attempt, meaning.says, { hint: meaning.hint, cause }), retry: false };
  if (status === 401) {
    const hint = 'Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.';
    return { error: failed(attempt, 'the access key is not known', { hint, cause }), retry: false };
  }
  if (code === 'AccessDenied' || status === 403) return { error: denied(attempt, cause), retry: false };
  return undefined;
}

/** By a request's verb. */
const permissions: Readonly<Record<string, string>> = {
  put: 's3:PutObject',
  get: 's3:GetObject',
  list: 's3:ListBucket',
  delete: 's3:DeleteObject',
  'list uploads': 's3:ListBucketMultipartUploads on the bucket',
  abort: 's3:AbortMultipartUpload',
};

/** 403 is also what a store answers for a key that does not exist when listing is not allowed: then no recovery can ever end (H35). */
function denied(attempt: Attempt, cause: Error): StorageError {
  const permission = permissions[attempt.verb];
  const hint =
    attempt.verb === 'get'
      ? 'Grant s3:GetObject on the objects and s3:ListBucket on the bucket: without the second, a missing object is answered with 403.'
      : `Grant ${permission ?? 's3:*'} to these credentials.`;
  return failed(attempt, 'access denied', { hint, cause });
}

/** Certificates that are not trusted, by OpenSSL's names. */
const untrusted = /^(?:SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_(?:GET_ISSUER|VERIFY)|CERT_|ERR_TLS)/;

function judgeStatus(code: string, status: number | undefined, attempt: Attempt, cause: ServiceFailure): Verdict {
  if (untrusted.test(code)) {
    const hint = 'Set WALT_S3_CA_FILE to the certificate authority of the endpoint.';
    return { error: failed(attempt, `its certificate is not trusted (${code})`, { hint, cause }), retry: false };
  }
  if (status === undefined) {
    const says =
      systemErrorCode(cause) === undefined ? sayTimeout(cause) || oneLine(cause) || code : systemErrorReason(cause);
    const hint = `Is the endpoint${attempt.endpoint === undefined ? '' : ` ${attempt.endpoint}`} right and reachable from this host?`;
    return { error: failed(attempt, says, { hint, cause }), retry: true };
  }
  if (status === 501) {
    const hint = 'The storage does not know this kind of request: "wal-t init" finds out what it can do.';
    const says = `could not ${attempt.verb} "${attempt.what}" in ${attempt.url}: ${code} (501)`;
    return { error: new UnsupportedError(says, { hint, cause }), retry: false };
  }
  const says = `${code === 'Error' || code === 'Unknown' ? 'HTTP' : code} ${status}`;
  const passes =
    status >= 500 ||
    status === 429 ||
    status === 409 ||
    status === 408 ||
    status < 400 ||
    code === 'RequestTimeout' ||
    cause.$fault === undefined; // the answer broke off, or is of something that does not speak S3
  return {
    error: failed(attempt, says, {
      detail: oneLine(cause),
      hint: 'Look at the storage and at what stands before it.',
      cause,
    }),
    retry: passes,
  };
}

/** The SDK's words for a limit of ours that is over name its own packages. */
function sayTimeout({ name, message }: Error): string | undefined {
  const milliseconds = name === 'TimeoutError' ? / (?:of|after) (\d+) ms/.exec(message)?.[1] : undefined;
  if (milliseconds === undefined) return undefined;
  const seconds = `${Number(milliseconds) / 1000} s`;
  return message.includes('establish a connection') ? `no connection within ${seconds}` : `no answer for ${seconds}`;
}

export function failed(
  attempt: Attempt,
  says: string,
  details: { detail?: string; hint?: string; cause?: unknown } = {},
): StorageError {
  return new StorageError(`could not ${attempt.verb} "${attempt.what}" in ${attempt.url}: ${says}`, details);
}

function retryAfter({ $response }: ServiceFailure): number | undefined {
  const text = $response?.headers?.['retry-after'] ?? '';
  const waitMs = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now(); // seconds, or a date
  return Number.isFinite(waitMs) ? Math.max(0, waitMs) : undefined;
}

function oneLine({ message }: Error): string {
  return message.split('\n')[0]?.slice(0, 200) ?? '';
}
