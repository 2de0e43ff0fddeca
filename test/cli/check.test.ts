/** `wal-t check` as people, programs and monitoring plugins call it: what is printed, and how it ends. */
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { storeVerification } from '../../src/archive/verifications.ts';
import { generateIdentity } from '../../src/codec/age-text.ts';
import type { CheckResult } from '../../src/commands/check.ts';
import { archiveChecks, CheckedArchive, segmentName } from '../support/checked-archive.ts';
import { stall } from '../support/network-faults.ts';
import { openProxy } from '../support/proxied.ts';
import { s3Settings } from '../support/repository.ts';
import { type Ended, type RunOptions, walT } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { testSystemIdentifier } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';

type Settings = Readonly<Record<string, string>>;

let archive: CheckedArchive;
beforeAll(async () => {
  archive = await CheckedArchive.make();
  await archive.wal([2, 3].map((number) => segmentName(number)));
  const id = await archive.backup({ first: 2 });
  const found = { backups: [{ id, isRestorable: true }] };
  await storeVerification(archive.archive, { at: new Date(), deep: true, found }, { host: 'test-host' });
});
afterAll(() => archive.remove());

/** The checks of the archive, unless others are named. */
function check(words: readonly string[], settings: Settings = {}, options: RunOptions = {}): Promise<Ended> {
  const only = words.includes('--only') ? [] : ['--only', archiveChecks.join(',')];
  const env = { WALT_REPO: `file://${archive.root}`, WALT_SYSTEM_IDENTIFIER: testSystemIdentifier, ...settings };
  return walT('wal-t', ['check', ...only, ...words], {
    asRoot: true,
    ...options,
    env: { PGHOST: archive.folder, ...env },
  });
}

const misspelled = { WALT_AGE_RECIPIENT: 'age1' };

it('tells people, in a line for each check, and ends with 0', async () => {
  const { code, stdout, stderr } = await check([]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const lines = stdout.split('\n');
  const told = lines.filter((line) => /^\w/.test(line)).map((line) => line.split(/ +/).slice(0, 2).join(' '));
  const levels = archiveChecks.map((name) => `${name === 'key-copies' ? 'skipped' : 'ok'} ${name}`);
  expect(told).toEqual([...levels, '10 ok,']);
  expect(lines).toContain('10 ok, 1 skipped');
});

it('tells programs', async () => {
  const { code, stdout } = await check(['--json', '--only', 'backups,key-copies,wal', '--max-backup-age', '1min']);
  expect(code).toBe(8);
  const result = JSON.parse(stdout) as CheckResult;
  expect(Object.keys(result)).toEqual(['level', 'findings']);
  expect(result.level).toBe('failed');
  expect(result.findings.map((finding) => finding.check)).toEqual(['key-copies', 'wal', 'backups']);
  expect(result.findings[0]).toEqual({ check: 'key-copies', level: 'skipped', message: 'encryption is off' });
  expect(result.findings[2]).toEqual({
    check: 'backups',
    level: 'failed',
    message: expect.stringMatching(/^the newest confirmed backup was begun /),
    detail: expect.stringContaining('--max-backup-age'),
    hint: expect.stringContaining('basebackup-push'),
    figures: expect.objectContaining({ backups_confirmed: 1 }),
  });
});

it.each<readonly [what: string, words: readonly string[], settings: Settings, code: number, first: RegExp]>([
  [
    'that all is well',
    [],
    {},
    0,
    /^WAL-T OK: 10 ok, 1 skipped \| storage_probe_seconds=[\d.]+s clock_skew_seconds=0s .*newest_backup_bytes=0B/,
  ],
  ['two checks', ['--only', 'archive,encryption'], {}, 0, /^WAL-T OK: 2 ok$/],
  [
    'a failure',
    ['--max-backup-age', '1min'],
    {},
    2,
    /^WAL-T CRITICAL: backups: the newest confirmed backup was begun .* \| /,
  ],
  ['that nothing was looked at', ['--only', 'key-copies'], {}, 3, /^WAL-T UNKNOWN: key-copies: encryption is off$/],
  ['that nothing was asked for', ['--only', 'wal', '--skip', 'wal'], {}, 3, /^WAL-T UNKNOWN: no check was done$/],
  ['settings that are wrong', [], misspelled, 2, /^WAL-T CRITICAL: settings: unknown setting WALT_AGE_RECIPIENT /],
])('tells a monitoring plugin %s', async (_, words, settings, code, first) => {
  const ended = await check(['--format', 'nagios', ...words], settings);
  expect(ended).toMatchObject({ code, stderr: '' });
  const [head = '', ...others] = ended.stdout.trimEnd().split('\n');
  expect(head).toMatch(first);
  expect(others.every((line) => /^(warning|failed) [\w-]+: /.test(line) && !line.includes('|'))).toBe(true);
});

it('ends with 0 over warnings, and tells a monitoring plugin of them', async () => {
  const words = ['--only', 'verified'];
  const fresh = await CheckedArchive.make();
  onTestFinished(() => fresh.remove());
  const settings = { WALT_REPO: `file://${fresh.root}` };
  const text = await check(words, settings);
  expect(text).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^warning {2}verified {2}.*\n +→ Run "wal-t verify --deep"/),
  });
  const plugin = await check([...words, '--format', 'nagios'], settings);
  expect(plugin).toMatchObject({ code: 1, stdout: expect.stringMatching(/^WAL-T WARNING: verified: /) });
});

