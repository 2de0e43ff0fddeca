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
  const fd = attempt(target, () =>
    openSync(
      toFilePath(target),
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    ),
  );
  const behind = new WriteBehind(() => flush(fd));
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
          if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
          fchmodSync(fd, mode);
          const seconds = Number(mtimeNs) / 1e9;
          futimesSync(fd, seconds, seconds);
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

/** Is this very content there already, as an interrupted restore has left it? What is there and is not goes. */
export function isRestored(
  target: BytePath,
  { sizeBytes, checksum }: { readonly sizeBytes: number; readonly checksum?: string | undefined },
  algorithm: ManifestChecksums,
): boolean {
  const found = lstatSync(toFilePath(target), { throwIfNoEntry: false });
  if (found === undefined) return false;
  const fits =
    found.isFile() && found.size === sizeBytes && checksum !== undefined && checksumOf(target, algorithm) === checksum;
  if (!fits) attempt(target, () => unlinkSync(toFilePath(target)));
  return fits;
}

function checksumOf(target: BytePath, algorithm: ManifestChecksums): string | undefined {
  const checksum = makeChecksum(algorithm);
  const memory = Buffer.allocUnsafeSlow(limits.frameRawBytes);
  const fd = attempt(target, () => openSync(toFilePath(target), constants.O_RDONLY | constants.O_NOFOLLOW));
  try {
    for (;;) {
      const read = attempt(target, () => readSync(fd, memory));
      if (read === 0) return checksum.end();
      checksum.update(memory.subarray(0, read));
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

function attempt<Result>(target: BytePath, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    throw unwritable(target, error);
  }
}

function unwritable(target: BytePath, error: unknown): HostError {
  const code = systemErrorCode(error) ?? '';
  const hints: Readonly<Record<string, string>> = {
    ENOSPC: 'Free space there, and go on with --resume.',
    EDQUOT: 'Raise the quota, and go on with --resume.',
    EEXIST: 'Something else writes into this folder. Restore into an empty one.',
  };
  return new HostError(`could not write "${showPath(target)}": ${systemErrorReason(error)}`, {
    hint: hints[code] ?? 'Look at the permissions and at the disk, and go on with --resume.',
    cause: error,
  });
}
