/** Which WAL of a cluster is stored: on each timeline, in which ranges; and the histories, as far as they are. Two listings and the histories. */
import { collect } from '../bytes.ts';
import { ObjectNotFound } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory, type TimelineHistory } from '../postgres/timeline-history.ts';
import { parseWalFileName, type SegmentName, segmentNameAt, segmentStart } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { historyPrefix, objectKey } from './keys.ts';
import { openWalFile, readWalHeader } from './wal-archive.ts';

/** Full segments that follow each other: WAL from `startLsn` on and before `endLsn`. */
export interface StoredRange {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface StoredTimeline {
  readonly timeline: number;
  /** Ascending, with a hole between each two. */
  readonly ranges: readonly StoredRange[];
  /** Where segments begin of which a promotion left an unfinished one. */
  readonly partials: readonly Lsn[];
  readonly segments: number;
  readonly storedBytes: number;
  /** When the storage received the last of them. */
  readonly lastStoredAt: Date | undefined;
}

export interface StoredWal {
  readonly segmentSizeBytes: number;
  readonly timelines: ReadonlyMap<number, StoredTimeline>;
  /** By the timeline that they are of; the first one has none. */
  readonly histories: ReadonlyMap<number, TimelineHistory>;
}

/** `segmentSizeBytes` where it is known, from a manifest; else the first stored segment tells. Undefined when no segment is stored. */
export async function readStoredWal(
  archive: Archive,
  { segmentSizeBytes, ...options }: RequestOptions & { readonly segmentSizeBytes?: number | undefined },
): Promise<StoredWal | undefined> {
  const { storage, systemIdentifier } = archive;
  const timelines = new Map<number, Building>();
  const histories = new Map<number, TimelineHistory>();
  const historyKeys = historyPrefix(systemIdentifier);
  let sizeBytes = segmentSizeBytes;
  for await (const { key, sizeBytes: storedBytes, modifiedAt } of storage.list(
    objectKey(systemIdentifier, 'wal/'),
    options,
  )) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file?.kind === 'history' && key.startsWith(historyKeys)) {
      const history = await readHistory(archive, file.timeline, options);
      if (history !== undefined) histories.set(file.timeline, history);
    }
    if (file?.kind !== 'segment' && file?.kind !== 'partial') continue;
    sizeBytes ??= file.kind === 'segment' ? await sizeOf(archive, file, options) : undefined;
    if (sizeBytes === undefined) continue; // a partial one before any other
    const building = timelines.get(file.timeline) ?? new Building(file.timeline, sizeBytes);
    timelines.set(file.timeline, building);
    building.add(file.kind, segmentStart(file, sizeBytes) ?? 0n, { storedBytes, modifiedAt });
  }
  return sizeBytes === undefined ? undefined : { segmentSizeBytes: sizeBytes, timelines, histories };
}

async function sizeOf(archive: Archive, file: SegmentName, options: RequestOptions): Promise<number | undefined> {
  try {
    return (await readWalHeader(archive, file, options)).bytes;
  } catch (error) {
    if (error instanceof ObjectNotFound) return undefined; // deleted since it was listed
    throw error;
  }
}

async function readHistory(
  archive: Archive,
  timeline: number,
  options: RequestOptions,
): Promise<TimelineHistory | undefined> {
  const file = parseWalFileName(`${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`);
  if (file === undefined) return undefined;
  const { content } = await openWalFile(archive, file, options);
  return parseTimelineHistory(timeline, (await collect(content, limits.smallFileBytes)).toString('utf8'));
}

/** A timeline whose segments come in the order of their names. */
class Building implements StoredTimeline {
  readonly timeline: number;
  readonly ranges: { startLsn: Lsn; endLsn: Lsn }[] = [];
  readonly partials: Lsn[] = [];
  segments = 0;
  storedBytes = 0;
  lastStoredAt: Date | undefined;
  readonly #sizeBytes: bigint;

  constructor(timeline: number, sizeBytes: number) {
    this.timeline = timeline;
    this.#sizeBytes = BigInt(sizeBytes);
  }

  add(
    kind: 'segment' | 'partial',
    startLsn: Lsn,
    { storedBytes, modifiedAt }: { storedBytes: number; modifiedAt: Date },
  ): void {
    this.storedBytes += storedBytes;
    if (this.lastStoredAt === undefined || modifiedAt > this.lastStoredAt) this.lastStoredAt = modifiedAt;
    if (kind === 'partial') {
      this.partials.push(startLsn);
      return;
    }
    this.segments += 1;
    const endLsn = startLsn + this.#sizeBytes;
    const last = this.ranges.at(-1);
    if (last?.endLsn === startLsn) last.endLsn = endLsn;
    else this.ranges.push({ startLsn, endLsn });
  }
}

/** Is the segment that begins at `startLsn` stored whole? */
export function hasSegment(wal: StoredWal, timeline: number, startLsn: Lsn): boolean {
  const ranges = wal.timelines.get(timeline)?.ranges ?? [];
  return ranges.some((range) => range.startLsn <= startLsn && startLsn < range.endLsn);
}

/** The name of the segment that holds an LSN. */
export function nameAt(wal: StoredWal, timeline: number, lsn: Lsn): string {
  return segmentNameAt(timeline, lsn, wal.segmentSizeBytes);
}
