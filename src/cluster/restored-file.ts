/**
 * A file of a restored data directory: made new, never through a link, with owner, mode and time as they were; durable only after `syncFiles`.
 * Writes block their thread, as reads of a backup do.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fdatasync,
  futimesSync,
  lstatSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type BytePath, showPath, toFilePath } from '../byte-path.ts';
import { WriteBehind } from '../durable-file.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { limits } from '../limits.ts';
import { type ManifestChecksums, makeChecksum } from '../postgres/file-checksum.ts';

/** Behind the name of a file that is not to be believed yet. */
export const temporaryEnding = '.wal-t-restore';

export interface FileAttributes {
  readonly mode: number;
  readonly mtimeNs: bigint;
  /** Undefined: it belongs to whoever restores. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
}

export interface RestoredFile {
  write(chunk: Uint8Array): void;
  /** Resolves when it is closed. */
  end(): Promise<void>;
  abandon(): Promise<void>;
}

const flush = promisify(fdatasync);

/** Makes the file. @throws HostError when it cannot be, or when something is there. */
export function makeFile(target: BytePath, { mode, mtimeNs, owner }: FileAttributes): RestoredFile {
  const { fd, behind } = openNew(target);
  const close = async () => {
    try {
      await behind.end();
    } finally {
      closeSync(fd);
    }
  };
  return {
    write: (chunk) =>
      attempt(target, () => {
        for (let written = 0; written < chunk.length; )
          written += writeSync(fd, chunk, written, chunk.length - written);
        behind.wrote(chunk.length);
      }),
    end: async () => {
      try {
        try {
          setAttributes(fd, { mode, mtimeNs, owner });
        } finally {
          await close();
        }
      } catch (error) {
        throw unwritable(target, error);
      }
    },
    abandon: () => close().catch(() => undefined),
  };
}

/** A file that is being written. What it was told to send to the disk must have ended before it is closed. */
export interface OpenFile {
  readonly fd: number;
  readonly behind: WriteBehind;
}

/** @throws HostError when something is there. */
export function openNew(target: BytePath): OpenFile {
  return opened(target, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL);
}

/** One that was made here, or looked at. */
export function openAgain(target: BytePath): OpenFile {
  return opened(target, constants.O_RDWR);
}

function opened(target: BytePath, flags: number): OpenFile {
  const fd = attempt(target, () => openSync(toFilePath(target), flags | constants.O_NOFOLLOW, 0o600));
  return { fd, behind: new WriteBehind(() => flush(fd)) };
}

export function setAttributes(fd: number, { mode, mtimeNs, owner }: FileAttributes): void {
  if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
  fchmodSync(fd, mode);
  const seconds = Number(mtimeNs) / 1e9;
  futimesSync(fd, seconds, seconds);
}

/** Is there a file of this length? What is there and is not goes. */
export function hasLength(target: BytePath, sizeBytes: number): boolean {
  const found = lstatSync(toFilePath(target), { throwIfNoEntry: false });
  if (found === undefined) return false;
  const fits = found.isFile() && found.size === sizeBytes;
  if (!fits) removeFile(target);
  return fits;
}

export function removeFile(target: BytePath): void {
  attempt(target, () => unlinkSync(toFilePath(target)));
}

/** Is this very content there already, as an interrupted restore has left it? What is there and is not goes. */
export function isRestored(
  target: BytePath,
  { sizeBytes, checksum }: { readonly sizeBytes: number; readonly checksum?: string | undefined },
  algorithm: ManifestChecksums,
): boolean {
  if (!hasLength(target, sizeBytes)) return false;
  const fits = checksum !== undefined && checksumOf(target, algorithm) === checksum;
  if (!fits) removeFile(target);
  return fits;
}

function checksumOf(target: BytePath, algorithm: ManifestChecksums): string | undefined {
  const checksum = makeChecksum(algorithm);
  for (const chunk of readRestored(target)) checksum.update(chunk);
  return checksum.end();
}

/** Its content in chunks of 1 MiB, whose memory the next one uses again. */
export function* readRestored(
  target: BytePath,
  memory: Buffer = Buffer.allocUnsafeSlow(limits.frameRawBytes),
): Generator<Buffer> {
  const fd = attempt(target, () => openSync(toFilePath(target), constants.O_RDONLY | constants.O_NOFOLLOW));
  try {
    for (;;) {
      let read = 0;
      for (let more = -1; more !== 0 && read < memory.length; read += more) {
        more = attempt(target, () => readSync(fd, memory, read, memory.length - read, null));
      }
      if (read > 0) yield memory.subarray(0, read);
      if (read < memory.length) return;
    }
  } finally {
    closeSync(fd);
  }
}

/** Makes files durable, several at a time: the disk then writes many with one movement. A failed fsync is never tried a second time. */
export async function syncFiles(targets: readonly BytePath[]): Promise<void> {
  const waiting = targets.values();
  const work = async () => {
    for (const target of waiting) await syncFile(target);
  };
  await Promise.all(Array.from({ length: limits.syncsInFlight }, work));
}

async function syncFile(target: BytePath): Promise<void> {
  try {
    const handle = await open(toFilePath(target), 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw unwritable(target, error);
  }
}

export function attempt<Result>(target: BytePath, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw unwritable(target, error);
  }
}

export function unwritable(target: BytePath, error: unknown): HostError {
  const code = systemErrorCode(error) ?? '';
  const hints: Readonly<Record<string, string>> = {
    ENOSPC: 'Free space there, and go on as the warning says.',
    EDQUOT: 'Raise the quota, and go on as the warning says.',
    EEXIST: 'Something else writes into this folder. Restore into an empty one.',
  };
  return new HostError(`could not write "${showPath(target)}": ${systemErrorReason(error)}`, {
    hint: hints[code] ?? 'Look at the permissions and at the disk, and go on as the warning says.',
    cause: error,
  });
}
