/** The checksums of relation pages. @see PostgreSQL `src/include/storage/checksum_impl.h`, `src/include/storage/bufpage.h` */
import assert from 'node:assert';
import type { Lsn } from './lsn.ts';
import { makePageSum, type PageSum } from './page-sum.ts';

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
 * and a piece of a page at the end of the buffer.
 *
 * A page begins with: LSN 8 (two numbers of 4, the high one first), checksum 2, flags 2, lower 2, upper 2 (0: a new page); all little-endian.
 */
export function findBadPages(pages: Uint8Array, { firstBlock, startLsn, pageSizeBytes }: PageCheck): number[] {
  assert(pageSizeBytes >= 128 && pageSizeBytes % 128 === 0 && pageSizeBytes <= maxPageBytes);
  const view = new DataView(pages.buffer, pages.byteOffset, pages.length);
  const startHigh = Number(startLsn >> 32n);
  const startLow = Number(startLsn & 0xffff_ffffn);
  const bad: number[] = [];
  for (let index = 0, at = 0; at + pageSizeBytes <= pages.length; index += 1, at += pageSizeBytes) {
    const isNew = view.getUint16(at + 14, true) === 0;
    const high = view.getUint32(at, true);
    const isLater = high > startHigh || (high === startHigh && view.getUint32(at + 4, true) >= startLow);
    if (isNew || isLater) continue;
    const page = pages.subarray(at, at + pageSizeBytes);
    if (checksumOf(page, firstBlock + index) !== view.getUint16(at + 8, true)) bad.push(index);
  }
  return bad;
}

/** `BLCKSZ` is at most so large. */
const maxPageBytes = 32 * 1024;

let shared: PageSum | undefined;

/**
 * `pg_checksum_page`: with the block number, so that a page in another's place is found. The stored checksum counts as zero.
 */
function checksumOf(page: Uint8Array, block: number): number {
  shared ??= makePageSum();
  const { memory, sum } = shared;
  memory.set(page);
  memory.fill(0, 8, 10);
  return (((sum(page.length) ^ block) >>> 0) % 65535) + 1;
}
