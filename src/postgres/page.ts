/** The checksums of relation pages. @see PostgreSQL `src/include/storage/checksum_impl.h`, `src/include/storage/bufpage.h` */
import assert from 'node:assert';
import type { Lsn } from './lsn.ts';

export interface PageCheck {
  /** The number of the buffer's first page in its relation, over all segments: it is part of the checksum. */
  readonly firstBlock: number;
  /** Pages changed at or after this LSN are not judged: they may be torn, and replay writes them anew (H23). */
  readonly startLsn: Lsn;
  /** `BLCKSZ` */
  readonly pageSizeBytes: number;
}

/**
 * The indexes, in this buffer, of the pages whose checksum is wrong. Skipped are new pages, pages with an LSN from `startLsn` on,
 * and a piece of a page at the end of the buffer. A buffer that does not begin at a multiple of four bytes is copied, which halves the speed.
 *
 * A page begins with: LSN 8 (two numbers of 4, the high one first), checksum 2, flags 2, lower 2, upper 2 (0: a new page); all little-endian.
 */
export function findBadPages(pages: Uint8Array, { firstBlock, startLsn, pageSizeBytes }: PageCheck): number[] {
  assert(pageSizeBytes >= 128 && pageSizeBytes % 128 === 0);
  const words = wordsOf(pages);
  const pageWords = pageSizeBytes / 4;
  const startHigh = Number(startLsn >> 32n);
  const startLow = Number(startLsn & 0xffff_ffffn);
  const bad: number[] = [];
  for (let index = 0, at = 0; at + pageWords <= words.length; index += 1, at += pageWords) {
    const isNew = (words[at + 3] ?? 0) >>> 16 === 0;
    const high = (words[at] ?? 0) >>> 0;
    const isLater = high > startHigh || (high === startHigh && (words[at + 1] ?? 0) >>> 0 >= startLow);
    if (isNew || isLater) continue;
    const stored = (words[at + 2] ?? 0) & 0xffff;
    if (checksumOf(words, at, at + pageWords, firstBlock + index) !== stored) bad.push(index);
  }
  return bad;
}

function wordsOf(bytes: Uint8Array): Int32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Int32Array(aligned.buffer, aligned.byteOffset, Math.floor(aligned.length / 4));
}

/** FNV-1a's. */
const prime = 16777619;
/** `checksumBaseOffsets`: where each of the 32 lanes begins. */
const baseOffsets = Int32Array.of(
  ...[0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c],
  ...[0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb],
  ...[0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4],
  ...[0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756],
);

/** `pg_checksum_page`: the lanes folded together, with the block number, so that a page in another's place is found. */
function checksumOf(words: Int32Array, from: number, end: number, block: number): number {
  let folded = 0;
  // the stored checksum counts as zero: it stands in lane 2, and what is mixed in twice is gone
  let stored = (words[from + 2] ?? 0) & 0xffff;
  for (let lane = 0; lane < 32; lane += lanesAtOnce) {
    folded ^= foldLanes(words, from + lane, end, lane, stored);
    stored = 0;
  }
  return (((folded ^ block) >>> 0) % 65535) + 1;
}

const lanesAtOnce = 8;

/** Eight lanes side by side: as many as fit into the registers. `mixed` is mixed into the third. */
function foldLanes(words: Int32Array, from: number, end: number, lane: number, mixed: number): number {
  let a = baseOffsets[lane] as number;
  let b = baseOffsets[lane + 1] as number;
  let c = (baseOffsets[lane + 2] as number) ^ mixed;
  let d = baseOffsets[lane + 3] as number;
  let e = baseOffsets[lane + 4] as number;
  let f = baseOffsets[lane + 5] as number;
  let g = baseOffsets[lane + 6] as number;
  let h = baseOffsets[lane + 7] as number;
  for (let at = from; at < end; at += 32) {
    a ^= words[at] as number;
    b ^= words[at + 1] as number;
    c ^= words[at + 2] as number;
    d ^= words[at + 3] as number;
    e ^= words[at + 4] as number;
    f ^= words[at + 5] as number;
    g ^= words[at + 6] as number;
    h ^= words[at + 7] as number;
    a = Math.imul(a, prime) ^ (a >>> 17);
    b = Math.imul(b, prime) ^ (b >>> 17);
    c = Math.imul(c, prime) ^ (c >>> 17);
    d = Math.imul(d, prime) ^ (d >>> 17);
    e = Math.imul(e, prime) ^ (e >>> 17);
    f = Math.imul(f, prime) ^ (f >>> 17);
    g = Math.imul(g, prime) ^ (g >>> 17);
    h = Math.imul(h, prime) ^ (h >>> 17);
  }
  return mixTwice(a) ^ mixTwice(b) ^ mixTwice(c) ^ mixTwice(d) ^ mixTwice(e) ^ mixTwice(f) ^ mixTwice(g) ^ mixTwice(h);
}

/** Two rounds of zeros at the end of each lane. */
function mixTwice(sum: number): number {
  const once = Math.imul(sum, prime) ^ (sum >>> 17);
  return Math.imul(once, prime) ^ (once >>> 17);
}
