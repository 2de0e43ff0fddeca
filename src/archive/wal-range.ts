/** Is the WAL from one segment to another in the archive, without a hole? One listing, whatever the range. */
import { formatLsn, type Lsn } from '../postgres/lsn.ts';
import { parseWalFileName, segmentNameAt } from '../postgres/wal-file-name.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { objectKey, timelinePrefix, walObjectName } from './keys.ts';

/** WAL of one timeline: all bytes from `startLsn` on and before `endLsn`. */
export interface WalRange {
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** `wal_segment_size` */
  readonly segmentSizeBytes: number;
}

/** The names of the segments that hold the range. The last one is that of the last byte: (LSN − 1), not LSN (H21). */
export function* segmentsOf({ timeline, startLsn, endLsn, segmentSizeBytes }: WalRange): Generator<string> {
  const size = BigInt(segmentSizeBytes);
  for (let start = (startLsn / size) * size; start < endLsn; start += size) {
    yield segmentNameAt(timeline, start, segmentSizeBytes);
  }
}

/** The first segment of the range that is not stored; undefined when all are. */
export async function firstMissingSegment(
  archive: Archive,
  range: WalRange,
  options: RequestOptions = {},
): Promise<string | undefined> {
  const { storage, systemIdentifier } = archive;
  const wanted = segmentsOf(range);
  let next = wanted.next();
  if (next.done === true) return undefined;
  const first = parseWalFileName(next.value);
  if (first === undefined) throw new Error(`no segment begins at ${formatLsn(range.startLsn)}`);
  // the key itself is to be found, too: it is listed from just before it
  const after = objectKey(systemIdentifier, walObjectName(first)).slice(0, -1);
  for await (const { key, sizeBytes } of storage.list(timelinePrefix(systemIdentifier, range.timeline), {
    ...options,
    after,
  })) {
    const name = key.slice(key.lastIndexOf('/') + 1);
    if (name < next.value || parseWalFileName(name)?.kind !== 'segment') continue;
    if (name > next.value || sizeBytes === 0) return next.value;
    next = wanted.next();
    if (next.done === true) return undefined;
  }
  return next.value;
}
