/** A list of files that an enemy wrote, who knows every key (H32): it is refused, and nothing of it leads out of the folder that is restored into. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type EntryLine, type FilesLine, formatLine, type PartLine } from '../../src/archive/files-line.ts';
import { parseLines } from '../../src/archive/files-list.ts';
import { clusterLines } from '../../src/archive/files-order.ts';
import type { BackupManifest } from '../../src/archive/manifest.ts';
import { bytesOf } from '../../src/bytes.ts';
import { basebackupFetch } from '../../src/commands/basebackup-fetch.ts';
import { CorruptError, HostError, type WalTError } from '../../src/errors.ts';
import { makeChecksum } from '../../src/postgres/file-checksum.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { forgedId, linesText, makeArchive, type RawLine, sealedList, storeForged } from '../support/forged-backup.ts';
import { makeControlFile } from '../support/segment.ts';

type Members = Readonly<Record<string, unknown>>;

const page = Buffer.alloc(8192, 'page');
const control = makeControlFile();
const label = Buffer.from('START WAL LOCATION: 0/200028 (file 000000010000000000000002)\n');
const [body, ends] = [Buffer.concat([page, page]), Buffer.concat([control, label])];
const owned = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mtimeNs: 1_000_000_000n };
const versionFolder = 'pg_tblspc/16400/PG_17_202406281';

function fileLine(path: string, content: Uint8Array, extent?: readonly [index: number, skip: number]): EntryLine {
  const checksum = makeChecksum('CRC32C');
  checksum.update(content);
  const extents = extent === undefined ? [] : [[content.length, ...extent] as const];
  const attributes = { mode: 0o600, ctimeNs: 0n, inode: 7n, checksum: checksum.end() };
  return { type: 'file', path, ...owned, ...attributes, sizeBytes: content.length, extents };
}

const folderLine = (path: string): EntryLine => ({ type: 'folder', path, ...owned, mode: 0o700 });

/** A sound list over two parts. */
function soundLines([first, last]: readonly PartLine[], tablespace = '/nowhere'): Members[] {
  const lines: FilesLine[] = [
    ...(first === undefined ? [] : [first]),
    fileLine('PG_VERSION', Buffer.alloc(0)),
    folderLine('base'),
    folderLine('base/1'),
    fileLine('base/1/1259', page, [0, 0]),
    folderLine('global'),
    fileLine('global/1260', page, [0, page.length]),
    folderLine('pg_tblspc'),
    { type: 'tablespace', path: 'pg_tblspc/16400', ...owned, mode: 0o700, target: tablespace },
    folderLine(versionFolder),
    fileLine(`${versionFolder}/1`, page, [0, 0]),
    ...(last === undefined ? [] : [last]),
    folderLine('wal-t-config'),
    fileLine('wal-t-config/pg_hba.conf', Buffer.alloc(0)),
    fileLine('global/pg_control', control, [1, 0]),
    fileLine('backup_label', label, [1, control.length]),
  ];
  return lines.map((line) => JSON.parse(formatLine(line)));
}

const madeUp = (index: number, rawBytes: number): PartLine => {
  const hash = '0'.repeat(64);
  const sizes = { objectBytes: 100, storedBytes: 100, rawBytes, sha256: hash, tableSha256: hash };
  return { type: 'part', index, backup: forgedId, number: index + 1, ...sizes, ...(index === 1 ? { last: true } : {}) };
};
const madeUpParts = [madeUp(0, body.length), madeUp(1, ends.length)];

/** The lines with the members of the one at `path` changed. */
const at = (path: string, members: Members) => (lines: readonly Members[]) =>
  lines.map((line) => (line.path === path ? { ...line, ...members } : line));
/** The lines with others behind the one at `path`. */
const after =
  (path: string, ...added: readonly RawLine[]) =>
  (lines: readonly Members[]): RawLine[] =>
    lines.flatMap((line) => (line.path === path ? [line, ...added] : [line]));
