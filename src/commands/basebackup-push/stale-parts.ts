/**
 * Which parts of earlier backups an increment leaves behind: what it still needs of them it stores afresh, a bounded amount each time. So a chain
 * may go on for ever, a restore reads never much more than the cluster has, and no part lives for the sake of a few pages. Pure.
 */
import type { PartLine } from '../../archive/files-line.ts';
import type { BytePath } from '../../byte-path.ts';

export interface KnownPart {
  /** As it stands in the list that is being made. */
  readonly line: PartLine;
  /** Of the backup that stored it. */
  readonly startedAt: Date;
  /** How many bytes of files stand in it. */
  readonly liveBytes: number;
}

export interface Scatter {
  readonly parts: ReadonlyMap<number, KnownPart>;
  readonly scattered: readonly { readonly path: BytePath; readonly sizeBytes: number; readonly extents: number }[];
  /** Length of all files. */
  readonly rawBytes: number;
}

/** All parts that are needed hold no more than so many times the bytes of the files: what is above is dead, and read in vain. */
const mostOverhead = 1.3;
/** A part of which less than this share is needed goes in any case. */
const leastLiveShare = 0.25;
/** What is stored afresh for it in one increment: this share of the cluster, and no less than so many bytes. */
const budgetShare = 0.05;
const leastBudgetBytes = 64 * 1024 * 1024;

/** `partsSince`: older ones go, whatever it takes (H48). @returns indexes in the list that is being made, and files to be stored whole. */
export function chooseStale(
  { parts, scattered, rawBytes }: Scatter,
  partsSince: Date | undefined,
): { readonly parts: ReadonlySet<number>; readonly paths: ReadonlySet<BytePath> } {
  const stale = new Set<number>();
  const paths = new Set<BytePath>();
  let heldBytes = 0;
  for (const { line, startedAt } of parts.values()) {
    if (partsSince !== undefined && startedAt < partsSince) stale.add(line.index);
    else heldBytes += line.rawBytes;
  }
  let budgetBytes = Math.max(leastBudgetBytes, rawBytes * budgetShare);
  for (const { path, sizeBytes } of [...scattered].sort((a, b) => b.extents - a.extents)) {
    if (sizeBytes > budgetBytes) continue;
    budgetBytes -= sizeBytes;
    paths.add(path);
  }
  const shareOf = ({ line, liveBytes }: KnownPart) => liveBytes / Math.max(1, line.rawBytes);
  for (const part of [...parts.values()].sort((a, b) => shareOf(a) - shareOf(b))) {
    if (stale.has(part.line.index)) continue;
    if (shareOf(part) >= leastLiveShare && heldBytes <= rawBytes * mostOverhead) break;
    if (part.liveBytes > budgetBytes) continue;
    budgetBytes -= part.liveBytes;
    heldBytes -= part.line.rawBytes - part.liveBytes;
    stale.add(part.line.index);
  }
  return { parts: stale, paths };
}
