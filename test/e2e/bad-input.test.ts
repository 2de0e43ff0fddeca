/** Whatever is wrong with what the commands are given: the exit code, the message, the hint, and that nothing is changed by it. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { openWalFile } from '../../src/archive/wal-archive.ts';
import { collect } from '../../src/bytes.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { giveAway } from '../support/account.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { suffixOf } from '../support/left-overs.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, walT } from '../support/run.ts';
import { makeControlFile, makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';
import { orFailInCi } from '../support/tools.ts';

const isTorture = process.env.TORTURE === '1';
const [first, second, third] = ['000000010000000000000001', '000000010000000000000002', '000000010000000000000003'];
const target = 'pg_wal/RECOVERYXLOG';
/** A sound cluster and repository, with the first two of three segments archived: copied for each row. */
let template: string;

beforeAll(async () => {
  template = makeFolder();
  mkdirSync(join(template, 'data'));
  giveAway(join(template, 'data'));
  const put = makeDataDirectory(join(template, 'data'));
  for (const name of [first, second, third]) put(name, makeSegment(name));
  const options = { env: { WALT_REPO: `file://${template}/repo` }, cwd: join(template, 'data') };
  await walT('wal-t', ['init'], options);
  for (const name of [first, second]) await walT('wal-push', [`pg_wal/${name}`, name], options);
});

afterAll(() => removeFolder(template));

/** A copy of the template, whose paths a row may spoil. */
class Scene {
  readonly repository: TestRepository;
  readonly data: string;
  /** Taken away while the command runs. */
  readonly #modes = new Map<string, number>();

  constructor() {
    this.repository = new TestRepository();
    this.data = join(this.repository.folder, 'data');
    spawnSync('cp', ['-a', join(template, 'repo'), join(template, 'data'), this.repository.folder]);
    this.configure({});
  }

  configure(settings: Readonly<Record<string, string>>): void {
    const short = { WALT_WAL_FETCH_TIMEOUT: '500ms', WALT_WAL_FETCH_STANDBY_TIMEOUT: '500ms' };
    this.repository.configure({ ...short, ...settings });
  }

  /** The path of a file in pg_wal. */
  wal(name: string): string {
    return join(this.data, 'pg_wal', name);
  }

  write(path: string, content: string | Uint8Array): void {
    writeFileSync(path, content);
    giveAway(path);
  }

  object(name: string): string {
    return this.repository.object(name);
  }

  /** Changes the permissions of a path while the command runs. */
  deny(path: string, mode: number): void {
    this.#modes.set(path, mode);
  }

  /** Mounts a small file system at `folder`, with what was there in it and not a byte more. */
  fill(folder: string): void {
    const aside = join(this.repository.folder, 'aside');
    renameSync(folder, aside);
    mkdirSync(folder);
    const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0777', 'none', folder]);
    if (status !== 0) throw new Error(String(stderr));
    onTestFinished(() => void spawnSync('umount', ['-l', folder]));
    spawnSync('cp', ['-a', `${aside}/.`, folder]);
    rmSync(aside, { recursive: true });
    spawnSync('dd', ['if=/dev/zero', `of=${join(folder, 'filler')}`, 'bs=4k']);
  }

  async run(command: string, words: readonly string[]): Promise<Ended> {
    for (const [path, mode] of this.#modes) chmodSync(path, mode);
    const ended = await this.repository.run(command, words, { cwd: this.data });
    for (const path of this.#modes.keys()) chmodSync(path, 0o700);
    return ended;
  }

  /** Is this segment, all of it, where PostgreSQL wanted it? */
  delivered(name: string): boolean {
    return readFileSync(this.wal('RECOVERYXLOG')).equals(makeSegment(name));
  }

  temporaryFiles(): string[] {
    return Object.keys(this.state()).filter((path) => path.includes('/.tmp/') || path.includes('.wal-t-'));
  }

  /** Every file of repository and data directory, temporary ones included, with a hash of its content. */
  state(): Record<string, string> {
    const entries = readdirSync(this.repository.folder, { recursive: true, withFileTypes: true });
    const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
    return Object.fromEntries(
      paths.sort().map((path) => [path, createHash('sha256').update(readFileSync(path)).digest('hex')]),
    );
  }
}

interface Row {
  readonly name: string;
  /** Spoils the scene. @returns the words of the command line where they are not the usual ones. */
  readonly given: (scene: Scene) => readonly string[] | Promise<readonly string[]> | unknown;
  readonly code: number;
  /** The beginning of the message. */
  readonly error: string;
  readonly hint: string;
  readonly when?: boolean;
  /** Refused by what refuses another row, too: left to TORTURE=1. */
  readonly isAlike?: boolean;
}

/** What follows `<command>: <severity>: `, with the scene's folder as `…`. */
function said(scene: Scene, command: string, { stderr }: Ended, severity: 'error' | 'hint'): string {
  const prefix = `${command}: ${severity}: `;
  const lines = stderr.split('\n').filter((line) => line.startsWith(prefix));
  return lines.map((line) => line.slice(prefix.length).replaceAll(scene.repository.folder, '…')).join('\n');
}

interface Expected {
  readonly command: 'wal-push' | 'wal-fetch';
  readonly usual: readonly string[];
  readonly code: number;
}

/** Refused with this code, message and hint, in PostgreSQL's style; and not a file was made, changed or removed. */
async function expectRefusal(scene: Scene, row: Row, { command, usual, code }: Expected): Promise<void> {
  const given = await row.given(scene);
  const before = scene.state();
  const ended = await scene.run(command, Array.isArray(given) ? given : usual);
  const [error, hint] = [said(scene, command, ended, 'error'), said(scene, command, ended, 'hint')];
  expect({ code: ended.code, stdout: ended.stdout }).toEqual({ code, stdout: '' });
  expect(error.slice(0, row.error.length)).toBe(row.error);
  expect(hint.slice(0, row.hint.length)).toBe(row.hint);
  expect(error).toMatch(/^(?![A-Z][a-z]).*[^.]$/);
  expect(hint).toMatch(/^\S.*([.?]|file:\S+)$/);
  expect(scene.state()).toEqual(before);
}

const canMount = orFailInCi(
  spawnSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'none', '/mnt']).status === 0,
  'a full disk needs the right to mount a small one',
);

