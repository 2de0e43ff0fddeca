/** Settings: every one is read, every wrong one is refused with a way out, and none does nothing in silence. */
import { expect, it, onTestFinished } from 'vitest';
import { describeConfig } from '../src/commands/config.ts';
import { mergeEntries, readSettings, type Settings } from '../src/config.ts';
import { ConfigurationError } from '../src/errors.ts';
import { defaultTimes } from '../src/limits.ts';
import { settingsTable } from '../src/settings.ts';

const path = '/etc/wal-t.env';
type Environment = Readonly<Record<string, string | undefined>>;

function entriesOf(environment: Environment, text?: string) {
  return mergeEntries(environment, text === undefined ? undefined : { path, text });
}

function settingsOf(environment: Environment, text?: string): Settings {
  return readSettings(entriesOf(environment, text));
}

function refusal(environment: Environment, text?: string): { message: string; hint: string | undefined } {
  try {
    settingsOf(environment, text);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigurationError);
    const { message, hint } = error as ConfigurationError;
    return { message, hint };
  }
  throw new Error('nothing was refused');
}

const noEncryption: Settings['encryption'] = {
  recipients: undefined,
  recipientsFile: undefined,
  manifestRecipients: undefined,
  identity: undefined,
  identityFiles: undefined,
  authKeyFile: undefined,
  readPlaintext: false,
};
const noS3: Settings['s3'] = {
  endpoint: undefined,
  forcePathStyle: undefined,
  storageClass: undefined,
  serverSideEncryption: undefined,
  kmsKeyId: undefined,
  caFile: undefined,
  proxy: undefined,
};
const sidecarDefaults: Settings['sidecar'] = {
  backupSchedule: '0 1 * * *',
  backupFlags: undefined,
  deleteFlags: undefined,
  deleteSchedule: undefined,
  verifySchedule: '0 4 * * *',
  verifyDeepSchedule: 'off',
  checkFlags: '--skip round-trip',
  checkIntervalMs: 300_000,
  lookIntervalMs: 900_000,
  timeZone: 'UTC',
  maxJitterMs: undefined,
  jobTimeoutMs: 86_400_000,
  listen: { host: undefined, port: 19_258 },
};
const withSidecar = (changed: Partial<Settings['sidecar']>) => ({ sidecar: { ...sidecarDefaults, ...changed } });

it('has a default for everything that has one', () => {
  expect(settingsOf({})).toEqual({
    repository: undefined,
    dataDirectory: undefined,
    systemIdentifier: undefined,
    init: 'manual',
    compressionLevel: 3,
    encryption: noEncryption,
    s3: noS3,
    connections: 16,
    workers: undefined,
    walPushAhead: 64,
    walFetchAhead: 32,
    logFormat: 'text',
    logLevel: 'info',
    times: defaultTimes,
    sidecar: sidecarDefaults,
  });
});

