/** From the environment and the settings file to typed settings; whatever would silently do nothing is refused. */
import leven from 'leven';
import { ConfigurationError } from './errors.ts';
import type { defaultTimes } from './limits.ts';
import type { LogFormat, LogLevel } from './log.ts';
import { settingsTable } from './settings.ts';

export interface Settings {
  readonly repository: string | undefined;
  readonly dataDirectory: string | undefined;
  /** Decimal. */
  readonly systemIdentifier: string | undefined;
  readonly init: 'manual' | 'auto';
  readonly compressionLevel: number;
  readonly encryption: EncryptionSettings;
  readonly s3: S3Settings;
  readonly connections: number;
  /** Threads; undefined: as the command thinks best. */
  readonly workers: number | undefined;
  /** Files that one call may archive, or fetch, ahead of PostgreSQL. */
  readonly walPushAhead: number;
  readonly walFetchAhead: number;
  readonly logFormat: LogFormat;
  readonly logLevel: LogLevel;
  readonly times: Readonly<Record<keyof typeof defaultTimes, number>>;
  readonly sidecar: SidecarSettings;
}

/** Schedules and flags as they were given; times in milliseconds, undefined: off. */
export interface SidecarSettings {
  readonly backupSchedule: string;
  readonly backupFlags: string | undefined;
  /** Undefined: nothing is ever deleted. */
  readonly deleteFlags: string | undefined;
  /** Undefined: after each backup. */
  readonly deleteSchedule: string | undefined;
  readonly verifySchedule: string;
  readonly verifyDeepSchedule: string;
  readonly checkFlags: string;
  readonly checkIntervalMs: number | undefined;
  readonly lookIntervalMs: number;
  readonly timeZone: string;
  readonly maxJitterMs: number | undefined;
  readonly jobTimeoutMs: number;
  /** Undefined host: all addresses. */
  readonly listen: { readonly host: string | undefined; readonly port: number };
}

/** Texts and paths as they were given. */
export interface EncryptionSettings {
  readonly recipients: string | undefined;
  readonly recipientsFile: string | undefined;
  readonly manifestRecipients: string | undefined;
  readonly identity: string | undefined;
  readonly identityFiles: string | undefined;
  readonly authKeyFile: string | undefined;
  readonly readPlaintext: boolean;
}

/** Beside what the SDK reads by itself. */
export interface S3Settings {
  /** Undefined is AWS itself. */
  readonly endpoint: string | undefined;
  readonly forcePathStyle: boolean | undefined;
  readonly storageClass: string | undefined;
  readonly serverSideEncryption: string | undefined;
  readonly kmsKeyId: string | undefined;
  readonly caFile: string | undefined;
  readonly proxy: string | undefined;
}

/** A value as it was found, and where. */
export interface Entry {
  readonly value: string;
  /** "environment", a file's path, or "default". */
  readonly source: string;
}

export type Entries = Readonly<Record<string, Entry>>;

/** WAL-G's names, for those who come from there, and other names that AWS's tools know: read where ours is not set. */
const aliases: Readonly<Record<string, string>> = {
  WALG_FILE_PREFIX: 'WALT_REPO',
  WALG_S3_PREFIX: 'WALT_REPO',
  WALG_COMPRESSION_LEVEL: 'WALT_COMPRESSION_LEVEL',
  WALG_UPLOAD_CONCURRENCY: 'WALT_CONNECTIONS',
  WALG_S3_STORAGE_CLASS: 'WALT_S3_STORAGE_CLASS',
  WALG_S3_SSE: 'WALT_S3_SSE',
  WALG_S3_SSE_KMS_ID: 'WALT_S3_SSE_KMS_KEY_ID',
  WALG_S3_CA_CERT_FILE: 'WALT_S3_CA_FILE',
  AWS_CA_BUNDLE: 'WALT_S3_CA_FILE',
  AWS_ENDPOINT: 'AWS_ENDPOINT_URL_S3',
  AWS_ENDPOINT_URL: 'AWS_ENDPOINT_URL_S3',
  AWS_S3_FORCE_PATH_STYLE: 'WALT_S3_FORCE_PATH_STYLE',
  AWS_DEFAULT_REGION: 'AWS_REGION',
};

