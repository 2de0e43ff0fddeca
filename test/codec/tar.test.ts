/** Tar headers as other programs read them: GNU tar, busybox and Python's tarfile agree on every member. */
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type BytePath, toFilePath } from '../../src/byte-path.ts';
import { encodeTarHeader, type TarMember, tarEnd, tarPadding } from '../../src/codec/tar.ts';
import { temporaryFolder } from '../support/folders.ts';
import { hasTool } from '../support/tools.ts';

interface Member extends TarMember {
  readonly content?: Buffer;
}

const plain = { type: 'file', sizeBytes: 0, mode: 0o600, uid: 26, gid: 26, mtimeSeconds: 1_700_000_000 } as const;

function fileOf(path: BytePath, members: Partial<Member> = {}): Member {
  const content = members.content ?? Buffer.alloc(0);
  return { ...plain, path, sizeBytes: content.length, ...members };
}

/** A whole archive in a file. */
function archiveOf(members: readonly Member[]): string {
  const path = join(temporaryFolder(), 'part.tar');
  const blocks = members.flatMap(({ content, ...member }) => {
    const body = content ?? Buffer.alloc(0);
    return [encodeTarHeader(member), body, Buffer.alloc(tarPadding(body.length))];
  });
  writeFileSync(path, Buffer.concat([...blocks, tarEnd]));
  return path;
}

