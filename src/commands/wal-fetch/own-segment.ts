/** What a standby has in its own pg_wal, where the archive holds only what a sibling's promotion left of the segment. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { openWalFile } from '../../archive/wal-archive.ts';
import type { PartialName } from '../../postgres/wal-file-name.ts';
import type { SegmentFetch } from './fetch.ts';

/**
 * Does pg_wal hold all that is true in the unfinished segment, its first `endBytes`? A standby may have been streamed more of its
 * timeline than the sibling that was promoted out of it: given less than it has replayed, its own promotion ends in a PANIC.
 */
export async function hasItself(fetch: SegmentFetch, partial: PartialName, endBytes: number): Promise<boolean> {
  const own = await open(join(fetch.dataDirectory ?? '', 'pg_wal', fetch.file.name)).catch(() => undefined);
  if (own === undefined) return false;
  try {
    const { content } = await openWalFile(fetch.archive, partial, fetch);
    let offset = 0;
    for await (const chunk of content) {
      const wanted = chunk.subarray(0, Math.max(0, endBytes - offset));
      const { buffer } = await own.read(Buffer.alloc(wanted.length), 0, wanted.length, offset);
      if (!buffer.equals(wanted)) return false;
      offset += chunk.length;
    }
    return true;
  } finally {
    await own.close();
  }
}
