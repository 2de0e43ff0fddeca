/** The way to a timeline, and how far PostgreSQL gets along it with what wal-fetch answers: against a walk that asks for one segment after another. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nameAt, type StoredTimeline, type StoredWal } from '../../src/archive/stored-wal.ts';
import { followWay, isOnWay, type Leg, wayTo } from '../../src/archive/window.ts';
import type { Lsn } from '../../src/postgres/lsn.ts';

const segmentSizeBytes = 2 ** 20;
const size = BigInt(segmentSizeBytes);
/** A point by its segment and the share of it that is before. */
const point = (place: number): Lsn => BigInt(Math.round(place * segmentSizeBytes));

interface World {
  /** The segments that are stored, by timeline. */
  readonly whole: Readonly<Record<number, readonly number[]>>;
  readonly partial?: Readonly<Record<number, readonly number[]>>;
  /** Where each timeline came from: `[ancestor, place]`, the oldest first. */
  readonly histories?: Readonly<Record<number, readonly (readonly [timeline: number, place: number])[]>>;
}

function storedWal({ whole, partial = {}, histories = {} }: World): StoredWal {
  const timelines = new Map<number, StoredTimeline>();
  for (const timeline of new Set([...Object.keys(whole), ...Object.keys(partial)].map(Number))) {
    const ranges: { startLsn: Lsn; endLsn: Lsn }[] = [];
    for (const segment of [...new Set(whole[timeline] ?? [])].sort((a, b) => a - b)) {
      const last = ranges.at(-1);
      if (last?.endLsn === point(segment)) last.endLsn += size;
      else ranges.push({ startLsn: point(segment), endLsn: point(segment + 1) });
    }
    const partials = (partial[timeline] ?? []).map(point);
    const rest = { segments: 0, storedBytes: 0, lastStoredAt: undefined };
    timelines.set(timeline, { timeline, ranges, partials, ...rest });
  }
  const parsed = Object.entries(histories).map(([timeline, ancestors]) => {
    const switches = ancestors.map(([ancestor, place]) => ({ timeline: ancestor, end: point(place) }));
    return [Number(timeline), { timeline: Number(timeline), ancestors: switches }] as const;
  });
  return { segmentSizeBytes, timelines, histories: new Map(parsed), unreadable: new Map() };
}

/** Followed from the middle of a segment: names as `timeline/segment`, where it ends, and its hole. */
function follow(world: World, timeline: number, from = 1.5) {
  const wal = storedWal(world);
  const way = wayTo(wal, timeline);
  if (way === undefined) throw new Error(`there is no way to ${timeline}`);
  const { segments, endLsn, hole } = followWay(wal, way, point(from));
  const short = segments.map(({ timeline: own, startLsn, name }) => {
    return `${own}/${startLsn / size}${name.endsWith('.partial') ? 'p' : ''}`;
  });
  return { segments: short.join(' '), end: Number(endLsn) / segmentSizeBytes, hole: hole && [hole.missing, hole.next] };
}

const name = (timeline: number, segment: number) => nameAt(storedWal({ whole: {} }), timeline, point(segment));
const second = { 2: [[1, 4.25]] } as const;
const third = {
  ...second,
  3: [
    [1, 4.25],
    [2, 6.5],
  ],
} as const;

