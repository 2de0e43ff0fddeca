/**
 * A copy beside its original replays CREATE TABLESPACE with the original's own path, and what it then drops or writes there is the
 * original's (H29). So each segment is looked into before it is put at %p. Loaded with --beside alone: see test/bundles.test.ts.
 */
import { createReadStream } from 'node:fs';
import { open, readdir, readlink, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { openWalFile } from '../../archive/wal-archive.ts';
import { showPath, toFilePath } from '../../byte-path.ts';
import type { Bytes } from '../../bytes.ts';
import { readRecoveryTarget } from '../../cluster/recovery-target.ts';
import { syncFolder } from '../../durable-file.ts';
import { CheckError, ObjectNotFound, systemErrorCode } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import { readWalEvents, type WalEvent } from '../../postgres/wal-events.ts';
import { parseWalFileName, segmentNameAt, segmentStart } from '../../postgres/wal-file-name.ts';
import { longPageHeaderBytes, parseLongPageHeader, shortPageHeaderBytes } from '../../postgres/wal-page.ts';
import type { WalEnd } from '../../postgres/wal-record.ts';
import { deliver, endingAt } from './deliver.ts';
import type { SegmentFetch } from './fetch.ts';

/** Of the next segment: a tablespace's creation, whose path is shorter than 1 KiB, ends in it. */
const continuationBytes = 64 * 1024;

/** The record that makes a tablespace where this host has something already. */
interface Creation {
  readonly lsn: Lsn;
  /** For people; undefined when it stands in a segment that is not there. */
  readonly location: string | undefined;
}

/** A segment that stands beside %p, and is no more than that yet. */
interface Candidate {
  readonly path: string;
  readonly start: Lsn;
  readonly sizeBytes: number;
  /** A tablespace's creation counts wherever it is made, also where nothing is yet. */
  readonly inAnyPlace?: boolean;
}

/**
 * Delivers `content`, unless a tablespace is created in it where there is one: then only when PostgreSQL has a recovery target, which
 * it must reach before that. @returns whether all of it was delivered.
 * @throws CheckError
 */
export async function deliverBeside(fetch: SegmentFetch, content: Bytes, sizeBytes: number): Promise<boolean> {
  const { file, target } = fetch;
  const path = `${target}.wal-t-beside`;
  try {
    await deliver({ ...fetch, target: path }, content);
    const candidate = { path, start: segmentStart(file, sizeBytes) ?? 0n, sizeBytes };
    const creation = await findCreation(fetch, candidate);
    const endBytes = creation === undefined ? sizeBytes : await endBefore(fetch, creation, candidate);
    if (endBytes < sizeBytes) {
      await deliver(fetch, endingAt(createReadStream(path), endBytes));
    } else {
      await rename(path, target);
      await syncFolder(dirname(target));
    }
    return endBytes === sizeBytes;
  } finally {
    await rm(path, { force: true });
  }
}

/** Is there any doubt whether a segment makes no tablespace? For one that is replayed only later, when another place may be taken. */
export async function mayCreateTablespace(fetch: SegmentFetch, candidate: Candidate): Promise<boolean> {
  return (await findCreation(fetch, { ...candidate, inAnyPlace: true })) !== undefined;
}

/**
 * How much of the segment PostgreSQL may have. With a target it fails when the WAL ends before, so it is given what stands before the
 * creation; a target that is the creation itself it must be able to see. Without one it would open where the WAL ends.
 */
async function endBefore(fetch: SegmentFetch, creation: Creation, { start, sizeBytes }: Candidate): Promise<number> {
  const { standby, dataDirectory } = fetch;
  const target = standby || dataDirectory === undefined ? undefined : await readRecoveryTarget(dataDirectory);
  if (target === undefined) throw stopped(creation);
  if (target.beforeLsn !== undefined && target.beforeLsn <= creation.lsn) return sizeBytes;
  fetch.log.warning(describe(creation), {
    detail: 'the recovery target must come before it: PostgreSQL is given no WAL from there on',
    hint: hintFor(creation),
  });
  return Number(creation.lsn - start);
}

async function findCreation(fetch: SegmentFetch, candidate: Candidate): Promise<Creation | undefined> {
  const found = await firstCreation(createReadStream(candidate.path), fetch, candidate);
  if ('lsn' in found) return found;
  if (!(await mayBeCreation(candidate, found))) return undefined;
  const next = await openNext(fetch, candidate);
  if (next === undefined) return { lsn: found.endLsn, location: undefined };
  const both = await firstCreation(withBeginning(createReadStream(candidate.path), next), fetch, candidate);
  return 'lsn' in both ? both : undefined;
}

/** The first record that begins in the segment and makes a tablespace in a place that is taken; else where the records end. */
async function firstCreation(
  bytes: Bytes,
  { file, dataDirectory }: SegmentFetch,
  { start, sizeBytes, inAnyPlace = false }: Candidate,
): Promise<Creation | WalEnd> {
  const events = readWalEvents(bytes, { startLsn: start, segmentSizeBytes: sizeBytes, timeline: file.timeline });
  try {
    for (;;) {
      const next = await events.next();
      if (next.done === true) return next.value;
      const { lsn, kind } = next.value;
      const reaches = inAnyPlace ? kind === 'tablespace create' : await reachesIntoTaken(next.value, dataDirectory);
      if (lsn < start + BigInt(sizeBytes) && reaches) {
        return { lsn, location: next.value.kind === 'tablespace create' ? showPath(next.value.location) : undefined };
      }
    }
  } finally {
    await events.return?.({ endLsn: start, reason: 'end of bytes' });
  }
}

/**
 * An empty folder is nobody's: PostgreSQL asks for one where there is none. Whatever else is there, or cannot be looked at, is taken,
 * unless this copy itself made its tablespace there: at the end of a recovery PostgreSQL reads its last segments once more.
 * Without a location the tablespace lies within the data directory.
 */
async function reachesIntoTaken(event: WalEvent, dataDirectory = ''): Promise<boolean> {
  if (event.kind !== 'tablespace create' || event.location === '') return false;
  try {
    if ((await readdir(toFilePath(event.location))).length === 0) return false;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
  }
  const own = await readlink(join(dataDirectory, 'pg_tblspc', String(event.oid)), 'latin1').catch(() => undefined);
  return own !== event.location;
}

/** Does the record that goes on in the next segment make a tablespace, as far as can be seen? Its kind is at 16, its resource manager at 17. */
async function mayBeCreation({ path, start, sizeBytes }: Candidate, { endLsn, reason }: WalEnd): Promise<boolean> {
  const offset = Number(endLsn - start);
  if (reason !== 'end of bytes' || offset >= sizeBytes) return false;
  const handle = await open(path);
  try {
    const { buffer: page } = await handle.read(Buffer.alloc(longPageHeaderBytes), 0, longPageHeaderBytes, 0);
    const pageSizeBytes = parseLongPageHeader(page)?.pageSizeBytes ?? sizeBytes;
    const inPage = offset % pageSizeBytes;
    const isInHeader = inPage < shortPageHeaderBytes || offset < longPageHeaderBytes;
    if (isInHeader || inPage + 18 > pageSizeBytes) return true;
    const { buffer: header } = await handle.read(Buffer.alloc(18), 0, 18, offset);
    return header[17] === 5 && ((header[16] ?? 0) & 0xf0) === 0;
  } finally {
    await handle.close();
  }
}

/** The next segment, or what a promotion left of it. */
async function openNext(fetch: SegmentFetch, { start, sizeBytes }: Candidate): Promise<Bytes | undefined> {
  const name = segmentNameAt(fetch.file.timeline, start + BigInt(sizeBytes), sizeBytes);
  for (const file of [parseWalFileName(name), parseWalFileName(`${name}.partial`)]) {
    if (file === undefined) continue;
    try {
      return (await openWalFile(fetch.archive, file, fetch)).content;
    } catch (error) {
      if (!(error instanceof ObjectNotFound)) throw error;
    }
  }
  return undefined;
}

async function* withBeginning(content: Bytes, next: Bytes): Bytes {
  yield* content;
  let left = continuationBytes;
  for await (const chunk of next) {
    yield chunk.subarray(0, left);
    left -= chunk.length;
    if (left <= 0) return;
  }
}

function describe({ lsn, location }: Creation): string {
  if (location === undefined) {
    return `recovery stops before ${formatLsn(lsn)}, where a tablespace may be created in a place that cannot be known`;
  }
  return `recovery stops before the creation of a tablespace at "${location}", which is in use on this host`;
}

function hintFor({ lsn }: Creation): string {
  return (
    `To open the copy as it was just before, set recovery_target_lsn = '${formatLsn(lsn)}', recovery_target_inclusive = off and no other target. ` +
    'To go on, restore on another host, or with --take-over when the original is gone for good.'
  );
}

function stopped(creation: Creation): CheckError {
  return new CheckError(describe(creation), {
    detail: `at LSN ${formatLsn(creation.lsn)}: this copy would link to that folder, and write and delete what is the original's`,
    hint: hintFor(creation),
  });
}
