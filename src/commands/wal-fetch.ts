/**
 * wal-fetch %f %p: PostgreSQL's restore_command.
 *
 * PostgreSQL asks for what it needs next, and also for what may not exist: the segment behind the last one, the next timeline's history,
 * and, where a segment is not there, the same one of an older timeline.
 *   delivered  the file stands at %p, verified and durable; of an older timeline only what is the followed one's, too (H2)
 *   absent     the proved end of the WAL: in archive recovery PostgreSQL opens the database at once, without whatever else was archived
 *   an error   anything else. Each code from 1 to 125 reads as "absent" there, so bin/wal-fetch ends with 200, which stops recovery until
 *              it is started again; under standby.signal, where 200 would stop the standby, with the error's own code
 *
 * @see https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY
 */

import pRetry from 'p-retry';
import type { Archive } from '../archive/archive.ts';
import { openWalFile } from '../archive/wal-archive.ts';
import { findBehind, latestTimeline, type WalBehind } from '../archive/wal-behind.ts';
import { findSegmentEnd, proveHistoryAbsent } from '../archive/wal-end.ts';
import { bytesOf } from '../bytes.ts';
import { isRecoveryTarget } from '../cluster/last-refused.ts';
import type { OpenedObject } from '../codec/object.ts';
import { CorruptError, ObjectNotFound, WalTError, WrongKeyError } from '../errors.ts';
import { retryPause } from '../limits.ts';
import type { SegmentName, WalFileName } from '../postgres/wal-file-name.ts';
import type { Context } from './context.ts';
import type { Delivered } from './wal-fetch/ahead.ts';
import { deliver, endingAt } from './wal-fetch/deliver.ts';
import type { Fetch, SegmentFetch } from './wal-fetch/fetch.ts';
import { hasItself } from './wal-fetch/own-segment.ts';
import { archiveOf, prepare, type WalFetchArguments } from './wal-fetch/prepare.ts';
import { findTruePart, rememberRefusal, type TruePart } from './wal-fetch/true-part.ts';
import { warnOfPromotion } from './wal-fetch/trying.ts';
import { expectCluster } from './which-cluster.ts';

/** `hanging`: delivered, and something that was done ahead does not end. */
export type WalFetchResult = 'delivered' | 'absent' | 'hanging';

interface Fetched {
  readonly result: 'delivered' | 'absent';
  /** The segments behind it may be fetched as well. */
  readonly ahead?: Delivered | undefined;
}

const delivered: Fetched = { result: 'delivered' };
const absent: Fetched = { result: 'absent' };

/** Keeps trying, as long as waiting may help and PostgreSQL can wait. */
export async function walFetch(context: Context, words: WalFetchArguments): Promise<WalFetchResult> {
  const fetch = await prepare(context, words);
  const { result, ahead } = await fetchPatiently(fetch);
  if (ahead === undefined) return result;
  const { fetchAhead } = await import('./wal-fetch/ahead.ts');
  return fetchAhead(ahead);
}

async function fetchPatiently(fetch: Fetch): Promise<Fetched> {
  try {
    const fetched = await pRetry(() => fetchOnce(fetch), {
      ...retryPause,
      retries: Number.POSITIVE_INFINITY,
      signal: fetch.signal,
      shouldRetry: async ({ error }) =>
        error instanceof WalTError && error.mayPass && (await fetch.trying.leftMs(error)) > 0,
    });
    if (fetched.result === 'absent') await rememberRefusal(fetch);
    return fetched;
  } catch (error) {
    await warnOfPromotion(fetch);
    throw error;
  }
}

async function fetchOnce(fetch: Fetch): Promise<Fetched> {
  const { file } = fetch;
  if (file.kind === 'segment' && isBehindEnd(fetch, file)) return absent;
  const { archive, control } = await archiveOf(fetch);
  if (file.kind === 'segment') return fetchSegment({ ...fetch, file, archive, control });
  if (await deliverStored(fetch, archive)) return delivered;
  await expectCluster(archive, fetch);
  if (file.kind === 'history') {
    await proveHistoryAbsent(archive, file, {
      signal: fetch.signal,
      ownTimeline: control?.timeline,
      chosenTimeline: fetch.timeline,
    });
  }
  return absent;
}

/** A history, or a file that a person wants. @returns false where it is not stored. */
async function deliverStored(fetch: Fetch, archive: Archive): Promise<boolean> {
  try {
    const stored = await openStored(archive, fetch.file, fetch);
    if (stored !== undefined) await deliver(fetch, stored.content);
    return stored !== undefined;
  } catch (error) {
    if (!isOnlyCounted(fetch) || !(error instanceof CorruptError) || error instanceof WrongKeyError) throw error;
    await deliver(fetch, bytesOf(Buffer.from('# this timeline is taken; its history in the archive is damaged\n')));
    fetch.log.warning(error.message, {
      detail: `timeline ${fetch.timeline} is followed: PostgreSQL has to know no more than that the number is taken`,
      hint: error.hint,
    });
    return true;
  }
}

