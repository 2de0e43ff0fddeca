/** The archive without WAL-T: scripts/restore-by-hand.sh brings up a server with all rows, and never a server with fewer. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { giveAway } from '../support/account.ts';
import { copyFolder } from '../support/copy-folder.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { checkout } from '../support/installation.ts';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, flipByte, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, run, walT } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';

const hasTools = ['age', 'zstd', 'tar'].map(hasTool).every(Boolean);
const isTorture = process.env.TORTURE === '1';
const allShells = [
  { shell: 'dash', words: [], encrypted: false },
  { shell: 'busybox', words: ['sh'], encrypted: true },
  { shell: 'sh', words: [], encrypted: true },
].filter(({ shell }) => hasTool(shell));
/** One with encryption, one without: `sh` itself is one of the others, as a rule. */
const shells = isTorture || allShells.length < 3 ? allShells : allShells.slice(0, 2);

describe.skipIf(!hasTools)('an encrypted archive, without WAL-T', () => {
  let folder: string;
  /** A copy of the script where the servers' account can read it. */
  let script: string;
  let identity: string;
  let repository: TestRepository;
  let server: PostgresServer;
  let tablespace: string;
  let cluster: string;
  let backup: string;
  let last: string;

  beforeAll(async () => {
    folder = makeFolder('by-hand');
    script = join(folder, 'restore-by-hand.sh');
    writeFileSync(script, readFileSync(join(checkout, 'scripts/restore-by-hand.sh')), { mode: 0o755 });
    identity = join(folder, 'identity');
    await walT('wal-t', ['keygen', '-o', identity]);
    const recipient = /age1[0-9a-z]+/.exec(readFileSync(identity, 'utf8'))?.[0] ?? '';
    repository = await new TestRepository({ folder, settings: { WALT_AGE_RECIPIENTS: recipient } }).init();
    server = PostgresServer.create({ major: 17, isSmall: true, settings: repository.serverSettings });
    tablespace = join(server.folder, 'table space');
    mkdirSync(tablespace);
    giveAway(tablespace);
    await server.start();
    await server.query(`create tablespace other location '${tablespace}'`);
    await server.query('create table t (n int) tablespace other');
    await archiveRow(server, 1);
    const env = { PGUSER: 'postgres', WALT_WORKERS: '2' };
    const pushed = await repository.run('basebackup-push', [server.dataDirectory, '--json'], { env });
    backup = JSON.parse(pushed.stdout).manifest.id;
    await archiveRow(server, 2);
    last = await archiveRow(server, 3);
    cluster = dirname(
      dirname(join(repository.root, repository.files().find((path) => path.includes('/manifest/')) ?? '')),
    );
  });
  afterAll(async () => {
    await server?.remove();
    removeFolder(folder);
  });

  interface ByHand {
    readonly archive?: string;
    readonly target: string;
    readonly words?: readonly string[];
    readonly shell?: Pick<(typeof shells)[number], 'shell' | 'words'>;
  }

  function restore({
    archive = cluster,
    target,
    words = [identity],
    shell = { shell: 'sh', words: [] },
  }: ByHand): Promise<Ended> {
    return run(shell.shell, [...shell.words, script, archive, backup, target, ...words]);
  }

  /** Follows what the script has said last. */
  function goOn(copy: PostgresServer, said: string): void {
    for (const line of said.split('\n').filter((one) => /^\w+ = '.*'$/.test(one))) {
      const [name = '', value = ''] = line.split(/ = '(.*)'$/);
      copy.configure({ [name]: value });
    }
    copy.signal('recovery.signal');
  }

  /** Which may then be damaged. */
  async function copyArchive(): Promise<string> {
    const copy = join(temporaryFolder(), 'cluster');
    await copyFolder(cluster, copy);
    return copy;
  }

  /** A copy in which nothing is encrypted. */
  async function decryptArchive(): Promise<string> {
    const copy = await copyArchive();
    const decrypt = `find part wal -type f | while read -r f; do age -d -i ${identity} -o "$f.plain" "$f" && mv "$f.plain" "$f" || exit 1; done`;
    expect(await run('sh', ['-c', decrypt], { cwd: copy })).toMatchObject({ code: 0 });
    return copy;
  }

  it.each(shells)('brings up a server with all rows: $shell $words, encrypted: $encrypted', async (shell) => {
    const copy = server.elsewhere();
    onTestFinished(() => copy.remove());
    const moved = join(copy.folder, 'moved here');
    const archive = shell.encrypted ? cluster : await decryptArchive();
    const words = [...(shell.encrypted ? [identity] : []), `${tablespace}=${moved}`];
    const ended = await restore({ archive, target: copy.dataDirectory, words, shell });
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    goOn(copy, ended.stdout);
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2 3');
    const [oid = ''] = readdirSync(join(copy.dataDirectory, 'pg_tblspc'));
    expect(readlinkSync(join(copy.dataDirectory, 'pg_tblspc', oid))).toBe(moved);
    expect(readdirSync(copy.dataDirectory).filter((name) => /^\.|tablespace_map/.test(name))).toEqual([]);
  });

  const parts = (archive: string) => join(archive, 'part', backup);

  const damages: readonly { what: string; says: string; damage: (archive: string) => void }[] = [
    {
      what: 'its last part missing',
      says: 'the last part of backup .* is missing',
      damage: (archive) => rmSync(join(parts(archive), readdirSync(parts(archive)).at(-1) ?? '')),
    },
    {
      what: 'a gap in its parts',
      says: 'part 2 of backup .* is missing',
      damage: (archive) => renameSync(join(parts(archive), '0000002'), join(parts(archive), '0000003')),
    },
    {
      what: 'a part with a wrong byte',
      says: '0000001" could not be decoded',
      damage: (archive) => flipByte(join(parts(archive), '0000001')),
    },
    {
      what: 'no confirmation',
      says: 'was never confirmed',
      damage: (archive) => rmSync(join(archive, 'lease', backup, 'closed')),
    },
    {
      what: 'its first part missing',
      says: 'part 1 of backup .* is missing',
      damage: (archive) => rmSync(join(parts(archive), '0000001')),
    },
    {
      what: 'a part cut off',
      says: '0000001" could not be decoded',
      damage: (archive) => truncateSync(join(parts(archive), '0000001'), 1_000_000),
    },
  ];

  // the last two are told as others are
  it.each(isTorture ? damages : damages.slice(0, -2))(
    'makes no cluster of a backup with $what',
    async ({ says, damage }) => {
      const archive = await copyArchive();
      damage(archive);
      const target = join(dirname(archive), 'restored');
      const moved = join(dirname(archive), 'moved');
      const { code, stderr } = await restore({ archive, target, words: [identity, `${tablespace}=${moved}`] });
      expect(stderr).toMatch(new RegExp(`^restore-by-hand: error: .*${says}`, 'm'));
      expect(code).toBe(1);
      expect(existsSync(join(target, 'global/pg_control'))).toBe(false);
    },
  );

  it.each<{ what: string; says: string; words: (target: string) => string[] }>([
    {
      what: 'a target that is not empty',
      says: '"[^ ]+" is not empty',
      words: (target) => [dirname(target), identity, `${tablespace}=${target}.2`],
    },
    {
      what: 'the place of a living tablespace',
      says: "the tablespace's place .* is not empty",
      words: (target) => [target, identity],
    },
    {
      what: 'a tablespace that is none',
      says: 'the backup has no tablespace at "/none"',
      words: (target) => [target, identity, `${tablespace}=${target}.2`, '/none=/x'],
    },
    { what: 'no identity', says: '.* is encrypted', words: (target) => [target, `${tablespace}=${target}.2`] },
  ])('refuses $what', async ({ says, words }) => {
    const target = join(temporaryFolder(), 'restored');
    writeFileSync(join(dirname(target), 'of somebody else'), '');
    const [first = '', ...others] = words(target);
    const { code, stderr } = await restore({ target: first, words: others });
    expect(stderr).toMatch(new RegExp(`^restore-by-hand: error: ${says}`, 'm'));
    expect(code).toBe(1);
    expect(existsSync(target) ? readdirSync(target) : []).toEqual([]);
    expect(existsSync(`${target}.2`)).toBe(false);
  });

  it('tells the end of the WAL from a hole and from damage, as a restore_command', async () => {
    const archive = await copyArchive();
    const object = (name: string) => join(archive, 'wal/00000001', name.slice(0, 16), name);
    const fetch = (name: string) =>
      run('sh', [script, '--wal', archive, name, join(dirname(archive), 'RECOVERYXLOG'), identity]);
    const [next, previous] = [1, -1].map((step) =>
      (BigInt(`0x${last}`) + BigInt(step)).toString(16).toUpperCase().padStart(24, '0'),
    );
    expect(await fetch(last)).toMatchObject({ code: 0, stderr: '' });
    expect(await fetch(next ?? '')).toMatchObject({ code: 1, stderr: '' });
    expect(await fetch('00000002.history')).toMatchObject({ code: 1, stderr: '' });
    rmSync(object(previous ?? ''));
    expect(await fetch(previous ?? '')).toMatchObject({
      code: 200,
      stderr: expect.stringContaining('is missing in the middle'),
    });
    flipByte(object(last));
    rmSync(join(dirname(archive), 'RECOVERYXLOG'));
    expect(await fetch(last)).toMatchObject({ code: 200, stderr: expect.stringContaining('could not be decoded') });
    expect(readdirSync(dirname(archive))).toEqual(['cluster']);
    renameSync(archive, `${archive}.away`);
    expect(await fetch(last)).toMatchObject({ code: 200, stderr: expect.stringContaining('Is the archive mounted?') });
  });

  it.skipIf(!hasTool('shellcheck'))('is sound by shellcheck', async () => {
    expect(await run('shellcheck', [script])).toMatchObject({ code: 0, stdout: '' });
  });
});