const part = (index: number, members: Members) => (lines: readonly Members[]) =>
  lines.map((line) => (line.type === 'part' && line.index === index ? { ...line, ...members } : line));
const without = (path: string) => (lines: readonly Members[]) => lines.filter((line) => line.path !== path);

const empty = (path: string): Members => JSON.parse(formatLine(fileLine(path, Buffer.alloc(0))));
const folder = (path: string): Members => JSON.parse(formatLine(folderLine(path)));
const link = (members: Members): Members => ({
  ...folder('pg_tblspc/16401'),
  type: 'tablespace',
  target: '/x',
  ...members,
});
const nested = Array.from({ length: 3000 }, (_, depth) =>
  folder(
    Array(depth + 1)
      .fill('q')
      .join('/'),
  ),
);

interface Hostile {
  readonly name: string;
  readonly alter: (lines: readonly Members[]) => readonly RawLine[];
}

const hostile: readonly Hostile[] = [
  ...[
    '../evil',
    'base/../../evil',
    'base/1/..',
    '..',
    '.',
    './evil',
    '/evil',
    '//evil',
    '',
    'base//evil',
    'base/',
    'base/1/\0',
    `base/1/${'x'.repeat(5000)}`,
  ].map((path) => ({ name: `the path ${JSON.stringify(path.slice(0, 40))}`, alter: at('base/1/1259', { path }) })),
  { name: 'a path in hexadecimal digits that is text', alter: at('base/1/1259', { path: undefined, pathHex: '2e2e' }) },
  { name: 'a path in both forms', alter: at('base/1/1259', { pathHex: 'ff' }) },
  { name: 'a hexadecimal path with a NUL', alter: at('base/1/1259', { path: undefined, pathHex: 'ff00' }) },
  { name: 'a hexadecimal path that leads up', alter: at('base/1/1259', { path: undefined, pathHex: 'ff2f2e2e2fff' }) },
  { name: 'a path that is a number', alter: at('base/1/1259', { path: 7 }) },
  { name: 'half a surrogate pair', alter: at('base/1/1259', { path: 'base/1/\ud800' }) },
  { name: 'a path below a file', alter: after('base/1/1259', empty('base/1/1259/evil')) },
  { name: 'a path in a folder that is not listed', alter: after('base/1/1259', empty('base/2/evil')) },
  { name: 'configuration in a folder that is not listed', alter: without('wal-t-config') },
  { name: 'configuration below a file', alter: after('wal-t-config/pg_hba.conf', empty('wal-t-config/pg_hba.conf/x')) },
  { name: 'a path twice', alter: after('base/1/1259', empty('base/1/1259')) },
  { name: 'a folder again as a file', alter: after('base/1', empty('base/1')) },
  { name: 'paths out of order', alter: after('global/1260', empty('base/evil')) },
  { name: 'pg_control among the others', alter: after('global/1260', empty('global/pg_control')) },
  { name: 'pg_control twice', alter: after('global/pg_control', empty('global/pg_control')) },
  { name: 'pg_control as a folder', alter: at('global/pg_control', { type: 'folder' }) },
  { name: 'no pg_control', alter: without('global/pg_control') },
  { name: 'no backup_label', alter: without('backup_label') },
  { name: 'a usual file behind pg_control', alter: after('global/pg_control', empty('zz')) },
  ...['link', 'hardlink', 'symlink', 'device', 'fifo', 'seal ', '', 7, null, undefined].map((type) => ({
    name: `a line of type ${JSON.stringify(type)}`,
    alter: at('base/1/1259', { type, target: '/etc/passwd' }),
  })),
  { name: 'a tablespace elsewhere', alter: after('base/1/1259', link({ path: 'base/1/9' })) },
  { name: 'a tablespace without a number', alter: after(versionFolder, link({ path: 'pg_tblspc/x' })) },
  ...['0', '016401', '99999999999', '16400/1', '-1'].map((oid) => ({
    name: `a tablespace of number ${oid}`,
    alter: after(`${versionFolder}/1`, link({ path: `pg_tblspc/${oid}` })),
  })),
  ...['relative', '', '../x', 7, undefined, '/x\0'].map((target) => ({
    name: `a tablespace at ${JSON.stringify(target)}`,
    alter: at('pg_tblspc/16400', { target }),
  })),
  {
    name: 'another file than PostgreSQL’s in a tablespace',
    alter: at(versionFolder, { path: 'pg_tblspc/16400/.ssh' }),
  },
  { name: 'a file at the top of a tablespace', alter: after('pg_tblspc/16400', empty('pg_tblspc/16400/PG_17_1')) },
  ...[0o4755, 0o2755, 0o1777, -1, 0.5, '0600', null].flatMap((mode) =>
    ['base/1/1259', 'base/1', 'pg_tblspc/16400'].map((path) => ({
      name: `the mode ${mode} of ${path}`,
      alter: at(path, { mode }),
    })),
  ),
  ...[-1, 0.5, 2 ** 53, 1e300, '8192', null, 8191, 8193, Number.MAX_SAFE_INTEGER].map((size) => ({
    name: `the size ${size}`,
    alter: at('base/1/1259', { size }),
  })),
  ...[
    [8192, 7, 0],
    [8192, 1, 0],
    [8192, -2, 0],
    [8192, 0, -1],
    [8192, 0, 8193],
    [8192, 0, 2 ** 53],
    [8192, 0, Number.MAX_SAFE_INTEGER],
    [8192, 0.5, 0],
    [8192, 0],
    [8192, 0, 0, 0],
    '8192,0,0',
  ].map((extent) => ({
    name: `the extent ${JSON.stringify(extent)}`,
    alter: at('base/1/1259', { extents: [extent] }),
  })),
  {
    name: 'an extent of nothing',
    alter: at('base/1/1259', {
      extents: [
        [8192, 0, 0],
        [0, 0, 0],
      ],
    }),
  },
  { name: 'extents that are none', alter: at('base/1/1259', { extents: 'none' }) },
  { name: 'extents of 2^53 and more', alter: at('base/1/1259', { extents: [[2 ** 53, -1, 0]], size: 2 ** 53 }) },
  {
    name: 'extents whose sum is not exact',
    alter: at('base/1/1259', {
      extents: Array(3).fill([Number.MAX_SAFE_INTEGER, -1, 0]),
      size: Number.MAX_SAFE_INTEGER,
    }),
  },
  ...['uid', 'gid'].flatMap((member) =>
    [-1, 0.5, 2 ** 53, '0', null].map((value) => ({
      name: `the ${member} ${value}`,
      alter: at('base', { [member]: value }),
    })),
  ),
  { name: 'a time that is a number', alter: at('base', { mtimeNs: 5 }) },
  { name: 'a time of a thousand digits', alter: at('base', { mtimeNs: '9'.repeat(1000) }) },
  { name: 'a checksum that is none', alter: at('base/1/1259', { checksum: '../../x' }) },
  ...['objectBytes', 'storedBytes', 'rawBytes', 'number', 'index'].flatMap((member) =>
    [-1, 0.5, 2 ** 53, '1', null].map((value) => ({
      name: `a part's ${member} ${value}`,
      alter: part(0, { [member]: value }),
    })),
  ),
  { name: 'a part of number 0', alter: part(0, { number: 0 }) },
  { name: 'a part of no backup', alter: part(0, { backup: '../../wal/00000001' }) },
  { name: 'a part with half a hash', alter: part(0, { sha256: '00' }) },
  { name: 'a part whose key is committed to by nothing', alter: part(0, { keyCommitment: '' }) },
  { name: 'a part that is last and not', alter: part(1, { last: 1 }) },
  { name: 'parts behind the last one', alter: after('backup_label', { ...madeUp(0, 5), index: 2 }) },
  { name: 'a part twice', alter: after('base/1', { ...madeUp(0, body.length) }) },
  { name: 'folders three thousand deep', alter: after('pg_tblspc', ...nested) },
  { name: 'a line without an end', alter: after('base', `{"type":"file","path":"${'y'.repeat(70_000)}"}`) },
  ...['', '[]', '7', 'null', '"file"', '{', '\0', '{"type":"seal"}', '{"__proto__":{"type":"folder"}}'].map((text) => ({
    name: `the line ${JSON.stringify(text)}`,
    alter: after('base', text),
  })),
  // what a restore itself writes
  ...['.wal-t-restore.json', '.wal-t', '.wal-t-restore.parts'].map((path) => ({
    name: `the name ${path}`,
    alter: (lines: readonly Members[]) => [...lines.slice(0, 1), empty(path), ...lines.slice(1)],
  })),
  {
    name: 'a folder of a restore’s own name',
    alter: ([first = {}, ...lines]) => [first, folder('.wal-t-x'), ...lines],
  },
  { name: 'the name backup_manifest', alter: at('PG_VERSION', { path: 'backup_manifest' }) },
  { name: 'pg_control’s temporary name', alter: after('global/1260', empty('global/pg_control.wal-t-restore')) },
];