it('ends with 8 when nothing was looked at', async () => {
  expect(await check(['--only', 'key-copies'])).toMatchObject({
    code: 8,
    stdout: expect.stringContaining('1 skipped'),
  });
  expect(await check(['--only', 'wal', '--skip', 'wal'])).toMatchObject({ code: 8, stdout: 'no check was done\n' });
});

it.each<readonly [what: string, settings: Settings, says: string]>([
  ['misspelled', misspelled, 'unknown setting WALT_AGE_RECIPIENT'],
  ['not to be read', { WALT_CONFIG: '/nowhere/wal-t.env' }, 'could not read "/nowhere/wal-t.env"'],
  ['malformed', { WALT_CONNECTIONS: 'many' }, 'WALT_CONNECTIONS'],
])('finds settings that are %s, and says no more', async (_, settings, says) => {
  const text = await check([], settings);
  expect(text).toMatchObject({ code: 8, stderr: '', stdout: expect.stringMatching(/^failed {3}settings {2}/) });
  expect(text.stdout).toContain(says);
  if (settings !== misspelled && !isTorture) return;
  const json = JSON.parse((await check(['--json'], settings)).stdout) as CheckResult;
  expect(json).toMatchObject({ level: 'failed', findings: [{ check: 'settings', level: 'failed' }] });
});

it('says so once when no repository is set', async () => {
  const { code, stdout } = await check(['--json'], { WALT_REPO: '' });
  const { findings } = JSON.parse(stdout) as CheckResult;
  expect(code).toBe(8);
  expect(findings.filter(({ level }) => level === 'failed').map((one) => one.check)).toEqual(['settings']);
  expect(findings.find((one) => one.check === 'storage')).toMatchObject({
    level: 'skipped',
    message: 'see "settings"',
  });
});

it.each<readonly [words: readonly string[], says: string]>([
  [['--only', 'storag'], 'there is no check "storag"'],
  [['--skip', 'wal,,holes'], 'there is no check ""'],
  [['--max-wal-age', '5 parsecs'], '--max-wal-age cannot be "5 parsecs"'],
  [['--max-backup-age', '0h'], '--max-backup-age cannot be "0h"'],
  [['--format', 'xml'], 'format'],
])('refuses %j', async (words, says) => {
  const { code, stdout, stderr } = await check(words);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toContain(says);
  if (says.includes('no check')) expect(stderr).toContain(archiveChecks.slice(0, 6).join(', '));
});

it('ends when it is told to, with a storage that hangs, and tells no secret', async () => {
  const server = await S3Server.start();
  onTestFinished(() => server.stop());
  const proxy = await openProxy(server.s3);
  proxy.inject(stall);
  const identity = generateIdentity();
  const settings = { ...s3Settings(proxy.s3, 'hangs'), WALT_AGE_IDENTITY: identity, WALT_LOG_LEVEL: 'debug' };
  for (const signal of isTorture ? (['SIGINT', 'SIGTERM'] as const) : (['SIGTERM'] as const)) {
    proxy.forget();
    const ended = await check([], settings, {
      onStart: (child) => {
        void waitFor('a request', () => proxy.count() > 0).then(() => child.kill(signal));
      },
    });
    expect(ended).toMatchObject({ code: undefined, signal, stdout: '' });
    expect(ended.stderr).toContain(`interrupted by ${signal}`);
  }
  const dead = await check(['--json'], { ...settings, AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1' });
  expect(dead).toMatchObject({ code: 8 });
  for (const secret of [identity, proxy.s3.secretAccessKey]) {
    expect(dead.stdout + dead.stderr).not.toContain(secret);
  }
});