const usage = {
  push: "Set archive_command = '… wal-push %p %f'.",
  fetch: "Set restore_command = '… wal-fetch %f %p'.",
};
/** Of all these names there are files in a pg_wal, or people type them. */
const neverArchived: readonly string[] = [
  'xlogtemp.27',
  'archive_status',
  `${third}.ready`,
  `0000000a${third.slice(8)}`, // lower case
  `00000000${third.slice(8)}`, // timeline 0
  '00000000.history',
  `${third}.backup`,
  third.slice(1),
];
/** The first four stand for all: what a name is, is asked in test/postgres, too. */
const isOneOfMany = (name: string) => neverArchived.indexOf(name) > 3;
const keyOf = (name: string) => `${testSystemIdentifier}/wal/00000001/0000000100000000/${name}`;

/** What is wrong for both commands in the same way. */
const settingsRows: readonly Row[] = [
  {
    name: 'no repository set',
    given: (scene) => scene.configure({ WALT_REPO: '' }),
    code: 3,
    error: 'no repository is set',
    hint: 'Set WALT_REPO=s3://bucket/prefix or WALT_REPO=file:///path in /etc/wal-t.env',
  },
  {
    name: 'an unknown scheme',
    given: (scene) => scene.configure({ WALT_REPO: 'ftp://host/wal' }),
    code: 3,
    error: 'WALT_REPO has the unknown scheme "ftp:"',
    hint: 'Use WALT_REPO=s3://bucket/prefix or WALT_REPO=file:///absolute/path.',
  },
  {
    name: 'a URL with a query',
    given: (scene) => scene.configure({ WALT_REPO: 'file:///srv/wal?x=1' }),
    code: 3,
    error: 'WALT_REPO has a "?" or "#": "file:///srv/wal?x=1"',
    hint: 'In a URL they are written %3F and %23.',
  },
  {
    name: 'a URL with a percent sign that begins nothing',
    given: (scene) => scene.configure({ WALT_REPO: 'file:///srv/100%/wal' }),
    code: 3,
    error: 'WALT_REPO is not the URL of a folder: "file:///srv/100%/wal"',
    hint: 'In a URL a percent sign is written %25',
  },
  {
    name: 'a path instead of a URL',
    given: (scene) => scene.configure({ WALT_REPO: '/srv/wal' }),
    code: 3,
    error: 'WALT_REPO is not a URL: "/srv/wal"',
    hint: 'A folder is given as a URL: WALT_REPO=file:///srv/wal',
  },
  {
    name: 'a URL with a host',
    given: (scene) => scene.configure({ WALT_REPO: 'file://srv/wal' }),
    code: 3,
    error: 'WALT_REPO names a host: "file://srv/wal"',
    hint: 'A folder has three slashes: WALT_REPO=file:///srv/wal',
  },
  {
    name: 'an unknown setting',
    given: (scene) => scene.configure({ WALT_REPOO: 'file:///srv/wal' }),
    code: 3,
    error: 'unknown setting WALT_REPOO (…/settings.env)',
    hint: 'Did you mean WALT_REPO?',
  },
  {
    name: 'a wrong value',
    given: (scene) => scene.configure({ WALT_COMPRESSION_LEVEL: 'best' }),
    code: 3,
    error: 'WALT_COMPRESSION_LEVEL cannot be "best"',
    hint: 'It must be a whole number from 1 to 19.',
  },
  {
    name: 'a time without a unit',
    given: (scene) => scene.configure({ WALT_WAL_PUSH_TIMEOUT: '30' }),
    code: 3,
    error: 'WALT_WAL_PUSH_TIMEOUT cannot be "30"',
    hint: 'It must be a time such as 500ms, 30s or 5min.',
  },
  {
    name: 'a line that is no setting',
    given: ({ repository }) => appendFileSync(repository.config, 'archive everything\n'),
    code: 3,
    error: 'line 4 of "…/settings.env" is not KEY=VALUE',
    hint: 'Write one setting a line',
  },
  {
    name: 'a settings file that cannot be read',
    given: (scene) => scene.deny(scene.repository.config, 0o000),
    code: 3,
    error: 'could not read "…/settings.env": ',
    hint: 'The user that PostgreSQL runs as must be able to read it. WALT_CONFIG names another file.',
  },
  {
    name: 'a settings file that is not there',
    given: ({ repository }) => rmSync(repository.config),
    code: 3,
    error: 'could not read "…/settings.env": ',
    hint: 'The user that PostgreSQL runs as must be able to read it. WALT_CONFIG names another file.',
  },
  {
    name: "WAL-G's encryption setting",
    given: (scene) => scene.configure({ WALG_LIBSODIUM_KEY: 'secret' }),
    code: 3,
    error: 'WALG_LIBSODIUM_KEY is set (…/settings.env), but WAL-T does not encrypt with it',
    hint: 'Set WALT_AGE_RECIPIENTS to encrypt, or remove the setting if the archive need not be encrypted.',
  },
  {
    name: 'the system identifier of another cluster in the settings',
    given: (scene) => scene.configure({ WALT_SYSTEM_IDENTIFIER: '42' }),
    code: 3,
    error: '',
    hint: 'Correct WALT_SYSTEM_IDENTIFIER',
  },
  {
    name: 'a repository.json that is damaged',
    given: ({ repository }) => {
      rmSync(join(repository.root, testSystemIdentifier), { recursive: true });
      truncateSync(join(repository.root, 'repository.json'), 20);
    },
    code: 6,
    error: '"repository.json" in file://…/repo is damaged',
    hint: 'Restore it from another copy of the repository. Do not make a new one over it.',
  },
];