async function parse(lines: readonly RawLine[]): Promise<FilesLine[]> {
  const parsed: FilesLine[] = [];
  for await (const line of clusterLines(parseLines(sealedList(lines)))) parsed.push(line);
  return parsed;
}

it('reads the sound list that the others are made of', async () => {
  const lines = soundLines(madeUpParts);
  expect((await parse(lines)).map((line) => JSON.parse(formatLine(line)))).toEqual(lines);
});

describe('H32: refuses', () => {
  it.each(hostile)('$name', async ({ alter }) => {
    const altered = alter(soundLines(madeUpParts));
    expect(altered).not.toEqual(soundLines(madeUpParts)); // the case is one
    await expect(parse(altered)).rejects.toThrow(CorruptError);
  });

  it('lists that are cut, continued, or sealed by somebody who counts otherwise', async () => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of sealedList(soundLines(madeUpParts))) chunks.push(chunk);
    const whole = Buffer.concat(chunks);
    const unsealed = linesText(soundLines(madeUpParts));
    const seal = whole.subarray(unsealed.length).toString();
    const lists = [
      Buffer.alloc(0),
      unsealed,
      whole.subarray(0, -1),
      Buffer.concat([whole, unsealed]),
      Buffer.concat([unsealed, Buffer.from(seal.replace('"parts":2', '"parts":3'))]),
      Buffer.concat([unsealed, Buffer.from(seal.replace('"parts":2', '"parts":"2"'))]),
      Buffer.concat([linesText(soundLines(madeUpParts).slice(1)), Buffer.from(seal)]),
      Buffer.alloc(200_000, 'a'),
    ];
    for (const list of lists) {
      const drain = async () => {
        for await (const _ of parseLines(bytesOf(list)));
      };
      await expect(drain()).rejects.toThrow(CorruptError);
    }
  });
});

