/** Relation files made page by page, and what an increment knows of them from its parent: for tests of the rules by which a page counts as unchanged. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FileLine } from '../../src/archive/files-line.ts';
import { toBytePath } from '../../src/byte-path.ts';
import { openDataFile } from '../../src/cluster/data-file.ts';
import {
  type Fresh,
  freshOf,
  type IncrementRules,
  type KnownFile,
} from '../../src/commands/basebackup-push/changed-file.ts';
import { VisiblePages } from '../../src/commands/basebackup-push/visible-pages.ts';
import { makePageSum } from '../../src/postgres/page-sum.ts';
import { temporaryFolder } from './folders.ts';

export const pageBytes = 8192;
/** The parent's start. Both halves count. */
export const sinceLsn = 0x2_8000_0000n;
export const allVisible = 0x0004;

export const plainRules: IncrementRules = {
  sinceLsn,
  pageBytes,
  segmentPages: 131_072,
  checksums: false,
  staleParts: new Set(),
};

export interface PageFields {
  readonly lsn?: bigint;
  readonly flags?: number;
  readonly lower?: number;
  readonly upper?: number;
  readonly special?: number;
  readonly sizeAndVersion?: number;
  readonly seed?: number;
}

/** A sound page that was last changed just before the parent's start, unless told otherwise. */
export function makePage(fields: PageFields = {}): Buffer {
  const { lsn = sinceLsn - 1n, flags = 0, lower = 28, upper = 100, special = pageBytes, seed = 1 } = fields;
  const page = Buffer.alloc(pageBytes, seed);
  page.writeUInt32LE(Number(lsn >> 32n), 0);
  page.writeUInt32LE(Number(lsn & 0xffff_ffffn), 4);
  page.writeUInt16LE(0, 8);
  const { sizeAndVersion = pageBytes + 4 } = fields;
  const header = [flags, lower, upper, special, sizeAndVersion];
  for (const [index, number] of header.entries()) page.writeUInt16LE(number, 10 + 2 * index);
  return page;
}

/** The same with the checksum that it has as that block, as `pg_checksum_page` computes it. */
export function withChecksum(page: Buffer, block: number): Buffer {
  const { memory, sum } = makePageSum();
  memory.set(page);
  memory.fill(0, 8, 10);
  page.writeUInt16LE((((sum(page.length) ^ block) >>> 0) % 65_535) + 1, 8);
  return page;
}

/** So many sound pages: more than 128 KiB, so that a file of them is not stored whole for being small. */
export const manyPages = (count = 40): Buffer[] => Array.from({ length: count }, (_, seed) => makePage({ seed }));

/** The parent's line of a file that was stored whole in part 0, as these pages. */
export function lineOf(pages: readonly Buffer[], more: Partial<FileLine> = {}): FileLine {
  const content = Buffer.concat(pages);
  const visible = VisiblePages.of({ sizeBytes: content.length, pageBytes });
  visible?.look(content);
  return {
    type: 'file',
    path: 'base/5/16384',
    uid: 26,
    gid: 26,
    mode: 0o600,
    mtimeNs: 5n,
    sizeBytes: content.length,
    ctimeNs: 5n,
    inode: 5n,
    allVisible: visible?.text,
    extents: content.length === 0 ? [] : [[content.length, 0, 512]],
    ...more,
  };
}

export interface Asked {
  /** What stands in the file now. */
  readonly now: readonly Buffer[];
  readonly line: FileLine;
  readonly changes?: KnownFile['changes'];
  readonly badPages?: readonly number[];
  readonly rules?: Partial<IncrementRules>;
  /** Has the file the size and times that the line tells? */
  readonly sameTimes?: boolean;
}

/** The rules' answer for a real file of that content. */
export function askFresh({ now, line, changes = 'content', badPages = [], rules = {}, sameTimes }: Asked): Fresh {
  const path = join(temporaryFolder(), 'file');
  writeFileSync(path, Buffer.concat(now));
  const file = openDataFile(toBytePath(path), line.path);
  if (file === undefined) throw new Error('it is gone');
  const { mtimeNs, ctimeNs, inode } = file;
  const known = { line: sameTimes === true ? { ...line, mtimeNs, ctimeNs, inode } : line, changes, badPages };
  try {
    return freshOf(file, known, { ...plainRules, ...rules }, Buffer.alloc(1024 * 1024));
  } finally {
    file.close();
  }
}

/** The same as the numbers of pages. */
export function freshPages(asked: Asked): number[] | string {
  const fresh = askFresh(asked);
  if (typeof fresh === 'string') return fresh;
  return fresh.flatMap(({ offset, lengthBytes }) =>
    Array.from({ length: Math.ceil(lengthBytes / pageBytes) }, (_, index) => offset / pageBytes + index),
  );
}
