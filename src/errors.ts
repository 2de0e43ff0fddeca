/** What can go wrong, one class for each thing that an operator must do about it, and the exit codes that say so. */
import { constants } from 'node:os';

/** The exit codes of every command; `docs/` and `--help` print this table. */
export const exitCodes = {
  done: 0,
  notFound: 1,
  usage: 2,
  configuration: 3,
  storage: 4,
  conflict: 5,
  corrupt: 6,
  postgresql: 7,
  check: 8,
  host: 9,
  bug: 70,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** One line for each exit code, in the words of `--help`. */
export const exitCodeMeanings: Readonly<Record<ExitCode, string>> = {
  0: 'done',
  1: 'not found (wal-fetch: the proved end of the WAL)',
  2: 'wrong usage',
  3: 'wrong or missing configuration',
  4: 'storage unreachable, full or denied',
  5: 'conflict: other content is stored under that name',
  6: 'corrupt, incomplete or not what it claims to be',
  7: 'PostgreSQL refused',
  8: 'a check or verification failed',
  9: "this host's file system refused",
  70: 'a bug in WAL-T, or Node.js could not do its work',
};

export interface ErrorDetails {
  /** More facts, one line. */
  readonly detail?: string | undefined;
  /** A sentence that says how to mend it. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

/** The base of every error that a user can meet: `message` in lower case, without a full stop. */
export abstract class WalTError extends Error {
  abstract readonly exitCode: ExitCode;
  readonly detail: string | undefined;
  readonly hint: string | undefined;

  constructor(message: string, { detail, hint, cause }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.detail = detail;
    this.hint = hint;
  }

  /** Could the same call succeed a little later, with nothing changed on this host? */
  get mayPass(): boolean {
    return false;
  }
}

/** The command line is wrong: correct it. */
export class UsageError extends WalTError {
  readonly exitCode = exitCodes.usage;
}

/** A setting is wrong or missing: correct the configuration. */
export class ConfigurationError extends WalTError {
  readonly exitCode = exitCodes.configuration;
}

/** There is no repository where the settings point: initialise it, mount it, or correct the settings. */
export class NoRepositoryError extends ConfigurationError {
  override get mayPass(): boolean {
    return true; // a folder may be mounted a minute after the server has started
  }
}

/** The repository is there, and nothing of this cluster is in it. */
export class NothingArchivedError extends ConfigurationError {}

/** The storage did not answer, refused, or is full: look after the storage. */
export class StorageError extends WalTError {
  readonly exitCode = exitCodes.storage;
  override get mayPass(): boolean {
    return true;
  }
}

/** The storage does not know this kind of request: do without it. */
export class UnsupportedError extends StorageError {
  override get mayPass(): boolean {
    return false;
  }
}

/** Another content is stored under the same name: find out which of the two is right. */
export class ConflictError extends WalTError {
  readonly exitCode = exitCodes.conflict;
}

/** Bytes are not what they must be: take them from somewhere else. */
export class CorruptError extends WalTError {
  readonly exitCode = exitCodes.corrupt;
}

/** No identity of this host opens it: it may be sound. Use the right one. */
export class WrongKeyError extends CorruptError {}

/** Something is missing in the middle of the archive: find it, or decide to end before it. */
export class HoleError extends CorruptError {
  override get mayPass(): boolean {
    return true; // the segment may be on its way: an archiver pushes several at once
  }
}

/** What was to be proved could not be: a backup is not confirmed, or not restorable. */
export class CheckError extends WalTError {
  readonly exitCode = exitCodes.check;
}

/** A file of this host cannot be read or written: look after this host's disk and permissions. */
export class HostError extends WalTError {
  readonly exitCode = exitCodes.host;
}

/** PostgreSQL refused or went away: look at its log. */
export class PostgresError extends WalTError {
  readonly exitCode = exitCodes.postgresql;
}

/** What was asked for by its name is not there: choose another. */
export class NotFoundError extends WalTError {
  readonly exitCode = exitCodes.notFound;
}

/** No object has this key. Not a failure by itself: absence is an answer. */
export class ObjectNotFound extends WalTError {
  readonly exitCode = exitCodes.notFound;
  readonly key: string;
  constructor(key: string, details: ErrorDetails = {}) {
    super(`no object "${key}"`, details);
    this.key = key;
  }
}

/** An object already has this key, and is as durable as if it had just been put. */
export class ObjectExists extends WalTError {
  readonly exitCode = exitCodes.conflict;
  readonly key: string;
  constructor(key: string, details: ErrorDetails = {}) {
    super(`object "${key}" already exists`, details);
    this.key = key;
  }
}

/** The operating system's error code (`ENOENT` …) of a failed system call, if that is what this is. */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error && 'code' in error && typeof error.code === 'string')) return undefined;
  if (!error.code.startsWith('Unknown system error')) return error.code;
  // Node.js knows no names for what network file systems answer: ESTALE, EDQUOT
  const errno = 'errno' in error ? -Number(error.errno) : 0;
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `E${errno}`;
}

const systemErrorWords: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
  ENOENT: 'no such file or directory',
  ENOTDIR: 'not a directory',
  EISDIR: 'is a directory',
  ENOSPC: 'no space left on device',
  EDQUOT: 'disk quota exceeded',
  EFBIG: 'file too large',
  EIO: 'input/output error',
  ESTALE: 'stale file handle',
  ENOTCONN: 'transport endpoint is not connected',
  EMFILE: 'too many open files',
  EXDEV: 'invalid cross-device link',
  EMLINK: 'too many links',
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset by peer',
  EPIPE: 'connection closed by peer',
  ENOTFOUND: 'host not found',
  EAI_AGAIN: 'host name could not be resolved now',
  ETIMEDOUT: 'connection timed out',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network is unreachable',
};

/** The words for a failed system call, as `strerror` gives them: "no space left on device". */
export function systemErrorReason(error: unknown): string {
  const code = systemErrorCode(error);
  if (code === undefined) return error instanceof Error ? error.message : String(error);
  return systemErrorWords[code] ?? code;
}