describe('the way to a timeline', () => {
  it('leads through its ancestors, each from where the one before was left', () => {
    const wal = storedWal({ whole: {}, histories: third });
    const first: Leg = { timeline: 1, startLsn: 0n, endLsn: point(4.25) };
    expect(wayTo(wal, 1)).toEqual([{ ...first, endLsn: undefined }]);
    expect(wayTo(wal, 3)).toEqual([
      first,
      { timeline: 2, startLsn: point(4.25), endLsn: point(6.5) },
      { timeline: 3, startLsn: point(6.5), endLsn: undefined },
    ]);
    expect(wayTo(wal, 4)).toBeUndefined();
  });

  it.each([
    { timeline: 1, place: 4, on: true },
    { timeline: 1, place: 4.25, on: true },
    { timeline: 1, place: 4.5, on: false },
    { timeline: 2, place: 4, on: false },
    { timeline: 2, place: 4.25, on: true },
    { timeline: 2, place: 6.75, on: false },
    { timeline: 3, place: 100, on: true },
    { timeline: 4, place: 5, on: false },
  ])('has a point of it on timeline $timeline at $place: $on', ({ timeline, place, on }) => {
    const way = wayTo(storedWal({ whole: {}, histories: third }), 3) ?? [];
    expect(isOnWay(way, timeline, point(place))).toBe(on);
  });
});

describe('WAL along a way', () => {
  interface Row {
    readonly what: string;
    readonly world: World;
    readonly timeline: number;
    readonly segments: string;
    readonly end: number;
    readonly hole?: readonly [missing: string, next: string];
  }
  it.each<Row>([
    { what: 'to its end', world: { whole: { 1: [1, 2, 3] } }, timeline: 1, segments: '1/1 1/2 1/3', end: 4 },
    { what: 'of which nothing is stored', world: { whole: {} }, timeline: 1, segments: '', end: 1.5 },
    {
      what: 'up to a hole',
      world: { whole: { 1: [1, 2, 5] } },
      timeline: 1,
      segments: '1/1 1/2',
      end: 3,
      hole: [name(1, 3), name(1, 5)],
    },
    {
      what: 'past a switch, on the new timeline from the segment of the switch on',
      world: { whole: { 1: [1, 2, 3, 4, 5, 6], 2: [4, 5] }, histories: second },
      timeline: 2,
      segments: '1/1 1/2 1/3 2/4 2/5',
      end: 6,
    },
    {
      what: 'H2: up to the switch in the old timeline’s diverged segment, while the new one has none',
      world: { whole: { 1: [1, 2, 3, 4, 5] }, histories: second },
      timeline: 2,
      segments: '1/1 1/2 1/3 1/4',
      end: 4.25,
    },
    {
      what: 'up to the switch in what the promotion left of the segment',
      world: { whole: { 1: [1, 2, 3] }, partial: { 1: [4] }, histories: second },
      timeline: 2,
      segments: '1/1 1/2 1/3 1/4p',
      end: 4.25,
    },
    {
      what: 'of the old timeline alone, into what the promotion left',
      world: { whole: { 1: [1, 2, 3], 2: [4, 5] }, partial: { 1: [4] }, histories: second },
      timeline: 1,
      segments: '1/1 1/2 1/3 1/4p',
      end: 4.25,
    },
    {
      what: 'H1: that ends where a history says that it went further',
      world: { whole: { 1: [1, 2] }, histories: second },
      timeline: 1,
      segments: '1/1 1/2',
      end: 3,
      hole: [name(1, 3), '00000002.history'],
    },
    {
      what: 'not into what a promotion left, when another history says that it went further',
      world: { whole: { 1: [1, 2, 3] }, partial: { 1: [4] }, histories: { ...second, 9: [[1, 6.5]] } },
      timeline: 1,
      segments: '1/1 1/2 1/3',
      end: 4,
      hole: [name(1, 4), '00000002.history'],
    },
    {
      what: 'that lacks the last segment before a switch',
      world: { whole: { 1: [1, 2], 2: [4, 5] }, partial: { 1: [4] }, histories: second },
      timeline: 2,
      segments: '1/1 1/2',
      end: 3,
      hole: [name(1, 3), name(2, 4)],
    },
    {
      what: 'that lacks the segment of the switch, though the old timeline has one',
      world: { whole: { 1: [1, 2, 3, 4], 2: [5] }, histories: second },
      timeline: 2,
      segments: '1/1 1/2 1/3',
      end: 4,
      hole: [name(2, 4), name(2, 5)],
    },
    {
      what: 'beside an orphan history of a place that is stored',
      world: { whole: { 1: [1, 2, 3] }, histories: { 9: [[1, 2.5]] } },
      timeline: 1,
      segments: '1/1 1/2 1/3',
      end: 4,
    },
  ])('is followed $what', ({ world, timeline, segments, end, hole }) => {
    expect(follow(world, timeline)).toEqual({ segments, end, hole });
  });

  it('is followed as far as PostgreSQL gets, in any archive', () => {
    const segmentsOf = fc.uniqueArray(fc.integer({ min: 1, max: 9 }));
    const place = fc.integer({ min: 4, max: 36 }).map((quarters) => quarters / 4);
    const world = fc.record({
      whole: fc.record({ 1: segmentsOf, 2: segmentsOf, 3: segmentsOf }),
      cuts: fc.tuple(place, place, place).map((cuts) => cuts.sort((a, b) => a - b)),
      leaves: fc.tuple(fc.boolean(), fc.boolean()),
      orphan: fc.boolean(),
      from: place,
      timeline: fc.integer({ min: 1, max: 3 }),
    });
    fc.assert(
      fc.property(world, ({ whole, cuts: [a = 0, b = 0, c = 0], leaves, orphan, from, timeline }) => {
        const partial = { 1: leaves[0] ? [Math.floor(a)] : [], 2: leaves[1] ? [Math.floor(b)] : [] };
        const second = [[1, a]] as const;
        const histories = { 2: second, 3: [...second, [2, b]] as const, ...(orphan ? { 9: [[1, c]] as const } : {}) };
        const made: World = { whole, partial, histories };
        const { hole, ...rest } = follow(made, timeline, from);
        expect({ ...rest, hole: hole !== undefined }).toEqual(walk(made, timeline, from));
      }),
      { numRuns: 2000 },
    );
  });
});

