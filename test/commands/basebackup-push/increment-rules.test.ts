/** By what an increment finds that a page or a file is not as its parent has it. Each rule has a file in which it alone tells: without it, what is new is lost. */
import { describe, expect, it } from 'vitest';
import { formatHashes, pieceHash } from '../../../src/archive/file-hashes.ts';
import { hasSameTimes } from '../../../src/cluster/unchanged-file.ts';
import { inheritedHashes } from '../../../src/commands/basebackup-push/changed-file.ts';
import { VisiblePages } from '../../../src/commands/basebackup-push/visible-pages.ts';
import {
  allVisible,
  askFresh,
  freshPages,
  lineOf,
  makePage,
  manyPages,
  type PageFields,
  pageBytes,
  sinceLsn,
  withChecksum,
} from '../../support/increment-files.ts';

const mebibyte = 1024 * 1024;

/** The file as it was, but for one page. */
function but(pages: readonly Buffer[], index: number, page: Buffer): Buffer[] {
  return pages.map((old, at) => (at === index ? page : old));
}

describe('a page that is read', () => {
  it('is as it was, if nothing tells otherwise: nothing of the file is stored', () => {
    const pages = manyPages();
    expect(freshPages({ now: pages, line: lineOf(pages) })).toBe('nothing');
  });

  it.each<[string, PageFields]>([
    ['has the LSN at which the parent began', { lsn: sinceLsn }],
    ['has a later LSN, in its lower half', { lsn: sinceLsn + 1n }],
    ['has a later LSN, in its upper half', { lsn: 0x3_0000_0000n }],
    ['has an LSN of no WAL that there is', { lsn: 2n ** 64n - 1n }],
    ['has flags that nobody sets', { flags: 0x0008 }],
    ['is of another size', { sizeAndVersion: 4096 + 4 }],
    ['has a header that ends behind its free space', { lower: 101 }],
    ['has free space that ends behind its end', { upper: 8185, special: 8184 }],
    ['has a special space behind its end', { special: 8200 }],
    ['has a special space that is not aligned', { special: 8188 }],
    ['is new', { upper: 0, lower: 0, special: 0 }],
  ])('is stored if it %s', (_what, fields) => {
    const pages = manyPages();
    expect(freshPages({ now: but(pages, 7, makePage(fields)), line: lineOf(pages) })).toEqual([7]);
  });

  it('is not stored for an LSN before the parent, though its lower half is greater', () => {
    const pages = manyPages();
    const older = makePage({ lsn: 0x1_ffff_ffffn });
    expect(freshPages({ now: but(pages, 7, older), line: lineOf(pages) })).toBe('nothing');
  });

  it('is stored if it is zeros: it was cut off, and added again', () => {
    const pages = manyPages();
    expect(freshPages({ now: but(pages, 39, Buffer.alloc(pageBytes)), line: lineOf(pages) })).toEqual([39]);
  });

  it('is stored if its checksum is wrong, where there are checksums: it may be torn, its LSN of another time', () => {
    const pages = manyPages(20).map(withChecksum);
    const torn = Buffer.from(pages[7] ?? '').fill(9, pageBytes / 2);
    const asked = { now: but(pages, 7, torn), line: lineOf(pages) };
    expect(freshPages({ ...asked, rules: { checksums: true } })).toEqual([7]);
    expect(freshPages({ ...asked, rules: { checksums: false } })).toBe('nothing');
  });

  it('counts for its checksum over all files of its relation', () => {
    const pages = manyPages(20).map((page, block) => withChecksum(page, 2 * 131_072 + block));
    const asked = { now: pages, rules: { checksums: true } };
    expect(freshPages({ ...asked, line: lineOf(pages, { path: 'base/5/16384.2' }) })).toBe('nothing');
    expect(freshPages({ ...asked, line: lineOf(pages) })).toBe('whole');
  });

  it('in the second MiB is found like one in the first', () => {
    const pages = manyPages(300);
    const now = but(but(pages, 299, makePage({ lsn: sinceLsn })), 128, makePage({ lsn: sinceLsn }));
    expect(freshPages({ now, line: lineOf(pages) })).toEqual([128, 299]);
  });
});

