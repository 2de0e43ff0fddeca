/** A file that is there already where one is restored: opened for reading if it can be written over, and else removed. Never through a link. */
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from 'node:fs';
import { type BytePath, toFilePath } from '../byte-path.ts';
import { systemErrorCode } from '../errors.ts';
import { attempt, type FileAttributes, removeFile } from './restored-file.ts';

export interface FoundFile {
  readonly sizeBytes: number;
  /** As many bytes as there are, into `memory`. */
  read(position: number, memory: Buffer): Buffer;
  /** Is it whose it is to be, with mode and time? */
  has(attributes: FileAttributes): boolean;
  close(): void;
}

/** Undefined: nothing is there any more. A file of several names is none: another of them may be in a copy elsewhere. */
export function openFound(target: BytePath): FoundFile | undefined {
  const path = toFilePath(target);
  const found = attempt(target, () => lstatSync(path, { throwIfNoEntry: false }));
  if (found === undefined) return undefined;
  const isPlain = found.isFile() && found.nlink === 1 && (found.mode & 0o600) === 0o600;
  const fd = isPlain ? openPlain(target) : undefined;
  if (fd === undefined) {
    removeFile(target);
    return undefined;
  }
  return {
    sizeBytes: fstatSync(fd).size,
    read: (position, memory) => attempt(target, () => readAt(fd, position, memory)),
    has: ({ mode, mtimeNs, owner }) => {
      const stats = fstatSync(fd, { bigint: true });
      return (
        Number(stats.mode & 0o7777n) === mode &&
        stats.mtimeNs / 1000n === mtimeNs / 1000n &&
        (owner === undefined || (Number(stats.uid) === owner.uid && Number(stats.gid) === owner.gid))
      );
    },
    close: () => closeSync(fd),
  };
}

/** Undefined where this account may not write to it. */
function openPlain(target: BytePath): number | undefined {
  try {
    return openSync(toFilePath(target), constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (systemErrorCode(error) === 'EACCES') return undefined;
    return attempt(target, () => {
      throw error;
    });
  }
}

function readAt(fd: number, position: number, memory: Buffer): Buffer {
  let read = 0;
  for (let more = -1; more !== 0 && read < memory.length; read += more) {
    more = readSync(fd, memory, read, memory.length - read, position + read);
  }
  return memory.subarray(0, read);
}