/**
 * Where the timeline is chosen by its number PostgreSQL reads no later one's history: at the end it looks whether there is one, to take a
 * number that is free. So one damaged history stops no recovery along an older timeline.
 */
function isOnlyCounted({ file, target, timeline }: Fetch): boolean {
  return file.kind === 'history' && isRecoveryTarget(target) && timeline !== undefined && file.timeline > timeline;
}

/** On whichever timeline: the last 16 digits are the place in the WAL. */
function isBehindEnd({ endAt }: Fetch, { name }: SegmentName): boolean {
  return endAt !== undefined && name.slice(8) >= endAt.name.slice(8);
}

async function fetchSegment(fetch: SegmentFetch): Promise<Fetched> {
  const { archive, file } = fetch;
  const part = await findTruePart(fetch);
  if (part.kind === 'none') return absent;
  const mayBeLeft = part.kind === 'all' && maySeeLaterTimeline(fetch);
  const looking = mayBeLeft || (part.kind === 'all' && fetch.wordsBefore !== undefined) ? lookBehind(fetch) : undefined;
  looking?.catch(() => undefined); // told below, if the file itself can be read
  const stored = await openStored(archive, file, fetch);
  if (stored === undefined) return deliverEnd(fetch, { part, behind: looking });
  try {
    const latest = mayBeLeft && looking !== undefined ? latestTimeline(file.timeline, await looking) : file.timeline;
    return await deliverStoredSegment(fetch, stored, { part, latest, behind: looking });
  } catch (error) {
    await stored.close();
    throw error;
  }
}

/** A timeline that a standby may not know of yet, since nothing was refused to it; not where it is told which one. */
function maySeeLaterTimeline({ standby, timeline, target }: SegmentFetch): boolean {
  return standby && timeline === undefined && isRecoveryTarget(target);
}

/** One request beside that for the segment itself answers all that may be asked of what is stored behind. */
function lookBehind({ archive, file, settings, signal, wordsBefore }: SegmentFetch): Promise<WalBehind> {
  return findBehind(archive, file, { signal, segments: wordsBefore === undefined ? 1 : settings.walFetchAhead });
}

interface Found {
  readonly part: TruePart;
  readonly behind: Promise<WalBehind> | undefined;
}

/** Of a segment that is not stored. */
async function deliverEnd(fetch: SegmentFetch, { part, behind }: Found): Promise<Fetched> {
  const { archive, file, control, signal } = fetch;
  await expectCluster(archive, fetch);
  const options = { signal, segmentSizeBytes: control?.segmentSizeBytes, behind: await behind };
  const end = await findSegmentEnd(archive, file, options);
  if (end.kind === 'end') return absent;
  const endBytes = Number(end.switchPoint - end.start);
  // where a later timeline is followed, what pg_wal has behind its beginning is not true
  if (fetch.standby && part.kind === 'all' && (await hasItself(fetch, end.file, endBytes))) return absent;
  await deliverSegment(fetch, await openWalFile(archive, end.file, fetch), endBytes);
  return delivered;
}

async function deliverStoredSegment(
  fetch: SegmentFetch,
  stored: OpenedObject,
  { latest, behind, ...found }: Found & { readonly latest: number },
): Promise<Fetched> {
  let { part } = found;
  if (latest > fetch.file.timeline) {
    const { partUntilLeft } = await import('./wal-fetch/left-timeline.ts');
    part = await partUntilLeft(fetch, latest);
  }
  if (part.kind === 'none') return absent;
  const isWhole = await deliverSegment(fetch, stored, part.kind === 'beginning' ? part.endBytes : undefined);
  if (!isWhole || behind === undefined || fetch.wordsBefore === undefined) return delivered;
  return { result: 'delivered', ahead: { ...fetch, behind } };
}

/** @returns whether all of it was delivered. */
async function deliverSegment(
  fetch: SegmentFetch,
  { header, content }: OpenedObject,
  endBytes?: number,
): Promise<boolean> {
  const part = endBytes === undefined ? content : endingAt(content, endBytes);
  if (fetch.beside) {
    const { deliverBeside } = await import('./wal-fetch/beside.ts'); // reads WAL: the others need not load that
    return (await deliverBeside(fetch, part, header.bytes)) && endBytes === undefined;
  }
  await deliver(fetch, part);
  return endBytes === undefined;
}

async function openStored(archive: Archive, file: WalFileName, fetch: Fetch): Promise<OpenedObject | undefined> {
  try {
    return await openWalFile(archive, file, fetch);
  } catch (error) {
    if (error instanceof ObjectNotFound) return undefined;
    throw error;
  }
}