/** What a list must never name, told in other words than the source's. */
function dangerOf(lines: readonly FilesLine[]): string | undefined {
  const [files, seen] = [new Set<string>(), new Set<string>()];
  for (const line of lines) {
    if (line.type === 'part') continue;
    const { path, mode } = line;
    const steps = path.split('/');
    if (seen.has(path)) return `${path} twice`;
    if (join('/top', path) !== `/top/${path}` || /\0|\/$/.test(path)) return `${path} leads elsewhere`;
    if (steps.some((_, index) => files.has(steps.slice(0, index).join('/')))) return `${path} below a file`;
    if (mode > 0o777 || mode < 0) return `mode ${mode}`;
    if (/^(?:\.wal-t|backup_manifest$)|^global\/pg_control\.wal-t/.test(path)) return `${path} is a restore's own`;
    if (line.type === 'tablespace' && !/^pg_tblspc\/\d+$/.test(path)) return `${path} is a link`;
    if (line.type === 'tablespace' && !line.target.startsWith('/')) return `${line.target} is relative`;
    if (line.type === 'file') files.add(path);
    seen.add(path);
  }
  return undefined;
}

const hostileValue = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom(
    '..',
    '../x',
    '/etc/passwd',
    'base/../..',
    'global/pg_control',
    '.wal-t-restore.json',
    'backup_manifest',
  ),
  fc
    .array(fc.constantFrom('base', '1', '..', '.', '', 'pg_tblspc', '16400', 'x\0'), { maxLength: 5 })
    .map((all) => all.join('/')),
  fc.constantFrom(-1, 0, 0o4777, 2 ** 53, 1e308, '-1', 'file', 'folder', 'tablespace', 'part', 'seal', 'link'),
);
const soundCount = soundLines(madeUpParts).length;
const lineIndex = fc.nat({ max: soundCount - 1 });
const memberName = fc.constantFrom(
  'type',
  'path',
  'pathHex',
  'mode',
  'uid',
  'size',
  'extents',
  'target',
  'index',
  'rawBytes',
  'last',
);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('set' as const), index: lineIndex, name: memberName, value: hostileValue }),
  fc.record({ kind: fc.constant('remove' as const), index: lineIndex }),
  fc.record({ kind: fc.constant('copy' as const), index: lineIndex, to: lineIndex }),
  fc.record({ kind: fc.constant('move' as const), index: lineIndex, to: lineIndex }),
);

