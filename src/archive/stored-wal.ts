/** Which WAL of a cluster is stored: on each timeline, in which ranges; and the histories, as far as they are. One listing and the histories. */
import { collect } from '../bytes.ts';
import { CorruptError, ObjectNotFound } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory, type TimelineHistory } from '../postgres/timeline-history.ts';
import {
  type HistoryName,
  type PartialName,
  parseWalFileName,
  type SegmentName,
  segmentNameAt,
  segmentStart,
} from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { objectKey, walObjectName } from './keys.ts';
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
  /**
   * What is stored and cannot be read, by its name: histories, and segments that somebody has tried to read. It is never the same as absent
   * (H14): where a timeline came from, or whether WAL goes on, is then not known.
   */
  readonly unreadable: ReadonlyMap<string, CorruptError>;
}

/** `segmentSizeBytes` where it is known, from a manifest; else the first stored segment tells. Undefined when no segment is stored. */
export async function readStoredWal(
  archive: Archive,
  { segmentSizeBytes, ...options }: RequestOptions & { readonly segmentSizeBytes?: number | undefined },
): Promise<StoredWal | undefined> {
  const { storage, systemIdentifier } = archive;
  const timelines = new Map<number, Building>();
  const histories = new Map<number, TimelineHistory>();
  const unreadable = new Map<string, CorruptError>();
  const waiting: { file: SegmentName | PartialName; storedBytes: number; modifiedAt: Date }[] = [];
  let sizeBytes = segmentSizeBytes;
  for await (const { key, sizeBytes: storedBytes, modifiedAt } of storage.list(
    objectKey(systemIdentifier, 'wal/'),
    options,
  )) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file === undefined || key !== objectKey(systemIdentifier, walObjectName(file))) continue; // not ours
    if (file.kind === 'history') {
      const history = await readHistory(archive, file, options);
      if (history instanceof CorruptError) unreadable.set(file.name, history);
      else histories.set(file.timeline, history);
    }
    if (file.kind !== 'segment' && file.kind !== 'partial') continue;
    if (file.kind === 'partial' && file.name !== `${file.segment}.partial`) continue; // nobody asks for those beside it (H12)
    sizeBytes ??= file.kind === 'segment' ? await sizeOf(archive, file, options) : undefined;
    waiting.push({ file, storedBytes, modifiedAt });
    if (sizeBytes === undefined) continue; // a partial one before any other, or one that cannot be read
    for (const one of waiting.splice(0)) {
      const building = timelines.get(one.file.timeline) ?? new Building(one.file.timeline, sizeBytes);
      timelines.set(one.file.timeline, building);
      building.add(one.file.kind, segmentStart(one.file, sizeBytes) ?? 0n, one);
    }
  }
  return sizeBytes === undefined ? undefined : { segmentSizeBytes: sizeBytes, timelines, histories, unreadable };
}

async function sizeOf(archive: Archive, file: SegmentName, options: RequestOptions): Promise<number | undefined> {
  try {
    return (await readWalHeader(archive, file, options)).bytes;
  } catch (error) {
    // deleted since it was listed, or damaged: another one tells
    if (error instanceof ObjectNotFound || error instanceof CorruptError) return undefined;
    throw error;
  }
}

/** Or why it cannot be read. A deletion never removes one, so one that was listed is there. */
async function readHistory(
  archive: Archive,
  file: HistoryName,
  options: RequestOptions,
): Promise<TimelineHistory | CorruptError> {
  try {
    const { content } = await openWalFile(archive, file, options);
    return parseTimelineHistory(file.timeline, (await collect(content, limits.smallFileBytes)).toString('utf8'));
  } catch (error) {
    if (error instanceof CorruptError) return error;
    throw error;
  }
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

/** The same without a segment that turned out to be unreadable: recovery cannot pass it, whatever is stored behind. */
export function withoutSegment(wal: StoredWal, name: string, error: CorruptError): StoredWal {
  const unreadable = new Map(wal.unreadable).set(name, error);
  const file = parseWalFileName(name);
  if (file === undefined || file.kind === 'history') return { ...wal, unreadable };
  const startLsn = segmentStart(file, wal.segmentSizeBytes) ?? 0n;
  const endLsn = startLsn + BigInt(wal.segmentSizeBytes);
  const timelines = new Map(wal.timelines);
  const stored = timelines.get(file.timeline);
  if (stored !== undefined) {
    const [ranges, partials] =
      file.kind === 'segment'
        ? [stored.ranges.flatMap((range) => without(range, { startLsn, endLsn })), stored.partials]
        : [stored.ranges, stored.partials.filter((lsn) => lsn !== startLsn)];
    timelines.set(file.timeline, { ...stored, ranges, partials });
  }
  return { ...wal, timelines, unreadable };
}

function without(range: StoredRange, { startLsn, endLsn }: StoredRange): StoredRange[] {
  if (startLsn >= range.endLsn || endLsn <= range.startLsn) return [range];
  const parts = [
    { startLsn: range.startLsn, endLsn: startLsn },
    { startLsn: endLsn, endLsn: range.endLsn },
  ];
  return parts.filter((part) => part.startLsn < part.endLsn);
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
