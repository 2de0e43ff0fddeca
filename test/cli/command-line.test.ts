/** What people and PostgreSQL type: arguments, flags, help, and the lines that `wal-t init` prints for pasting. Exit codes: launchers.test.ts. */
import { appendFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };
import { exitCodeMeanings } from '../../src/errors.ts';
import { account } from '../support/account.ts';
import { temporaryFolder } from '../support/folders.ts';
import { installation } from '../support/installation.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { run, walT } from '../support/run.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';

const isTorture = process.env.TORTURE === '1';
const segment = '000000010000000000000001';

/** A copy of the installation under test. */
function copyInstallation(root: string): void {
  for (const part of ['bin', 'dist', 'node_modules/@mongodb-js']) {
    cpSync(join(installation(), part), join(root, part), { recursive: true, verbatimSymlinks: true });
  }
}

it('reads two plain arguments without loading the parser, and flags with it', async () => {
  const root = temporaryFolder();
  copyInstallation(root);
  writeFileSync(join(root, 'dist/wal-t.mjs'), 'process.stderr.write("parser\\n"); process.exit(8);');
  for (const [name, words, parsed] of [
    ['wal-push', [`pg_wal/${segment}`, segment], false],
    ['wal-push', [`pg_wal/${segment}`], false],
    ['wal-fetch', [segment, 'pg_wal/RECOVERYXLOG'], false],
    ['wal-push', ['--cluster=1', `pg_wal/${segment}`, segment], true],
    ['wal-fetch', [segment, 'pg_wal/RECOVERYXLOG', '--config', 'c'], true],
    ['wal-push', ['--help'], true],
    ['wal-fetch', ['-h'], true],
  ] as const) {
    const { stderr } = await run(join(root, 'bin', name), words);
    if (parsed) expect(stderr, words.join(' ')).toBe('parser\n');
    else expect(stderr, words.join(' ')).toContain(`${name}: error: no repository is set`);
  }
});

it('means the same by flags as by settings', async () => {
  const repository = await new TestRepository().init();
  const data = join(repository.folder, 'data');
  const put = makeDataDirectory(data);
  const path = put(segment, makeSegment(segment));
  const config = ['--config', repository.config];
  for (const words of [
    [...config, path, segment],
    [path, segment, ...config],
    [path, ...config],
  ]) {
    expect(await walT('wal-push', words, { cwd: data })).toMatchObject({ code: 0, stdout: '', stderr: '' });
  }
  for (const words of [
    [...config, segment, 'pg_wal/R 1'],
    [segment, 'pg_wal/R 2', ...config],
  ]) {
    expect(await walT('wal-fetch', words, { cwd: data })).toMatchObject({ code: 0, stdout: '', stderr: '' });
  }
  expect(readFileSync(join(data, 'pg_wal/R 2')).equals(makeSegment(segment))).toBe(true);
  const foreign = await walT('wal-push', [...config, '--cluster', '42', path, segment], { cwd: data });
  expect([foreign.code, foreign.stderr]).toEqual([3, expect.stringContaining('than WALT_SYSTEM_IDENTIFIER')]);
});

