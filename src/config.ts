/** Every setting in one table: its name, meaning and default. The README's table, `wal-t config` and the checks below come from it. */
import leven from 'leven';
import { ConfigurationError } from './errors.ts';
import { defaultTimes } from './limits.ts';
import { type LogFormat, type LogLevel, logLevels } from './log.ts';

export interface Settings {
  readonly repository: string | undefined;
  readonly dataDirectory: string | undefined;
  /** Decimal. */
  readonly systemIdentifier: string | undefined;
  readonly init: 'manual' | 'auto';
  readonly compressionLevel: number;
  readonly logFormat: LogFormat;
  readonly logLevel: LogLevel;
  readonly times: Readonly<Record<keyof typeof defaultTimes, number>>;
}

/** A value as it was found, and where. */
export interface Entry {
  readonly value: string;
  /** "environment", a file's path, or "default". */
  readonly source: string;
}

export type Entries = Readonly<Record<string, Entry>>;

interface Setting {
  readonly name: string;
  readonly meaning: string;
  readonly default?: string;
  /** Never shown. */
  readonly secret?: boolean;
  /** @throws ConfigurationError by `wrong` when the value is none. */
  readonly check: (value: string, name: string) => unknown;
}

export const defaultConfigFile = '/etc/wal-t.env';

export const settingsTable: readonly Setting[] = [
  { name: 'WALT_REPO', meaning: 'the repository: `file:///absolute/path`', check: text },
  {
    name: 'WALT_CONFIG',
    meaning: 'a file of `KEY=VALUE` lines; the environment wins over it',
    default: defaultConfigFile,
    check: text,
  },
  {
    name: 'WALT_PGDATA',
    meaning: 'the data directory, where neither `%p` nor the working directory tells it',
    check: text,
  },
  { name: 'WALT_SYSTEM_IDENTIFIER', meaning: 'the cluster, where no data directory tells it', check: digits },
  {
    name: 'WALT_INIT',
    meaning: '`auto`: the first push makes the repository; for throw-away containers',
    default: 'manual',
    check: oneOf('manual', 'auto'),
  },
  { name: 'WALT_COMPRESSION_LEVEL', meaning: 'zstd level, 1 to 19', default: '3', check: level },
  {
    name: 'WALT_LOG_LEVEL',
    meaning: '`error`, `warning`, `info` or `debug`',
    default: 'info',
    check: oneOf(...logLevels),
  },
  { name: 'WALT_LOG_FORMAT', meaning: '`text` or `json`', default: 'text', check: oneOf('text', 'json') },
  {
    name: 'WALT_IDLE_TIMEOUT',
    meaning: 'the longest silence of the storage',
    default: time('idleMs'),
    check: duration,
  },
  { name: 'WALT_REQUEST_TIMEOUT', meaning: 'the longest single request', default: time('requestMs'), check: duration },
  { name: 'WALT_WAL_PUSH_TIMEOUT', meaning: 'the longest `wal-push`', default: time('walPushMs'), check: duration },
  {
    name: 'WALT_WAL_FETCH_TIMEOUT',
    meaning: 'how long `wal-fetch` keeps trying in archive recovery',
    default: time('walFetchRecoveryMs'),
    check: duration,
  },
  {
    name: 'WALT_WAL_FETCH_STANDBY_TIMEOUT',
    meaning: 'the same under `standby.signal` and by hand',
    default: time('walFetchStandbyMs'),
    check: duration,
  },
  {
    name: 'WALT_WAL_FETCH_PROMOTE_TIMEOUT',
    meaning: 'the same while a standby is being promoted',
    default: time('walFetchPromoteMs'),
    check: duration,
  },
  {
    name: 'WALT_NODE',
    meaning: 'the Node.js to run with, where the package has none and `PATH` has another',
    check: text,
  },
];

