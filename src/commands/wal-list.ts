/** wal-t wal-list: the timelines, and which WAL of each is stored. */
import { nameAt, readStoredWal, type StoredWal } from '../archive/stored-wal.ts';
import { wayTo } from '../archive/window.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';

export interface ListedTimeline {
  readonly timeline: number;
  readonly parent: { readonly timeline: number; readonly switchLsn: Lsn } | undefined;
  /** Is its history stored? The first timeline has none. */
  readonly hasHistory: boolean;
  readonly segments: number;
  readonly storedBytes: number;
  readonly lastStoredAt: string | undefined;
  readonly ranges: readonly { readonly first: string; readonly last: string; readonly segments: number }[];
  /** Between two ranges, and behind the last where another timeline left this one later: the first missing segment, and how many are. */
  readonly holes: readonly { readonly first: string; readonly segments: number }[];
  readonly partials: readonly string[];
}

export interface WalList {
  readonly systemIdentifier: string;
  readonly segmentSizeBytes: number | undefined;
  readonly timelines: readonly ListedTimeline[];
}

export async function walList(context: Context): Promise<WalList> {
  const archive = await openArchive(context);
  const { systemIdentifier } = archive;
  const wal = await readStoredWal(archive, context);
  if (wal === undefined) return { systemIdentifier, segmentSizeBytes: undefined, timelines: [] };
  const { segmentSizeBytes, timelines, histories, unreadable } = wal;
  for (const error of unreadable.values()) context.log.warning(error.message, error);
  const size = BigInt(segmentSizeBytes);
  const numbers = [...new Set([...timelines.keys(), ...histories.keys()])].sort((a, b) => a - b);
  const listed = numbers.map((timeline): ListedTimeline => {
    const stored = timelines.get(timeline);
    const before = wayTo(wal, timeline)?.at(-2);
    const ranges = stored?.ranges ?? [];
    return {
      timeline,
      parent: before === undefined ? undefined : { timeline: before.timeline, switchLsn: before.endLsn ?? 0n },
      hasHistory: timeline === 1 || histories.has(timeline),
      segments: stored?.segments ?? 0,
      storedBytes: stored?.storedBytes ?? 0,
      lastStoredAt: stored?.lastStoredAt?.toISOString(),
      ranges: ranges.map(({ startLsn, endLsn }) => ({
        first: nameAt(wal, timeline, startLsn),
        last: nameAt(wal, timeline, endLsn - 1n),
        segments: Number((endLsn - startLsn) / size),
      })),
      holes: ranges.flatMap(({ endLsn }, index) => {
        const next = ranges[index + 1]?.startLsn ?? (leftAt(wal, timeline) / size) * size;
        if (next <= endLsn) return [];
        return [{ first: nameAt(wal, timeline, endLsn), segments: Number((next - endLsn) / size) }];
      }),
      partials: (stored?.partials ?? []).map((lsn) => `${nameAt(wal, timeline, lsn)}.partial`),
    };
  });
  return { systemIdentifier, segmentSizeBytes, timelines: listed };
}

/** Where the last of its descendants left the timeline; 0 when there is none. */
function leftAt({ histories }: StoredWal, timeline: number): Lsn {
  const ends = [...histories.values()]
    .flatMap(({ ancestors }) => ancestors)
    .filter((ancestor) => ancestor.timeline === timeline)
    .map(({ end }) => end);
  return ends.reduce((last, end) => (end > last ? end : last), 0n);
}