describe('H36: PD_ALL_VISIBLE, which VACUUM sets and leaves the LSN', () => {
  const visible = makePage({ flags: allVisible, seed: 7 });

  it.each([true, false])('is compared, page by page (with checksums: %s, off in between perhaps)', (checksums) => {
    const plain = checksums ? manyPages(20).map(withChecksum) : manyPages(20);
    const page = checksums ? withChecksum(visible, 7) : visible;
    const rules = { checksums };
    const [was, is] = [plain, but(plain, 7, page)];
    expect(freshPages({ now: is, line: lineOf(was), rules })).toEqual([7]);
    expect(freshPages({ now: was, line: lineOf(is), rules })).toEqual([7]);
    expect(freshPages({ now: is, line: lineOf(is), rules })).toBe('nothing');
  });

  it('is compared with the same page in a relation of several files', () => {
    const pages = but(manyPages(), 7, visible);
    expect(freshPages({ now: pages, line: lineOf(pages, { path: 'base/5/16384.3' }) })).toBe('nothing');
    expect(freshPages({ now: manyPages(), line: lineOf(pages, { path: 'base/5/16384.3' }) })).toEqual([7]);
  });

  it.each(['', 'AAAA', undefined])('makes a file whole whose parent does not tell it (%j)', (bits) => {
    const pages = manyPages();
    expect(freshPages({ now: pages, line: lineOf(pages, { allVisible: bits }) })).toBe('whole');
  });

  it('is handed on: what was looked at is new, all else the parent’s', () => {
    const flagged = [0, 9, 10, 21];
    const pages = manyPages(30).map((page, at) => (flagged.includes(at) ? visible : page));
    const bits = VisiblePages.of({ sizeBytes: 22 * pageBytes + 100, pageBytes }, lineOf(pages));
    bits?.goTo(9 * pageBytes);
    bits?.look(Buffer.concat([makePage(), visible, visible, Buffer.alloc(100)]));
    const found = manyPages(22).map((page, at) => ([0, 10, 11, 21].includes(at) ? visible : page));
    const line = lineOf(pages, { sizeBytes: 22 * pageBytes, allVisible: bits?.text });
    expect(freshPages({ now: found, line })).toBe('nothing');
    expect(freshPages({ now: but(found, 9, visible), line })).toEqual([9]);
    expect(freshPages({ now: but(found, 21, makePage()), line })).toEqual([21]);
  });

  it('is not handed on where the parent does not tell it, unless that had no page', () => {
    const none = lineOf([], { allVisible: undefined });
    expect(VisiblePages.of({ sizeBytes: pageBytes, pageBytes }, none)?.text).toBe('AA==');
    const unknown = lineOf(manyPages(), { allVisible: undefined });
    expect(VisiblePages.of({ sizeBytes: pageBytes, pageBytes }, unknown)).toBeUndefined();
  });
});

describe('H42: a page that the parent does not have', () => {
  it.each(['content', 'times', 'numbers'])('is stored, whatever it holds (by %s)', (by) => {
    const pages = manyPages();
    const changes = by === 'numbers' ? new Uint32Array() : (by as 'content');
    const line = lineOf(pages.slice(0, 37));
    expect(freshPages({ now: pages, line, changes })).toEqual([37, 38, 39]);
  });

  it('is stored if the parent had a piece of it', () => {
    const pages = manyPages();
    const piece = lineOf([...pages.slice(0, 37), Buffer.alloc(100)]);
    expect(freshPages({ now: pages, line: piece })).toEqual([37, 38, 39]);
    expect(freshPages({ now: pages, line: piece, changes: new Uint32Array() })).toEqual([37, 38, 39]);
  });

  it('is stored if there is a piece of it now', () => {
    const pages = manyPages();
    const piece = Buffer.alloc(100, 1);
    const fresh = { offset: 37 * pageBytes, lengthBytes: 100 };
    for (const before of [pages, [...pages.slice(0, 37), piece]]) {
      const asked = { now: [...pages.slice(0, 37), piece], line: lineOf(before) };
      expect(askFresh(asked)).toEqual([fresh]);
      expect(askFresh({ ...asked, changes: new Uint32Array() })).toEqual([fresh]);
    }
  });

  it('is stored again if it was broken in the parent, however it looks now', () => {
    const pages = manyPages();
    const asked = { now: pages, line: lineOf(pages), badPages: [3, 38] };
    expect(freshPages(asked)).toEqual([3, 38]);
    expect(freshPages({ ...asked, changes: 'times', sameTimes: true })).toEqual([3, 38]);
    expect(freshPages({ ...asked, changes: new Uint32Array() })).toEqual([3, 38]);
    const map = lineOf(pages, { path: 'base/5/16384_vm', hashes: hashesOf(pages) });
    expect(freshPages({ now: pages, line: map })).toBe('nothing');
    expect(freshPages({ now: pages, line: map, badPages: [3] })).toBe('whole');
  });

  it('of a file that became shorter is none of it any more', () => {
    const pages = manyPages();
    expect(askFresh({ now: pages.slice(0, 20), line: lineOf(pages) })).toEqual([]);
    expect(askFresh({ now: [], line: lineOf(pages) })).toEqual([]);
    expect(askFresh({ now: [], line: lineOf([]) })).toBe('nothing');
  });
});

