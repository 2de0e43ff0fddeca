/** Files that change while they are read, and pages that are torn, broken or new: each in a real file. */
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { toBytePath, toFilePath } from '../../src/byte-path.ts';
import { type DataFile, openDataFile, type PageChecks } from '../../src/cluster/data-file.ts';
import { HostError } from '../../src/errors.ts';
import { findBadPages } from '../../src/postgres/page.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { temporaryFolder } from '../support/folders.ts';

const chunkBytes = 1024 * 1024;
const pageBytes = 8192;
const nothing = (): void => undefined;
/** No two places are equal. */
const content = Buffer.from(Uint32Array.from({ length: (2.5 * chunkBytes) / 4 }, (_, n) => n + 1).buffer);

/** A file of that content, opened, and closed when the test ends. */
function open(path: string, checks?: PageChecks, name = 'kept/file'): DataFile {
  const file = openDataFile(toBytePath(path), name, checks);
  if (file === undefined) throw new Error('it is gone');
  return file;
}

/** All that is read; `between` is called after each chunk with its number, from 0. */
function readAll(file: DataFile, between: (chunk: number) => void = nothing): Buffer {
  const memory = Buffer.alloc(chunkBytes, 0xaa);
  const chunks: Buffer[] = [];
  for (const chunk of file.content(memory)) {
    chunks.push(Buffer.from(chunk));
    between(chunks.length - 1);
  }
  file.close();
  return Buffer.concat(chunks);
}

describe('a file has the length that it had when it was opened', () => {
  const half = content.length / 2;
  const zeros = (from: number) => Buffer.concat([content.subarray(0, from), Buffer.alloc(content.length - from)]);

  it.each([
    { what: 'left alone', change: () => undefined, expected: content },
    { what: 'that grows', change: (path: string) => appendFileSync(path, 'more'), expected: content },
    { what: 'that shrinks within a chunk', change: (path: string) => truncateSync(path, half), expected: zeros(half) },
    { what: 'that is emptied', change: (path: string) => truncateSync(path, 0), expected: zeros(chunkBytes) },
    { what: 'that is removed', change: (path: string) => rmSync(path), expected: content },
    { what: 'that another takes the place of', change: replace, expected: content },
  ])('one $what while it is read', ({ change, expected }) => {
    const path = join(temporaryFolder(), 'file');
    writeFileSync(path, content);
    const file = open(path);
    const read = readAll(file, (chunk) => chunk === 0 && change(path));
    expect(file.sizeBytes).toBe(content.length);
    expect(read.equals(expected)).toBe(true);
  });

  it.each([
    { what: 'grown', sizeBytes: content.length + 4, change: (path: string) => appendFileSync(path, 'more') },
    { what: 'shrunk', sizeBytes: 100, change: (path: string) => truncateSync(path, 100) },
    { what: 'emptied', sizeBytes: 0, change: (path: string) => truncateSync(path, 0) },
  ])('one that has $what since it was listed has the new one', ({ sizeBytes, change }) => {
    const path = join(temporaryFolder(), 'file');
    writeFileSync(path, content);
    change(path);
    const file = open(path);
    expect(file.sizeBytes).toBe(sizeBytes);
    expect(readAll(file).equals(readFileSync(path))).toBe(true);
  });

  function replace(path: string): void {
    writeFileSync(`${path}.new`, 'another');
    renameSync(`${path}.new`, path);
  }
});

describe('a file that cannot be read', () => {
  it('is gone, with its folder as well: none', () => {
    const folder = temporaryFolder();
    for (const below of ['file', 'none/file']) {
      expect(openDataFile(toBytePath(join(folder, below)), 'base/5/1', undefined)).toBeUndefined();
    }
    writeFileSync(join(folder, 'file'), '');
    expect(openDataFile(toBytePath(join(folder, 'file/file')), 'base/5/1', undefined)).toBeUndefined();
  });

  it.skipIf(process.getuid?.() === 0)('is denied: named, with what to do', () => {
    const path = join(temporaryFolder(), 'file');
    writeFileSync(path, '', { mode: 0 });
    chmodSync(path, 0);
    expect(failureOf(() => open(path))).toMatchObject({
      message: `could not read "${path}": permission denied`,
      hint: expect.stringContaining('as the user that PostgreSQL runs as'),
    });
  });

  it('H24: bears a name that is no UTF-8, by its bytes; what is no file is named', () => {
    const folder = `${toBytePath(temporaryFolder())}/caf\xe9`;
    mkdirSync(toFilePath(folder));
    writeFileSync(toFilePath(`${folder}/odd`), 'odd');
    const file = openDataFile(`${folder}/odd`, 'odd');
    expect(file === undefined ? undefined : readAll(file).toString()).toBe('odd');
    const noFile = openDataFile(folder, 'odd'); // a folder can be opened and not be read
    expect(failureOf(() => noFile && readAll(noFile)).message).toMatch(/^could not read ".*caf\\xe9": is a directory$/);
    noFile?.close();
  });

  it.skipIf(!hasFaultyFs)('stands on a disk with errors: named, never filled up with zeros', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), content);
    const faulty = await FaultyFs.mount(folder);
    await faulty.set({ fail: { read: 'EIO' } });
    const path = join(faulty.path, 'file');
    const file = open(path);
    expect(failureOf(() => readAll(file))).toMatchObject({
      message: `could not read "${path}": input/output error`,
      hint: expect.stringContaining("this host's disk and its kernel's log"),
    });
    file.close();
  });
});