/** Whoever has set one of these believes that the archive is encrypted. */
const foreignEncryption = /^WAL[EG]_(?:GPG_KEY_ID|PGP_|LIBSODIUM_|CSE_|YC_|ENVELOPE_)/;

/**
 * All values in force, from the environment and from the text of the configuration file.
 * @throws ConfigurationError for a line that is none, an unknown WALT_ name, and an encryption setting of WAL-G.
 */
export function mergeEntries(
  environment: Readonly<Record<string, string | undefined>>,
  file: { readonly path: string; readonly text: string } | undefined,
): Entries {
  const fromFile = file === undefined ? {} : parseConfigFile(file.path, file.text);
  const fromEnvironment: Record<string, Entry> = {};
  for (const [name, value] of Object.entries(environment)) {
    if (value === undefined || !isOurs(name)) continue;
    if (value === '') refuseEmptyKey(name, 'environment');
    else fromEnvironment[name] = { value, source: 'environment' };
  }
  const found: Record<string, Entry> = { ...fromFile, ...fromEnvironment };
  checkNames(found);
  for (const [alias, name] of Object.entries(aliases)) {
    const entry = found[alias];
    if (entry === undefined || found[name] !== undefined) continue;
    const value = alias === 'WALG_FILE_PREFIX' && entry.value.startsWith('/') ? `file://${entry.value}` : entry.value;
    found[name] = { value, source: `${entry.source}, as ${alias}` };
  }
  return found;
}

/** The entries as typed settings. @throws ConfigurationError for a value that its setting cannot have. */
export function readSettings(entries: Entries): Settings {
  const values = new Map<string, unknown>();
  for (const { name, check, default: standard } of settingsTable) {
    const value = entries[name]?.value ?? standard;
    if (value !== undefined) values.set(name, check(value, name));
  }
  const get = <T>(name: string) => values.get(name) as T;
  return {
    repository: get('WALT_REPO'),
    dataDirectory: get('WALT_PGDATA'),
    systemIdentifier: get('WALT_SYSTEM_IDENTIFIER'),
    init: get('WALT_INIT'),
    compressionLevel: get('WALT_COMPRESSION_LEVEL'),
    encryption: {
      recipients: get('WALT_AGE_RECIPIENTS'),
      recipientsFile: get('WALT_AGE_RECIPIENTS_FILE'),
      manifestRecipients: get('WALT_AGE_MANIFEST_RECIPIENTS'),
      identity: get('WALT_AGE_IDENTITY'),
      identityFiles: get('WALT_AGE_IDENTITY_FILE'),
      authKeyFile: get('WALT_AUTH_KEY_FILE'),
      readPlaintext: get('WALT_READ_PLAINTEXT'),
    },
    s3: {
      endpoint: get('AWS_ENDPOINT_URL_S3'),
      forcePathStyle: get('WALT_S3_FORCE_PATH_STYLE'),
      storageClass: get('WALT_S3_STORAGE_CLASS'),
      serverSideEncryption: get('WALT_S3_SSE'),
      kmsKeyId: get('WALT_S3_SSE_KMS_KEY_ID'),
      caFile: get('WALT_S3_CA_FILE'),
      proxy: get('WALT_S3_PROXY'),
    },
    connections: get('WALT_CONNECTIONS'),
    workers: get('WALT_WORKERS'),
    walPushAhead: get('WALT_WAL_PUSH_AHEAD'),
    walFetchAhead: get('WALT_WAL_FETCH_AHEAD'),
    logLevel: get('WALT_LOG_LEVEL'),
    logFormat: get('WALT_LOG_FORMAT'),
    times: {
      connectMs: get('WALT_CONNECT_TIMEOUT'),
      idleMs: get('WALT_IDLE_TIMEOUT'),
      requestMs: get('WALT_REQUEST_TIMEOUT'),
      walPushMs: get('WALT_WAL_PUSH_TIMEOUT'),
      walFetchRecoveryMs: get('WALT_WAL_FETCH_TIMEOUT'),
      walFetchStandbyMs: get('WALT_WAL_FETCH_STANDBY_TIMEOUT'),
      walFetchPromoteMs: get('WALT_WAL_FETCH_PROMOTE_TIMEOUT'),
      backupWalMs: get('WALT_BACKUP_WAL_TIMEOUT'),
      aheadMs: get('WALT_AHEAD_TIMEOUT'),
    },
    sidecar: {
      backupSchedule: get('WALT_SIDECAR_BACKUP_SCHEDULE'),
      backupFlags: get('WALT_SIDECAR_BACKUP'),
      deleteFlags: get('WALT_SIDECAR_DELETE'),
      deleteSchedule: get('WALT_SIDECAR_DELETE_SCHEDULE'),
      verifySchedule: get('WALT_SIDECAR_VERIFY_SCHEDULE'),
      verifyDeepSchedule: get('WALT_SIDECAR_VERIFY_DEEP_SCHEDULE'),
      checkFlags: get('WALT_SIDECAR_CHECK'),
      checkIntervalMs: get('WALT_SIDECAR_CHECK_INTERVAL'),
      lookIntervalMs: get('WALT_SIDECAR_LOOK_INTERVAL'),
      timeZone: get('WALT_SIDECAR_TIME_ZONE'),
      maxJitterMs: get('WALT_SIDECAR_MAX_JITTER'),
      jobTimeoutMs: get('WALT_SIDECAR_JOB_TIMEOUT'),
      listen: get('WALT_SIDECAR_LISTEN'),
    },
  };
}