describe('a file that changed', () => {
  it('is stored whole when it is small, or nothing of it is as it was', () => {
    const pages = manyPages(16);
    expect(freshPages({ now: but(pages, 3, makePage({ lsn: sinceLsn })), line: lineOf(pages) })).toBe('whole');
    expect(freshPages({ now: pages, line: lineOf(pages) })).toBe('nothing');
    const later = manyPages().map(() => makePage({ lsn: sinceLsn }));
    expect(freshPages({ now: later, line: lineOf(manyPages()) })).toBe('whole');
  });

  it('is stored whole when its pieces would become too many for one line', () => {
    const pages = Array.from({ length: 300 }, () => makePage());
    const line = lineOf(pages, { extents: Array.from({ length: 65_530 }, () => [1, 0, 1] as const) });
    const long = { ...line, extents: [...line.extents, [line.sizeBytes - 65_530, 0, 1] as const] };
    const changed = (...at: number[]) => Uint32Array.from(at);
    expect(freshPages({ now: pages, line: long, changes: changed(100) })).toEqual([100]);
    expect(freshPages({ now: pages, line: long, changes: changed(100, 110, 120, 130) })).toBe('whole');
  });

  it('is what WAL summaries say, without a look at it', () => {
    const pages = but(manyPages(), 9, makePage({ lsn: sinceLsn }));
    const line = lineOf(manyPages());
    expect(freshPages({ now: pages, line, changes: Uint32Array.from([3, 4, 39, 40, 99]) })).toEqual([3, 4, 39]);
  });

  it('that leaves a part behind stores what stands in it, and has no other piece of it', () => {
    const pages = manyPages();
    const tail = 5 * pageBytes;
    const extents = [[35 * pageBytes - 10, 0, 512] as const, [10, 4, 0] as const, [tail, 5, 0] as const];
    const line = lineOf(pages, { extents });
    const stale = (...parts: number[]) => ({ staleParts: new Set(parts) });
    const page35 = [34]; // its last 10 bytes
    expect(freshPages({ now: pages, line, rules: stale(4) })).toEqual(page35);
    expect(freshPages({ now: pages, line, rules: stale(0) })).toEqual([...pages.keys()].slice(0, 35));
    expect(freshPages({ now: pages, line, rules: stale(5) })).toEqual([35, 36, 37, 38, 39]);
    expect(freshPages({ now: pages, line, rules: stale(4, 5), changes: 'times', sameTimes: true })).toHaveLength(6);
    expect(freshPages({ now: pages, line, rules: stale(4), changes: new Uint32Array() })).toEqual(page35);
    const map = { ...line, path: 'base/5/16384_fsm', hashes: hashesOf(pages) };
    expect(freshPages({ now: pages, line: map, rules: stale(5) })).toBe('whole');
    expect(freshPages({ now: pages, line: map, rules: stale(6) })).toBe('nothing');
  });
});