it('H3: gives wal-t wal-push and wal-t wal-fetch the exit codes and words of their launchers', async () => {
  const repository = await new TestRepository({ settings: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms' } }).init();
  const data = join(repository.folder, 'data');
  const put = makeDataDirectory(data);
  const path = put(segment, makeSegment(segment));
  const next = '000000010000000000000002';
  const gone = { WALT_REPO: 'file:///nonexistent' };
  const rows: readonly (readonly [
    name: string,
    words: readonly string[],
    code: number,
    env?: Record<string, string>,
  ])[] = [
    ['wal-push', [path, segment], 4, gone],
    ['wal-push', [path, segment], 0],
    ['wal-push', ['--bogus', path], 2],
    ['wal-fetch', [segment, 'pg_wal/R'], 0],
    ['wal-fetch', [next, 'pg_wal/R'], 1],
    ['wal-fetch', [segment], 200],
    ['wal-fetch', ['--bogus', segment, 'pg_wal/R'], 200],
  ];
  // other reasons for the same codes
  const alike: typeof rows = [
    ['wal-push', [path, segment], 0],
    ['wal-push', [path, next], 2],
    ['wal-push', [], 2],
    ['wal-push', [path, segment, 'more'], 2],
    ['wal-push', [path, segment, 'more', '--cluster', '1'], 2],
    ['wal-fetch', [segment, 'pg_wal/R'], 200, gone],
    ['wal-fetch', [segment, 'no folder/R'], 200],
  ];
  for (const [name, words, code, env = {}] of isTorture ? [...rows, ...alike] : rows) {
    const options = { cwd: data, env };
    const direct = await repository.run(name, words, options);
    expect([direct.code, direct.signal], `${name} ${words.join(' ')}`).toEqual([code, undefined]);
    const [behindWalT, flagFirst] = await Promise.all([
      repository.run('wal-t', [name, ...words], options),
      walT('wal-t', ['--config', repository.config, name, ...words], options),
    ]);
    expect(behindWalT, `wal-t ${name} ${words.join(' ')}`).toEqual(direct);
    expect(flagFirst.code, `wal-t --config … ${name} ${words.join(' ')}`).toBe(code);
  }
});

it.each([
  [[], 'no command is given'],
  [['bogus'], 'unknown argument: bogus'],
  [['confg'], 'unknown command', 'Did you mean config?'],
  [['config', '--bogus'], 'unknown argument: bogus'],
  [['config', 'more'], 'unknown argument: more'],
  [['config', '--config'], 'not enough arguments following: config'],
] as const)(
  'refuses %j as wrong usage, with a hint',
  async (words, message, hint: string = 'wal-t --help shows the commands') => {
    const { code, stdout, stderr } = await walT('wal-t', words);
    expect([code, stdout]).toEqual([2, '']);
    const lines = stderr.trimEnd().split('\n');
    expect(lines).toEqual([`wal-t: error: ${message}`, expect.stringContaining(`wal-t: hint: ${hint}`)]);
  },
);

it.each([
  ['basebackup-push', ['--checkpoint', 'slow'], 'checkpoint, Given: "slow", Choices: "fast", "spread"'],
  ['basebackup-push', ['--max-rate', '31'], '--max-rate cannot be "31"'],
  ['basebackup-push', ['--max-rate'], 'not enough arguments following: max-rate'],
  ['basebackup-push', ['--annotate', 'x'], '--annotate cannot be "x"'],
  ['basebackup-push', ['--annotate', 'a=1', '--annotate', 'a=2'], '--annotate gives "a" twice'],
  ['basebackup-push', ['--annotate', 'a=1', '/data', 'more'], 'unknown argument: more'],
  ['basebackup-push', ['--manifest-checksums', 'MD5'], 'manifest-checksums, Given: "MD5"'],
  ['basebackup-push', ['--bogus'], 'unknown argument: bogus'],
  ['basebackup-fetch', [], 'not enough non-option arguments'],
  ['basebackup-fetch', ['d', 'n', 'more'], 'unknown argument: more'],
  ['basebackup-fetch', ['d', '--tablespace-mapping', '/a'], '--tablespace-mapping cannot be "/a"'],
  ['basebackup-fetch', ['-T', '/a=/b', '-T', '/a=/c', 'd'], '--tablespace-mapping gives "/a" twice'],
  ['backup-list', ['more'], 'unknown argument: more'],
  ['verify', ['name', '--all'], 'a name and --all exclude each other'],
] as const)(
  'refuses %s %j as wrong usage, under the name that it was called by or has',
  async (name, words, message) => {
    const ended = await walT('wal-t', [name, ...words]);
    expect([ended.code, ended.stdout]).toEqual([2, '']);
    expect(ended.stderr).toContain(message);
    expect(ended.stderr).toMatch(new RegExp(`^${name === 'verify' ? '(wal-t|verify)' : name}: error: `));
    expect(ended.stderr).toContain(': hint: ');
    // what is wrong is told by the same code: one of each name
    const isFirst =
      words[1] === 'slow' || name === 'backup-list' || (name === 'basebackup-fetch' && words.length === 0);
    if (name !== 'verify' && (isTorture || isFirst)) expect(await walT(name, words)).toEqual(ended);
  },
);

it.each([
  ['basebackup-push', 'backup-push', ['--annotate', 'a=1', '--annotate', 'b=2', '/nonexistent', '--max-rate=1M']],
  ['basebackup-fetch', 'backup-fetch', ['-T', '/a=/b', '-T', '/c=/d', '/nonexistent/data']],
] as const)("understands %s as %s, WAL-G's name", async (name, alias, words) => {
  const ended = await walT('wal-t', [alias, ...words]);
  expect(await walT(name, words)).toEqual(ended);
  expect(ended.code).toBe(3);
  expect(ended.stderr).toMatch(new RegExp(`^${name}: error: `));
});

it('shows commands, flags and every exit code by --help, and its version, on standard output', async () => {
  const help = await walT('wal-t', ['--help']);
  expect([help.code, help.stderr]).toEqual([0, '']);
  for (const command of [
    'init',
    'config',
    'wal-push',
    'wal-fetch',
    'basebackup-push',
    'backup-fetch',
    'verify',
    '--config',
    '--cluster',
    '--version',
  ]) {
    expect(help.stdout).toContain(command);
  }
  for (const [code, meaning] of Object.entries(exitCodeMeanings)) expect(help.stdout).toContain(`${code}  ${meaning}`);
  expect(await walT('wal-t', ['-h'])).toEqual(help);
  for (const name of ['wal-push', 'wal-fetch']) {
    const own = await walT(name, ['--help']);
    expect([own.code, own.stderr]).toEqual([0, '']);
    expect(own.stdout).toMatch(name === 'wal-push' ? /%p: the file/ : /200 any failure, under standby.signal its own/);
    expect(await walT('wal-t', [name, '--help'])).toEqual(own);
  }
  for (const name of ['basebackup-push', 'basebackup-fetch', 'backup-list']) {
    const own = await walT(name, ['--help']);
    expect([own.code, own.stderr]).toEqual([0, '']);
    expect(own.stdout).toMatch(new RegExp(`^wal-t ${name}( |\\n)`));
    expect(await walT('wal-t', [name, '--help'])).toEqual(own);
    if (isTorture || name === 'backup-list')
      expect(await walT('wal-t', ['--cluster', '1', name, '--help'])).toEqual(own);
  }
  for (const name of ['wal-t', 'wal-push', 'wal-fetch', ...(isTorture ? ['backup-list'] : [])]) {
    expect(await walT(name, ['--version'])).toMatchObject({ code: 0, stdout: `${packageJson.version}\n`, stderr: '' });
  }
});

it('shows each setting in force and where it comes from', async () => {
  const config = join(temporaryFolder(), 'settings.env');
  writeFileSync(config, 'WALT_REPO=file:///a\nWALT_LOG_LEVEL=debug\nWALT_COMPRESSION_LEVEL=5\n');
  const env = { WALT_LOG_LEVEL: 'error', WALT_LOG_FORMAT: '', WALG_FILE_PREFIX: '/unused' };
  const words = ['config', '--config', config, '--cluster', '7312345678901234567'];
  const expected: Record<string, readonly [value: string, source: string]> = {
    WALT_REPO: ['file:///a', config],
    WALT_CONFIG: [config, 'command line'],
    WALT_SYSTEM_IDENTIFIER: ['7312345678901234567', 'command line'],
    WALT_LOG_LEVEL: ['error', 'environment'],
    WALT_LOG_FORMAT: ['text', 'default'],
    WALT_COMPRESSION_LEVEL: ['5', config],
    WALT_PGDATA: ['', 'not set'],
  };
  const json = await walT('wal-t', [...words, '--json'], { env });
  expect([json.code, json.stderr]).toEqual([0, '']);
  const shown = JSON.parse(json.stdout) as { name: string; value: string; source: string }[];
  const table = await walT('wal-t', words, { env });
  for (const [name, [value, source]] of Object.entries(expected)) {
    expect(shown.find((line) => line.name === name)).toEqual({ name, value, source });
    const line = table.stdout.split('\n').find((text) => text.startsWith(`${name} `));
    expect(line?.split(/ {2,}/)).toEqual([name, ...(value === '' ? [] : [value]), source]);
  }
  expect(table.stdout.split('\n')).toHaveLength(shown.length + 1);
  const alias = await walT('wal-t', ['config'], { env: { WALG_FILE_PREFIX: '/from/wal-g' } });
  expect(alias.stdout).toMatch(/^WALT_REPO +file:\/\/\/from\/wal-g +environment, as WALG_FILE_PREFIX$/m);
});

it('takes an empty WALT_CONFIG for none, and a named file that is not there for an error', async () => {
  expect(await walT('wal-t', ['config'], { env: { WALT_CONFIG: '' } })).toMatchObject({ code: 0, stderr: '' });
  const { code, stderr } = await walT('wal-t', ['config', '--config', '/nonexistent']);
  expect([code, stderr]).toEqual([3, expect.stringContaining('could not read "/nonexistent": no such file')]);
});

it.each(isTorture ? [15, 17, 18] : [17])(
  'prints lines by init that a PostgreSQL %s understands, wherever it is installed',
  async (major) => {
    const folder = temporaryFolder();
    const root = join(folder, `an "installation's" %p %f 100% $HOME \`id\` #`);
    mkdirSync(root);
    copyInstallation(root);
    const config = join(root, `it's %f \\n.env`); // Node.js itself does not run in a folder with a backslash
    writeFileSync(config, `WALT_REPO=file://${folder}/repo\n`);
    const init = await run(join(root, 'bin/wal-t'), ['init', '--config', config]);
    expect([init.code, init.stderr]).toEqual([0, '']);
    const lines = init.stdout.slice(init.stdout.indexOf('\narchive_mode'));

    const server = PostgresServer.create({ major });
    onTestFinished(() => server.remove());
    appendFileSync(join(server.dataDirectory, 'postgresql.conf'), lines);
    await server.start();
    const name = await server.switchWal();
    await server.waitUntilArchived(name);
    const written = readFileSync(join(server.dataDirectory, 'pg_wal', name));

    const command = await server.value('show restore_command');
    const replaced: Readonly<Record<string, string>> = { '%%': '%', '%f': name, '%p': 'pg_wal/RECOVERYXLOG' };
    const asked = command.replace(/%[%fp]/g, (sign) => replaced[sign] ?? '');
    const fetched = await run('sh', ['-c', asked], { cwd: server.dataDirectory, ...account });
    expect(fetched).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(join(server.dataDirectory, 'pg_wal/RECOVERYXLOG')).equals(written)).toBe(true);
  },
);
