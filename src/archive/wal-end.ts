/** Is a file that is not stored beyond the proved end of the WAL, or is there a hole? The answer decides whether PostgreSQL opens (H1). */

import { collect } from '../bytes.ts';
import { HoleError, ObjectNotFound } from '../errors.ts';
import { limits } from '../limits.ts';
import { formatLsn, type Lsn } from '../postgres/lsn.ts';
import { parseTimelineHistory } from '../postgres/timeline-history.ts';
import {
  type HistoryName,
  type PartialName,
  parseWalFileName,
  type SegmentName,
  segmentStart,
} from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { openWalFile, readWalHeader } from './wal-archive.ts';
import {
  findBehind,
  findSwitches,
  firstSegment,
  type HistoryOptions,
  historiesAfter,
  type StoredSwitch,
  type WalBehind,
} from './wal-behind.ts';

export interface EndOptions extends RequestOptions {
  /** The timeline that this server is on, as pg_control says. */
  readonly ownTimeline?: number | undefined;
  /** The timeline that is recovered along, where a person has chosen it by its number. */
  readonly chosenTimeline?: number | undefined;
  /** `wal_segment_size` of the cluster where it is known; else a stored segment tells. */
  readonly segmentSizeBytes?: number | undefined;
  /** What is stored behind the segment, where that was looked for already: when it was missing as well, since it still is. */
  readonly behind?: WalBehind | undefined;
}

/**
 * What stands where a segment is missing: nothing, which is the end of the WAL; or the unfinished segment that a promotion left,
 * whose WAL is true up to `switchPoint` and no further.
 */
export type SegmentEnd =
  | { readonly kind: 'end' }
  | { readonly kind: 'partial'; readonly file: PartialName; readonly switchPoint: Lsn; readonly start: Lsn };

const holeHint =
  'Wait if it may still be on its way from an archiver. Else bring it back from a pg_wal or another copy of the repository, or recover to a point before it, with restore --until-hole, if the server that wrote it is lost.';

/**
 * For a segment that the storage has just called absent.
 * @throws HoleError when a later segment of the timeline is stored, or a history file says that the timeline went further.
 */
export async function findSegmentEnd(
  archive: Archive,
  segment: SegmentName,
  options: EndOptions = {},
): Promise<SegmentEnd> {
  const { behind = await findBehind(archive, segment, { signal: options.signal }) } = options;
  const [later] = behind.segments;
  if (later !== undefined) {
    throw new HoleError(`"${segment.name}" is missing in the middle of the archive`, {
      detail: `the next segment of its timeline that is stored is "${later.name}"`,
      hint: holeHint,
    });
  }
  const switches = await switchesOf(archive, segment.timeline, { histories: behind.histories, signal: options.signal });
  if (switches.length === 0) return { kind: 'end' };
  const sizeBytes = options.segmentSizeBytes ?? (await storedSegmentSize(archive, segment, options));
  const start = sizeBytes === undefined ? undefined : segmentStart(segment, sizeBytes);
  const further = switches.filter(({ end }) => start === undefined || end > start);
  const [first] = further;
  if (first === undefined) return { kind: 'end' };
  if (sizeBytes === undefined || start === undefined) throw wentFurther(segment, first);
  const within = further.every(({ end }) => end === first.end && end <= start + BigInt(sizeBytes));
  const file = within ? await storedPartial(archive, segment, options) : undefined;
  if (file === undefined) throw wentFurther(segment, further.at(-1) ?? first);
  return { kind: 'partial', file, switchPoint: first.end, start };
}

/**
 * For a history file that the storage has just called absent: PostgreSQL looks for the next timeline, and takes its number when there is none.
 * @throws HoleError when a later timeline's history is stored: this one must have been there, and its number is taken (H14).
 */
export async function proveHistoryAbsent(
  archive: Archive,
  history: HistoryName,
  options: EndOptions = {},
): Promise<void> {
  if (history.timeline === 1) return; // the first timeline has none, and is asked for when a second one leaves it
  const { ownTimeline = 0, signal } = options;
  // a server's own may never have been archived (H14); the number of another one whose WAL is archived is taken, though its history was lost
  const mayHaveWal = history.timeline <= ownTimeline;
  const { segments, histories } = mayHaveWal
    ? { segments: [], histories: await historiesAfter(archive, history.timeline, { signal }) }
    : await findBehind(archive, history.timeline, { signal });
  for (const later of histories) {
    if (await isOrphan(archive, { history, later }, options)) continue;
    throw new HoleError(`"${history.name}" is missing, but "${later.name}" is archived`, {
      detail: 'without it PostgreSQL would follow an older timeline',
      hint: `Push it from a server that still has it: wal-push pg_wal/${history.name}`,
    });
  }
  const [segment] = segments;
  if (segment === undefined) return;
  throw new HoleError(`"${history.name}" is missing, but WAL of its timeline is archived`, {
    detail: `such as "${segment.name}"; PostgreSQL would take the number again`,
    hint: `Push it from a server that still has it: wal-push pg_wal/${history.name}`,
  });
}

/** Where the timeline is chosen, a later one that does not descend from the missing one says nothing of it: somebody's stray history stops no restore. */
async function isOrphan(
  archive: Archive,
  { history, later }: { readonly history: HistoryName; readonly later: HistoryName },
  { chosenTimeline, ...options }: EndOptions,
): Promise<boolean> {
  if (chosenTimeline === undefined || history.timeline <= chosenTimeline) return false;
  const { content } = await openWalFile(archive, later, options);
  const text = (await collect(content, limits.smallFileBytes)).toString('utf8');
  return !parseTimelineHistory(later.timeline, text).ancestors.some(({ timeline }) => timeline === history.timeline);
}

/** @throws CorruptError, ConfigurationError when one that may tell cannot be opened. */
async function switchesOf(
  archive: Archive,
  timeline: number,
  options: HistoryOptions,
): Promise<readonly StoredSwitch[]> {
  const { switches, unreadable } = await findSwitches(archive, timeline, options);
  const [first] = unreadable;
  if (first !== undefined) throw first.error;
  return switches;
}

async function storedSegmentSize(
  archive: Archive,
  { timeline }: SegmentName,
  options: RequestOptions,
): Promise<number | undefined> {
  const segment = await firstSegment(archive, timeline, options);
  return segment === undefined ? undefined : (await readWalHeader(archive, segment, options)).bytes;
}

async function storedPartial(
  archive: Archive,
  { name }: SegmentName,
  options: RequestOptions,
): Promise<PartialName | undefined> {
  const file = parseWalFileName(`${name}.partial`);
  if (file?.kind !== 'partial') return undefined;
  return readWalHeader(archive, file, options).then(
    () => file,
    (error: unknown) => {
      if (error instanceof ObjectNotFound) return undefined;
      throw error;
    },
  );
}

function wentFurther(segment: SegmentName, { child, end }: StoredSwitch): HoleError {
  return new HoleError(`"${segment.name}" is missing, but its timeline went further`, {
    detail: `"${child.name}" says that timeline ${segment.timeline} ended at ${formatLsn(end)}`,
    hint: holeHint,
  });
}
