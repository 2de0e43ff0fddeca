/** Lists of files: any list in order comes back, and of a list that is not sound nothing is believed (H32). */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type EntryLine,
  type Extent,
  type FileLine,
  type FilesLine,
  type FolderLine,
  formatLine,
  type PartLine,
} from '../../src/archive/files-line.ts';
import { parseLines, sealLines } from '../../src/archive/files-list.ts';
import { isCopiedLast } from '../../src/archive/files-paths.ts';
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import { CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { cut, join } from '../support/objects.ts';
import { testBackupId } from '../support/streamed.ts';

const part = (index: number, members: Partial<PartLine> = {}): PartLine => ({
  type: 'part',
  index,
  backup: testBackupId,
  number: index + 1,
  objectBytes: 900,
  storedBytes: 800,
  rawBytes: 10_000,
  sha256: 'a'.repeat(64),
  tableSha256: 'b'.repeat(64),
  ...members,
});
const lastPart = (index: number) => part(index, { last: true });
const owned = { uid: 26, gid: 26, mtimeNs: 1_700_000_000_123_456_789n };
const folder = (path: string, members: Partial<FolderLine> = {}): FolderLine => ({
  type: 'folder',
  path,
  ...owned,
  mode: 0o700,
  ...members,
});
const file = (path: string, members: Partial<FileLine> = {}): FileLine => {
  const { extents = [] } = members;
  const sizeBytes = extents.reduce((total, [lengthBytes]) => total + lengthBytes, 0);
  const own = { ctimeNs: 5n, inode: 2n ** 63n, mode: 0o600, sizeBytes, extents };
  return { type: 'file', path, ...owned, ...own, ...members };
};
const tablespace = (path: string, target = '/srv/fast'): FilesLine => ({
  type: 'tablespace',
  path,
  ...owned,
  mode: 0o700,
  target,
});

const textOf = (lines: readonly (FilesLine | string)[]): string =>
  lines.map((line) => (typeof line === 'string' ? line : formatLine(line))).join('');

function countOf(lines: readonly (FilesLine | string)[]) {
  const types = lines.map((line) => (typeof line === 'string' ? (JSON.parse(line) as FilesLine) : line).type);
  const count = (type: string) => types.filter((one) => one === type).length;
  return { parts: count('part'), files: count('file'), folders: count('folder'), tablespaces: count('tablespace') };
}

/** The whole list, sealed. A line may be a text. */
function sealed(lines: readonly (FilesLine | string)[]): Promise<Buffer> {
  return join(sealLines(bytesOf(Buffer.from(textOf(lines))), () => countOf(lines)));
}

async function parsed(list: Bytes): Promise<FilesLine[]> {
  const lines: FilesLine[] = [];
  for await (const line of parseLines(list)) lines.push(line);
  return lines;
}

const read = async (lines: readonly (FilesLine | string)[]) => parsed(bytesOf(await sealed(lines)));

/** The lines as an archive made them: without members that are undefined. */
const refused = async (lines: readonly (FilesLine | string)[], detail?: RegExp) => {
  const error: unknown = await read(lines).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(CorruptError);
  if (detail !== undefined) expect((error as CorruptError).detail).toMatch(detail);
};

const last = [lastPart(1), file('global/pg_control'), file('backup_label'), file('tablespace_map')];

describe('a list of files', () => {
  const anyName = fc.oneof(
    fc.constantFrom('a', 'b', 'a.b', 'a-b', 'a0', '\xff', 'caf\xe9'),
    fc.uint8Array({ minLength: 1, maxLength: 12 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  );
  const isName = (name: string) => !/[/\0]/.test(name) && name !== '.' && name !== '..';
  const anyPaths = fc.array(fc.array(anyName.filter(isName), { minLength: 1, maxLength: 4 }), { maxLength: 30 });
  const anyInt = fc.bigInt({ min: -(10n ** 19n), max: 10n ** 19n });
  const anyNumber = fc.nat({ max: 2 ** 32 - 1 });
  const anyExtents = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 100 }), fc.constantFrom(-1, 0, 1), fc.nat(100)) as fc.Arbitrary<Extent>,
    { maxLength: 5 },
  );
  const anyAttributes = fc.record({
    uid: anyNumber,
    gid: anyNumber,
    mode: fc.nat(0o777),
    mtimeNs: anyInt,
    ctimeNs: anyInt,
    inode: anyInt,
    checksum: fc.option(fc.constantFrom('0badcafe', 'c'.repeat(128)), { nil: undefined }),
    extents: anyExtents,
  });

  /** The paths with the folders above them, in order, as files and folders. */
  const entriesOf = (paths: readonly string[][], of: (index: number) => Partial<FileLine>): EntryLine[] => {
    const all = new Set(paths.flatMap((names) => names.map((_, index) => names.slice(0, index + 1).join('/'))));
    const sorted = [...all].filter((path) => !isCopiedLast(path)).sort((a, b) => (a < b ? -1 : 1));
    const parents = new Set(sorted.map((path) => path.slice(0, Math.max(0, path.lastIndexOf('/')))));
    const usable = sorted.filter((path) =>
      path.split('/').every((_, i, names) => !isCopiedLast(names.slice(0, i).join('/'))),
    );
    return usable.map((path, index) => {
      const { uid = 0, gid = 0, mode = 0, mtimeNs = 0n } = of(index);
      return parents.has(path) ? folder(path, { uid, gid, mode, mtimeNs }) : file(path, of(index));
    });
  };

  it('H24: brings back any entries in the order of their bytes, however the list is cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        anyPaths,
        fc.array(anyAttributes, { minLength: 1, maxLength: 10 }),
        fc.array(fc.nat(100_000), { maxLength: 6 }),
        async (paths, attributes, cuts) => {
          const entries = entriesOf(paths, (index) => attributes[index % attributes.length] ?? {});
          const lines = [part(0), part(1), ...entries, lastPart(2), file('global/pg_control')];
          expect(await parsed(cut(await sealed(lines), cuts))).toEqual(lines);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('brings back what stands behind a sibling that sorts between a folder and its contents', async () => {
    const paths = [
      'base',
      'base.tar',
      'base-old',
      'base-old.x',
      'base-old/1',
      'base/1',
      'base/1.x',
      'base/1/2',
      'base/2',
      'c',
    ];
    const isFolder = (path: string) => ['base', 'base-old', 'base/1'].includes(path);
    const lines = [...paths].sort().map((path) => (isFolder(path) ? folder(path) : file(path)));
    expect(await read([part(0), ...lines])).toEqual([part(0), ...lines]);
  });

  it('brings back a whole cluster’s kinds of lines', async () => {
    const lines = [
      part(0, { keyCommitment: 'c'.repeat(64) }),
      file('PG_VERSION', { extents: [[3, 0, 512]], checksum: '0badcafe' }),
      folder('base'),
      part(1, { backup: testBackupId.replace('full', 'incr') }),
      file('base/1', {
        extents: [
          [8192, 0, 0],
          [8192, -1, 0],
          [100, 1, 0],
          [100, 0, 5],
        ],
      }),
      folder('global'),
      folder('pg_tblspc'),
      tablespace('pg_tblspc/16400'),
      folder('pg_tblspc/16400/PG_17_202406281'),
      tablespace('pg_tblspc/16401', '/caf\xe9'),
      lastPart(2),
      file('wal-t-config/etc/postgresql.conf'),
      file('wal-t-config/etc/postgresql.conf.d/x'),
      file('global/pg_control'),
      file('backup_label'),
      file('tablespace_map'),
    ];
    expect(await read(lines)).toEqual(lines);
  });

  it('brings back an empty list', async () => expect(await read([])).toEqual([]));

  it('H46: writes every number that may not fit into 53 bits as a string, and names as bytes', () => {
    const line = file('caf\xe9', {
      mtimeNs: 2n ** 63n - 1n,
      ctimeNs: -1n,
      inode: 2n ** 64n - 1n,
      extents: [[5, 0, 512]],
    });
    expect(formatLine(line)).toBe(
      '{"type":"file","pathHex":"636166e9","uid":26,"gid":26,"mode":384,"mtimeNs":"9223372036854775807",' +
        '"size":5,"ctimeNs":"-1","inode":"18446744073709551615","extents":[[5,0,512]]}\n',
    );
    expect(formatLine(tablespace('pg_tblspc/1', '/\xff'))).toContain('"path":"pg_tblspc/1"');
    expect(formatLine(tablespace('pg_tblspc/1', '/\xff'))).toContain('"targetHex":"2fff"');
  });

  it('ignores members that it does not know', async () => {
    const text = (line: FilesLine) => formatLine(line).replace('}', ',"later":{"deep":[1]}}');
    const [first, second] = await read([text(part(0)), text(file('a'))]);
    expect(first).toMatchObject(part(0));
    expect(second).toEqual(file('a'));
  });
});

describe('a list that is out of order is refused:', () => {
  it.each<readonly [string, readonly FilesLine[]]>([
    ['a path twice', [file('a'), file('a')]],
    ['paths that descend', [file('b'), file('a')]],
    ['a folder behind its contents', [folder('a'), file('a/b/c'), folder('a/b')]],
    ['a folder twice', [folder('a'), folder('a')]],
    ['contents that descend', [folder('a'), file('a/2'), file('a/1')]],
    ['a file without its folder', [file('a/b')]],
    ['a file without the innermost of its folders', [folder('a'), file('a/b/c')]],
    ['a file below a file', [file('a'), file('a/b')]],
    ['a file of a folder that is over', [folder('a'), folder('a/b'), file('a/c'), file('a/b/d')]],
    ['a file of a folder whose place has passed', [folder('a'), file('a0'), file('a/b')]],
    ['a part twice', [part(0), part(0)]],
    ['a file that needs a part behind it', [file('a', { extents: [[1, 0, 0]] }), part(0)]],
    ['pg_control among the others', [folder('global'), file('global/pg_control')]],
    ['backup_label among the others', [file('backup_label')]],
    ['tablespace_map among the others', [part(0), file('tablespace_map')]],
    ['configuration among the others', [folder('wal-t-config')]],
    ['any file behind the last part', [lastPart(0), file('a')]],
    ['a file of global behind the last part', [folder('global'), lastPart(0), file('global/1262')]],
    ['a folder behind the last part', [lastPart(0), folder('a')]],
    ['a part behind the last part', [lastPart(0), part(1)]],
    ['two last parts', [lastPart(0), lastPart(1)]],
    ['backup_label before pg_control', [lastPart(0), file('backup_label'), file('global/pg_control')]],
    ['tablespace_map before backup_label', [lastPart(0), file('tablespace_map'), file('backup_label')]],
    ['configuration behind pg_control', [lastPart(0), file('global/pg_control'), file('wal-t-config/a')]],
    ['configuration that descends', [lastPart(0), file('wal-t-config/b'), file('wal-t-config/a')]],
    ['pg_control twice', [lastPart(0), file('global/pg_control'), file('global/pg_control')]],
  ])('%s', async (_, lines) => refused(lines));

  it('holds the same lines in order for sound', async () => {
    const lines = [part(0), folder('a'), folder('a/b'), file('a/b/d'), file('a/c'), ...last];
    expect(await read(lines)).toEqual(lines);
  });
});

describe('a line that an enemy could write is refused:', () => {
  const changed = (line: FilesLine, members: object) =>
    `${JSON.stringify({ ...JSON.parse(formatLine(line)), ...members })}\n`;
  const small = file('a', { extents: [[5, 0, 512]] });

  it.each([
    '',
    '/',
    '/etc/passwd',
    '..',
    '../a',
    'a/..',
    'a/../b',
    './a',
    'a/.',
    'a//b',
    'a/',
    'a\0b',
    `${'n'.repeat(5000)}`,
  ])('H32: the path %j', (path) => refused([folder('a'), changed(file('x'), { path })]));

  it.each<readonly [string, FilesLine, object]>([
    ['a path as a list', file('a'), { path: ['a'] }],
    ['two paths', file('a'), { pathHex: 'ff' }],
    ['a path in two forms', file('a'), { path: undefined, pathHex: '61' }],
    ['hexadecimal that leads out', file('a'), { path: undefined, pathHex: '2e2e2fff' }],
    ['a set-uid bit', file('a'), { mode: 0o4755 }],
    ['a set-gid bit', folder('a'), { mode: 0o2755 }],
    ['a sticky bit', folder('a'), { mode: 0o1777 }],
    ['a mode in words', file('a'), { mode: '0600' }],
    ['no mode', file('a'), { mode: undefined }],
    ['a negative uid', file('a'), { uid: -1 }],
    ['a gid that is no number', file('a'), { gid: '26' }],
    ['a time as a number', file('a'), { mtimeNs: 1 }],
    ['a time of 21 digits', file('a'), { mtimeNs: '1'.repeat(21) }],
    ['a time with a point', file('a'), { mtimeNs: '1.5' }],
    ['a time in hexadecimal', file('a'), { ctimeNs: '0x10' }],
    ['an inode as a number', file('a'), { inode: 5 }],
    ['no inode', file('a'), { inode: undefined }],
    ['a negative size', file('a'), { size: -1 }],
    ['a size beyond 2^53', small, { size: 2 ** 53, extents: [[2 ** 53, -1, 0]] }],
    ['a size without extents', file('a'), { size: 5 }],
    ['extents without a size', small, { size: 0 }],
    ['no extents', file('a'), { extents: undefined }],
    ['extents that are longer than the file', small, { extents: [[6, 0, 0]] }],
    ['extents that are shorter than the file', small, { extents: [[4, 0, 0]] }],
    [
      'an extent of no bytes',
      small,
      {
        extents: [
          [5, 0, 0],
          [0, 0, 0],
        ],
      },
    ],
    [
      'an extent of negative length',
      small,
      {
        extents: [
          [6, 0, 0],
          [-1, 0, 0],
        ],
      },
    ],
    [
      'an extent that goes back',
      small,
      {
        extents: [
          [3, 0, 100],
          [2, 0, -50],
        ],
      },
    ],
    ['an extent with two numbers', small, { extents: [[5, 0]] }],
    ['an extent of another part', small, { extents: [[5, 1, 0]] }],
    ['an extent of a negative part', small, { extents: [[5, -2, 0]] }],
    ['an extent of a part in words', small, { extents: [[5, '0', 0]] }],
    ['an extent beyond its part', small, { extents: [[5, 0, 9_996]] }],
    [
      'extents that together go beyond their part',
      small,
      {
        extents: [
          [2, 0, 5_000],
          [3, 0, 4_996],
        ],
      },
    ],
    ['extents as an object', file('a'), { extents: {} }],
    ['a checksum in capitals', file('a'), { checksum: '0BADCAFE' }],
    ['a checksum as a number', file('a'), { checksum: 12_345_678 }],
    ['a symbolic link', file('a'), { type: 'link', target: '/etc/passwd' }],
    ['a pipe', file('a'), { type: 'fifo' }],
    ['no type', file('a'), { type: undefined }],
    ['a link elsewhere', folder('a'), { type: 'tablespace', target: '/srv' }],
    ['a relative target', tablespace('pg_tblspc/1'), { target: 'srv' }],
    ['no target', tablespace('pg_tblspc/1'), { target: undefined }],
    ['a target with a zero byte', tablespace('pg_tblspc/1'), { target: '/srv\0' }],
    ['an oid of zero', tablespace('pg_tblspc/1'), { path: 'pg_tblspc/0' }],
    ['a tablespace below a tablespace', tablespace('pg_tblspc/1'), { path: 'pg_tblspc/1/2' }],
    ['a tablespace of a name', tablespace('pg_tblspc/1'), { path: 'pg_tblspc/a' }],
    ['a part of no backup', part(1), { backup: 'LATEST' }],
    ['a part of a backup outside', part(1), { backup: `../${testBackupId}` }],
    ['a part of number 0', part(1), { number: 0 }],
    ['a part of half a number', part(1), { number: 1.5 }],
    ['a part of negative length', part(1), { rawBytes: -1 }],
    ['a part without its stored length', part(1), { objectBytes: undefined }],
    ['a part with half a hash', part(1), { sha256: 'a'.repeat(63) }],
    ['a part without the hash of its table', part(1), { tableSha256: undefined }],
    ['a part whose key commitment is none', part(1), { keyCommitment: null }],
    ['a part that is last in words', part(1), { last: 'true' }],
    ['a part that is not last', part(1), { last: false }],
  ])('%s', async (_, line, members) => {
    const before = line.type === 'tablespace' ? [part(0), folder('pg_tblspc')] : [part(0)];
    expect((await read([...before, line])).at(-1)).toEqual(line);
    await refused([...before, changed(line, members)]);
  });

  it('a tablespace behind the last part', () => refused([folder('pg_tblspc'), lastPart(0), tablespace('pg_tblspc/1')]));

  it.each(['1\n', 'null\n', '[]\n', '"a"\n', '{"type":"file"\n', '\n', 'x\n'])('%j', (text) =>
    expect(parsed(bytesOf(Buffer.from(text)))).rejects.toBeInstanceOf(CorruptError),
  );

  it('a line above 2 MiB, before it is read whole', async () => {
    let given = 0;
    const endless = async function* () {
      for (;;) {
        given += 8192;
        yield Buffer.alloc(8192, 'x');
      }
    };
    await expect(parsed(endless())).rejects.toBeInstanceOf(CorruptError);
    expect(given).toBeLessThan(limits.lineBytes + 3 * 8192);
  });
});

describe('a seal', () => {
  const lines = [part(0), folder('a'), file('a/b'), ...last];
  const sha256 = createHash('sha256').update(textOf(lines)).digest('hex');
  const sealOf = (members: object) => `${JSON.stringify({ type: 'seal', ...countOf(lines), sha256, ...members })}\n`;
  const withSeal = (text: string, before: readonly (FilesLine | string)[] = lines) =>
    parsed(bytesOf(Buffer.from(`${textOf(before)}${text}`)));

  it('counts and hashes all before it', async () => {
    expect((await sealed(lines)).toString()).toBe(`${textOf(lines)}${sealOf({})}`);
    expect(countOf(lines)).toEqual({ parts: 2, files: 4, folders: 1, tablespaces: 0 });
    expect(await withSeal(sealOf({}))).toEqual(lines);
  });

  it.each<readonly [string, string]>([
    ['is missing', ''],
    ['is cut', sealOf({}).slice(0, -1)],
    ['counts other parts', sealOf({ parts: 1 })],
    ['counts other files', sealOf({ files: 5 })],
    ['counts other folders', sealOf({ folders: 0 })],
    ['counts other tablespaces', sealOf({ tablespaces: 1 })],
    ['counts in words', sealOf({ files: '4' })],
    ['does not count', sealOf({ tablespaces: undefined })],
    ['has another hash', sealOf({ sha256: 'a'.repeat(64) })],
    ['has no hash', sealOf({ sha256: undefined })],
    ['is not the end', `${sealOf({})}\n`],
    ['comes twice', `${sealOf({})}${sealOf({})}`],
    ['is followed by a line', `${sealOf({})}${formatLine(file('z'))}`],
  ])('is refused when it %s', (_, text) => expect(withSeal(text)).rejects.toBeInstanceOf(CorruptError));

  it('is refused when any line before it is another, is missing or comes besides', async () => {
    const others = [
      lines.filter((_, index) => index !== 2),
      [part(0), folder('a'), file('a/b', { mode: 0o644 }), ...last],
      [part(0), folder('a'), file('a/b'), file('a/c'), ...last],
      [part(0), folder('a'), formatLine(file('a/b')).replace('{', '{ '), ...last],
    ];
    for (const before of others) await expect(withSeal(sealOf({}), before)).rejects.toBeInstanceOf(CorruptError);
  });

  it('is demanded at every truncation', async () => {
    const whole = await sealed(lines);
    for (let length = 0; length < whole.length; length += 1) {
      await expect(parsed(bytesOf(whole.subarray(0, length)))).rejects.toBeInstanceOf(CorruptError);
    }
  });
});
