/**
 * What is stored behind a place in the WAL: the next segments of its timeline, and which later timelines there are, mostly by one short
 * listing; and where these left it, by what their histories say.
 */
import { collect } from '../bytes.ts';
import { ConfigurationError, CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory, type TimelineHistory } from '../postgres/timeline-history.ts';
import { type HistoryName, parseWalFileName, type SegmentName, segmentStart } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { historyKey, historyPrefix, objectKey, timelinePrefix, walObjectName, walPrefix } from './keys.ts';
import { openWalFile } from './wal-archive.ts';

/** So many keys a store gives in answer to one request. */
const keysOfPage = 1000;
/** So many histories are read at the same time. */
const historiesAtOnce = 8;

export interface WalBehind {
  /** Of the same timeline, ascending, no more than wanted. Partial segments and backup history files stand between them, and do not count. */
  readonly segments: readonly SegmentName[];
  /** Of later timelines, ascending: all of them. */
  readonly histories: readonly HistoryName[];
}

export interface BehindOptions extends RequestOptions {
  /** How many segments are wanted: one, where it is only asked whether there is any. */
  readonly segments?: number;
}

/** Behind a segment, or from the beginning of a timeline on. */
export async function findBehind(
  archive: Archive,
  from: SegmentName | number,
  { segments: wanted = 1, ...options }: BehindOptions = {},
): Promise<WalBehind> {
  const { storage, systemIdentifier } = archive;
  const timeline = typeof from === 'number' ? from : from.timeline;
  const after =
    typeof from === 'number'
      ? timelinePrefix(systemIdentifier, from)
      : objectKey(systemIdentifier, walObjectName(from));
  const segments: SegmentName[] = [];
  const histories: HistoryName[] = [];
  let keys = 0;
  // the keys of histories come behind those of all timelines
  for await (const { key } of storage.list(walPrefix(systemIdentifier), { ...options, after })) {
    const file = storedName(key);
    if (file?.kind === 'segment' && file.timeline === timeline) segments.push(file);
    if (file?.kind === 'history' && file.timeline > timeline) histories.push(file);
    keys += 1;
    if (segments.length === wanted || keys === keysOfPage) {
      return { segments, histories: await historiesAfter(archive, timeline, options) };
    }
  }
  return { segments, histories };
}

/** The stored histories of later timelines, ascending. One listing. */
export async function historiesAfter(
  { storage, systemIdentifier }: Archive,
  timeline: number,
  options: RequestOptions = {},
): Promise<HistoryName[]> {
  const after = historyKey(systemIdentifier, timeline);
  const found: HistoryName[] = [];
  for await (const { key } of storage.list(historyPrefix(systemIdentifier), { ...options, after })) {
    const file = storedName(key);
    if (file?.kind === 'history') found.push(file);
  }
  return found;
}

/** The timeline that PostgreSQL finds from `timeline` on when it looks for the latest: histories without a gap. Itself when there is no next one. */
export function latestTimeline(timeline: number, { histories }: WalBehind): number {
  let latest = timeline;
  for (const history of histories) {
    if (history.timeline !== latest + 1) break;
    latest = history.timeline;
  }
  return latest;
}

function storedName(key: string) {
  return parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
}

/** Of a timeline. Partial segments and backup history files stand between the segments, and do not count. */
export async function firstSegment(
  { storage, systemIdentifier }: Archive,
  timeline: number,
  options: RequestOptions & { readonly after?: string },
): Promise<SegmentName | undefined> {
  for await (const { key } of storage.list(timelinePrefix(systemIdentifier, timeline), options)) {
    const file = storedName(key);
    if (file?.kind === 'segment') return file;
  }
  return undefined;
}

export interface HistoryOptions extends RequestOptions {
  /** The stored ones of all later timelines, ascending. */
  readonly histories: readonly HistoryName[];
}

/** A timeline that left another one at `end`. */
export interface StoredSwitch {
  readonly child: HistoryName;
  readonly end: Lsn;
}

/** By the timelines that left, ascending. */
export interface StoredSwitches {
  readonly switches: readonly StoredSwitch[];
  /** What cannot be opened here: damaged, or for other keys; and no other history tells the same. */
  readonly unreadable: readonly UnreadableHistory[];
}

interface UnreadableHistory {
  readonly child: HistoryName;
  readonly error: CorruptError | ConfigurationError;
}

/**
 * Where stored histories say that `timeline` was left. Only later timelines can descend from it. A history repeats what its ancestors' say:
 * so the latest is read first, and those that it has told are not read.
 */
export async function findSwitches(
  archive: Archive,
  timeline: number,
  { histories, ...options }: HistoryOptions,
): Promise<StoredSwitches> {
  const switches: StoredSwitch[] = [];
  const unreadable: UnreadableHistory[] = [];
  const told = new Set<number>();
  const isUntold = (child: HistoryName) => !told.has(child.timeline);
  let left = [...histories].reverse();
  for (let count = 1; left.length > 0; count = historiesAtOnce) {
    const some = left.slice(0, count);
    const found = await Promise.all(some.map((child) => readHistoryOf(archive, child, options)));
    for (const [index, child] of some.entries()) {
      const history = found[index];
      if (history === undefined) continue;
      if (!('ancestors' in history)) {
        unreadable.push({ child, error: history });
        continue;
      }
      const own = history.ancestors.find((ancestor) => ancestor.timeline === timeline);
      if (own === undefined) continue;
      switches.push({ child, end: own.end });
      for (const ancestor of history.ancestors) told.add(ancestor.timeline);
    }
    left = left.slice(count).filter(isUntold);
  }
  return { switches: switches.reverse(), unreadable: unreadable.filter(({ child }) => isUntold(child)).reverse() };
}

/** @returns the error when it cannot be opened. */
async function readHistoryOf(
  archive: Archive,
  child: HistoryName,
  options: RequestOptions,
): Promise<TimelineHistory | UnreadableHistory['error']> {
  try {
    const { content } = await openWalFile(archive, child, options);
    return parseTimelineHistory(child.timeline, (await collect(content, limits.smallFileBytes)).toString('utf8'));
  } catch (error) {
    if (error instanceof CorruptError || error instanceof ConfigurationError) return error;
    throw error;
  }
}

/**
 * The first place at which any timeline left this one, as far as is known; undefined when none did. One whose history cannot be opened did
 * not leave it before its own first segment.
 * @throws CorruptError, ConfigurationError when that is not known either
 */
export async function firstSwitch(
  archive: Archive,
  timeline: number,
  { segmentSizeBytes, ...options }: HistoryOptions & { readonly segmentSizeBytes: number },
): Promise<Lsn | undefined> {
  const { switches, unreadable } = await findSwitches(archive, timeline, options);
  const places = switches.map(({ end }) => end);
  for (const { child, error } of unreadable) {
    // of a timeline in between, whose history is not stored, it could be a child: that one may have left before
    const between = options.histories.filter((history) => history.timeline < child.timeline);
    const first =
      between.length === child.timeline - timeline - 1
        ? await firstSegment(archive, child.timeline, { signal: options.signal })
        : undefined;
    const start = first === undefined ? undefined : segmentStart(first, segmentSizeBytes);
    if (start === undefined) throw error;
    places.push(start);
  }
  return places.reduce<Lsn | undefined>((least, one) => (least === undefined || one < least ? one : least), undefined);
}