/** `KEY=VALUE` lines as systemd and Docker read them: `#` begins a comment line, quotes around the value are taken off, nothing is expanded. */
function parseConfigFile(path: string, content: string): Record<string, Entry> {
  const entries: Record<string, Entry> = {};
  for (const [index, raw] of content.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const match = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$/.exec(line);
    const [name, value] = [match?.[1], match?.[2]];
    if (name === undefined || value === undefined) {
      throw new ConfigurationError(`line ${index + 1} of "${path}" is not KEY=VALUE`, {
        hint: 'Write one setting a line, such as WALT_REPO=file:///path; a comment begins with #.',
      });
    }
    const unquoted = /^(["'])(.*)\1$/.exec(value)?.[2] ?? value;
    if (name === 'WALT_CONFIG' || name === 'WALT_NODE') {
      throw new ConfigurationError(`${name} has no effect in a settings file (${path})`, {
        hint: `It is read before the file is: set it in the environment, such as archive_command = '${name}=… wal-push %p %f'.`,
      });
    }
    if (unquoted === '') refuseEmptyKey(name, path);
    else entries[name] = { value: unquoted, source: path };
  }
  return entries;
}

/** Elsewhere empty is unset. A key that is empty is a command that failed, and everything would be stored in plain. */
function refuseEmptyKey(name: string, source: string): void {
  if (!/^WALT_A(?:GE|UTH)_/.test(name)) return;
  throw new ConfigurationError(`${name} is empty (${source})`, {
    hint: 'Remove it if nothing is to be encrypted; else find out why it is empty.',
  });
}

function isOurs(name: string): boolean {
  return /^(?:WAL[TEG]|AWS)_/.test(name);
}

/** A misspelled name would be a setting that silently does nothing. */
function checkNames(entries: Entries): void {
  const known = settingsTable.map(({ name }) => name);
  const encrypted = entries.WALT_AGE_RECIPIENTS !== undefined || entries.WALT_AGE_RECIPIENTS_FILE !== undefined;
  for (const [name, { source }] of Object.entries(entries)) {
    if (foreignEncryption.test(name) && !encrypted) {
      throw new ConfigurationError(`${name} is set (${source}), but WAL-T does not encrypt with it`, {
        hint: 'Set WALT_AGE_RECIPIENTS to encrypt, or remove the setting if the archive need not be encrypted.',
      });
    }
    if (!name.startsWith('WALT_') || known.includes(name)) continue;
    const [nearest = ''] = [...known].sort(
      (a, b) => likeness(b, name) - likeness(a, name) || leven(a, name) - leven(b, name),
    );
    throw new ConfigurationError(`unknown setting ${name} (${source})`, { hint: `Did you mean ${nearest}?` });
  }
}

/** The share of words that two settings have in common, whatever their order and whose they are: WALT_S3_ENDPOINT is meant as AWS_ENDPOINT_URL_S3. */
function likeness(a: string, b: string): number {
  const [own, other] = [a, b].map((name) => new Set(name.split('_').slice(1))) as [Set<string>, Set<string>];
  const all = new Set([...own, ...other]);
  return (own.size + other.size - all.size) / all.size;
}