describe('the pages of a relation', () => {
  const startLsn = 0x5000n;
  const segmentPages = 131_072;
  /** Two chunks, and a bit. */
  const pages = 260;
  const [sound, broken, torn, later] = [0, 3, 130, 257];

  const made = new Map<string, Buffer>();

  /** The page of a block, last changed at `lsn`. Its checksum is found by trying: findBadPages is tested against PostgreSQL's own pages. */
  function makePage(block: number, lsn = 0x4000n): Buffer {
    const known = made.get(`${block} ${lsn}`);
    if (known !== undefined) return known;
    const page = Buffer.from(content.subarray(0, pageBytes));
    page.writeBigUInt64LE((lsn >> 32n) | ((lsn & 0xffff_ffffn) << 32n), 0);
    page.writeUInt16LE(500, 14); // pd_upper: it is not new
    for (let checksum = 1; checksum <= 0xffff; checksum += 1) {
      page.writeUInt16LE(checksum, 8);
      if (findBadPages(page, { firstBlock: block, startLsn: 2n ** 63n, pageSizeBytes: pageBytes }).length > 0) continue;
      made.set(`${block} ${lsn}`, page);
      return page;
    }
    throw new Error('no checksum fits');
  }

  /** As if the disk had kept the first half of a page and an older second one. */
  function halved(page: Buffer): Buffer {
    const half = Buffer.from(page);
    half.fill(0, pageBytes / 2);
    return half;
  }

  /** New pages but for those given, by block. */
  function makeRelation(given: ReadonlyMap<number, Buffer>, name = '16384'): string {
    const bytes = Buffer.alloc(pages * pageBytes);
    for (const [block, page] of given) page.copy(bytes, block * pageBytes);
    const path = join(temporaryFolder(), name);
    writeFileSync(path, bytes);
    return path;
  }

  /** Reads it as a relation of that path. @returns the blocks that are reported, and what was read. */
  function check(path: string, { as = 'base/5/16384', writer = nothing } = {}) {
    const bad: number[] = [];
    const file = open(path, { startLsn, pageBytes, segmentPages, onBadPage: (block) => bad.push(block) }, as);
    const chunks: Buffer[] = [];
    for (const chunk of file.content(watched(writer))) chunks.push(Buffer.from(chunk));
    file.close();
    return { bad, read: Buffer.concat(chunks) };
  }

  /** Memory that calls `filled` each time that a chunk was read into it, before it is looked at. */
  function watched(filled: () => void): Buffer {
    const memory = Buffer.alloc(chunkBytes);
    const cut = memory.subarray.bind(memory);
    return Object.assign(memory, {
      subarray: (from: number, to: number) => {
        const wanted = cut(from, to);
        const cutAgain = wanted.subarray.bind(wanted);
        const tell = (...words: [number?, number?]) => {
          filled();
          return cutAgain(...words);
        };
        return Object.assign(wanted, { subarray: tell });
      },
    });
  }

  function write(path: string, block: number, page: Buffer): void {
    const fd = openSync(path, 'r+');
    writeSync(fd, page, 0, pageBytes, block * pageBytes);
    closeSync(fd);
  }

  it('H23: reports each that is wrong twice, in any chunk, by its block; never new ones nor those changed since the start', () => {
    const path = makeRelation(
      new Map([
        [sound, makePage(sound)],
        [broken, halved(makePage(broken))],
        [torn, halved(makePage(torn))],
        [later, halved(makePage(later, startLsn))],
      ]),
    );
    const { bad, read } = check(path);
    expect(bad).toEqual([broken, torn]);
    expect(read.equals(readFileSync(path))).toBe(true);
  });

  it('counts the blocks over all files of the relation, and judges by that', () => {
    const block = 2 * segmentPages + broken;
    const path = makeRelation(
      new Map([
        [sound, makePage(2 * segmentPages)],
        [broken, halved(makePage(block))],
      ]),
    );
    expect(check(path, { as: 'base/5/16384.2' }).bad).toEqual([block]);
    expect(check(path, { as: 'base/5/16384' }).bad).toEqual([sound, broken]);
  });

  it.each(['base/5/PG_VERSION', 'pg_xact/0000', 'global/pg_filenode.map', 'base/5/16384x'])(
    'judges none in "%s"',
    (as) => {
      expect(check(makeRelation(new Map([[broken, halved(makePage(broken))]])), { as }).bad).toEqual([]);
    },
  );

  it.each([
    { what: 'whole', written: () => makePage(broken) },
    { what: 'and replayed from the WAL', written: () => halved(makePage(broken, startLsn + 1n)) },
  ])('a torn one that PostgreSQL was just writing is read again: $what', ({ written }) => {
    const page = written();
    const path = makeRelation(new Map([[broken, halved(makePage(broken))]]));
    const { bad, read } = check(path, { writer: () => write(path, broken, page) });
    expect(bad).toEqual([]);
    expect(read.subarray(broken * pageBytes, (broken + 1) * pageBytes).equals(page)).toBe(true);
  });

  it('one that is cut off before it is read again is no damage: whoever replays cuts it off as well', () => {
    const path = makeRelation(new Map([[broken, halved(makePage(broken))]]));
    const { bad, read } = check(path, { writer: () => truncateSync(path, broken * pageBytes) });
    expect(bad).toEqual([]);
    expect(read).toHaveLength(pages * pageBytes);
    expect(read.subarray(broken * pageBytes).every((byte) => byte === 0)).toBe(true);
  });
});

function failureOf(work: () => unknown): HostError {
  try {
    work();
  } catch (error) {
    if (error instanceof HostError) return error;
    throw error;
  }
  throw new Error('should have failed');
}
