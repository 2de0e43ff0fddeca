/** Every setting in one table: its name, meaning, default and form. The README's table and `wal-t config` come from it. */
import { ConfigurationError } from './errors.ts';
import { defaultTimes } from './limits.ts';
import { logLevels } from './log.ts';

export interface Setting {
  readonly name: string;
  readonly meaning: string;
  readonly default?: string;
  /** Never shown. */
  readonly secret?: boolean;
  /** @throws ConfigurationError by `wrong` when the value is none. */
  readonly check: (value: string, name: string) => unknown;
}

export const defaultConfigFile = '/etc/wal-t.env';

type Rest = Partial<Pick<Setting, 'default' | 'secret' | 'check'>>;

const row = (name: string, meaning: string, { check = text, ...rest }: Rest = {}): Setting => ({
  name,
  meaning,
  check,
  ...rest,
});
const timeRow = (name: string, meaning: string, key: keyof typeof defaultTimes): Setting =>
  row(name, meaning, { default: formatTime(defaultTimes[key]), check: duration });

export const settingsTable: readonly Setting[] = [
  row('WALT_REPO', 'the repository: `s3://bucket/prefix` or `file:///absolute/path`'),
  row('WALT_CONFIG', 'a file of `KEY=VALUE` lines; the environment wins over it', { default: defaultConfigFile }),
  row('WALT_PGDATA', 'the data directory, where neither `%p` nor the working directory tells it'),
  row('WALT_SYSTEM_IDENTIFIER', 'the cluster, where no data directory tells it', { check: digits }),
  row('WALT_INIT', '`auto`: the first push makes the repository; for throw-away containers', {
    default: 'manual',
    check: oneOf('manual', 'auto'),
  }),
  row(
    'WALT_COMPRESSION_LEVEL',
    'zstd level, 1 to 19; at 3 in the quicker of two ways, where its frames are no larger',
    { default: '3', check: wholeNumber(1, 19) },
  ),
  row('WALT_AGE_RECIPIENTS', 'encrypt to these `age1…` keys, separated by spaces or commas', { secret: true }),
  row('WALT_AGE_RECIPIENTS_FILE', 'the same from a file, one a line'),
  row('WALT_AGE_MANIFEST_RECIPIENTS', 'further keys that may read manifests and lists of files, not data', {
    secret: true,
  }),
  row('WALT_AGE_IDENTITY_FILE', 'what decrypts: files of `AGE-SECRET-KEY-1…` lines, separated by commas'),
  row('WALT_AGE_IDENTITY', 'the same in the setting itself', { secret: true }),
  row('WALT_AUTH_KEY_FILE', 'a key that proves who wrote: `wal-t keygen --auth`'),
  row('WALT_READ_PLAINTEXT', '`1`: accept what was stored before encryption was turned on', {
    default: '0',
    check: truth,
  }),
  row(
    'AWS_ACCESS_KEY_ID',
    "AWS's own variables are understood, here and in the environment, with its profiles and roles",
  ),
  row('AWS_SECRET_ACCESS_KEY', 'its secret', { secret: true }),
  row('AWS_REGION', 'the region of the bucket'),
  row('AWS_ENDPOINT_URL_S3', 'an endpoint that is not AWS'),
  row('WALT_S3_FORCE_PATH_STYLE', '`https://host/bucket/key`; by default for every endpoint that is not AWS', {
    check: truth,
  }),
  row('WALT_S3_CA_FILE', 'certificates (PEM) to trust besides the usual ones'),
  row('WALT_S3_PROXY', 'an HTTP proxy for `https://` endpoints: `http://host:port`', { check: proxyUrl }),
  row('WALT_S3_STORAGE_CLASS', 'the storage class of what is stored'),
  row('WALT_S3_SSE', 'server-side encryption: `AES256` or `aws:kms`'),
  row('WALT_S3_SSE_KMS_KEY_ID', 'its key'),
  row('WALT_CONNECTIONS', 'connections to the storage at the same time', { default: '16', check: wholeNumber(1, 256) }),
  row('WALT_WORKERS', 'threads that a backup or a restore uses; by default as many as the processors allow', {
    check: wholeNumber(1, 64),
  }),
  row('WALT_WAL_PUSH_AHEAD', 'how many waiting files one `wal-push` may archive besides; `0`: none', {
    default: '64',
    check: wholeNumber(0, 1000),
  }),
  row('WALT_WAL_FETCH_AHEAD', 'how many segments one `wal-fetch` may fetch besides, in recovery; `0`: none', {
    default: '32',
    check: wholeNumber(0, 1000),
  }),
  row('WALT_LOG_LEVEL', '`error`, `warning`, `info` or `debug`', { default: 'info', check: oneOf(...logLevels) }),
  row('WALT_LOG_FORMAT', '`text` or `json`', { default: 'text', check: oneOf('text', 'json') }),
  timeRow('WALT_CONNECT_TIMEOUT', 'the longest wait for a connection', 'connectMs'),
  timeRow('WALT_IDLE_TIMEOUT', 'the longest silence of the storage', 'idleMs'),
  timeRow('WALT_REQUEST_TIMEOUT', 'the longest single request', 'requestMs'),
  timeRow('WALT_WAL_PUSH_TIMEOUT', 'the longest `wal-push`', 'walPushMs'),
  timeRow(
    'WALT_AHEAD_TIMEOUT',
    'how long `wal-push` and `wal-fetch` go on with other files when the one that PostgreSQL waits for is done; what is on its way then gets as long again',
    'aheadMs',
  ),
  timeRow('WALT_WAL_FETCH_TIMEOUT', 'how long `wal-fetch` keeps trying in archive recovery', 'walFetchRecoveryMs'),
  timeRow('WALT_WAL_FETCH_STANDBY_TIMEOUT', 'the same under `standby.signal` and by hand', 'walFetchStandbyMs'),
  timeRow('WALT_WAL_FETCH_PROMOTE_TIMEOUT', 'the same while a standby is being promoted', 'walFetchPromoteMs'),
  timeRow('WALT_BACKUP_WAL_TIMEOUT', 'how long a base backup waits for its WAL in the archive', 'backupWalMs'),
  row('WALT_SIDECAR_BACKUP_SCHEDULE', '`wal-t sidecar`: when it takes base backups, as in a crontab; or `off`', {
    default: '0 1 * * *',
  }),
  row('WALT_SIDECAR_BACKUP', 'further flags of its `basebackup-push`'),
  row('WALT_SIDECAR_DELETE', 'its policy, the flags of `delete`; without one it deletes nothing'),
  row('WALT_SIDECAR_DELETE_SCHEDULE', 'when it deletes; by default after each backup'),
  row('WALT_SIDECAR_VERIFY_SCHEDULE', 'when it verifies; or `off`', { default: '0 4 * * *' }),
  row('WALT_SIDECAR_VERIFY_DEEP_SCHEDULE', 'when it reads every stored byte for that; or `off`', { default: 'off' }),
  row('WALT_SIDECAR_CHECK', 'further flags of its `check`', { default: '--skip round-trip' }),
  row('WALT_SIDECAR_CHECK_INTERVAL', 'how long it waits between two checks; or `off`', {
    default: '5min',
    check: durationOrOff,
  }),
  row('WALT_SIDECAR_LOOK_INTERVAL', 'how long it waits before it looks at the archive again, for its metrics', {
    default: '15min',
    check: duration,
  }),
  row('WALT_SIDECAR_TIME_ZONE', 'the zone of its schedules', { default: 'UTC' }),
  row('WALT_SIDECAR_MAX_JITTER', 'each of its runs is put off by up to so long; or `off`', {
    default: 'off',
    check: durationOrOff,
  }),
  row('WALT_SIDECAR_JOB_TIMEOUT', 'the longest job of it', { default: '24h', check: duration }),
  row('WALT_SIDECAR_LISTEN', 'where it serves `/health`, `/status` and `/metrics`: `address:port`, or `:port`', {
    default: ':19258',
    check: listenAddress,
  }),
  row('WALT_NODE', 'the Node.js to run with, instead of the one in the package or in `PATH`'),
];

