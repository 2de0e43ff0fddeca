/**
 * Which moments can be restored: the way of a timeline through its ancestors, and how far WAL is stored along it without a hole. Pure.
 * @see PostgreSQL `xlogrecovery.c`, `XLogFileReadAnyTLI`: of the timelines on the way the newest one that has begun by a segment is asked first
 */
import type { Lsn } from '../postgres/lsn.ts';
import type { TimelineHistory } from '../postgres/timeline-history.ts';
import { formatHistoryName, parseWalFileName } from '../postgres/wal-file-name.ts';
import { hasSegment, nameAt, type StoredWal } from './stored-wal.ts';

/** A timeline as far as it is on the way: from `startLsn` on, and before `endLsn` where the next one leaves it. */
export interface Leg {
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn | undefined;
}

/** The oldest timeline first. Undefined when the timeline's history is not stored, and so nobody knows where it came from. */
export function wayTo(wal: StoredWal, timeline: number): readonly Leg[] | undefined {
  const history = wal.histories.get(timeline);
  if (history !== undefined) return wayOf(history);
  return timeline === 1 ? wayOf({ timeline, ancestors: [] }) : undefined; // the first one has no history
}

/** As a timeline's own history tells it. */
export function wayOf({ timeline, ancestors }: TimelineHistory): readonly Leg[] {
  const legs: Leg[] = [];
  let startLsn = 0n;
  for (const { timeline: ancestor, end } of ancestors) {
    legs.push({ timeline: ancestor, startLsn, endLsn: end });
    startLsn = end;
  }
  return [...legs, { timeline, startLsn, endLsn: undefined }];
}

/**
 * The way to a timeline whose own history is not there or cannot be read, as a descendant's tells it. PostgreSQL cannot follow it; but what
 * was written on it can be told. Undefined when nobody tells.
 */
export function toldWayTo(wal: StoredWal, timeline: number): readonly Leg[] | undefined {
  const own = wayTo(wal, timeline);
  if (own !== undefined) return own;
  for (const child of wal.histories.keys()) {
    const legs = wayTo(wal, child) ?? [];
    const index = legs.findIndex((leg) => leg.timeline === timeline);
    const [last] = legs.slice(index, index + 1);
    if (index >= 0 && last !== undefined) return [...legs.slice(0, index), { ...last, endLsn: undefined }];
  }
  return undefined;
}

/** Is the point on the way: was the way on this timeline when it was there? */
export function isOnWay(way: readonly Leg[], timeline: number, lsn: Lsn): boolean {
  const leg = way.find((one) => one.timeline === timeline);
  return leg !== undefined && lsn >= leg.startLsn && (leg.endLsn === undefined || lsn <= leg.endLsn);
}

/** A stored segment that recovery would read. */
export interface ChainSegment {
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly name: string;
}

export interface Hole {
  /** The first segment that is missing, and the next file that is there: a segment, whole or `.partial`, or the history that tells of more. */
  readonly missing: string;
  readonly next: string;
  readonly nextLsn: Lsn;
  /**
   * `missing` unless told otherwise. `unreadable`: the segment is there, and is `next` itself. `unknown`: WAL ends there for all that is
   * stored, and the history `next`, which cannot be read, may tell of more.
   */
  readonly kind?: 'unreadable' | 'unknown';
}

/** For people, as a clause. */
export function describeHole({ missing, next, kind }: Hole): string {
  if (kind === 'unreadable') return `"${missing}" cannot be read`;
  if (kind === 'unknown') return `whether WAL goes on with "${missing}" cannot be told, since "${next}" cannot be read`;
  return `"${missing}" is missing, and "${next}" is there`;
}

/** WAL along a way, without a gap from where it was asked for. */
export interface Chain {
  readonly segments: readonly ChainSegment[];
  /** WAL is there before this point; records may end earlier. What the last segment holds behind it is not of this way. */
  readonly endLsn: Lsn;
  /** Undefined where the chain ends because nothing more is stored. */
  readonly hole: Hole | undefined;
}

/** Follows the way from the segment that holds `startLsn`, as far as PostgreSQL gets with what wal-fetch answers (H1, H2). */
export function followWay(wal: StoredWal, way: readonly Leg[], startLsn: Lsn): Chain {
  const size = BigInt(wal.segmentSizeBytes);
  const segments: ChainSegment[] = [];
  let start = (startLsn / size) * size;
  for (; ; start += size) {
    const { timeline } = way[legAt(way, start, size)] as Leg;
    if (!hasSegment(wal, timeline, start)) break;
    segments.push({ timeline, startLsn: start, name: nameAt(wal, timeline, start) });
  }
  const hole = unreadableAt(wal, way, start) ?? storedFurther(wal, way, start);
  const rest = hole === undefined ? lastPart(wal, way, start) : undefined;
  if (rest?.segment !== undefined) segments.push(rest.segment);
  return { segments, endLsn: rest?.endLsn ?? (start > startLsn ? start : startLsn), hole: hole ?? rest?.hole };
}

/** PostgreSQL asks for the newest timeline's segment first, and stops where that is damaged. */
function unreadableAt(wal: StoredWal, way: readonly Leg[], start: Lsn): Hole | undefined {
  const { timeline } = way[legAt(way, start, BigInt(wal.segmentSizeBytes))] as Leg;
  return unreadable(wal, nameAt(wal, timeline, start), start);
}

