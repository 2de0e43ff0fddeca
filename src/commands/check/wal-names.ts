/** What the keys alone tell of the archived WAL, by one listing: a host without identity can do it. */
import type { Archive } from '../../archive/archive.ts';
import { objectKey } from '../../archive/keys.ts';
import type { StoredTimeline, StoredWal } from '../../archive/stored-wal.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { parseWalFileName, type SegmentName } from '../../postgres/wal-file-name.ts';
import type { RequestOptions } from '../../storage/storage.ts';

export interface NewestWal {
  /** The last full segment of the timeline that was stored to last. */
  readonly file: SegmentName;
  /** When the storage received it. */
  readonly storedAt: Date;
  /** Full segments, of all timelines. */
  readonly segments: number;
}

export interface WalNames {
  /** Undefined where no full segment is stored. */
  readonly newest: NewestWal | undefined;
  /** Of each timeline with full segments: runs of names that follow each other, within one log file of 4 GiB each; ascending. */
  readonly runs: ReadonlyMap<number, readonly Run[]>;
  /** Timelines of which there is a full or unfinished segment, and those whose history is stored. */
  readonly timelines: ReadonlySet<number>;
  readonly histories: ReadonlySet<number>;
}

/** In PostgreSQL's words: `log` is the middle of a segment's name, `seg` its end. */
export interface Run {
  readonly log: number;
  readonly firstSeg: number;
  readonly lastSeg: number;
}

export async function readWalNames(
  { storage, systemIdentifier }: Pick<Archive, 'storage' | 'systemIdentifier'>,
  options: RequestOptions,
): Promise<WalNames> {
  const newestOf = new Map<number, { file: SegmentName; storedAt: Date }>();
  const runs = new Map<number, { log: number; firstSeg: number; lastSeg: number }[]>();
  const timelines = new Set<number>();
  const histories = new Set<number>();
  let segments = 0;
  for await (const { key, modifiedAt } of storage.list(objectKey(systemIdentifier, 'wal/'), options)) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file === undefined) continue;
    if (file.kind === 'history') histories.add(file.timeline);
    if (file.kind !== 'segment' && file.kind !== 'partial') continue;
    timelines.add(file.timeline);
    if (file.kind !== 'segment') continue;
    segments += 1;
    newestOf.set(file.timeline, { file, storedAt: modifiedAt });
    const own = runs.get(file.timeline) ?? [];
    runs.set(file.timeline, own);
    const last = own.at(-1);
    if (last?.log === file.log && last.lastSeg + 1 === file.seg) last.lastSeg = file.seg;
    else own.push({ log: file.log, firstSeg: file.seg, lastSeg: file.seg });
  }
  const [newest] = [...newestOf.values()].sort(
    (a, b) => b.storedAt.getTime() - a.storedAt.getTime() || b.file.timeline - a.file.timeline,
  );
  return { newest: newest === undefined ? undefined : { ...newest, segments }, runs, timelines, histories };
}

const mebibyte = 1024 * 1024;

/**
 * The segment size as far as names tell it: where a run goes over from one log file to the next, the first ends with the last segment
 * that it can have. Undefined where none does.
 */
export function segmentSizeIn({ runs }: WalNames): number | undefined {
  let size: number | undefined;
  for (const own of runs.values()) {
    for (const [index, { log, firstSeg }] of own.entries()) {
      const before = own[index - 1];
      if (before === undefined || before.log + 1 !== log || firstSeg !== 0) continue;
      const perLog = before.lastSeg + 1;
      const isPossible = perLog >= 4 && perLog <= 4096 && Number.isInteger(Math.log2(perLog));
      if (isPossible) size = Math.min(size ?? 1024 * mebibyte, (4096 / perLog) * mebibyte);
    }
  }
  return size;
}

/** As if no history were stored, nor any unfinished segment. */
export function storedWalOf({ runs }: WalNames, segmentSizeBytes: number): StoredWal {
  const size = BigInt(segmentSizeBytes);
  const timelines = new Map<number, StoredTimeline>();
  for (const [timeline, own] of runs) {
    const ranges: { startLsn: Lsn; endLsn: Lsn }[] = [];
    for (const { log, firstSeg, lastSeg } of own) {
      const startLsn = (BigInt(log) << 32n) + BigInt(firstSeg) * size;
      const endLsn = (BigInt(log) << 32n) + BigInt(lastSeg + 1) * size;
      const last = ranges.at(-1);
      if (last?.endLsn === startLsn) last.endLsn = endLsn;
      else ranges.push({ startLsn, endLsn });
    }
    const unknown = { partials: [], segments: 0, storedBytes: 0, lastStoredAt: undefined };
    timelines.set(timeline, { timeline, ranges, ...unknown });
  }
  return { segmentSizeBytes, timelines, histories: new Map(), unreadable: new Map() };
}
