/** delete, pin and unpin through the launchers over real backups: what goes, what never goes, what is said, and that what stays restores. */
import { type ChildProcess, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { partName } from '../../src/archive/keys.ts';
import { readManifest } from '../../src/archive/manifest.ts';
import { usedParts } from '../../src/archive/part-uses.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import type { BackupRow } from '../../src/commands/backup-list.ts';
import { openArchive } from '../../src/commands/backups.ts';
import { deleteBackups } from '../../src/commands/delete.ts';
import { verify } from '../../src/commands/verify.ts';
import { exitCodes, StorageError } from '../../src/errors.ts';
import { leaseExpiryMs } from '../../src/limits.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { giveAway } from '../support/account.ts';
import { makeContext } from '../support/context.ts';
import { copyFolder } from '../support/copy-folder.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { openProxy } from '../support/proxied.ts';
import { flipByte, insertRow, rowsOf } from '../support/recovery.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import type { Ended } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { accessDenied, deleteErrors, slowDown } from '../support/store-faults.ts';
import { waitFor } from '../support/wait.ts';

vi.mock(import('../../src/limits.ts'), async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

vi.setConfig({ hookTimeout: 400_000 }); // many backups in each

const torture = process.env.TORTURE === '1';
const env = { PGUSER: 'postgres', WALT_WORKERS: '1' };
const history = 'wal/history/00000002.history';

let folder: string;
let template: TestRepository;
let server: PostgresServer;
let cluster: string;
/** Four confirmed backups, the oldest first, each after a row of its own; and one that was killed. All but the first may be increments. */
let backups: BackupRow[];
let killed: string;

/** The names of the confirmed backups by their numbers. */
const names = (...numbers: readonly number[]) => numbers.map((number) => backups[number - 1]?.backup_name ?? '');

beforeAll(() => makeTemplate('full'));
afterAll(() => removeTemplate());

async function makeTemplate(type: 'full' | 'incremental'): Promise<void> {
  folder = makeFolder('delete');
  template = await new TestRepository({ folder }).init();
  server = PostgresServer.create({ major: 17, isSmall: true, settings: template.serverSettings });
  await server.start();
  await server.query('create table t (n int)');
  const fork = await server.value('select pg_current_wal_lsn()');
  for (const n of [1, 2, 3, 4]) {
    await insertRow(server, n);
    const words = type === 'incremental' && n > 1 ? ['--incremental'] : [];
    const { code, stderr } = await template.run('basebackup-push', [server.dataDirectory, ...words], { env });
    if (code !== 0) throw new Error(stderr);
    await server.switchWal();
  }
  backups = await list(template);
  expect(backups.slice(1).map(({ backup_name }) => backup_name.includes(type.slice(0, 4)))).toEqual([true, true, true]);
  cluster = readdirSync(template.root).find((name) => /^\d+$/.test(name)) ?? '';
  await killPush();
  await insertRow(server, 5);
  await server.waitUntilArchived(await server.switchWal());
  const path = join(folder, '00000002.history');
  writeFileSync(path, `1\t${fork}\tno recovery target specified\n`);
  giveAway(path);
  const pushed = await template.run('wal-push', [path, '00000002.history'], {
    env: { WALT_PGDATA: server.dataDirectory },
  });
  if (pushed.code !== 0) throw new Error(pushed.stderr);
  for (const key of foreign()) {
    mkdirSync(dirname(join(template.root, key)), { recursive: true });
    writeFileSync(join(template.root, key), 'foreign');
  }
}

async function removeTemplate(): Promise<void> {
  await server.remove();
  removeFolder(folder);
}

/** A backup that is killed while it copies. */
async function killPush(): Promise<void> {
  const leases = join(template.root, cluster, 'lease');
  let child: ChildProcess | undefined;
  const ended = template.run('basebackup-push', [server.dataDirectory, '--max-rate', '2M'], {
    env,
    ownGroup: true,
    onStart: (started) => {
      child = started;
    },
  });
  const others = () => readdirSync(leases).filter((id) => !backups.some(({ backup_name }) => backup_name === id));
  // the folder is there before the record is
  await waitFor('the backup to copy', () => others().some((id) => existsSync(join(leases, id, '000001'))));
  process.kill(-(child?.pid ?? 0), 'SIGKILL');
  await ended;
  [killed = ''] = others();
  // what such a one may have stored besides
  const part = join(template.root, cluster, 'part', killed, '0000001');
  mkdirSync(dirname(part), { recursive: true });
  for (const path of [part, join(template.root, cluster, 'files', killed)]) writeFileSync(path, 'half');
  spawnSync('chown', ['-R', '--reference', leases, dirname(part), join(template.root, cluster, 'files')]);
}

const foreign = () => [
  'foreign.txt',
  'another-tool/basebackups_005/base_1',
  `${cluster}/drill/1`,
  `${cluster}/part/notes/0000001`,
  `${cluster}/wal/00000001/note.txt`,
  `${cluster}/set-aside/000000010000000000000001`,
];

async function list(repository: TestRepository): Promise<BackupRow[]> {
  const { code, stdout, stderr } = await repository.run('backup-list', ['--json', '--no-window']);
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as BackupRow[];
}

/** For commands in this process that look at what another one has done; they leave nothing. */
function lookingContext(repository: TestRepository) {
  const storage = new FileStorage(repository.root, { idleMs: 60_000, requestMs: 60_000 });
  const readOnly: Storage = {
    url: storage.url,
    get: storage.get.bind(storage),
    list: storage.list.bind(storage),
    put: () => Promise.reject(new StorageError('nothing is written here')),
    delete: () => Promise.reject(new StorageError('nothing is deleted here')),
  };
  const settings = { WALT_REPO: `file://${repository.root}` };
  return makeContext(settings, { workingDirectory: repository.folder, openStorage: () => readOnly });
}

/** The names of those that verify. @throws when one does not. */
async function verified(repository: TestRepository, deep = false): Promise<string[]> {
  const { verdicts, wal } = await verify(lookingContext(repository), { deep });
  for (const verdict of verdicts) expect(verdict).toMatchObject({ isRestorable: true, reasons: [] });
  expect(wal?.damaged ?? []).toEqual([]);
  return verdicts.map(({ id }) => id);
}

/** A repository of the same content that the running test may spoil. */
function copyTemplate(of = template.folder): TestRepository {
  const repository = new TestRepository();
  spawnSync('cp', ['-a', join(of, 'repo'), repository.root]);
  return repository;
}

const path = (repository: TestRepository, name: string) => join(repository.root, cluster, name);
const remove = (repository: TestRepository, ...words: string[]) => repository.run('delete', [...words, '--confirm']);

/** As if the killed backup had been silent for long. */
function age(repository: TestRepository): void {
  const lease = path(repository, `lease/${killed}`);
  const longAgo = new Date(Date.now() - 2 * leaseExpiryMs);
  for (const name of readdirSync(lease)) utimesSync(join(lease, name), longAgo, longAgo);
}

/** What holds after every deletion: everything that stays verifies, nothing foreign and no history is touched, no plan is left. */
async function expectSound(repository: TestRepository, kept: readonly string[]): Promise<void> {
  const files = repository.files();
  expect(files).toEqual(expect.arrayContaining([...foreign(), `${cluster}/${history}`]));
  expect(files.filter((file) => file.startsWith(`${cluster}/plan/`))).toEqual([]);
  expect(await verified(repository)).toEqual(kept);
}

/** To the end of the archived WAL, into a server of its own. */
async function expectRestores(repository: TestRepository, name: string): Promise<void> {
  const copy = server.elsewhere();
  onTestFinished(() => copy.remove());
  const words = ['restore', copy.dataDirectory, '--backup', name, '--target-timeline', '1'];
  expect(await repository.run('wal-t', words, { env })).toMatchObject({ code: 0 });
  await copy.open();
  expect(await rowsOf(copy)).toBe('1 2 3 4 5');
}

function expectRefused({ code, stderr }: Ended, expected: number, ...words: RegExp[]): void {
  expect({ code, stderr }).toMatchObject({ code: expected });
  for (const word of words) expect(stderr).toMatch(word);
  expect(stderr).not.toContain('internal error');
}

/** What they keep is told of thousands of histories in retention.test.ts: here of each kind of words one. */
const policies: [string, () => string[], () => string[]][] = [
  ['--retain', () => ['--retain', '2'], () => names(3, 4)],
  [
    '--keep-daily and others',
    () => ['--keep-daily', '7', '--keep-weekly', '4', '--keep-monthly', '12', '--keep-yearly', '1'],
    () => names(4),
  ],
  ['--before a name', () => ['--before', names(3)[0] ?? ''], () => names(3, 4)],
  ['--before a time', () => ['--before', backups[1]?.finished_at ?? ''], () => names(2, 3, 4)],
  ['--backup', () => ['--backup', names(2)[0] ?? ''], () => names(1, 3, 4)],
  ['--sweep', () => ['--sweep'], () => names(1, 2, 3, 4)],
];
if (torture) {
  policies.push(
    ['--retain, more than there are', () => ['--retain', '9'], () => names(1, 2, 3, 4)],
    ['--keep-days', () => ['--keep-days', '1'], () => names(1, 2, 3, 4)],
    ['--before the end of time', () => ['--before', '2999-01-01 00:00Z'], () => names(4)],
  );
}

describe('a deletion', () => {
  it.each(policies)(
    'is only planned without --confirm, then keeps what its policy says, whole, and all that is not its own: %s',
    async (_what, words, kept) => {
      const repository = copyTemplate();
      const before = repository.files();
      const { code, stdout, stderr } = await repository.run('delete', words());
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(stdout.trimEnd().split('\n').at(-1)).toBe('nothing was deleted');
      for (const name of names(1, 2, 3, 4)) {
        expect(stdout).toMatch(new RegExp(`${kept().includes(name) ? 'keep  ' : 'remove'}  ${name}: .`));
      }
      expect(repository.files()).toEqual(before);
      expect(await remove(repository, ...words())).toMatchObject({ code: 0 });
      await expectSound(repository, kept());
    },
  );

  it('leaves what still restores, to the last row', async () => {
    const repository = copyTemplate();
    expect(await remove(repository, '--retain', '2')).toMatchObject({ code: 0 });
    const left = repository.files();
    expect(left.filter((file) => file.includes(names(1)[0] ?? '-'))).toEqual([]);
    expect(await remove(repository, '--retain', '2')).toMatchObject({ code: 0 });
    expect(repository.files()).toEqual(left);
    const copy = server.elsewhere();
    onTestFinished(() => copy.remove());
    const target = join(temporaryFolder(), 'data');
    const fetched = await repository.run('basebackup-fetch', [target, ...names(3)], { env });
    expect(fetched).toMatchObject({ code: 0 });
    renameSync(target, copy.dataDirectory);
    const { restore_command = '' } = repository.serverSettings;
    copy.configure({ archive_mode: 'off', restore_command, recovery_target_timeline: '1' });
    copy.signal('recovery.signal');
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2 3 4 5');
  });

  it.runIf(torture).each(policies)(
    'leaves backups of which the oldest restores to the last row: %s',
    async (_what, words, kept) => {
      const repository = copyTemplate();
      expect(await remove(repository, ...words())).toMatchObject({ code: 0 });
      await expectRestores(repository, kept()[0] ?? '');
    },
  );

  it('keeps a pinned backup with the WAL that it needs alone, until it is unpinned', async () => {
    const repository = copyTemplate();
    const [first = ''] = names(1);
    expect(await repository.run('wal-t', ['pin', first, '--until', '2999-01-01'])).toMatchObject({ code: 0 });
    expect((await remove(repository, '--retain', '1')).stdout).toMatch(/pinned until 2999/);
    await expectSound(repository, names(1, 4));
    expect(await remove(repository, '--backup', first)).toMatchObject({
      code: 8,
      stdout: expect.stringMatching(/is pinned/),
    });
    expect(await repository.run('wal-t', ['unpin', first])).toMatchObject({ code: 0 });
    expect(await remove(repository, '--retain', '1')).toMatchObject({ code: 0 });
    await expectSound(repository, names(4));
    expect(repository.files().filter((file) => file.includes(first))).toEqual([]);
    expectRefused(await repository.run('wal-t', ['pin', first]), 1, /there is no backup/);
  });

  it.each<[string, string[], number, RegExp]>([
    ['--retain 0', ['--retain', '0'], 2, /--retain cannot be "0"/],
    ['a word without a flag, as WAL-G has it', ['before', 'x', '--retain', '1'], 2, /./],
    ['no policy', [], 2, /not said what is to be kept/],
    ['a time that is none', ['--before', '2026-13-01 00:00'], 2, /2026-13-01/],
    ...(torture
      ? ([
          ['a count that is none', ['--keep-days', '1.5'], 2, /--keep-days cannot be "1.5"/],
          ['a name without a flag', ['FIND_FULL'], 2, /./],
        ] as [string, string[], number, RegExp][])
      : []),
  ])('refuses %s, and removes nothing', async (_what, words, code, said) => {
    const before = template.files();
    expectRefused(await template.run('delete', [...words, '--confirm']), code, said);
    expect(template.files()).toEqual(before);
  });

  it('never takes the last backup, and none that is not there', async () => {
    const repository = copyTemplate();
    expect(await remove(repository, '--retain', '1')).toMatchObject({ code: 0 });
    const last = await remove(repository, '--backup', ...names(4));
    expect(last).toMatchObject({ code: 8, stdout: expect.stringMatching(/refused: .* is the last/) });
    for (const flag of ['--backup', '--before']) {
      const unknown = await remove(repository, flag, ...names(1));
      expect(unknown).toMatchObject({ code: 8, stdout: expect.stringMatching(/refused: there is no/) });
    }
    await expectSound(repository, names(4));
  });

  it('sweeps what a killed backup has left once its lease is dead, and not before', async () => {
    const repository = copyTemplate();
    const left = () => repository.files().filter((file) => file.includes(killed));
    const before = left();
    expect(before.length).toBeGreaterThanOrEqual(3);
    expect(await remove(repository, '--sweep')).toMatchObject({ code: 0 });
    expect(left()).toEqual(before);
    age(repository);
    expect(await remove(repository, '--sweep')).toMatchObject({ code: 0 });
    expect(left()).toEqual([]);
    await expectSound(repository, names(1, 2, 3, 4));
  });

  it('names every key that it could not remove, and removes it the next time', async () => {
    const repository = copyTemplate();
    const parts = path(repository, `part/${names(1)[0]}`);
    chmodSync(parts, 0o500);
    const storedBytes = () =>
      repository
        .files()
        .filter((file) => !file.includes('/plan/')) // stays while anything does that it names
        .map((file) => statSync(join(repository.root, file)).size);
    const sum = (sizes: readonly number[]) => sizes.reduce((a, b) => a + b, 0);
    const before = storedBytes();
    const told = await remove(repository, '--retain', '1', '--json');
    const after = storedBytes();
    const { removed, failed } = JSON.parse(told.stdout);
    expect(removed).toEqual({ objects: before.length - after.length, bytes: sum(before) - sum(after) });
    expect([told.code, failed.length]).toEqual([8, readdirSync(parts).length]);
    const { code, stdout } = await remove(repository, '--retain', '1');
    expect(code).toBe(8);
    for (const name of readdirSync(parts))
      expect(stdout).toContain(`could not remove ${cluster}/part/${names(1)[0]}/${name}: `);
    expect(readdirSync(parts)).not.toEqual([]);
    chmodSync(parts, 0o700);
    expect(await remove(repository, '--retain', '1')).toMatchObject({ code: 0 });
    expect(readdirSync(parts)).toEqual([]);
    await expectSound(repository, names(4));
  });
});

const newerFormat = (file: string) => {
  const content = readFileSync(file, 'latin1');
  writeFileSync(file, content.replace('{"format":1', '{"format":2'), 'latin1');
};

describe('H28: nothing is removed', () => {
  const damages: [string, (file: string) => void, RegExp][] = [
    ['damaged', flipByte, /./],
    ['of a newer format', newerFormat, /format/],
  ];
  const things: [string, (repository: TestRepository) => string][] = [
    ['the manifest of one that stays', () => `manifest/${names(4)[0]}`],
    ['the manifest of one that goes', () => `manifest/${names(1)[0]}`],
    ['a pin', (repository) => `pin/${names(2)[0]}/${readdirSync(path(repository, `pin/${names(2)[0]}`))[0]}`],
    ["a running backup's lease", () => `lease/${killed}/000001`],
    ['a history', () => history],
  ];
  let pinned: string;
  beforeAll(async () => {
    pinned = makeFolder('pinned');
    await copyFolder(template.root, join(pinned, 'repo'));
    const { code, stderr } = await new TestRepository({ folder: pinned }).run('wal-t', ['pin', ...names(2)]);
    if (code !== 0) throw new Error(stderr);
  });
  afterAll(() => removeFolder(pinned));

  it.each(
    things.flatMap(([thing, find], index) =>
      (index === 0 || torture ? damages : damages.slice(0, 1)).map(([what, damage, words]) => ({
        thing,
        what,
        find,
        damage,
        words,
        // a plan reads the same
        isPlanned: torture || index === 0,
      })),
    ),
  )('while $thing is $what', async ({ find, damage, words, isPlanned }) => {
    const repository = copyTemplate(pinned);
    const name = find(repository);
    damage(path(repository, name));
    const before = repository.files();
    for (const confirm of [['--confirm'], ...(isPlanned ? [[]] : [])]) {
      expectRefused(await repository.run('delete', ['--retain', '1', ...confirm]), 6, /nothing was removed/, words);
      expect(repository.files()).toEqual(before);
    }
  });

  it('while a pin is sealed to another key', async () => {
    const repository = copyTemplate();
    const keys = [join(repository.folder, 'mine'), join(repository.folder, 'other')] as const;
    const recipients = keys.map((file) => {
      const text = generateIdentity();
      writeFileSync(file, `${text}\n`, { mode: 0o600 });
      giveAway(file);
      return formatRecipient(parseIdentity(text));
    });
    const settings = { WALT_READ_PLAINTEXT: '1' };
    repository.configure({ ...settings, WALT_AGE_RECIPIENTS: recipients[1] ?? '', WALT_AGE_IDENTITY_FILE: keys[1] });
    expect(await repository.run('wal-t', ['pin', ...names(1)])).toMatchObject({ code: 0 });
    repository.configure({ ...settings, WALT_AGE_RECIPIENTS: recipients[0] ?? '', WALT_AGE_IDENTITY_FILE: keys[0] });
    const before = repository.files();
    expectRefused(await remove(repository, '--retain', '1'), 6, /nothing was removed/);
    expect(repository.files()).toEqual(before);
  });
});

describe('on S3', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await S3Server.start();
  });
  afterAll(() => s3.stop());

  async function uploaded() {
    const proxy = await openProxy(s3.s3);
    const prefix = `delete-${Math.floor(performance.now())}`;
    const storage = await openS3Storage(s3.s3, { prefix });
    await Promise.all(template.files().map((key) => storage.put(key, readFileSync(join(template.root, key)))));
    const settings = s3Settings(proxy.s3, prefix);
    const repository = new TestRepository({ settings });
    const keys = async () => {
      const found: string[] = [];
      for await (const { key } of storage.list('')) found.push(key);
      return found;
    };
    return { proxy, repository, keys, settings };
  }

  it('removes the same, and names what it could not', async () => {
    const { proxy, repository, keys } = await uploaded();
    const [first = ''] = names(1);
    const denied = [
      proxy.inject(deleteErrors(new RegExp(`part/${first}`)), { kind: 'DeleteObjects' }),
      proxy.inject(accessDenied, { kind: 'DeleteObject', key: new RegExp(`part/${first}`) }),
    ];
    const { code, stdout } = await remove(repository, '--retain', '2');
    expect({ code, stdout }).toMatchObject({
      code: 8,
      stdout: expect.stringMatching(`could not remove ${cluster}/part/${first}/0000001: `),
    });
    for (const fault of denied) fault.stop();
    expect(await remove(repository, '--retain', '2')).toMatchObject({ code: 0 });
    const left = await keys();
    expect(left).toEqual(expect.arrayContaining(foreign()));
    expect(left.filter((key) => key.includes(first) || key.includes('/plan/'))).toEqual([]);
    const { code: sound, stdout: verdicts } = await repository.run('wal-t', ['verify', '--json']);
    expect(sound).toBe(0);
    expect(JSON.parse(verdicts).verdicts.map(({ id }: { readonly id: string }) => id)).toEqual(names(3, 4));
  });

  it('H28: removes nothing while a manifest is answered with 503', async () => {
    const { proxy, repository, keys, settings } = await uploaded();
    const before = await keys();
    proxy.inject(slowDown(), { kind: 'GetObject', key: new RegExp(`manifest/${names(2)[0]}`) });
    // in this process, where the pauses between its many attempts are short
    const context = makeContext(settings, { workingDirectory: repository.folder });
    const outcome = await deleteBackups(context, { retain: 1, sweep: false, confirm: true }).catch((error) => error);
    expect(outcome).toMatchObject({ exitCode: exitCodes.storage });
    expect(context.lines.join('')).toContain('nothing was removed');
    expect(await keys()).toEqual(before);
  });
});

