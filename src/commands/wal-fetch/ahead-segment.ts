/** One segment that is fetched ahead of PostgreSQL, and how many there may be. What may be fetched at all is in ahead-plan.ts. */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { openWalFile } from '../../archive/wal-archive.ts';
import type { PrefetchFolder } from '../../cluster/prefetch-folder.ts';
import { discarded } from '../../codec/zstd.ts';
import { writeNewFile } from '../../durable-file.ts';
import { limits } from '../../limits.ts';
import { segmentStart } from '../../postgres/wal-file-name.ts';
import type { SegmentFetch } from './fetch.ts';

export interface AheadOptions {
  readonly folder: PrefetchFolder;
  readonly segmentSizeBytes: number;
  /** Was the one before it published? */
  readonly before: Promise<boolean>;
}

/** @returns whether it is published. Where it is not, those behind it must not be either. @throws what the storage or this host says. */
export async function publishSegment(fetch: SegmentFetch, options: AheadOptions): Promise<boolean> {
  const { folder, segmentSizeBytes, before } = options;
  return folder.publish(fetch.file.name, async (path) => {
    const { content } = await openWalFile(fetch.archive, fetch.file, fetch);
    await writeNewFile(path, discarded(content), 0o640);
    return !fetch.beside || ((await isClear(fetch, path, segmentSizeBytes)) && before);
  });
}

/** May a copy beside its original replay it (H29)? A place that is free now may be taken until then: so no tablespace at all. */
async function isClear(fetch: SegmentFetch, path: string, segmentSizeBytes: number): Promise<boolean> {
  const { mayCreateTablespace } = await import('./beside.ts');
  const start = segmentStart(fetch.file, segmentSizeBytes) ?? 0n;
  return !(await mayCreateTablespace(fetch, { path, start, sizeBytes: segmentSizeBytes }));
}

/** How many may lie ready, as the disk is now (H18). */
export async function mostAhead(fetch: SegmentFetch, segmentSizeBytes: number): Promise<number> {
  const { settings, dataDirectory = '' } = fetch;
  const { bavail, bsize } = await statfs(join(dataDirectory, 'pg_wal'));
  const bytes = Math.min(limits.aheadBytes, bavail * bsize * limits.aheadSpaceShare);
  return Math.min(settings.walFetchAhead, Math.floor(bytes / segmentSizeBytes));
}

/** How many are fetched at the same time. */
export function mostInFlight(segmentSizeBytes: number): number {
  const inFlight = Math.floor(limits.aheadInFlightBytes / segmentSizeBytes);
  return Math.max(1, Math.min(limits.aheadInFlight, inFlight));
}
