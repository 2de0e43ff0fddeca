/**
 * The newest WAL of a cluster that is restored over: segments that were never full, and so never archived. Recovery to the end of the WAL finds
 * them in pg_wal, where they follow what is archived on the timeline that it follows.
 */
import { copyFile, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import { readStoredWal } from '../../archive/stored-wal.ts';
import { followWay } from '../../archive/window.ts';
import { type OldSegment, soundSegments } from '../../cluster/old-wal.ts';
import type { RestoredFolder } from '../../cluster/restored-folder.ts';
import { syncFolder } from '../../durable-file.ts';
import { HostError, systemErrorReason } from '../../errors.ts';
import type { OldWal } from '../basebackup-fetch/take-over.ts';
import type { Context } from '../context.ts';
import type { RestorePlan } from './plan.ts';

/** @returns the names of the segments that are in the new pg_wal. */
export async function offerWal(
  { log, signal }: Context,
  archive: Archive,
  { plan, target, oldWal, folder }: { plan: RestorePlan; target: RestoredFolder; oldWal: OldWal; folder: string },
): Promise<string[]> {
  const { timeline, backup, way } = plan;
  const wal = await readStoredWal(archive, { signal, segmentSizeBytes: backup.walSegmentBytes });
  if (wal === undefined) return [];
  const { endLsn, hole } = followWay(wal, way, backup.startLsn);
  if (hole !== undefined) return [];
  const from = oldWal.folders.at(-1);
  if (from === undefined) return [];
  const found = await soundSegments(from, archive.systemIdentifier);
  const offered = found.filter((one) => one.timeline === timeline && one.startLsn >= endLsn);
  let next = endLsn;
  const names: string[] = [];
  for (const segment of offered) {
    if (segment.startLsn !== next) break;
    await copy(segment, { from, to: join(folder, 'pg_wal'), target });
    names.push(segment.name);
    next += BigInt(backup.walSegmentBytes);
  }
  if (names.length > 0) log.info(`recovery goes on into ${names.join(', ')} of the old pg_wal`);
  return names;
}

async function copy(
  { name }: OldSegment,
  { from, to, target }: { readonly from: string; readonly to: string; readonly target: RestoredFolder },
): Promise<void> {
  const path = join(to, name);
  try {
    await copyFile(join(from, name), path);
    const handle = await open(path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await target.giveFile(path);
    await syncFolder(to);
  } catch (error) {
    throw new HostError(`could not write "${path}": ${systemErrorReason(error)}`, { cause: error });
  }
}
