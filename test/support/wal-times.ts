/** Sets the times at which transactions ended in a segment that PostgreSQL wrote, as if its clock had been another: it replays it like its own. */
import { crcOf } from '../../src/postgres/wal-crc.ts';
import { readWalRecords } from '../../src/postgres/wal-record.ts';

const headerBytes = 24;
const pageBytes = 8192;

/**
 * @param startLsn  of the segment
 * @param change  makes of the time of a commit, in microseconds since 2000, another
 * @returns how many there are.
 */
export async function changeCommits(
  segment: Buffer,
  startLsn: bigint,
  change: (time: bigint) => bigint,
): Promise<number> {
  const places: { at: number; sizeBytes: number }[] = [];
  const records = readWalRecords(
    (async function* () {
      yield segment;
    })(),
    { startLsn, segmentSizeBytes: segment.length },
  );
  for await (const { lsn, resourceManager, info, sizeBytes } of records) {
    if (resourceManager !== 1 || (info & 0x70) !== 0) continue;
    const at = Number(lsn - startLsn);
    if ((at % pageBytes) + sizeBytes > pageBytes) throw new Error('a commit over the edge of a page');
    places.push({ at, sizeBytes });
  }
  for (const { at, sizeBytes } of places) {
    if (segment[at + headerBytes] !== 255) throw new Error('a long commit');
    const time = at + headerBytes + 2;
    segment.writeBigInt64LE(change(segment.readBigInt64LE(time)), time);
    const body = crcOf(segment, at + headerBytes, at + sizeBytes);
    segment.writeUInt32LE(crcOf(segment, at, at + 20, body), at + 20);
  }
  return places.length;
}