describe('what is no main fork of a relation', () => {
  const paths = ['base/5/16384_vm', 'base/5/16384_fsm.1', 'base/5/16384_init', 'pg_xact/0000', 'base/5/PG_VERSION'];

  it.each(paths)('is compared by its hashes as a whole: %s', (path) => {
    const pages = manyPages(300);
    const line = lineOf(pages, { path, hashes: hashesOf(pages) });
    expect(freshPages({ now: pages, line })).toBe('nothing');
    const flipped = Buffer.from(pages[299] ?? '');
    flipped[8191] = 77; // its LSN is old, and its header is sound
    expect(freshPages({ now: but(pages, 299, flipped), line })).toBe('whole');
    expect(freshPages({ now: pages.slice(0, 299), line })).toBe('whole');
    expect(freshPages({ now: pages.slice(0, 256), line })).toBe('whole'); // all that is left is as it was
    expect(freshPages({ now: [...pages, makePage()], line })).toBe('whole');
  });

  it('is stored where the hash of any piece is not known', () => {
    const pages = manyPages(300);
    const path = 'base/5/16384_vm';
    expect(freshPages({ now: pages, line: lineOf(pages, { path }) })).toBe('whole');
    const [first, , third] = piecesOf(pages).map(pieceHash);
    const hashes = formatHashes([first, undefined, third]);
    expect(freshPages({ now: pages, line: lineOf(pages, { path, hashes }) })).toBe('whole');
  });
});

describe('times', () => {
  it.each(['sizeBytes', 'mtimeNs', 'ctimeNs', 'inode'] as const)('tell a file that was written to by its %s', (one) => {
    const times = { sizeBytes: 5, mtimeNs: 5n, ctimeNs: 5n, inode: 5n };
    expect(hasSameTimes(times, { ...times })).toBe(true);
    expect(hasSameTimes(times, { ...times, [one]: one === 'sizeBytes' ? 6 : 6n })).toBe(false);
  });

  it('are looked at again when the file is open: it is read when it was written to since the walk', () => {
    const pages = manyPages();
    const now = but(pages, 7, makePage({ lsn: sinceLsn }));
    const asked = { now, line: lineOf(pages), changes: 'times' } as const;
    expect(freshPages({ ...asked, sameTimes: true })).toBe('nothing');
    expect(freshPages(asked)).toEqual([7]);
    const map = lineOf(pages, { path: 'base/5/16384_vm', hashes: hashesOf(pages) });
    expect(freshPages({ ...asked, line: map, sameTimes: true })).toBe('nothing');
    expect(freshPages({ ...asked, line: map })).toBe('whole');
  });
});

it('the hash of a piece is handed on if nothing of it is new, and it is as long as it was', () => {
  const pages = manyPages(300);
  const hashes = piecesOf(pages).map(pieceHash);
  const line = lineOf(pages, { hashes: formatHashes(hashes) });
  const size = line.sizeBytes;
  const [a, b, c] = hashes;
  const range = (page: number, count = 1) => ({ offset: page * pageBytes, lengthBytes: count * pageBytes });
  expect(inheritedHashes(line, [], size)).toEqual([a, b, c]);
  expect(inheritedHashes(line, [range(127)], size)).toEqual([undefined, b, c]);
  expect(inheritedHashes(line, [range(128)], size)).toEqual([a, undefined, c]);
  expect(inheritedHashes(line, [range(127, 130)], size)).toEqual([undefined, undefined, undefined]);
  expect(inheritedHashes(line, [range(300)], size + pageBytes)).toEqual([a, b, undefined]);
  expect(inheritedHashes(line, [], size - pageBytes)).toEqual([a, b, undefined]);
  expect(inheritedHashes(line, [], mebibyte + 1)).toEqual([a, undefined]);
  expect(inheritedHashes({ ...line, hashes: undefined }, [], size)).toEqual([undefined, undefined, undefined]);
});

function piecesOf(pages: readonly Buffer[]): Buffer[] {
  const content = Buffer.concat(pages);
  return Array.from({ length: Math.ceil(content.length / mebibyte) }, (_, index) =>
    content.subarray(index * mebibyte, (index + 1) * mebibyte),
  );
}

function hashesOf(pages: readonly Buffer[]): string | undefined {
  return formatHashes(piecesOf(pages).map(pieceHash));
}
