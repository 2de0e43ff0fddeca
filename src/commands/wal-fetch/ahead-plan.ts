/** Which segments are fetched ahead: those that follow without a gap, of which it is known that all of each is true (H2). */
import { firstSwitch, type WalBehind } from '../../archive/wal-behind.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { parseWalFileName, type SegmentName, segmentNameAt, segmentStart } from '../../postgres/wal-file-name.ts';
import type { SegmentFetch } from './fetch.ts';
import { readHistory } from './true-part.ts';

export interface PlanOptions {
  readonly behind: WalBehind;
  /** How many at most. */
  readonly most: number;
  readonly segmentSizeBytes: number;
}

/** Behind the requested one, in their order. @throws an error when a history cannot be read: then nothing is known. */
export async function planAhead(
  fetch: SegmentFetch,
  { behind, most, segmentSizeBytes }: PlanOptions,
): Promise<SegmentName[]> {
  const { file, endAt } = fetch;
  const start = segmentStart(file, segmentSizeBytes);
  const stored = new Set(behind.segments.map(({ name }) => name));
  if (start === undefined || stored.size === 0 || most < 1) return [];
  const sizeBytes = BigInt(segmentSizeBytes);
  const end = await knownEnd(fetch, behind, segmentSizeBytes);
  const found: SegmentName[] = [];
  for (let at = start + sizeBytes; found.length < most; at += sizeBytes) {
    const name = segmentNameAt(file.timeline, at, segmentSizeBytes);
    const next = parseWalFileName(name);
    if (next?.kind !== 'segment' || !stored.has(name)) break;
    if (endAt !== undefined && name.slice(8) >= endAt.name.slice(8)) break;
    if (end !== undefined && at + sizeBytes > end) break;
    found.push(next);
  }
  return found;
}

/** Where the timeline that is followed left this one; where that is not known, the first place at which any did. Undefined: nowhere. */
async function knownEnd(
  fetch: SegmentFetch,
  { histories }: WalBehind,
  segmentSizeBytes: number,
): Promise<Lsn | undefined> {
  const { archive, file, timeline, signal } = fetch;
  if (timeline === file.timeline) return undefined;
  if (timeline !== undefined && timeline > file.timeline) {
    const { ancestors } = await readHistory(fetch, timeline);
    return ancestors.find((ancestor) => ancestor.timeline === file.timeline)?.end;
  }
  return firstSwitch(archive, file.timeline, { histories, segmentSizeBytes, signal });
}