/** Those that can be tried here; without TORTURE each second one, and all that guard a known hazard. */
function chosen(rows: readonly Row[]): Row[] {
  const possible = rows.filter(({ when }) => when !== false);
  const isChosen = ({ name, isAlike }: Row, index: number) =>
    isAlike !== true && (index % 2 === 0 || /^H\d/.test(name));
  return isTorture ? possible : possible.filter(isChosen);
}

describe('wal-push', () => {
  const usual = [`pg_wal/${third}`, third];
  const again = [`pg_wal/${first}`, first];
  const wrong = (content: Buffer | string) => (scene: Scene) => scene.write(scene.wal(third), content);
  const named = (name: string) => (scene: Scene) => {
    scene.write(scene.wal(name), makeSegment(third));
    return [`pg_wal/${name}`, name];
  };
  const notWhatItSays = {
    code: 6,
    error: `"${third}" is not the file that its name says`,
    hint: 'Nothing was archived.',
  };
  const damaged = {
    code: 6,
    error: `"${keyOf(first)}" in file://…/repo is damaged: `,
    hint: 'Move this object away, but keep it: PostgreSQL then pushes its own copy again.',
  };

  const rows: readonly Row[] = [
    ...settingsRows,
    {
      name: 'a folder that is not there',
      given: ({ repository }) => rmSync(repository.root, { recursive: true }),
      code: 4,
      error: `could not read "${testSystemIdentifier}/cluster.json" in file://…/repo`,
      hint: 'Check that the folder is mounted and WALT_REPO is spelled right',
    },
    {
      name: 'H16: a folder that is not mounted',
      given: ({ repository }) => {
        rmSync(repository.root, { recursive: true });
        mkdirSync(repository.root, { mode: 0o777 });
        giveAway(repository.root);
      },
      code: 3,
      error: 'the repository is not at file://…/repo',
      hint: 'Mount its folder or correct WALT_REPO.',
    },
    {
      name: 'H16: no repository, and a cluster that was never archived',
      given: ({ repository, data }) => {
        rmSync(join(data, 'pg_wal/.wal-t'), { recursive: true });
        rmSync(repository.root, { recursive: true });
        mkdirSync(repository.root);
        giveAway(repository.root);
      },
      code: 3,
      error: 'there is no repository at file://…/repo',
      hint: 'Run "wal-t init" once.',
    },
    {
      name: 'H16: the prefix of another repository',
      given: async (scene) => {
        const other = join(scene.repository.folder, 'other');
        scene.configure({ WALT_REPO: `file://${other}` });
        expect((await scene.repository.run('wal-t', ['init'])).code).toBe(0);
      },
      code: 3,
      error: 'file://…/other is another repository than the one this cluster was archived into',
      hint: 'Correct WALT_REPO or mount the right folder. If the change is meant, run "wal-t init --adopt".',
    },
    {
      name: 'a repository that cannot be written',
      given: (scene) => scene.deny(join(scene.repository.root, '.tmp'), 0o500),
      code: 4,
      error: `could not write "${keyOf(third)}" in file://…/repo: permission denied`,
      hint: 'Give the user that PostgreSQL runs as the right to read and write the repository.',
    },
    {
      name: 'a repository that is full',
      given: (scene) => scene.fill(scene.repository.root),
      code: 4,
      error: `could not write "${keyOf(third)}" in file://…/repo: no space left on device`,
      hint: 'Free space in the repository or enlarge it. PostgreSQL keeps the WAL and tries again.',
      when: canMount,
    },
    {
      name: '%p missing',
      given: (scene) => rmSync(scene.wal(third)),
      code: 9,
      error: `could not read "…/data/pg_wal/${third}": `,
      hint: 'PostgreSQL gives the path as %p, relative to the data directory: archive_command =',
    },
    {
      name: '%p not readable',
      given: (scene) => scene.deny(scene.wal(third), 0o000),
      code: 9,
      error: `could not read "…/data/pg_wal/${third}": `,
      hint: 'Look at its permissions, its owner and its disk.',
    },
    {
      name: '%p a directory',
      given: (scene) => {
        rmSync(scene.wal(third));
        mkdirSync(scene.wal(third));
        giveAway(scene.wal(third));
      },
      code: 9,
      error: `could not read "…/data/pg_wal/${third}": `,
      hint: '',
    },
    { name: '%p empty', given: wrong(''), ...notWhatItSays },
    { name: '%p shorter than a header', given: wrong(makeSegment(third).subarray(0, 39)), ...notWhatItSays },
    { name: '%p truncated', given: wrong(makeSegment(third).subarray(0, 8192)), ...notWhatItSays },
    {
      name: '%p larger than its header says',
      given: wrong(Buffer.concat([makeSegment(third), Buffer.alloc(1024 * 1024)])),
      ...notWhatItSays,
    },
    { name: '%p full of zeros', given: wrong(Buffer.alloc(1024 * 1024)), ...notWhatItSays },
    { name: "%p under another segment's name", given: wrong(makeSegment(second)), ...notWhatItSays },
    { name: '%p of another timeline', given: wrong(makeSegment(third, { timeline: 2 })), ...notWhatItSays },
    {
      name: 'H17: %p of another cluster',
      given: wrong(makeSegment(third, { systemIdentifier: '42' })),
      code: 6,
      error: `"pg_wal/${third}" belongs to another cluster`,
      hint: 'Nothing was archived. Find out how the file came into this pg_wal.',
    },
    {
      name: 'a history file that is none',
      given: (scene) => {
        scene.write(scene.wal('00000002.history'), 'no history\n');
        return ['pg_wal/00000002.history', '00000002.history'];
      },
      code: 6,
      error: '"00000002.history" is not the file that its name says',
      hint: 'Nothing was archived.',
    },
    {
      name: "a backup history file of another segment's backup",
      given: (scene) => {
        const name = `${third}.00000028.backup`;
        scene.write(scene.wal(name), `START WAL LOCATION: 0/1000028 (file ${first})\n`);
        return [`pg_wal/${name}`, name];
      },
      code: 6,
      error: `"${third}.00000028.backup" is not the file that its name says`,
      hint: 'Nothing was archived.',
    },
    {
      name: 'other content than is stored',
      given: (scene) => {
        scene.write(scene.wal(first), makeSegment(first, { seed: 'other' }));
        return again;
      },
      code: 5,
      error: `"${first}" is archived already, with other content`,
      hint: 'Two servers write the same timeline',
    },
    {
      name: 'H15: the stored object truncated',
      given: (scene) => {
        truncateSync(scene.object(first), 5000);
        return again;
      },
      ...damaged,
    },
    {
      name: 'H15: the stored object emptied',
      given: (scene) => {
        truncateSync(scene.object(first), 0);
        return again;
      },
      ...damaged,
    },
    {
      name: 'H15: bytes after the end of the stored object',
      given: (scene) => {
        appendFileSync(scene.object(first), 'x');
        return again;
      },
      ...damaged,
    },
    {
      name: 'another object stored under the name',
      given: (scene) => {
        copyFileSync(scene.object(second), scene.object(first));
        return again;
      },
      ...damaged,
    },
    { name: 'no arguments', given: () => [], code: 2, error: 'one or two arguments are needed', hint: usage.push },
    {
      name: 'too many arguments',
      given: () => [...usual, third],
      code: 2,
      error: 'one or two arguments are needed',
      hint: usage.push,
    },
    {
      name: 'an unknown flag',
      given: () => [...usual, '--force'],
      code: 2,
      error: 'unknown argument: force',
      hint: 'wal-t --help shows the commands',
    },
    {
      name: '%p and %f swapped',
      given: () => [...usual].reverse(),
      code: 2,
      error: `"pg_wal/${third}" is a path, not a file name`,
      hint: `The path stands first. ${usage.push}`,
    },
    {
      name: '%p and %f that do not fit together',
      given: () => [`pg_wal/${third}`, second],
      code: 2,
      error: `"pg_wal/${third}" is not a file named "${second}"`,
      hint: usage.push,
    },
    ...neverArchived.map(
      (name): Row => ({
        name: `a name that PostgreSQL never archives: ${name}`,
        given: (scene) => (name === 'archive_status' ? [`pg_wal/${name}`, name] : named(name)(scene)),
        code: 2,
        error: `"${name}" is not the name of a file that PostgreSQL archives`,
        hint: usage.push,
        isAlike: isOneOfMany(name),
      }),
    ),
  ];

  it.each(chosen(rows))('refuses $name', async (row) => {
    await expectRefusal(new Scene(), row, { command: 'wal-push', usual, code: row.code });
  });
});

