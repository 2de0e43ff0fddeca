/** How fast WAL is written, from the times of segments alone. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { rateOf } from '../../src/cluster/wal-rate.ts';

const segmentSizeBytes = 1024 * 1024;
const windowMs = 15 * 60_000;
const nowMs = 1e12;
const at = (number: number, ageMs: number) => ({
  start: BigInt(number * segmentSizeBytes),
  writtenMs: nowMs - ageMs,
});
const rate = (lsn: number, ...segments: ReturnType<typeof at>[]) =>
  rateOf(segments, { lsn: BigInt(lsn), segmentSizeBytes, windowMs, nowMs });

describe('the rate at which WAL is written', () => {
  it('is unknown without a full segment', () => {
    expect(rate(0)).toBeUndefined();
    expect(rate(3.5 * segmentSizeBytes, at(3, 0))).toBeUndefined();
  });

  it('is that since the end of the first segment of the window', () => {
    const lsn = 12.5 * segmentSizeBytes;
    const minutes = (count: number) => count * 60_000;
    expect(rate(lsn, at(9, minutes(20)), at(10, minutes(10)), at(11, minutes(5)))).toBe((1.5 * segmentSizeBytes) / 600);
  });

  it('is that since the last full segment where the server is idle, and no burst of seconds', () => {
    expect(rate(10.5 * segmentSizeBytes, at(8, 4e6), at(9, 3e6))).toBe((0.5 * segmentSizeBytes) / 3000);
    expect(rate(11 * segmentSizeBytes, at(9, 1000), at(10, 500))).toBe(segmentSizeBytes / 300);
  });

  it('does not mind segments that are only there to be written, whatever their times', () => {
    const segment = fc.tuple(fc.integer({ min: 20, max: 40 }), fc.integer({ min: 0, max: 1e7 }));
    fc.assert(
      fc.property(fc.array(segment), (recycled) => {
        const own = [at(17, 60_000), at(18, 30_000)];
        const all = [...recycled.map(([number, age]) => at(number, age)), ...own];
        expect(rate(19.5 * segmentSizeBytes, ...all)).toBe(rate(19.5 * segmentSizeBytes, ...own));
      }),
    );
  });
});