function text(value: string): string {
  return value;
}

function digits(value: string, name: string): string {
  if (!/^[1-9]\d{0,19}$/.test(value)) throw wrong(name, value, 'the number that pg_controldata shows');
  return value;
}

function wholeNumber(least: number, most: number) {
  return (value: string, name: string): number => {
    const number = /^(?:0|[1-9]\d{0,8})$/.test(value) ? Number(value) : Number.NaN;
    if (!(number >= least && number <= most)) throw wrong(name, value, `a whole number from ${least} to ${most}`);
    return number;
  };
}

function truth(value: string, name: string): boolean {
  if (/^(?:1|true|on|yes)$/i.test(value)) return true;
  if (/^(?:0|false|off|no)$/i.test(value)) return false;
  throw wrong(name, value, '1 or 0');
}

function proxyUrl(value: string, name: string): string {
  if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol))
    throw wrong(name, value, 'a URL such as http://proxy:3128');
  return value;
}

function oneOf<T extends string>(...values: readonly T[]) {
  return (value: string, name: string): T => {
    const found = values.find((one) => one === value);
    if (found === undefined) throw wrong(name, value, values.join(' or '));
    return found;
  };
}

/** A time as in postgresql.conf: `500ms`, `30s`, `5min`, `1h`. */
function duration(value: string, name: string): number {
  const unitsMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000 };
  const match = /^(\d{1,9})\s*(ms|s|min|h)$/.exec(value);
  const milliseconds = Number(match?.[1]) * (unitsMs[match?.[2] ?? ''] ?? Number.NaN);
  // beyond 2^31 ms Node's timers fire at once
  if (!(milliseconds > 0 && milliseconds < 2 ** 31)) throw wrong(name, value, 'a time such as 500ms, 30s or 5min');
  return milliseconds;
}

function durationOrOff(value: string, name: string): number | undefined {
  return value === 'off' ? undefined : duration(value, name);
}

/** `:port`, `address:port`, `[IPv6 address]:port`. Port 0: any that is free. */
function listenAddress(value: string, name: string): { readonly host: string | undefined; readonly port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(value);
  const port = Number(match?.[3] ?? Number.NaN);
  if (!(port <= 65_535)) throw wrong(name, value, 'an address and a port, such as :19258 or 127.0.0.1:19258');
  return { host: match?.[1] || match?.[2] || undefined, port };
}

function formatTime(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  return seconds % 60 === 0 ? `${seconds / 60}min` : `${seconds}s`;
}

function wrong(name: string, value: string, expected: string): ConfigurationError {
  const secret = settingsTable.find((setting) => setting.name === name)?.secret === true;
  return new ConfigurationError(`${name} cannot be "${secret ? '***' : value}"`, { hint: `It must be ${expected}.` });
}