describe('wal-fetch', () => {
  const usual = [first, target];
  const noLeave = 'Give the user that PostgreSQL runs as the right to read and write the repository.';
  const damaged = (what: string, hint = 'Bring this object back from another copy of the repository') => ({
    code: 6,
    error: `"${keyOf(first)}" in file://…/repo is damaged: ${what}`,
    hint,
  });
  const spoilt = (change: (object: Buffer) => Uint8Array) => (scene: Scene) => {
    const path = scene.object(first);
    scene.write(path, change(readFileSync(path)));
  };

  const rows: readonly Row[] = [
    // read by the same code as wal-push's: the first and the last
    ...settingsRows.map((row, index) => ({ ...row, isAlike: index > 0 && index < settingsRows.length - 1 })),
    {
      name: 'a folder that is not there',
      given: ({ repository }) => rmSync(repository.root, { recursive: true }),
      code: 4,
      error: `could not read "${keyOf(first)}" in file://…/repo: no such file or directory`,
      hint: 'Check that the folder is mounted and WALT_REPO is spelled right',
    },
    {
      name: 'a folder that is not mounted',
      given: ({ repository }) => {
        rmSync(repository.root, { recursive: true });
        mkdirSync(repository.root);
      },
      code: 3,
      error: 'there is no repository at file://…/repo',
      hint: 'Run "wal-t init" once. If it was there before, its folder is not mounted',
    },
    {
      name: 'the prefix of another repository',
      given: async (scene) => {
        scene.configure({ WALT_REPO: `file://${scene.repository.folder}/other` });
        expect((await scene.repository.run('wal-t', ['init'])).code).toBe(0);
      },
      code: 3,
      error: 'nothing of this cluster is archived in file://…/other',
      hint: 'Correct WALT_REPO',
    },
    {
      name: 'a repository that cannot be read',
      given: (scene) => scene.deny(scene.repository.root, 0o000),
      code: 4,
      error: `could not read "${keyOf(first)}" in file://…/repo: permission denied`,
      hint: noLeave,
    },
    {
      name: 'an object that cannot be read',
      given: (scene) => scene.deny(scene.object(first), 0o000),
      code: 4,
      error: `could not read "${keyOf(first)}" in file://…/repo: permission denied`,
      hint: noLeave,
    },
    {
      name: 'a data directory of a cluster that was never archived',
      given: (scene) => scene.write(join(scene.data, 'global/pg_control'), makeControlFile('42')),
      code: 3,
      error: 'nothing of this cluster is archived in file://…/repo',
      hint: 'Correct WALT_REPO',
    },
    {
      name: 'two clusters, and no data directory that tells which',
      given: (scene) => {
        rmSync(join(scene.data, 'global/pg_control'));
        mkdirSync(join(scene.repository.root, '42'));
        scene.write(join(scene.repository.root, '42/cluster.json'), '{}');
      },
      code: 3,
      error: 'it is not clear which cluster is meant',
      hint: 'Run it in the data directory, or set WALT_SYSTEM_IDENTIFIER.',
    },
    {
      name: 'H1: a segment missing in the middle',
      given: (scene) => rmSync(scene.object(first)),
      code: 6,
      error: `"${first}" is missing in the middle of the archive`,
      hint: 'Wait if it may still be on its way from an archiver.',
    },
    { name: 'an object emptied', given: spoilt(() => Buffer.alloc(0)), ...damaged('the object is empty') },
    {
      name: 'an object cut in its header',
      given: spoilt((object) => object.subarray(0, 50)),
      ...damaged('ends too early'),
    },
    {
      name: 'an object truncated',
      given: spoilt((object) => object.subarray(0, -1)),
      ...damaged('the object is truncated'),
    },
    {
      name: 'bytes after the end of an object',
      given: spoilt((object) => Buffer.concat([object, Buffer.alloc(1)])),
      ...damaged('bytes follow after the object'),
    },
    { name: 'a bit flipped in its content', given: spoilt(flippedAt(-300_000)), ...damaged('') },
    {
      name: 'a bit flipped in its last byte',
      given: spoilt(flippedAt(-1)),
      ...damaged('a zstd frame does not decompress'),
    },
    {
      name: 'another hash in its header',
      given: spoilt((object) => withHeader(object, { sha256: '0'.repeat(64) })),
      ...damaged('the content is not the one that its header names'),
    },
    {
      name: 'less content in its header',
      given: spoilt((object) => withHeader(object, { bytes: 1000 })),
      ...damaged('the content is longer than its header says'),
    },
    {
      name: 'an object swapped with another',
      given: (scene) => copyFileSync(scene.object(second), scene.object(first)),
      ...damaged('another object is stored under this key'),
    },
    {
      name: "another cluster's object",
      given: spoilt((object) => withHeader(object, { systemIdentifier: '42' })),
      ...damaged('another object is stored under this key'),
    },
    {
      name: 'an object of a newer format',
      given: spoilt((object) => withHeader(object, { format: 2 })),
      ...damaged('the object needs a newer WAL-T: format 2', 'Install at least the version of WAL-T that wrote it.'),
    },
    {
      name: 'an object that requires an unknown feature',
      given: spoilt((object) => withHeader(object, { requires: ['telepathy'] })),
      ...damaged('the object needs a newer WAL-T: feature "telepathy"', 'Install at least the version of WAL-T'),
    },
    {
      name: 'an object of somebody else',
      given: spoilt(() => makeSegment(first)),
      ...damaged('not an object of WAL-T'),
    },
    {
      name: 'a folder instead of an object',
      given: (scene) => {
        const path = scene.object(first);
        rmSync(path);
        mkdirSync(path);
      },
      code: 4,
      error: `"${keyOf(first)}" in file://…/repo is not a regular file`,
      hint: 'Something else than WAL-T wrote into the repository. Find out what it is before removing it.',
    },
    {
      name: 'a bomb: a header that says more than a segment can have',
      given: spoilt((object) => withHeader(object, { bytes: 2 ** 40 })),
      ...damaged('the header says more content than a segment can have'),
    },
    {
      name: 'a bomb: frames without end',
      given: async (scene) => {
        const frame = await encodeFrame(Buffer.alloc(1024 * 1024), 19);
        spoilt((object) => withFrames(object, Array<Uint8Array>(20_000).fill(frame)))(scene);
      },
      ...damaged('the content is longer than its header says'),
    },
    {
      name: 'a bomb: a frame that says a terabyte',
      given: spoilt((object) => withFrames(object, [runLengthFrame(1024, 2n ** 40n)])),
      ...damaged('a zstd frame is larger than a frame may be'),
    },
    {
      name: 'a bomb: a frame of more blocks than it says',
      given: spoilt((object) => withFrames(object, [runLengthFrame(100_000, 1024n * 1024n)])),
      ...damaged('a zstd frame has impossible blocks'),
    },
    {
      name: 'a destination that cannot be written',
      given: (scene) => scene.deny(join(scene.data, 'pg_wal'), 0o500),
      code: 9,
      error: 'could not write "…/data/pg_wal/RECOVERYXLOG": permission denied',
      hint: 'PostgreSQL gives the path as %p, relative to the data directory. Look at its disk and permissions.',
    },
    {
      name: 'a destination that is full',
      given: (scene) => scene.fill(join(scene.data, 'pg_wal')),
      code: 9,
      error: 'could not write "…/data/pg_wal/RECOVERYXLOG": no space left on device',
      hint: 'PostgreSQL gives the path as %p, relative to the data directory. Look at its disk and permissions.',
      when: canMount,
    },
    {
      name: 'a destination that is a directory',
      given: (scene) => {
        mkdirSync(scene.wal('RECOVERYXLOG'));
        giveAway(scene.wal('RECOVERYXLOG'));
      },
      code: 9,
      error: '"…/data/pg_wal/RECOVERYXLOG" is not a regular file',
      hint: 'Nothing was written: a folder, a link or a device is never replaced.',
    },
    {
      name: 'a destination in a folder that is not there',
      given: () => [first, 'nowhere/RECOVERYXLOG'],
      code: 9,
      error: 'could not write "…/data/nowhere/RECOVERYXLOG": no such file or directory',
      hint: 'PostgreSQL gives the path as %p',
    },
    { name: 'no arguments', given: () => [], code: 2, error: 'two arguments are needed', hint: usage.fetch },
    { name: 'one argument', given: () => [first], code: 2, error: 'two arguments are needed', hint: usage.fetch },
    {
      name: 'too many arguments',
      given: () => [...usual, target],
      code: 2,
      error: 'two arguments are needed',
      hint: usage.fetch,
    },
    {
      name: 'an unknown flag',
      given: () => [...usual, '--force'],
      code: 2,
      error: 'unknown argument: force',
      hint: 'wal-t --help shows the commands',
    },
    {
      name: '%f and %p swapped',
      given: () => [...usual].reverse(),
      code: 2,
      error: `"${target}" is a path, not a file name`,
      hint: `The name stands first. ${usage.fetch}`,
    },
    ...neverArchived.map(
      (name): Row => ({
        name: `a name that PostgreSQL never archives: ${name}`,
        given: () => [name, target],
        code: 2,
        error: `"${name}" is not the name of a file that PostgreSQL archives`,
        hint: usage.fetch,
        isAlike: isOneOfMany(name),
      }),
    ),
  ];

  /** The launcher makes 200 of every code, whatever it says: under TORTURE=1 of each of these. */
  const inRecovery = (row: Row, index: number) => isTorture || /^H\d/.test(row.name) || index % 3 === 0;

  it.each(chosen(rows).map((row, index) => ({ ...row, inRecovery: inRecovery(row, index) })))(
    'refuses $name',
    async (row) => {
      const [recovery, standby] = [new Scene(), new Scene()];
      standby.write(join(standby.data, 'standby.signal'), '');
      // PostgreSQL takes 1 to 125 for the end of the WAL in recovery, and shuts a standby down above
      await Promise.all([
        row.inRecovery ? expectRefusal(recovery, row, { command: 'wal-fetch', usual, code: 200 }) : undefined,
        expectRefusal(standby, row, { command: 'wal-fetch', usual, code: row.code }),
      ]);
    },
  );

  it('delivers, and says only of what comes after the last that it is absent', async () => {
    const scene = new Scene();
    const before = scene.state();
    expect(await scene.run('wal-fetch', [third, target])).toMatchObject({ code: 1, stderr: '' });
    expect(await scene.run('wal-fetch', ['00000002.history', 'pg_wal/RECOVERYHISTORY'])).toMatchObject({ code: 1 });
    expect(scene.state()).toEqual(before);
    expect(await scene.run('wal-fetch', usual)).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(scene.wal('RECOVERYXLOG')).equals(makeSegment(first))).toBe(true);
  });
});