const read: readonly (readonly [name: string, value: string, Partial<Settings>])[] = [
  ['WALT_REPO', 'file:///srv/wal t', { repository: 'file:///srv/wal t' }],
  ['WALT_PGDATA', '/var/lib/postgresql/17/main', { dataDirectory: '/var/lib/postgresql/17/main' }],
  ['WALT_SYSTEM_IDENTIFIER', '18446744073709551615', { systemIdentifier: '18446744073709551615' }],
  ['WALT_INIT', 'auto', { init: 'auto' }],
  ['WALT_COMPRESSION_LEVEL', '1', { compressionLevel: 1 }],
  ['WALT_COMPRESSION_LEVEL', '19', { compressionLevel: 19 }],
  ['WALT_LOG_LEVEL', 'debug', { logLevel: 'debug' }],
  ['WALT_LOG_FORMAT', 'json', { logFormat: 'json' }],
  ['WALT_IDLE_TIMEOUT', '500ms', { times: { ...defaultTimes, idleMs: 500 } }],
  ['WALT_REQUEST_TIMEOUT', '90s', { times: { ...defaultTimes, requestMs: 90_000 } }],
  ['WALT_WAL_PUSH_TIMEOUT', '1h', { times: { ...defaultTimes, walPushMs: 3_600_000 } }],
  ['WALT_WAL_FETCH_TIMEOUT', '5 min', { times: { ...defaultTimes, walFetchRecoveryMs: 300_000 } }],
  ['WALT_WAL_FETCH_STANDBY_TIMEOUT', '596h', { times: { ...defaultTimes, walFetchStandbyMs: 2_145_600_000 } }],
  ['WALT_WAL_FETCH_PROMOTE_TIMEOUT', '1ms', { times: { ...defaultTimes, walFetchPromoteMs: 1 } }],
  ['WALT_BACKUP_WAL_TIMEOUT', '30min', { times: { ...defaultTimes, backupWalMs: 1_800_000 } }],
  ['WALT_AHEAD_TIMEOUT', '1s', { times: { ...defaultTimes, aheadMs: 1000 } }],
  ['WALT_WAL_PUSH_AHEAD', '0', { walPushAhead: 0 }],
  ['WALT_WAL_FETCH_AHEAD', '1000', { walFetchAhead: 1000 }],
  ['WALT_CONNECT_TIMEOUT', '2s', { times: { ...defaultTimes, connectMs: 2000 } }],
  ['WALT_AGE_RECIPIENTS', 'age1x, age1y', { encryption: { ...noEncryption, recipients: 'age1x, age1y' } }],
  ['WALT_AGE_RECIPIENTS_FILE', '/r', { encryption: { ...noEncryption, recipientsFile: '/r' } }],
  ['WALT_AGE_MANIFEST_RECIPIENTS', 'age1z', { encryption: { ...noEncryption, manifestRecipients: 'age1z' } }],
  ['WALT_AGE_IDENTITY', 'AGE-SECRET-KEY-1', { encryption: { ...noEncryption, identity: 'AGE-SECRET-KEY-1' } }],
  ['WALT_AGE_IDENTITY_FILE', '/i', { encryption: { ...noEncryption, identityFiles: '/i' } }],
  ['WALT_AUTH_KEY_FILE', '/a', { encryption: { ...noEncryption, authKeyFile: '/a' } }],
  ['WALT_READ_PLAINTEXT', 'on', { encryption: { ...noEncryption, readPlaintext: true } }],
  ['AWS_ENDPOINT_URL_S3', 'https://store', { s3: { ...noS3, endpoint: 'https://store' } }],
  ['WALT_S3_FORCE_PATH_STYLE', '0', { s3: { ...noS3, forcePathStyle: false } }],
  ['WALT_S3_CA_FILE', '/ca', { s3: { ...noS3, caFile: '/ca' } }],
  ['WALT_S3_PROXY', 'http://p:3128', { s3: { ...noS3, proxy: 'http://p:3128' } }],
  ['WALT_S3_STORAGE_CLASS', 'STANDARD_IA', { s3: { ...noS3, storageClass: 'STANDARD_IA' } }],
  ['WALT_S3_SSE', 'aws:kms', { s3: { ...noS3, serverSideEncryption: 'aws:kms' } }],
  ['WALT_S3_SSE_KMS_KEY_ID', 'k', { s3: { ...noS3, kmsKeyId: 'k' } }],
  ['WALT_CONNECTIONS', '4', { connections: 4 }],
  ['WALT_WORKERS', '1', { workers: 1 }],
  ['WALT_WORKERS', '64', { workers: 64 }],
  ['WALT_SIDECAR_BACKUP_SCHEDULE', '@weekly', withSidecar({ backupSchedule: '@weekly' })],
  ['WALT_SIDECAR_BACKUP', '--max-rate 50M', withSidecar({ backupFlags: '--max-rate 50M' })],
  ['WALT_SIDECAR_DELETE', '--keep-days 14', withSidecar({ deleteFlags: '--keep-days 14' })],
  ['WALT_SIDECAR_DELETE_SCHEDULE', '0 2 * * *', withSidecar({ deleteSchedule: '0 2 * * *' })],
  ['WALT_SIDECAR_VERIFY_SCHEDULE', 'off', withSidecar({ verifySchedule: 'off' })],
  ['WALT_SIDECAR_VERIFY_DEEP_SCHEDULE', '0 5 * * 0', withSidecar({ verifyDeepSchedule: '0 5 * * 0' })],
  ['WALT_SIDECAR_CHECK', '--skip wal', withSidecar({ checkFlags: '--skip wal' })],
  ['WALT_SIDECAR_CHECK_INTERVAL', '1min', withSidecar({ checkIntervalMs: 60_000 })],
  ['WALT_SIDECAR_CHECK_INTERVAL', 'off', withSidecar({ checkIntervalMs: undefined })],
  ['WALT_SIDECAR_LOOK_INTERVAL', '1h', withSidecar({ lookIntervalMs: 3_600_000 })],
  ['WALT_SIDECAR_TIME_ZONE', 'Europe/Berlin', withSidecar({ timeZone: 'Europe/Berlin' })],
  ['WALT_SIDECAR_MAX_JITTER', '30s', withSidecar({ maxJitterMs: 30_000 })],
  ['WALT_SIDECAR_JOB_TIMEOUT', '1h', withSidecar({ jobTimeoutMs: 3_600_000 })],
  ['WALT_SIDECAR_LISTEN', '127.0.0.1:9000', withSidecar({ listen: { host: '127.0.0.1', port: 9000 } })],
  ['WALT_SIDECAR_LISTEN', '[::1]:0', withSidecar({ listen: { host: '::1', port: 0 } })],
];