it('H32: gives only paths within, or refuses, whatever is done to a sound list', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 4 }), async (mutations) => {
      const lines: RawLine[] = soundLines(madeUpParts);
      for (const one of mutations) {
        const line = lines[one.index % lines.length] ?? '';
        if (one.kind === 'set' && typeof line === 'object')
          lines[one.index % lines.length] = { ...line, [one.name]: one.value };
        if (one.kind === 'remove' || one.kind === 'move') lines.splice(one.index % lines.length, 1);
        if (one.kind === 'copy' || one.kind === 'move') lines.splice(one.to, 0, line);
      }
      const parsed = await parse(lines).catch((error: unknown) => error);
      if (parsed instanceof CorruptError) return;
      expect(Array.isArray(parsed)).toBe(true);
      expect(dangerOf(parsed as FilesLine[])).toBeUndefined();
    }),
    { numRuns: process.env.TORTURE === '1' ? 50_000 : 2000 },
  );
});

/** A repository with one forged backup, a folder to restore it into, and one that nothing may be written to. */
async function forge(
  alter: Hostile['alter'] = (lines) => lines,
  manifest: (folder: string) => Partial<BackupManifest> = (folder) => ({
    tablespaces: [{ oid: '16400', path: join(folder, 'tablespace') }],
  }),
) {
  const all = temporaryFolder();
  const [root, target, precious] = [join(all, 'repo'), join(all, 'data'), join(all, 'precious')];
  for (const made of [root, precious]) mkdirSync(made);
  writeFileSync(join(precious, 'file'), 'precious');
  const archive = await makeArchive(root);
  await storeForged(archive, {
    parts: [body, ends],
    list: (parts) => alter(soundLines(parts, join(all, 'tablespace'))),
    manifest: manifest(all),
  });
  const context = makeContext({ WALT_REPO: `file://${root}`, WALT_WORKERS: '2' }, { workingDirectory: all });
  const restore = (resume = false) =>
    basebackupFetch(context, { dir: target, name: forgedId, tablespaceMapping: new Map(), resume });
  const expectUntouched = () => {
    expect(readdirSync(precious)).toEqual(['file']);
    expect(readFileSync(join(precious, 'file'), 'utf8')).toBe('precious');
    expect(readdirSync(all).filter((name) => !['data', 'precious', 'repo', 'tablespace'].includes(name))).toEqual([]);
  };
  return { all, root, target, precious, restore, expectUntouched };
}

const isStartable = (target: string) => existsSync(join(target, 'global/pg_control'));

it('restores the sound list that the others are made of', async () => {
  const { all, target, restore, expectUntouched } = await forge();
  await restore();
  expect(readFileSync(join(target, versionFolder, '1')).equals(page)).toBe(true);
  expect(readFileSync(join(target, 'global/pg_control')).equals(control)).toBe(true);
  expect(readdirSync(target).filter((name) => name.startsWith('.'))).toEqual([]);
  expect(readdirSync(join(all, 'tablespace'))).toEqual(['PG_17_202406281']);
  expectUntouched();
});