function unreadable(wal: StoredWal, name: string, startLsn: Lsn): Hole | undefined {
  return wal.unreadable.has(name) ? { missing: name, next: name, nextLsn: startLsn, kind: 'unreadable' } : undefined;
}

/** Which leg is the newest that has begun by the end of the segment. */
function legAt(way: readonly Leg[], start: Lsn, size: bigint): number {
  const index = way.findLastIndex((one) => one.startLsn / size <= start / size);
  if (index < 0) throw new Error('a way has no beginning');
  return index;
}

/** The first segment of the way that is stored, whole or in part, behind a missing one; where a later leg is to come there must be one. */
function storedFurther(wal: StoredWal, way: readonly Leg[], start: Lsn): Hole | undefined {
  const size = BigInt(wal.segmentSizeBytes);
  const index = legAt(way, start, size);
  const legs = way.slice(index);
  const missing = nameAt(wal, legs[0]?.timeline ?? 0, start);
  let next: Omit<Hole, 'missing'> | undefined;
  for (const { timeline, startLsn, endLsn } of legs) {
    const { ranges = [], partials = [] } = wal.timelines.get(timeline) ?? {};
    const first = [start + size, (startLsn / size) * size].reduce((a, b) => (a > b ? a : b));
    const whole = ranges.map((range) => ({
      lsn: range.startLsn > first ? range.startLsn : first,
      end: range.endLsn,
      ending: '',
    }));
    const parts = partials.map((lsn) => ({ lsn, end: lsn + size, ending: '.partial' }));
    for (const { lsn, end, ending } of [...whole, ...parts]) {
      const isAhead = lsn >= first && lsn < end && (endLsn === undefined || lsn < endLsn);
      const isNearest = next === undefined || lsn < next.nextLsn || (lsn === next.nextLsn && ending === '');
      if (!isAhead || !isNearest) continue;
      next = { next: `${nameAt(wal, timeline, lsn)}${ending}`, nextLsn: lsn };
    }
  }
  const [, later] = legs;
  if (later !== undefined) next ??= { next: formatHistoryName(later.timeline), nextLsn: later.startLsn };
  return next === undefined ? undefined : { missing, ...next };
}

interface LastPart {
  readonly segment?: ChainSegment;
  readonly endLsn?: Lsn;
  readonly hole?: Hole;
}

/**
 * What there is of the segment in which the WAL of the way ends: an unfinished one that a promotion left; or an older timeline's, up to
 * where the new one left it. A history that says that WAL was there, where there is none, tells of a hole.
 */
function lastPart(wal: StoredWal, way: readonly Leg[], start: Lsn): LastPart | undefined {
  for (let index = way.length - 1; index >= 0; index -= 1) {
    const { timeline } = way[index] as Leg;
    const next = way[index + 1]; // an older timeline counts up to where that left it
    if (next !== undefined && next.startLsn <= start) return undefined;
    const name = nameAt(wal, timeline, start);
    const segment = { timeline, startLsn: start, name };
    const damage = unreadable(wal, name, start);
    if (damage !== undefined) return { hole: damage };
    if (next !== undefined && hasSegment(wal, timeline, start)) return { segment, endLsn: next.startLsn };
    const later = wal.timelines.get(timeline)?.ranges.find(({ startLsn }) => startLsn > start); // wal-fetch calls that a hole
    if (later !== undefined) {
      return { hole: { missing: name, next: nameAt(wal, timeline, later.startLsn), nextLsn: later.startLsn } };
    }
    const unknown = unreadableHistoryAfter(wal, timeline); // it may say that the timeline went further
    if (unknown !== undefined) return { hole: { missing: name, next: unknown, nextLsn: start, kind: 'unknown' } };
    const ends = endsOf(wal, timeline, start);
    const [end] = ends;
    if (end === undefined) continue;
    const isPart = ends.every(({ lsn }) => lsn === end.lsn) && end.lsn <= start + BigInt(wal.segmentSizeBytes);
    const damagedPart = unreadable(wal, `${name}.partial`, start);
    if (isPart && damagedPart !== undefined) return { hole: { ...damagedPart, missing: name } };
    if (isPart && wal.timelines.get(timeline)?.partials.includes(start) === true) {
      return { segment: { ...segment, name: `${name}.partial` }, endLsn: end.lsn };
    }
    return { hole: { missing: name, next: formatHistoryName(end.child), nextLsn: end.lsn } };
  }
  return undefined;
}

/** Only later timelines can descend from one. */
function unreadableHistoryAfter(wal: StoredWal, timeline: number): string | undefined {
  return [...wal.unreadable.keys()].find((name) => {
    const file = parseWalFileName(name);
    return file?.kind === 'history' && file.timeline > timeline;
  });
}

/** Where stored histories say that a timeline ended, behind `start`. */
function endsOf(wal: StoredWal, timeline: number, start: Lsn) {
  const ends: { readonly child: number; readonly lsn: Lsn }[] = [];
  for (const [child, { ancestors }] of wal.histories) {
    const end = ancestors.find((one) => one.timeline === timeline)?.end;
    if (end !== undefined && end > start) ends.push({ child, lsn: end });
  }
  return ends;
}