/** Keys below the cluster's of the parts that the backup needs and others have stored. */
async function partsOfOthers(repository: TestRepository, id: string): Promise<string[]> {
  const manifest = await readManifest(await openArchive(lookingContext(repository)), id);
  return [...usedParts(manifest)]
    .filter(({ backup }) => backup !== id)
    .map(({ backup, number }) => `${cluster}/${partName(backup, number)}`)
    .sort();
}

describe.each(['full', 'incremental'] as const)('a deletion that is killed, with backups of type %s', (type) => {
  const moments = torture ? 30 : 3;
  let tookMs = 0;
  beforeAll(async () => {
    if (type === 'incremental') {
      await removeTemplate();
      await makeTemplate(type);
    }
    const repository = new TestRepository({ folder: makeFolder('measured') });
    await copyFolder(template.root, repository.root);
    const begun = performance.now();
    await remove(repository, '--retain', '1');
    tookMs = performance.now() - begun;
    removeFolder(repository.folder);
  });

  it.each(Array.from({ length: moments }, (_, index) => ({ index, share: (index + 1) / moments })))(
    'harms nothing that stays, and the next one goes on: $share of it',
    async ({ index, share }) => {
      const repository = copyTemplate();
      age(repository);
      let child: ChildProcess | undefined;
      const ended = repository.run('delete', ['--retain', '1', '--confirm'], {
        ownGroup: true,
        onStart: (started) => {
          child = started;
        },
      });
      // the start of Node.js is half of it: from the first plan on by what has gone, before it by time
      const whole = repository.files().length;
      const plans = path(repository, 'plan');
      let hasEnded = false;
      void ended.finally(() => {
        hasEnded = true;
      });
      const begun = performance.now();
      const isThen = () =>
        share < 0.4
          ? performance.now() - begun > share * tookMs
          : existsSync(plans) && whole - repository.files().length > ((share - 0.4) / 0.6) * 20;
      while (!hasEnded && !isThen()) await pause(1);
      if (!hasEnded) process.kill(-(child?.pid ?? 0), 'SIGKILL');
      await ended;
      expect(await verified(repository)).toEqual(expect.arrayContaining(names(4)));
      expect(await remove(repository, '--retain', '1')).toMatchObject({ code: 0 });
      await expectSound(repository, names(4));
      const left = repository
        .files()
        .filter((file) => /\/(?:part|files|lease|manifest)\//.test(file) && !file.includes('notes'));
      const [kept = ''] = names(4);
      const others = await partsOfOthers(repository, kept);
      expect(others.length > 0).toBe(type === 'incremental');
      expect(left.filter((file) => !file.includes(kept)).sort()).toEqual(others);
      expect(existsSync(path(repository, history))).toBe(true);
      if (torture && index % 5 === 0) await expectRestores(repository, names(4)[0] ?? '');
    },
    300_000,
  );

  it.runIf(type === 'incremental').each(torture ? policies : policies.slice(0, 1))(
    'takes no part that an increment needs: %s',
    async (_what, words, kept) => {
      const repository = copyTemplate();
      expect(await remove(repository, ...words())).toMatchObject({ code: 0 });
      await expectSound(repository, kept());
      expect(await verified(repository, true)).toEqual(kept());
      await expectRestores(repository, kept()[0] ?? '');
    },
  );
});
