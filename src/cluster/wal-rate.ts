/** How fast WAL is written, as the files of pg_wal show it: a segment's time is that of its last byte. No waiting. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, systemErrorReason } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseWalFileName, segmentStart } from '../postgres/wal-file-name.ts';

export interface WalFolder {
  /** Of all files, recycled segments included. */
  readonly sizeBytes: number;
  /** Of segments that are not yet written to: they are there for what comes. */
  readonly recycledBytes: number;
  /** Undefined where no full segment tells. */
  readonly bytesPerSecond: number | undefined;
}

export interface WalRateOptions {
  /** Where WAL ends. */
  readonly lsn: Lsn;
  readonly segmentSizeBytes: number;
  readonly windowMs: number;
  readonly nowMs: number;
}

/** @throws HostError when pg_wal cannot be read. */
export async function readWalFolder(dataDirectory: string, options: WalRateOptions): Promise<WalFolder> {
  const folder = join(dataDirectory, 'pg_wal');
  try {
    const segments = [];
    let sizeBytes = 0;
    for (const name of await readdir(folder)) {
      const file = parseWalFileName(name);
      const found = file === undefined ? undefined : await stat(join(folder, name)).catch(() => undefined); // recycled meanwhile
      if (file === undefined || found === undefined) continue;
      sizeBytes += found.size;
      if (file.kind !== 'segment') continue;
      segments.push({ start: segmentStart(file, options.segmentSizeBytes) ?? 0n, writtenMs: found.mtimeMs });
    }
    const recycled = segments.filter(({ start }) => start > options.lsn).length;
    return {
      sizeBytes,
      recycledBytes: recycled * options.segmentSizeBytes,
      bytesPerSecond: rateOf(segments, options),
    };
  } catch (error) {
    throw new HostError(`could not read "${folder}": ${systemErrorReason(error)}`, {
      hint: 'Run it as the user that PostgreSQL runs as.',
      cause: error,
    });
  }
}

interface Written {
  readonly start: Lsn;
  readonly writtenMs: number;
}

/** From the end of the first segment that was finished within the window, else of the last one before it, to now. */
export function rateOf(
  segments: readonly Written[],
  { lsn, segmentSizeBytes, windowMs, nowMs }: WalRateOptions,
): number | undefined {
  const full = segments
    .filter(({ start }) => start + BigInt(segmentSizeBytes) <= lsn)
    .sort((a, b) => (a.start < b.start ? -1 : 1));
  const first = full.find(({ writtenMs }) => writtenMs >= nowMs - windowMs) ?? full.at(-1);
  if (first === undefined) return undefined;
  const bytes = Number(lsn - first.start) - segmentSizeBytes;
  // a burst of seconds says nothing about the hours to come
  return bytes / (Math.max(windowMs / 3, nowMs - first.writtenMs) / 1000);
}
