/** What is stored behind a place in the WAL: the next segments of its timeline, and which later timelines there are. Mostly one short listing. */
import { type HistoryName, parseWalFileName, type SegmentName } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { historyKey, historyPrefix, objectKey, timelinePrefix, walObjectName, walPrefix } from './keys.ts';

/** So many keys a store gives in answer to one request. */
const keysOfPage = 1000;

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

export function storedName(key: string) {
  return parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
}
