/** The largest process of wal-push and of wal-fetch, by how much waits and how large a segment is. */
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import type { Calls } from './as-postgres.ts';
import { openBucket } from './bucket.ts';
import { WaitingWal } from './waiting-wal.ts';

/** What the issue asks for. */
const limitMiB = 256;

/** A thousand segments of 16 MiB would take the room of a disk: of the thousand each has 1 MiB, and so have 32, for a comparison. */
const backlogs = [
  { segments: 32, segmentSize: 16 },
  { segments: 32, segmentSize: 1 },
  { segments: 1000, segmentSize: 1 },
];

interface Peak {
  readonly name: string;
  readonly segments: number;
  readonly segmentMiB: number;
  readonly peakMiB: number;
  readonly wallMs: number;
  readonly longestMs: number;
}

export async function benchMemory({ s3 }: { readonly s3: S3Endpoint | 'test server' | undefined }) {
  const bucket = s3 === undefined ? undefined : await openBucket(s3 === 'test server' ? undefined : s3, 0);
  const results: Peak[] = [];
  try {
    const places = [{ title: '' }, ...(bucket === undefined ? [] : [{ title: ', S3', bucket: bucket.s3 }])];
    for (const { title, ...place } of places) {
      for (const backlog of backlogs) {
        const wal = await WaitingWal.prepare({ ...backlog, ...place });
        try {
          results.push(peak(`wal-push${title}`, backlog, wal.push()));
          results.push(peak(`wal-fetch${title}`, backlog, await wal.fetch()));
        } finally {
          await wal.remove();
        }
      }
    }
  } finally {
    await bucket?.stop();
  }
  return { text: `${format(results)}\n\n${verdict(results)}`, results };
}

function peak(name: string, { segments, segmentSize }: (typeof backlogs)[number], calls: Calls): Peak {
  const { peakMiB, wallMs, longestMs } = calls;
  return { name, segments, segmentMiB: segmentSize, peakMiB, wallMs, longestMs };
}

function format(results: readonly Peak[]): string {
  const rows = results.map(({ name, segments, segmentMiB, peakMiB, wallMs, longestMs }) =>
    [
      name.padEnd(24),
      `${segments}`.padStart(8),
      `${segmentMiB}`.padStart(11),
      peakMiB.toFixed(0).padStart(9),
      (wallMs / 1000).toFixed(1).padStart(8),
      longestMs.toFixed(0).padStart(11),
    ].join(' '),
  );
  return [`${''.padEnd(24)} segments segment MiB  peak MiB  calls s  longest ms`, ...rows].join('\n');
}

function verdict(results: readonly Peak[]): string {
  const largest = Math.max(...results.map(({ peakMiB }) => peakMiB));
  return `largest process: ${largest.toFixed(0)} MiB (at most ${limitMiB}): ${largest <= limitMiB ? 'reached' : 'NOT reached'}`;
}
