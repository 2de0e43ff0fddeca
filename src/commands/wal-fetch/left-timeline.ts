/**
 * A standby that is told to follow the latest timeline looks for a new one only where WAL ends. While it is behind, another server may be
 * promoted, and the old primary go on: then it would be given the old one's whole segment, replay rows that the new timeline does not
 * have, and never come over (H2). So where the latest timeline left the one that is asked for within this segment, the WAL ends there.
 *
 * A standby that has replayed more of the old timeline than that stays on it, as PostgreSQL has it: it is given all.
 * Loaded where a later timeline's history is stored: see test/bundles.test.ts.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { openWalFile } from '../../archive/wal-archive.ts';
import { firstSegment } from '../../archive/wal-behind.ts';
import { readServerConfiguration } from '../../cluster/configuration-files.ts';
import { CorruptError } from '../../errors.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import { segmentStart } from '../../postgres/wal-file-name.ts';
import { longPageHeaderBytes, shortPageHeaderBytes } from '../../postgres/wal-page.ts';
import type { SegmentFetch } from './fetch.ts';
import { readHistory, type TruePart } from './true-part.ts';

/** The header of a record: no two have the same. */
const recordHeaderBytes = 24;
/** `XLOG_BLCKSZ` as everyone has it. */
const usualPageSizeBytes = 8192;

/** `latest`: the timeline that PostgreSQL would find, whose history is stored. @throws CorruptError when that cannot be read. */
export async function partUntilLeft(fetch: SegmentFetch, latest: number): Promise<TruePart> {
  const { file, control, dataDirectory = '', log } = fetch;
  const sizeBytes = control?.segmentSizeBytes;
  const start = sizeBytes === undefined ? undefined : segmentStart(file, sizeBytes);
  if (sizeBytes === undefined || start === undefined) return { kind: 'all' };
  const goal = (await readServerConfiguration(dataDirectory)).get('recovery_target_timeline') ?? '';
  if (goal !== '' && goal !== 'latest') return { kind: 'all' };
  const end = await switchPoint(fetch, latest);
  if (end === undefined || end < start || end >= start + BigInt(sizeBytes)) return { kind: 'all' };
  const isBehind = control?.minRecoveryTimeline === file.timeline && (control.minRecoveryPoint ?? 0n) > end;
  const endBytes = Number(end - start);
  if (isBehind || (await hasMore(fetch, endBytes + pageHeaderAt(endBytes)))) return { kind: 'all' };
  log.info(
    `timeline ${latest} left timeline ${file.timeline} at ${formatLsn(end)}: no more of "${file.name}" is delivered`,
  );
  return endBytes === 0 ? { kind: 'none' } : { kind: 'beginning', endBytes };
}

/**
 * Where the latest timeline left this one. Undefined when it does not descend from it; also when its history is damaged, and its own first
 * segment, which has the same place as the one in which the two part, is another.
 */
async function switchPoint(fetch: SegmentFetch, latest: number): Promise<Lsn | undefined> {
  const { archive, file, signal } = fetch;
  try {
    const { ancestors } = await readHistory(fetch, latest);
    return ancestors.find(({ timeline }) => timeline === file.timeline)?.end;
  } catch (error) {
    const first = error instanceof CorruptError ? await firstSegment(archive, latest, { signal }) : undefined;
    if (first === undefined || first.name.slice(8) === file.name.slice(8)) throw error;
    return undefined;
  }
}

/** At the beginning of a page its header comes first, which says nothing of what was written. */
function pageHeaderAt(offset: number): number {
  if (offset === 0) return longPageHeaderBytes;
  return offset % usualPageSizeBytes === 0 ? shortPageHeaderBytes : 0;
}

/** Does pg_wal hold the record behind the switch point, at `offset`, which the old primary has streamed? */
async function hasMore(fetch: SegmentFetch, recordOffset: number): Promise<boolean> {
  const own = await open(join(fetch.dataDirectory ?? '', 'pg_wal', fetch.file.name)).catch(() => undefined);
  if (own === undefined) return false;
  try {
    const stored = Buffer.alloc(recordHeaderBytes);
    let offset = 0;
    for await (const chunk of (await openWalFile(fetch.archive, fetch.file, fetch)).content) {
      const from = Math.max(0, recordOffset - offset);
      const filled = Math.max(0, offset - recordOffset); // the header may lie across two chunks
      if (from < chunk.length) stored.set(chunk.subarray(from, from + recordHeaderBytes - filled), filled);
      offset += chunk.length;
      if (offset >= recordOffset + recordHeaderBytes) break;
    }
    const { buffer } = await own.read(Buffer.alloc(recordHeaderBytes), 0, recordHeaderBytes, recordOffset);
    return buffer.equals(stored) && stored.some((byte) => byte !== 0);
  } finally {
    await own.close();
  }
}
