/** Our own verifyBackup finds what pg_verifybackup finds: the proof of it for PostgreSQL 15, whose pg_verifybackup is at hand. */
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { account, giveAway } from '../support/account.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';
import { takeBaseBackup } from './base-backup.ts';

const debian = '/usr/lib/postgresql/15/bin';
const odd = Buffer.from('base/5/\xff\xfe', 'latin1');

interface Backup {
  readonly folder: string;
  /** Where its only tablespace stands. */
  readonly tablespace: string;
}

/** Damage to a copy of a backup. */
type Damage = (backup: Backup) => void;

const damages: readonly (readonly [string, Damage])[] = [
  ['nothing', () => undefined],
  ['a flip', ({ folder }) => flip(join(folder, 'base/5/1259'))],
  ['a flip in pg_control', ({ folder }) => flip(join(folder, 'global/pg_control'))],
  ['a flip in a tablespace', ({ tablespace }) => flip(findTable(tablespace))],
  ['a flip in a name that is no UTF-8', ({ folder }) => flip(Buffer.concat([Buffer.from(`${folder}/`), odd]))],
  ['a truncation', ({ folder }) => truncateSync(join(folder, 'base/5/1259'), 8192)],
  ['a byte more', ({ folder }) => appendFileSync(join(folder, 'PG_VERSION'), '\n')],
  ['a file that is missing', ({ folder }) => rmSync(join(folder, 'base/5/1259'))],
  ['a missing name that is no UTF-8', ({ folder }) => rmSync(Buffer.concat([Buffer.from(`${folder}/`), odd]))],
  ['a folder that is missing', ({ folder }) => rmSync(join(folder, 'base/5'), { recursive: true })],
  ['a tablespace that is missing', ({ tablespace }) => renameSync(tablespace, `${tablespace}x`)],
  ['a file more', ({ folder }) => writeFileSync(join(folder, 'base/5/9999999'), '')],
  ['a file more in a tablespace', ({ tablespace }) => writeFileSync(join(tablespace, 'more'), '')],
  ['a pipe more', ({ folder }) => spawnSync('mkfifo', [join(folder, 'pipe')])],
  ['an empty folder more', ({ folder }) => mkdirSync(join(folder, 'more'))],
  ['a dangling link more', ({ folder }) => symlinkSync('nowhere', join(folder, 'link'))],
  ['two files changed for one another', ({ folder }) => swap(join(folder, 'base/5/1259'), join(folder, 'base/5/1249'))],
  [
    'files that may differ',
    ({ folder }) => ['standby.signal', 'pg_wal/x'].map((path) => writeFileSync(join(folder, path), '')),
  ],
  ['other automatic settings', ({ folder }) => appendFileSync(join(folder, 'postgresql.auto.conf'), '#')],
  ['no manifest', ({ folder }) => rmSync(join(folder, 'backup_manifest'))],
  ['a size edited in the manifest', edit(/"Size": 3,/, '"Size": 4,')],
  ['a time edited in the manifest', edit(/"Last-Modified": "2/, '"Last-Modified": "3')],
  ['an entry cut from the manifest', edit(/\{ "Path": "PG_VERSION".*\n/, '')],
  ['an entry twice in the manifest', edit(/(\{ "Path": "PG_VERSION".*\n)/, '$1$1')],
  ['another seal', edit(/"Manifest-Checksum": "./, '"Manifest-Checksum": "x')],
  ['a manifest of version 3', edit(/Version": 1/, 'Version": 3')],
  ['a manifest without its end', edit(/\n$/, '')],
  ['half a manifest', ({ folder }) => truncateSync(join(folder, 'backup_manifest'), 50_000)],
  ['an empty manifest', ({ folder }) => truncateSync(join(folder, 'backup_manifest'))],
  ['an unknown algorithm', edit(/CRC32C/, 'CRC32D')],
  ['a checksum without algorithm', edit(/"Checksum-Algorithm": "CRC32C", /, '')],
  ['a name twice over', edit(/"Path": "PG_VERSION"/, '"Path": "PG_VERSION", "Encoded-Path": "00"')],
];

describe.skipIf(!hasTool(`${debian}/pg_verifybackup`))(
  "agrees with Debian's pg_verifybackup about a backup with",
  () => {
    let backup: Backup;
    let server: PostgresServer;

    beforeAll(async () => {
      server = await createServer(15);
      const folder = makeFolder('backup');
      backup = { folder: join(folder, 'data'), tablespace: join(folder, 'space') };
      const mapping = `--tablespace-mapping=${server.folder}/space=${backup.tablespace}`;
      const connection = ['-h', server.folder, '-U', 'postgres', '--checkpoint=fast', '--wal-method=none'];
      const made = await run(`${debian}/pg_basebackup`, [...connection, mapping, '-D', backup.folder]);
      expect(made).toMatchObject({ code: 0 });
    });
    afterAll(async () => {
      await server?.remove();
      if (backup !== undefined) removeFolder(join(backup.folder, '..'));
    });

    it.each(damages)('%s', async (_what, damage) => {
      const folder = temporaryFolder('copy');
      const copy = { folder: join(folder, 'data'), tablespace: join(folder, 'space') };
      copyBackup(backup, copy);
      damage(copy);
      const { code, stderr } = await run(`${debian}/pg_verifybackup`, ['-n', copy.folder], { asRoot: true });
      const theirs = stderr
        .split('\n')
        .filter((line) => line !== '')
        .map(inOurWords);
      const ours = (await verifyBackup(copy.folder)).map(inOurWords);
      expect(ours.length > 0).toBe(code !== 0);
      expect(ours.sort()).toEqual(theirs.sort());
    });

    it('a folder that is to be skipped', async () => {
      const folder = temporaryFolder('copy');
      const copy = { folder: join(folder, 'data'), tablespace: join(folder, 'space') };
      copyBackup(backup, copy);
      writeFileSync(join(copy.folder, 'base/5/more'), '');
      rmSync(join(copy.folder, 'base/5/1259'));
      appendFileSync(join(copy.folder, 'PG_VERSION'), 'x');
      const skip = ['base/5', 'PG_VERSION'];
      const words = skip.flatMap((path) => ['-i', path]);
      expect(await run(`${debian}/pg_verifybackup`, ['-n', ...words, copy.folder], { asRoot: true })).toMatchObject({
        code: 0,
      });
      expect(await verifyBackup(copy.folder, { skip })).toEqual([]);
      expect(await verifyBackup(copy.folder, { skip: ['base/5', 'PG_VER'] })).toHaveLength(1);
    });
  },
);

it.each(process.env.TORTURE === '1' ? [17, 18] : [18])(
  'accepts a backup that PostgreSQL %i made, and it alone',
  async (major) => {
    const server = await createServer(major);
    onTestFinished(() => server.remove());
    const folder = temporaryFolder('backup');
    await takeBaseBackup(server, join(folder, 'data'));
    const copy = join(folder, 'data');
    expect(await verifyBackup(copy)).toEqual([]);

    const other = PostgresServer.create({ major, isSmall: true });
    onTestFinished(() => other.remove());
    // a CRC over its own CRC is always the same: by their CRC-32C in the manifest, all whole control files of a version are equal
    const control = readFileSync(join(copy, 'global/pg_control'));
    cpSync(join(other.dataDirectory, 'global/pg_control'), join(copy, 'global/pg_control'));
    const otherCluster = /^global\/pg_control: manifest system identifier is \d{19}, but control file has \d{19}$/;
    expect(await verifyBackup(copy)).toEqual([expect.stringMatching(otherCluster)]);
    writeFileSync(join(copy, 'global/pg_control'), control);
    flip(join(copy, 'global/1260'));
    expect(await verifyBackup(copy)).toEqual(['checksum mismatch for file "global/1260"']);
  },
);

/** Running, with a tablespace, and with a file whose name is no UTF-8. */
async function createServer(major: number): Promise<PostgresServer> {
  const server = PostgresServer.create({ major, isSmall: true });
  const space = join(server.folder, 'space');
  mkdirSync(space, { mode: 0o700 });
  giveAway(space);
  writeFileSync(Buffer.concat([Buffer.from(`${server.dataDirectory}/`), odd]), 'x', { mode: 0o644 });
  await server.start();
  await server.query(`create tablespace space location '${space}'`);
  await server.query('create table t tablespace space as select generate_series(1, 1000)');
  return server;
}

/** `cp`, since Node.js copies no names that are no UTF-8. */
function copyBackup(from: Backup, to: Backup): void {
  for (const part of ['folder', 'tablespace'] as const) spawnSync('cp', ['-a', from[part], to[part]], account);
  const { stdout } = spawnSync('ls', [join(to.folder, 'pg_tblspc')], { encoding: 'utf8' });
  const link = join(to.folder, 'pg_tblspc', stdout.trim());
  rmSync(link);
  symlinkSync(to.tablespace, link);
}

function findTable(tablespace: string): string {
  const { stdout } = spawnSync('find', [tablespace, '-type', 'f', '-size', '+0'], { encoding: 'utf8' });
  return stdout.split('\n')[0] ?? '';
}

function flip(path: string | Buffer): void {
  const content = readFileSync(path);
  const at = content.length >> 1;
  content[at] = (content[at] ?? 0) ^ 1;
  writeFileSync(path, content);
}

function swap(a: string, b: string): void {
  const [first, second] = [readFileSync(a), readFileSync(b)];
  writeFileSync(a, second);
  writeFileSync(b, first);
}

function edit(pattern: RegExp, text: string): Damage {
  return ({ folder }) => {
    const path = join(folder, 'backup_manifest');
    const before = readFileSync(path, 'utf8');
    const after = before.replace(pattern, text);
    if (after === before) throw new Error(`nothing edited: ${pattern}`);
    writeFileSync(path, after);
  };
}

/** A finding without the reasons of the system and with a name that is no UTF-8 as a stream of text shows it. */
function inOurWords(finding: string): string {
  return finding
    .replace(/^pg_verifybackup: error: /, '')
    .replace(/^(could not (?:stat|open) .*"): .*/, '$1')
    .replaceAll('\\xff\\xfe', '\ufffd\ufffd');
}
