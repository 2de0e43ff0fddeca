/** A file that PostgreSQL hands to its archive_command: opened, and checked to be what its name says before a byte of it is sent. */
import { open, stat } from 'node:fs/promises';
import type { Bytes } from '../bytes.ts';
import { CorruptError, HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { limits } from '../limits.ts';
import { checkBackupHistory } from '../postgres/backup-history.ts';
import { formatLsn } from '../postgres/lsn.ts';
import { parseTimelineHistory } from '../postgres/timeline-history.ts';
import {
  type BackupHistoryName,
  type HistoryName,
  type PartialName,
  type SegmentName,
  segmentNameAt,
  segmentStart,
  type WalFileName,
} from '../postgres/wal-file-name.ts';
import { longPageHeaderBytes, parseLongPageHeader } from '../postgres/wal-page.ts';

const readChunkBytes = limits.frameRawBytes;

export interface WalFile {
  readonly sizeBytes: number;
  /** The cluster that wrote it; only segments carry it. */
  readonly systemIdentifier: string | undefined;
  /** Reads it from the beginning; may be called again. */
  readonly read: () => Bytes;
}

/**
 * @throws HostError when it cannot be read.
 * @throws CorruptError when it is not the file that its name says.
 */
export async function inspectWalFile(path: string, name: WalFileName): Promise<WalFile> {
  const sizeBytes = await regularFileSize(path);
  const read = (): Bytes => readWhole(path, sizeBytes);
  if (sizeBytes === 0) throw notWhatItSays(name, 'it is empty');
  if (name.kind === 'segment' || name.kind === 'partial') {
    return { sizeBytes, read, systemIdentifier: await checkSegment(path, name, sizeBytes) };
  }
  if (sizeBytes > limits.smallFileBytes) throw notWhatItSays(name, `it has ${sizeBytes} bytes`);
  await checkText(read, name);
  return { sizeBytes, read, systemIdentifier: undefined };
}

/** @returns the system identifier in the first page's header. */
async function checkSegment(path: string, name: SegmentName | PartialName, sizeBytes: number): Promise<string> {
  const header = parseLongPageHeader(await readStart(path, longPageHeaderBytes));
  if (header === undefined) throw notWhatItSays(name, 'its first page has no sound header');
  const { segmentSizeBytes, pageAddress, timeline, systemIdentifier } = header;
  if (sizeBytes !== segmentSizeBytes) {
    throw notWhatItSays(name, `it has ${sizeBytes} bytes, its header says ${segmentSizeBytes}`);
  }
  if (pageAddress !== segmentStart(name, segmentSizeBytes)) {
    const own = segmentNameAt(timeline, pageAddress, segmentSizeBytes);
    throw notWhatItSays(name, `it begins at ${formatLsn(pageAddress)}, as segment "${own}" does`);
  }
  // the first segment of a new timeline is a copy of the old one's and carries the old timeline: never equality (H11)
  if (timeline > name.timeline) throw notWhatItSays(name, `it was written on timeline ${timeline}`);
  return systemIdentifier;
}

async function checkText(read: () => Bytes, name: HistoryName | BackupHistoryName): Promise<void> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of read()) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString('utf8');
  try {
    if (name.kind === 'history') parseTimelineHistory(name.timeline, text);
    else checkBackupHistory(name, text);
  } catch (error) {
    if (!(error instanceof CorruptError)) throw error;
    throw notWhatItSays(name, [error.message, error.detail].filter(Boolean).join(': '));
  }
}

/** Looked at before it is opened: opening a pipe waits for somebody to write into it. */
async function regularFileSize(path: string): Promise<number> {
  const found = await stat(path).catch((error: unknown) => {
    throw unreadable(path, error);
  });
  if (!found.isFile()) throw new HostError(`could not read "${path}": not a regular file`, { hint: usageHint });
  return found.size;
}

function readStart(path: string, sizeBytes: number): Promise<Uint8Array> {
  return withFile(path, async (handle) => {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(sizeBytes), 0, sizeBytes, 0);
    return buffer.subarray(0, bytesRead);
  });
}

/** All `sizeBytes` bytes of the file, which must still have that size. */
async function* readWhole(path: string, sizeBytes: number): AsyncGenerator<Uint8Array> {
  const handle = await openFile(path);
  try {
    for (let offset = 0; offset < sizeBytes; ) {
      const chunk = Buffer.allocUnsafeSlow(Math.min(readChunkBytes, sizeBytes - offset));
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, offset);
      if (bytesRead === 0) throw new HostError(`"${path}" became shorter while it was read`);
      offset += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } catch (error) {
    throw unreadable(path, error);
  } finally {
    await handle.close();
  }
}

type Handle = Awaited<ReturnType<typeof open>>;

async function withFile<T>(path: string, use: (handle: Handle) => Promise<T>): Promise<T> {
  const handle = await openFile(path);
  try {
    return await use(handle);
  } catch (error) {
    throw unreadable(path, error);
  } finally {
    await handle.close();
  }
}

async function openFile(path: string): Promise<Handle> {
  return open(path, 'r').catch((error: unknown) => {
    throw unreadable(path, error);
  });
}

const usageHint =
  "PostgreSQL gives the path as %p, relative to the data directory: archive_command = '… wal-push %p %f'.";

function unreadable(path: string, error: unknown): unknown {
  if (error instanceof HostError) return error;
  return new HostError(`could not read "${path}": ${systemErrorReason(error)}`, {
    hint: systemErrorCode(error) === 'ENOENT' ? usageHint : 'Look at its permissions, its owner and its disk.',
    cause: error,
  });
}

function notWhatItSays({ name }: WalFileName, detail: string): CorruptError {
  return new CorruptError(`"${name}" is not the file that its name says`, {
    detail,
    hint: 'Nothing was archived. If PostgreSQL itself wrote it, its disk or its pg_wal is damaged.',
  });
}
