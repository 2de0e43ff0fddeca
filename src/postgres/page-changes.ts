/** Which pages of a relation were changed since an LSN, by looking at them. @see PostgreSQL `src/include/storage/bufpage.h` */
import type { Lsn } from './lsn.ts';
import { findBadPages } from './page.ts';

export interface PageComparison {
  /** The number of the buffer's first page in its relation, over all segments. */
  readonly firstBlock: number;
  /** Pages with an LSN from here on were changed. */
  readonly sinceLsn: Lsn;
  readonly pageSizeBytes: number;
  /** Does the cluster have page checksums? A page whose checksum is wrong counts as changed. */
  readonly checksums: boolean;
  /** PD_ALL_VISIBLE of a page as it was, where the cluster may set it without an LSN (H36). */
  readonly wasVisible?: ((block: number) => boolean) | undefined;
}

/** PD_ALL_VISIBLE in pd_flags. */
const allVisibleFlag = 0x0004;
const validFlags = 0x0007;
const pageHeaderBytes = 24;

/** The indexes, in this buffer, of the pages that are not surely as they were; a piece of a page at its end is none of them. */
export function changedPages(pages: Uint8Array, comparison: PageComparison): number[] {
  const { firstBlock, sinceLsn, pageSizeBytes, checksums, wasVisible } = comparison;
  const view = new DataView(pages.buffer, pages.byteOffset, pages.length);
  const bad = checksums
    ? new Set(findBadPages(pages, { firstBlock, startLsn: sinceLsn, pageSizeBytes }))
    : new Set<number>();
  const high = Number(sinceLsn >> 32n);
  const low = Number(sinceLsn & 0xffff_ffffn);
  const changed: number[] = [];
  for (let index = 0, at = 0; at + pageSizeBytes <= pages.length; index += 1, at += pageSizeBytes) {
    const pageHigh = view.getUint32(at, true);
    const isLater = pageHigh > high || (pageHigh === high && view.getUint32(at + 4, true) >= low);
    const flags = view.getUint16(at + 10, true);
    const [lower, upper, special] = [at + 12, at + 14, at + 16].map((offset) => view.getUint16(offset, true)) as [
      number,
      number,
      number,
    ];
    const isSane =
      (flags & ~validFlags) === 0 &&
      lower >= pageHeaderBytes &&
      lower <= upper &&
      upper <= special &&
      special <= pageSizeBytes;
    const isOther = wasVisible !== undefined && wasVisible(firstBlock + index) !== ((flags & allVisibleFlag) !== 0);
    if (isLater || upper === 0 || !isSane || isOther || bad.has(index)) changed.push(index);
  }
  return changed;
}

/** PD_ALL_VISIBLE of each whole page. */
export function visiblePages(pages: Uint8Array, pageSizeBytes: number): boolean[] {
  const view = new DataView(pages.buffer, pages.byteOffset, pages.length);
  return Array.from(
    { length: Math.floor(pages.length / pageSizeBytes) },
    (_, index) => (view.getUint16(index * pageSizeBytes + 10, true) & allVisibleFlag) !== 0,
  );
}