function output(command: string, words: readonly string[], input?: Buffer): Buffer {
  const { status, stdout, stderr } = spawnSync(command, words, { input, maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(`${command}: ${stderr}`);
  return stdout;
}

/** What Python's tarfile, a reader of its own, says of each header: a size may be larger than what follows. */
function pythonReads(header: Buffer): Record<string, string | number> {
  const script = `
import io, json, sys, tarfile
member = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), errors='surrogateescape').next()
print(json.dumps({'path': member.name.encode('utf8', 'surrogateescape').hex(), 'size': member.size, 'uid': member.uid,
  'gid': member.gid, 'mode': member.mode, 'mtime': member.mtime, 'type': member.type.decode()}))`;
  return JSON.parse(output('python3', ['-c', script], Buffer.concat([header, Buffer.alloc(1024)])).toString());
}

/** Paths of every length from 1 to 300, the longer ones in folders. */
const everyLength: readonly BytePath[] = Array.from({ length: 300 }, (_, index) => {
  const name = `${String(index + 1).padStart(3, '0')}${'n'.repeat(300)}`.slice(0, index + 1);
  return name
    .replaceAll(/(.{90})./g, (whole, start) => (whole.length === 91 ? `${start}/` : whole))
    .replace(/\/$/, '_');
});

const oddNames: readonly BytePath[] = [
  '\xff',
  'caf\xe9',
  'caf\xc3\xa9',
  'a b',
  'a\nb',
  '-x',
  '\\x',
  ' ',
  '\x01\x7f',
  '"',
];
const longOddNames = oddNames.map((name) => `${name}/${'l'.repeat(120)}/${name}`);

/** All paths below a folder, in no order, with a slash behind folders: bytes as latin1. */
function pathsBelow(folder: string, below: BytePath = ''): BytePath[] {
  const names = readdirSync(Buffer.concat([Buffer.from(`${folder}/`), toFilePath(below)]), { encoding: 'latin1' });
  return names.flatMap((name) => {
    const path = `${below}${name}`;
    const isFolder = lstatSync(Buffer.concat([Buffer.from(`${folder}/`), toFilePath(path)])).isDirectory();
    return isFolder ? [`${path}/`, ...pathsBelow(folder, `${path}/`)] : [path];
  });
}

describe.each([
  ['GNU tar', 'tar', ['-xf'], 'tar'],
  ['busybox', 'busybox', ['tar', '-xf'], 'busybox'],
  ["Python's tarfile", 'python3', ['-c', 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall()'], 'python3'],
] as const)('%s', (_, command, words, tool) => {
  const extract = (members: readonly Member[]): string => {
    const folder = join(temporaryFolder(), 'restored');
    mkdirSync(folder);
    const ended = spawnSync(command, [...words, archiveOf(members)], { cwd: folder });
    if (ended.status !== 0) throw new Error(String(ended.stderr));
    return folder;
  };
  const contentOf = (folder: string, path: BytePath): string =>
    readFileSync(Buffer.concat([Buffer.from(`${folder}/`), toFilePath(path)])).toString('latin1');

  it.skipIf(!hasTool(tool)).each([
    ['of every length from 1 to 300', everyLength],
    ['that are odd, or no UTF-8', oddNames],
    ['that are odd, or no UTF-8, and long', longOddNames],
  ])('H24: brings back files with names %s', (_names, paths) => {
    const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    const members = paths.map((path, index) =>
      fileOf(path, { ...own, content: Buffer.from(`${index} ${path}`, 'latin1') }),
    );
    const folder = extract(members);
    for (const [index, path] of paths.entries()) expect(contentOf(folder, path)).toBe(`${index} ${path}`);
    expect(
      pathsBelow(folder)
        .filter((path) => !path.endsWith('/'))
        .sort(),
    ).toEqual([...paths].sort());
  });

  it.skipIf(!hasTool(tool))('brings back empty files, whole blocks, and folders with their modes and times', () => {
    const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    const long = `base/${'f'.repeat(150)}`;
    const folder = extract([
      { ...plain, ...own, type: 'folder', path: 'base', mode: 0o700 },
      { ...plain, ...own, type: 'folder', path: long, mode: 0o750 },
      fileOf('base/empty', own),
      ...[1, 511, 512, 513, 1024].map((length) =>
        fileOf(`base/${length}`, { ...own, content: Buffer.alloc(length, 'x') }),
      ),
      fileOf('base/before-1970', { ...own, mtimeSeconds: -86_400 }),
      fileOf(`${long}/last`, { ...own, mode: 0o640, content: Buffer.from('last') }),
    ]);
    const lengths = [0, 1, 511, 512, 513, 1024].map((length) => (length === 0 ? 'empty' : String(length)));
    expect(lengths.map((name) => statSync(join(folder, 'base', name)).size)).toEqual([0, 1, 511, 512, 513, 1024]);
    expect(statSync(join(folder, 'base')).mode).toBe(0o40700);
    expect(statSync(join(folder, long)).mode).toBe(0o40750);
    expect(statSync(join(folder, long, 'last')).mode).toBe(0o100640);
    expect(statSync(join(folder, 'base/1')).mtimeMs).toBe(1_700_000_000_000);
    expect(statSync(join(folder, 'base/before-1970')).mtimeMs).toBe(0);
  });

  it.skipIf(!hasTool(tool))('H25: makes folders below pg_tblspc where links could lead into a live tablespace', () => {
    const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mode: 0o700 };
    const folder = extract([
      { ...plain, ...own, type: 'folder', path: 'pg_tblspc' },
      fileOf('pg_tblspc/16384/PG_17_202406281/5/16385', { ...own, content: Buffer.from('page') }),
    ]);
    expect(lstatSync(join(folder, 'pg_tblspc/16384')).isDirectory()).toBe(true);
    expect(existsSync(join(folder, 'pg_tblspc/16384/PG_17_202406281/5/16385'))).toBe(true);
  });
});

describe('a header', () => {
  it.skipIf(!hasTool('python3')).each<readonly [string, Partial<Member>]>([
    ['a size of 8 GiB less a byte', { sizeBytes: 2 ** 33 - 1 }],
    ['a size of 8 GiB', { sizeBytes: 2 ** 33 }],
    ['a size of 32 TiB', { sizeBytes: 2 ** 45 }],
    ['the largest ids of ustar', { uid: 2 ** 21 - 1, gid: 2 ** 21 - 1 }],
    ['ids above 2^21', { uid: 2 ** 21, gid: 2 ** 31 }],
    ['the largest ids there are', { uid: 2 ** 32 - 2, gid: 2 ** 32 - 2 }],
    ['all of it at once', { path: `caf\xe9/${'l'.repeat(200)}`, sizeBytes: 2 ** 40, uid: 2 ** 30, gid: 2 ** 22 }],
    ['a name of 100 bytes', { path: 'n'.repeat(100) }],
    ['a name of 101 bytes', { path: 'n'.repeat(101) }],
    ['a mode without type and special bits beyond its own', { mode: 0o640 }],
  ])('tells %s to Python and GNU tar', (_, members) => {
    const member = fileOf('base/5/16384', members);
    const header = encodeTarHeader(member);
    const { sizeBytes, uid, gid, mode, path } = member;
    const expected = {
      path: toFilePath(path).toString('hex'),
      size: sizeBytes,
      uid,
      gid,
      mode,
      mtime: 1_700_000_000,
      type: '0',
    };
    expect(pythonReads(header)).toEqual(expected);
    // the content is missing: GNU tar lists the member and then complains
    const words = ['--numeric-owner', '--quoting-style=escape', '-tvf', '-'];
    const listed = spawnSync('tar', words, { input: header, encoding: 'latin1', env: { ...process.env, LC_ALL: 'C' } });
    expect(listed.stdout).toMatch(new RegExp(`^-\\S+ +${uid}/${gid} +${sizeBytes} `));
  });

  it.each([[-1], [-2_000_000_000]])('says the beginning of 1970 for what is before: %d', (mtimeSeconds) => {
    expect(encodeTarHeader(fileOf('a', { mtimeSeconds })).toString('latin1', 136, 148)).toBe('00000000000\0');
  });

  it('is made of whole blocks with a sum, whatever the member, and is never a link', () => {
    const anyMember = fc.record({
      type: fc.constantFrom('file' as const, 'folder' as const),
      path: fc
        .array(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 300 })
        .map((codes) => String.fromCharCode(...codes)),
      sizeBytes: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      mode: fc.nat({ max: 0o177777 }),
      uid: fc.nat({ max: 2 ** 32 - 1 }),
      gid: fc.nat({ max: 2 ** 32 - 1 }),
      mtimeSeconds: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
    });
    fc.assert(
      fc.property(anyMember, (member) => {
        const header = encodeTarHeader(member);
        expect(header.length % 512).toBe(0);
        const own = header.subarray(-512);
        const extended = header.length > 512 ? [header.subarray(0, 512)] : [];
        for (const block of [own, ...extended]) {
          const sum = [...block].reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
          expect(Number.parseInt(block.toString('latin1', 148, 154), 8)).toBe(sum);
          expect(block.toString('latin1', 257, 265)).toBe('ustar\x0000');
        }
        expect(own.toString('latin1', 156, 157)).toBe(member.type === 'folder' ? '5' : '0');
        expect(own.subarray(157, 257).every((byte) => byte === 0)).toBe(true);
        if (extended.length > 0) expectPaxRecords(header);
      }),
    );
  });

  it('counts the length of a record right where it gains a digit, and says when a name is no UTF-8', () => {
    for (let length = 101; length < 1200; length += 1) {
      const header = encodeTarHeader(fileOf('n'.repeat(length)));
      expectPaxRecords(header);
      expect(header.includes('hdrcharset')).toBe(false);
    }
    const odd = encodeTarHeader(fileOf('\xff'.repeat(101)));
    expect(odd.toString('latin1', 512)).toMatch(/^21 hdrcharset=BINARY\n111 path=\xff{101}\n\0/);
  });
});

/** Each pax record counts its own length, and they fill what the extended header says. */
function expectPaxRecords(header: Buffer): void {
  const sizeBytes = Number.parseInt(header.toString('latin1', 124, 135), 8);
  const records = header.subarray(512, 512 + sizeBytes);
  for (let at = 0; at < records.length; ) {
    const length = Number.parseInt(records.toString('latin1', at, at + 10), 10);
    expect(records.toString('latin1', at, at + length)).toMatch(/^\d+ (?:path|size|uid|gid|hdrcharset)=[\s\S]*\n$/);
    at += length;
    expect(at).toBeLessThanOrEqual(records.length);
  }
  expect(512 + sizeBytes + tarPadding(sizeBytes) + 512).toBe(header.length);
}

it('pads to whole blocks', () => {
  expect([0, 1, 511, 512, 513].map(tarPadding)).toEqual([0, 511, 1, 0, 511]);
});