it.each(['wal-push', 'wal-fetch'])(
  '%s removes what killed processes left behind, and nothing of a living one',
  async (command) => {
    const scene = new Scene();
    const { pid: dead } = spawnSync('true');
    const left = (pid: number) => [
      join(scene.repository.root, `.tmp/${hostname()}~${suffixOf(pid)}`),
      scene.wal(`RECOVERYXLOG.wal-t-${suffixOf(pid)}`),
    ];
    for (const path of [...left(dead), ...left(process.pid)]) scene.write(path, 'half of it');
    const isPush = command === 'wal-push';
    const words = isPush ? [`pg_wal/${third}`, third] : [first, target];
    expect(await scene.run(command, words)).toMatchObject({ code: 0, stderr: '' });
    const own = isPush ? 0 : 1;
    expect(existsSync(left(dead)[own] ?? '')).toBe(false);
    for (const path of left(process.pid)) expect(existsSync(path)).toBe(true);
  },
);

describe('at a random moment', () => {
  const signals = isTorture ? (['SIGTERM', 'SIGINT', 'SIGKILL'] as const) : (['SIGTERM', 'SIGKILL'] as const);
  /** The first at once, which always strikes. */
  const tries = isTorture ? 10 : 3;

  /** Sends the signal to the launcher alone, or to all that it started, as a terminal, PostgreSQL and the OOM killer of a container do. */
  function interrupted(
    scene: Scene,
    words: readonly string[],
    { signal, afterMs, whole }: Interruption,
  ): Promise<Ended> {
    const [command = '', ...others] = words;
    return scene.repository.run(command, others, {
      cwd: scene.data,
      ownGroup: true,
      onStart: ({ pid = 0 }) => setTimeout(() => send(whole ? -pid : pid, signal), afterMs),
    });
  }

  it.each(signals)('%s of wal-push leaves no part of an object, and the next push mends it', async (signal) => {
    const scene = new Scene();
    const random = seededRandom(signal.length);
    const names = Array.from({ length: tries + 1 }, (_, index) => `0000000100000000000000${(index + 16).toString(16)}`);
    const [last = '', ...others] = names.map((name) => name.toUpperCase());
    for (const name of [last, ...others]) scene.write(scene.wal(name), makeSegment(name));
    const durationMs = await took(() => scene.run('wal-push', [`pg_wal/${third}`, third]));
    let dead = 0;
    for (const [index, name] of others.entries()) {
      const moment = { signal, afterMs: index === 0 ? 0 : random(durationMs), whole: index % 2 === 0 };
      const ended = await interrupted(scene, ['wal-push', `pg_wal/${name}`, name], moment);
      if (ended.signal === undefined) expect(ended.code).toBe(0);
      else expect(ended.signal).toBe(signal);
      dead += ended.signal === signal ? 1 : 0;
      if (isStored(scene, name)) await expectWhole(scene, name);
      expect(await scene.run('wal-push', [`pg_wal/${name}`, name])).toMatchObject({ code: 0, stderr: '' });
      await expectWhole(scene, name);
    }
    expect(dead).toBeGreaterThan(0);
    expect((await scene.run('wal-push', [`pg_wal/${last}`, last])).code).toBe(0);
    expect(scene.temporaryFiles()).toEqual([]);
  });

  it.each(signals)('%s of wal-fetch leaves no part of a file, and the next fetch mends it', async (signal) => {
    const scene = new Scene();
    const random = seededRandom(signal.length);
    const durationMs = await took(() => scene.run('wal-fetch', [first, target]));
    let dead = 0;
    for (let index = 0; index < tries; index += 1) {
      rmSync(scene.wal('RECOVERYXLOG'), { force: true });
      const moment = { signal, afterMs: index === 0 ? 0 : random(durationMs), whole: index % 2 === 0 };
      const ended = await interrupted(scene, ['wal-fetch', first, target], moment);
      if (ended.signal === undefined) expect(ended.code).toBe(0);
      else expect(ended.signal).toBe(signal);
      dead += ended.signal === signal ? 1 : 0;
      const partial = existsSync(scene.wal('RECOVERYXLOG')) && !scene.delivered(first);
      expect(partial).toBe(false);
      expect(await scene.run('wal-fetch', [second, target])).toMatchObject({ code: 0, stderr: '' });
      expect(scene.delivered(second)).toBe(true);
      expect(scene.temporaryFiles()).toEqual([]);
    }
    expect(dead).toBeGreaterThan(0);
  });
});