/** Restoring reads the same lines: a few of each sort show that it does. */
const restored = [
  'the path "../evil"',
  'the path "/evil"',
  'a path below a file',
  'a tablespace elsewhere',
  'the mode 2541 of base/1/1259',
  'the extent [8192,0,8193]',
  'the name .wal-t-restore.json',
  'the name backup_manifest',
  'no backup_label',
  'pg_control among the others',
];

it.each(hostile.filter(({ name }) => restored.includes(name)))(
  'H32: restores nothing that starts from a list with $name',
  async ({ alter }) => {
    const { target, restore, expectUntouched } = await forge(alter);
    for (const resume of [false, true]) {
      await expect(restore(resume)).rejects.toThrow(CorruptError);
      expect(isStartable(target)).toBe(false);
      expectUntouched();
    }
  },
);

it('H32: makes no tablespace that the manifest does not name', async () => {
  const { all, target, restore } = await forge(undefined, () => ({ tablespaces: [] }));
  await expect(restore()).rejects.toThrow(CorruptError);
  expect([isStartable(target), existsSync(join(all, 'tablespace'))]).toEqual([false, false]);
});

it('H32: fills no tablespace that is not empty', async () => {
  const { target, restore, expectUntouched } = await forge(undefined, (folder) => ({
    tablespaces: [{ oid: '16400', path: join(folder, 'precious') }],
  }));
  await expect(restore()).rejects.toThrow(/precious" is not empty/);
  expect(existsSync(target)).toBe(false);
  expectUntouched();
});

interface Planted {
  readonly name: string;
  readonly path: string;
  /** It is put in the place of what belongs there; else the restore is refused. */
  readonly isReplaced: boolean;
}

/** Links that lead out, where an interrupted restore has left folders and files. */
const planted: readonly Planted[] = [
  { name: 'a folder', path: 'base', isReplaced: false },
  { name: 'a folder further down', path: 'base/1', isReplaced: false },
  { name: 'the folder of tablespaces', path: 'pg_tblspc', isReplaced: false },
  { name: 'a tablespace', path: 'pg_tblspc/16400', isReplaced: false },
  { name: 'a file', path: 'base/1/1259', isReplaced: true },
  { name: 'an empty file', path: 'PG_VERSION', isReplaced: true },
  { name: 'the folder of pg_control', path: 'global', isReplaced: false },
  { name: 'pg_control', path: 'global/pg_control', isReplaced: true },
  { name: 'pg_control under its temporary name', path: 'global/pg_control.wal-t-restore', isReplaced: true },
  { name: 'backup_manifest', path: 'backup_manifest', isReplaced: false },
];

it.each(planted.flatMap((one) => (['file', 'folder'] as const).map((leadsTo) => ({ ...one, leadsTo }))))(
  'H32: writes through no link that is planted for $name and leads to a $leadsTo, when it goes on',
  async ({ path, isReplaced, leadsTo }) => {
    const { target, precious, restore, expectUntouched } = await forge();
    const link = join(target, path);
    mkdirSync(join(link, '..'), { recursive: true });
    writeFileSync(join(target, '.wal-t-restore.json'), JSON.stringify({ backup: forgedId }));
    symlinkSync(leadsTo === 'file' ? join(precious, 'file') : precious, link);
    const outcome = await restore(true).then(
      () => undefined,
      (error: unknown) => error,
    );
    expectUntouched();
    if (isReplaced) {
      expect(outcome).toBeUndefined();
      expect(lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink()).not.toBe(true);
    } else {
      expect(outcome).toBeInstanceOf(HostError);
      expect(outcome).toHaveProperty('hint', expect.any(String));
      expect((outcome as WalTError).message).toContain(path);
      expect(isStartable(target)).toBe(false);
    }
  },
);
