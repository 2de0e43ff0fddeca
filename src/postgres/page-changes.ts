/**
 * Rule (c) of increments: which pages of a relation's main fork are not surely those that the parent has, by what stands in their headers.
 * Pure, and on the safe side: a page that is in doubt counts as changed.
 * @see PostgreSQL `src/include/storage/bufpage.h`, `PageIsVerified` (bufpage.c)
 */
import type { Lsn } from './lsn.ts';
import { findBadPages } from './page.ts';

export interface PageComparison {
  /** `BLCKSZ` */
  readonly pageBytes: number;
  /** The number of the chunk's first page, over all segments of its relation. */
  readonly firstBlock: number;
  /** The parent's start: what changed before it was on disk when the parent read it. */
  readonly sinceLsn: Lsn;
  /** Do the cluster's pages carry checksums? */
  readonly checksums: boolean;
  /**
   * Did the parent's page of that block say that all on it is visible? Undefined: not known, so the page counts as changed.
   * Without it the flag is not looked at: only where it is known that it comes with an LSN (H36).
   */
  readonly isKnownVisible?: ((block: number) => boolean | undefined) | undefined;
}

/**
 * The indexes in `chunk`, ascending, of pages that changed since the parent, and of those that cannot be judged: new ones and zeros, which have no LSN;
 * those whose header is not sane or whose checksum is wrong, which may be torn and are to be read again; and a piece of a page at the end.
 *
 * A page begins with: LSN 8 (two numbers of 4, the high one first), checksum 2, flags 2, lower 2, upper 2, special 2, size and version 2; all
 * little-endian.
 */
export function changedPages(chunk: Uint8Array, comparison: PageComparison): number[] {
  const { pageBytes, firstBlock, sinceLsn, checksums, isKnownVisible } = comparison;
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
  const sinceHigh = Number(sinceLsn >> 32n);
  const sinceLow = Number(sinceLsn & 0xffff_ffffn);
  // of pages whose LSN is older, that are not new: all others are changed anyway
  const bad = checksums ? findBadPages(chunk, { firstBlock, startLsn: sinceLsn, pageSizeBytes: pageBytes }) : [];
  let nextBad = 0;
  const changed: number[] = [];
  for (let index = 0, at = 0; at < chunk.length; index += 1, at += pageBytes) {
    const isBad = bad[nextBad] === index;
    if (isBad) nextBad += 1;
    if (isBad || at + pageBytes > chunk.length || !isSane(view, at, pageBytes)) {
      changed.push(index);
      continue;
    }
    const high = view.getUint32(at, true);
    const isLater = high > sinceHigh || (high === sinceHigh && view.getUint32(at + 4, true) >= sinceLow);
    if (isLater || (isKnownVisible !== undefined && isKnownVisible(firstBlock + index) !== isVisible(view, at))) {
      changed.push(index);
    }
  }
  return changed;
}

/** One bit for each whole page of `chunk`, the lowest of the first byte first: PD_ALL_VISIBLE. */
export function visibleBits(chunk: Uint8Array, pageBytes: number): Uint8Array {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
  const pages = Math.floor(chunk.length / pageBytes);
  const bits = new Uint8Array(Math.ceil(pages / 8));
  for (let index = 0; index < pages; index += 1) {
    if (isVisible(view, index * pageBytes)) bits[index >> 3] = (bits[index >> 3] ?? 0) | (1 << (index & 7));
  }
  return bits;
}

const allVisible = 0x0004;
/** With PD_HAS_FREE_LINES and PD_PAGE_FULL: PostgreSQL knows no others. */
const validFlags = 0x0007;
/** `MAXALIGN`, everywhere that PostgreSQL is packaged for. */
const alignment = 8;

function isVisible(view: DataView, at: number): boolean {
  return (view.getUint16(at + 10, true) & allVisible) !== 0;
}

/** False for new pages too, whose `upper` is 0, and so for zeros. */
function isSane(view: DataView, at: number, pageBytes: number): boolean {
  const lower = view.getUint16(at + 12, true);
  const upper = view.getUint16(at + 14, true);
  const special = view.getUint16(at + 16, true);
  return (
    upper !== 0 &&
    (view.getUint16(at + 10, true) & ~validFlags) === 0 &&
    lower <= upper &&
    upper <= special &&
    special <= pageBytes &&
    special % alignment === 0 &&
    (view.getUint16(at + 18, true) & 0xff00) === pageBytes
  );
}