/** WAL-G's names, for those who come from there: read where ours is not set. */
const aliases: Readonly<Record<string, { readonly name: string; readonly value: (value: string) => string }>> = {
  WALG_FILE_PREFIX: { name: 'WALT_REPO', value: (value) => (value.startsWith('/') ? `file://${value}` : value) },
  WALG_S3_PREFIX: { name: 'WALT_REPO', value: (value) => value },
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
    if (value !== undefined && value !== '' && isOurs(name)) fromEnvironment[name] = { value, source: 'environment' };
  }
  const found: Record<string, Entry> = { ...fromFile, ...fromEnvironment };
  checkNames(found);
  for (const [alias, { name, value }] of Object.entries(aliases)) {
    const entry = found[alias];
    if (entry === undefined || found[name] !== undefined) continue;
    found[name] = { value: value(entry.value), source: `${entry.source}, as ${alias}` };
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
    logLevel: get('WALT_LOG_LEVEL'),
    logFormat: get('WALT_LOG_FORMAT'),
    times: {
      idleMs: get('WALT_IDLE_TIMEOUT'),
      requestMs: get('WALT_REQUEST_TIMEOUT'),
      walPushMs: get('WALT_WAL_PUSH_TIMEOUT'),
      walFetchRecoveryMs: get('WALT_WAL_FETCH_TIMEOUT'),
      walFetchStandbyMs: get('WALT_WAL_FETCH_STANDBY_TIMEOUT'),
      walFetchPromoteMs: get('WALT_WAL_FETCH_PROMOTE_TIMEOUT'),
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
    if (unquoted !== '') entries[name] = { value: unquoted, source: path };
  }
  return entries;
}

function isOurs(name: string): boolean {
  return /^WAL[TEG]_/.test(name);
}

/** A misspelled name would be a setting that silently does nothing. */
function checkNames(entries: Entries): void {
  const known = settingsTable.map(({ name }) => name);
  for (const [name, { source }] of Object.entries(entries)) {
    if (foreignEncryption.test(name)) {
      throw new ConfigurationError(`${name} is set (${source}), but WAL-T does not encrypt with it`, {
        hint: 'Nothing is stored in plain by mistake: remove the setting if the archive need not be encrypted.',
      });
    }
    if (!name.startsWith('WALT_') || known.includes(name)) continue;
    const [nearest = ''] = [...known].sort((a, b) => leven(a, name) - leven(b, name));
    throw new ConfigurationError(`unknown setting ${name} (${source})`, { hint: `Did you mean ${nearest}?` });
  }
}

function text(value: string): string {
  return value;
}

function digits(value: string, name: string): string {
  if (!/^[1-9]\d{0,19}$/.test(value)) throw wrong(name, value, 'the number that pg_controldata shows');
  return value;
}

function level(value: string, name: string): number {
  if (!/^(?:[1-9]|1\d)$/.test(value)) throw wrong(name, value, 'a whole number from 1 to 19');
  return Number(value);
}

function oneOf<T extends string>(...values: readonly T[]) {
  return (value: string, name: string): T => {
    const found = values.find((one) => one === value);
    if (found === undefined) throw wrong(name, value, values.join(' or '));
    return found;
  };
}

const unitsMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };

/** A time as in postgresql.conf: `500ms`, `30s`, `5min`, `1h`. */
function duration(value: string, name: string): number {
  const match = /^(\d{1,9})\s*(ms|s|min|h)$/.exec(value);
  const milliseconds = Number(match?.[1]) * (unitsMs[match?.[2] ?? ''] ?? Number.NaN);
  // beyond 2^31 ms Node's timers fire at once
  if (!(milliseconds > 0 && milliseconds < 2 ** 31)) throw wrong(name, value, 'a time such as 500ms, 30s or 5min');
  return milliseconds;
}

function time(name: keyof typeof defaultTimes): string {
  const seconds = defaultTimes[name] / 1000;
  return seconds % 60 === 0 ? `${seconds / 60}min` : `${seconds}s`;
}

function wrong(name: string, value: string, expected: string): ConfigurationError {
  const secret = settingsTable.find((setting) => setting.name === name)?.secret === true;
  return new ConfigurationError(`${name} cannot be "${secret ? '***' : value}"`, { hint: `It must be ${expected}.` });
}