it.each(read)('reads %s=%s from the environment and from a file', (name, value, expected) => {
  expect(settingsOf({ [name]: value })).toMatchObject(expected);
  expect(settingsOf({}, `${name}=${value}\n`)).toMatchObject(expected);
  expect(entriesOf({}, `${name}=${value}`)[name]).toEqual({ value, source: path });
});

it('has a case above for every setting that a command reads', () => {
  // read by the launcher, and by the AWS SDK
  const elsewhere = ['WALT_CONFIG', 'WALT_NODE', 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_REGION'];
  const covered = new Set([...read.map(([name]) => name), ...elsewhere]);
  expect(settingsTable.map(({ name }) => name).filter((name) => !covered.has(name))).toEqual([]);
});

const aTime = 'It must be a time such as 500ms, 30s or 5min.';
const aLevel = 'It must be a whole number from 1 to 19.';
const anIdentifier = 'It must be the number that pg_controldata shows.';
it.each([
  ...['0', '20', '-1', '3.5', '3.0', '0x3', '1e1', ' 3', 'three'].map((value) => [
    'WALT_COMPRESSION_LEVEL',
    value,
    aLevel,
  ]),
  ...['0', '-1', '12a', '0123', '1e18', '123456789012345678901'].map((value) => [
    'WALT_SYSTEM_IDENTIFIER',
    value,
    anIdentifier,
  ]),
  ...[
    '0',
    '0s',
    '0ms',
    '5',
    '5m',
    '5 minutes',
    '-5s',
    '1.5s',
    '1d',
    's',
    '597h',
    '2147483648ms',
    '9999999999s',
    '30s ',
  ].map((value) => ['WALT_WAL_FETCH_TIMEOUT', value, aTime]),
  ...['0', '65', '1.5', 'all'].map((value) => ['WALT_WORKERS', value, 'It must be a whole number from 1 to 64.']),
  ...['19258', ':', 'a:b:1', ':65536', '::1:80', ' :80'].map((value) => [
    'WALT_SIDECAR_LISTEN',
    value,
    'It must be an address and a port, such as :19258 or 127.0.0.1:19258.',
  ]),
  ['WALT_SIDECAR_CHECK_INTERVAL', '0', aTime],
  ['WALT_INIT', 'yes', 'It must be manual or auto.'],
  ['WALT_INIT', 'AUTO', 'It must be manual or auto.'],
  ['WALT_LOG_LEVEL', 'verbose', 'It must be error or warning or info or debug.'],
  ['WALT_LOG_FORMAT', 'xml', 'It must be text or json.'],
])('refuses %s=%j', (name = '', value, hint) => {
  expect(refusal({ [name]: value })).toEqual({ message: `${name} cannot be "${value}"`, hint });
});

it.each(settingsTable.map(({ name }) => name).filter((name) => name.endsWith('_TIMEOUT')))(
  'refuses a time of 0 for %s: it would mean at once, not never',
  (name) => expect(refusal({ [name]: '0s' })).toEqual({ message: `${name} cannot be "0s"`, hint: aTime }),
);

it.each([
  ['WALT_REPOSITORY', 'WALT_REPO'],
  ['WALT_REP', 'WALT_REPO'],
  ['WALT_COMPRESION_LEVEL', 'WALT_COMPRESSION_LEVEL'],
  ['WALT_LOGLEVEL', 'WALT_LOG_LEVEL'],
  ['WALT_SYSTEM_IDENTIFER', 'WALT_SYSTEM_IDENTIFIER'],
  ['WALT_repo', 'WALT_REPO'],
  ['WALT_S3_ENDPOINT', 'AWS_ENDPOINT_URL_S3'],
  ['WALT_S3_ENDPOINT_URL', 'AWS_ENDPOINT_URL_S3'],
  ['WALT_S3_REGION', 'AWS_REGION'],
  ['WALT_ACCESS_KEY_ID', 'AWS_ACCESS_KEY_ID'],
])('refuses the unknown %s and names the nearest setting', (name, nearest) => {
  const hint = `Did you mean ${nearest}?`;
  expect(refusal({ [name]: 'x' })).toEqual({ message: `unknown setting ${name} (environment)`, hint });
  expect(refusal({}, `${name}=x`)).toEqual({ message: `unknown setting ${name} (${path})`, hint });
});

it.each([
  'WALG_PGP_KEY',
  'WALG_PGP_KEY_PATH',
  'WALG_PGP_KEY_PASSPHRASE',
  'WALG_GPG_KEY_ID',
  'WALE_GPG_KEY_ID',
  'WALG_LIBSODIUM_KEY',
  'WALG_LIBSODIUM_KEY_PATH',
  'WALG_CSE_KMS_ID',
  'WALG_YC_KMS_KEY_ID',
  'WALG_ENVELOPE_PGP_KEY',
])('refuses %s of WAL-G: whoever set it believes that the archive is encrypted', (name) => {
  const secret = 'a-key-that-must-not-be-shown';
  for (const { message, hint } of [refusal({ [name]: secret }), refusal({}, `${name}=${secret}`)]) {
    expect(message).toMatch(
      new RegExp(`^${name} is set \\((environment|${path})\\), but WAL-T does not encrypt with it$`),
    );
    expect(hint).toContain('remove the setting if the archive need not be encrypted');
    expect(message + hint).not.toContain(secret);
  }
});

it.each([
  ['WALG_FILE_PREFIX', '/srv/wal', 'file:///srv/wal'],
  ['WALG_FILE_PREFIX', 'file:///srv/wal', 'file:///srv/wal'],
  ['WALG_S3_PREFIX', 's3://bucket/prefix', 's3://bucket/prefix'],
])("understands WAL-G's %s=%s where WALT_REPO is not set", (alias, value, repository) => {
  const { WALT_REPO } = entriesOf({ [alias]: value });
  expect(WALT_REPO).toEqual({ value: repository, source: `environment, as ${alias}` });
  expect(entriesOf({}, `${alias}=${value}`).WALT_REPO?.source).toBe(`${path}, as ${alias}`);
  expect(settingsOf({ [alias]: value }, 'WALT_REPO=file:///ours').repository).toBe('file:///ours');
});

it('leaves other settings of WAL-G and of others alone', () => {
  const environment = { WALG_UPLOAD_CONCURRENCY: '4', PGHOST: '/run', HOME: '/root', WAL_T: 'x', MY_WALT_REPO: 'x' };
  expect(settingsOf(environment, 'AWS_REGION=eu-west-1\n').repository).toBeUndefined();
});

it('lets the environment win over the file, and ignores what is empty', () => {
  const file = 'WALT_REPO=file:///from/file\nWALT_LOG_LEVEL=debug\nWALT_LOG_FORMAT=\n';
  const environment = { WALT_REPO: 'file:///from/environment', WALT_LOG_LEVEL: '', WALT_INIT: undefined };
  expect(settingsOf(environment, file)).toMatchObject({
    repository: 'file:///from/environment',
    logLevel: 'debug',
    logFormat: 'text',
  });
});

it.each([
  ['WALT_REPO=file:///a', 'file:///a'],
  ['  WALT_REPO  =  file:///a  ', 'file:///a'],
  ['export WALT_REPO=file:///a', 'file:///a'],
  ['WALT_REPO="file:///a b"', 'file:///a b'],
  ["WALT_REPO='file:///a'", 'file:///a'],
  ['WALT_REPO="file:///a\'', '"file:///a\''],
  ['WALT_REPO=file:///a#b', 'file:///a#b'],
  ['WALT_REPO=file:///a?x=y', 'file:///a?x=y'],
  ['WALT_REPO=$HOME/a', '$HOME/a'],
  ['# WALT_REPO=file:///b\n\n\t# x\nWALT_REPO=file:///a\r\n', 'file:///a'],
  ['WALT_REPO=file:///b\nWALT_REPO=file:///a', 'file:///a'],
  ['WALT_REPO=""', undefined],
])('reads the line %j as systemd and Docker do', (line, repository) => {
  expect(settingsOf({}, line).repository).toBe(repository);
});

it.each(['WALT_REPO', 'WALT REPO=x', '=x', '1WALT=x', '[wal-t]', 'repo: x', 'export'])(
  'refuses the line %j, and names it',
  (line) => {
    const { message, hint } = refusal({}, `# settings\n${line}\n`);
    expect(message).toBe(`line 2 of "${path}" is not KEY=VALUE`);
    expect(hint).toMatch(/^Write one setting a line/);
  },
);

it('shows what is in force and where it comes from', () => {
  const lines = describeConfig(entriesOf({ WALT_LOG_LEVEL: 'debug' }, 'WALG_FILE_PREFIX=/srv/wal'));
  expect(lines.map(({ name }) => name)).toEqual(settingsTable.map(({ name }) => name));
  const shown = Object.fromEntries(lines.map(({ name, value, source }) => [name, [value, source]]));
  expect(shown.WALT_LOG_LEVEL).toEqual(['debug', 'environment']);
  expect(shown.WALT_REPO).toEqual(['file:///srv/wal', `${path}, as WALG_FILE_PREFIX`]);
  expect(shown.WALT_INIT).toEqual(['manual', 'default']);
  expect(shown.WALT_PGDATA).toEqual(['', 'not set']);
  const times = lines.filter(({ name }) => name.endsWith('_TIMEOUT'));
  const shownAgain = Object.fromEntries(times.map(({ name, value }) => [name, value]));
  expect(settingsOf(shownAgain).times).toEqual(defaultTimes); // the defaults are shown in words that can be set
});

it('never shows a secret: not in `wal-t config`, not in a refusal', () => {
  const secret = 'AGE-SECRET-KEY-1TEST';
  const check = settingsTable.find(({ name }) => name === 'WALT_INIT')?.check ?? (() => undefined);
  const table = settingsTable as (typeof settingsTable)[number][];
  table.push({ name: 'WALT_TEST_SECRET', meaning: 'a secret of this test', secret: true, check });
  onTestFinished(() => {
    table.pop();
  });
  const entries = entriesOf({ WALT_TEST_SECRET: secret });
  expect(describeConfig(entries).at(-1)).toEqual({ name: 'WALT_TEST_SECRET', value: '***', source: 'environment' });
  expect(describeConfig(entriesOf({})).at(-1)).toEqual({ name: 'WALT_TEST_SECRET', value: '', source: 'not set' });
  expect(refusal({ WALT_TEST_SECRET: secret })).toEqual({
    message: 'WALT_TEST_SECRET cannot be "***"',
    hint: 'It must be manual or auto.',
  });
});

it.each([
  'WALT_AGE_RECIPIENTS',
  'WALT_AGE_RECIPIENTS_FILE',
  'WALT_AGE_MANIFEST_RECIPIENTS',
  'WALT_AGE_IDENTITY_FILE',
  'WALT_AUTH_KEY_FILE',
])('refuses an empty %s: a command that failed must not turn encryption off', (name) => {
  expect(refusal({ [name]: '' }).message).toBe(`${name} is empty (environment)`);
  expect(refusal({}, `${name}=\n`).message).toBe(`${name} is empty (${path})`);
});

it.each(['WALT_CONFIG', 'WALT_NODE'])('refuses %s in a settings file, where it would do nothing', (name) => {
  expect(refusal({}, `${name}=/x`).message).toBe(`${name} has no effect in a settings file (${path})`);
});

it('shows no password of a URL', () => {
  const shown = describeConfig(entriesOf({ WALT_S3_PROXY: 'http://user:secret@proxy:3128' }));
  expect(shown.find(({ name }) => name === 'WALT_S3_PROXY')?.value).toBe('http://***@proxy:3128');
});