interface Interruption {
  readonly signal: NodeJS.Signals;
  readonly afterMs: number;
  /** The launcher with all that it started. */
  readonly whole: boolean;
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended already
  }
}

async function took(work: () => Promise<Ended>): Promise<number> {
  const started = Date.now();
  expect((await work()).code).toBe(0);
  return Date.now() - started;
}

function isStored({ repository }: Scene, name: string): boolean {
  return repository.files().some((path) => path.endsWith(`/${name}`) && !path.startsWith('.tmp/'));
}

/** The object under its final name opens, and gives the segment back. */
async function expectWhole({ repository }: Scene, name: string): Promise<void> {
  const storage = new FileStorage(repository.root, { idleMs: 10_000, requestMs: 10_000 });
  const file = parseWalFileName(name);
  if (file === undefined) throw new Error(name);
  const { content } = await openWalFile({ storage, systemIdentifier: testSystemIdentifier, keys: noKeys }, file);
  expect((await collect(content, 2 ** 20)).equals(makeSegment(name))).toBe(true);
}

function flippedAt(offset: number) {
  return (object: Buffer): Buffer => {
    const changed = Buffer.from(object);
    const index = offset < 0 ? changed.length + offset : offset;
    changed.writeUInt8(changed.readUInt8(index) ^ 0x10, index);
    return changed;
  };
}