type Answer = 'whole' | 'absent' | 'hole' | { readonly part: number };

/** What wal-fetch says to a segment of a timeline. */
function answer({ whole, partial = {}, histories = {} }: World, timeline: number, segment: number): Answer {
  const stored = whole[timeline] ?? [];
  if (stored.includes(segment)) return 'whole';
  if (stored.some((other) => other > segment)) return 'hole';
  const switches = Object.values(histories).flatMap((ancestors) => ancestors.filter(([own]) => own === timeline));
  const further = [...new Set(switches.map(([, place]) => place).filter((place) => place > segment))];
  const [first] = further;
  if (first === undefined) return 'absent';
  const isLeft = further.length === 1 && first <= segment + 1 && partial[timeline]?.includes(segment) === true;
  return isLeft ? { part: first } : 'hole';
}

/** As PostgreSQL asks: of the timelines on the way that have begun by a segment the newest one first. */
function walk(world: World, timeline: number, from: number) {
  const way = [...(world.histories?.[timeline] ?? []), [timeline, Number.POSITIVE_INFINITY] as const];
  const segments: string[] = [];
  for (let segment = Math.floor(from); ; segment += 1) {
    const stop = (end: number, hole = false) => ({ segments: segments.join(' '), end, hole });
    const begun = way.filter((_, index) => index === 0 || Math.floor(way[index - 1]?.[1] ?? 0) <= segment);
    let isNext = false;
    for (const [index, [own, until]] of [...begun.entries()].reverse()) {
      const isNewest = index === begun.length - 1;
      if (!isNewest && until <= segment) continue; // left before the segment
      const said = answer(world, own, segment);
      if (said === 'absent') continue;
      if (said === 'hole') return stop(Math.max(segment, from), true);
      segments.push(`${own}/${segment}${said === 'whole' ? '' : 'p'}`);
      if (said !== 'whole') return stop(said.part);
      if (!isNewest) return stop(until);
      isNext = true;
      break;
    }
    if (!isNext) return stop(Math.max(segment, from));
  }
}