/** The object with other members in its header, which is honest about the length. */
function withHeader(object: Buffer, members: object): Buffer {
  const frames = object.subarray(8 + object.readUInt32LE(4));
  const header = { ...JSON.parse(object.subarray(8, object.length - frames.length).toString()), ...members };
  for (;;) {
    const json = Buffer.from(JSON.stringify(header));
    if (header.stored === 8 + json.length + frames.length) {
      const prefix = Buffer.from(object.subarray(0, 8));
      prefix.writeUInt32LE(json.length, 4);
      return Buffer.concat([prefix, json, frames]);
    }
    header.stored = 8 + json.length + frames.length;
  }
}

/** The object with other content under its header. */
function withFrames(object: Buffer, frames: readonly Uint8Array[]): Buffer {
  return withHeader(Buffer.concat([object.subarray(0, 8 + object.readUInt32LE(4)), ...frames]), {});
}

/** A zstd frame with size and checksum fields, of run-length blocks of 128 KiB zeros, four bytes each. */
function runLengthFrame(blocks: number, saidBytes: bigint): Buffer {
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0b11_0_00_1_00, 0x48, 0, 0, 0, 0, 0, 0, 0, 0]);
  header.writeBigUInt64LE(saidBytes, 6);
  const body = Buffer.alloc(4 * blocks);
  for (let index = 0; index < blocks; index += 1) {
    const last = index === blocks - 1 ? 1 : 0;
    body.writeUIntLE(last | (1 << 1) | ((128 * 1024) << 3), 4 * index, 3);
  }
  return Buffer.concat([header, body, Buffer.alloc(4)]);
}
