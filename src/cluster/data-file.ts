/**
 * A file of a data directory, read as a backup reads it: while PostgreSQL writes to it. It has the length that it had when it was opened,
 * whatever happens to it meanwhile, and the checksums of its pages are looked at on the way.
 * Reads block their thread: a worker has nothing better to do, and a file in memory is read faster than it is asked for.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type BytePath, showPath, toFilePath } from '../byte-path.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { findBadPages } from '../postgres/page.ts';
import { parseRelationFile } from '../postgres/relation-file.ts';

export interface DataFile {
  readonly sizeBytes: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  readonly inode: bigint;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits. */
  readonly mode: number;
  /**
   * Chunks in `memory` (1 MiB), which the next one uses again; filled up with zeros where the file became shorter. Of all, or of ranges, whose
   * offsets are pages' beginnings; with `unchecked` no page's checksum is looked at.
   */
  readonly content: (memory: Buffer, options?: ContentOptions) => Generator<Uint8Array>;
  readonly close: () => void;
}

export interface ContentOptions {
  readonly ranges?: readonly { readonly offset: number; readonly lengthBytes: number }[];
  readonly unchecked?: true;
}

export interface PageChecks {
  /** Pages that are changed from here on are replayed: they may be torn. */
  readonly startLsn: Lsn;
  readonly pageBytes: number;
  /** Pages in one segment file of a relation. */
  readonly segmentPages: number;
  /** Called with the number of each page, counted over all segments of its relation, that is wrong twice. */
  readonly onBadPage: (block: number) => void;
}

/**
 * Opens a file; undefined when it is gone. `checks` are made where `path`, relative to the data directory, is a relation's.
 * @throws HostError when it cannot be read.
 */
export function openDataFile(source: BytePath, path: BytePath, checks?: PageChecks): DataFile | undefined {
  let fd: number;
  try {
    fd = openSync(toFilePath(source), constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ESTALE'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw unreadable(source, error);
  }
  const stat = fstatSync(fd, { bigint: true });
  const sizeBytes = Number(stat.size);
  const check = checks === undefined ? undefined : pageCheckOf(path, checks);
  return {
    sizeBytes,
    mtimeNs: stat.mtimeNs,
    ctimeNs: stat.ctimeNs,
    inode: stat.ino,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mode: Number(stat.mode) & 0o777,
    content: (memory, { ranges = [{ offset: 0, lengthBytes: sizeBytes }], unchecked } = {}) =>
      readContent(memory, { fd, source, ranges, check: unchecked === true ? undefined : check }),
    close: () => closeSync(fd),
  };
}

interface Reading {
  readonly fd: number;
  readonly source: BytePath;
  readonly ranges: NonNullable<ContentOptions['ranges']>;
  readonly check: ((pages: Buffer, offset: number, readAgain: (at: number, bytes: Buffer) => void) => void) | undefined;
}

function* readContent(memory: Buffer, { fd, source, ranges, check }: Reading): Generator<Uint8Array> {
  const readAgain = (position: number, bytes: Buffer) => {
    bytes.fill(0, readFully(fd, bytes, position, source)); // truncated in between
  };
  for (const range of ranges) {
    const end = range.offset + range.lengthBytes;
    for (let { offset } = range; offset < end; offset += memory.length) {
      const wanted = memory.subarray(0, Math.min(memory.length, end - offset));
      const read = readFully(fd, wanted, offset, source);
      check?.(wanted.subarray(0, read), offset, readAgain);
      wanted.fill(0, read); // truncated meanwhile: replay truncates it again, or fills these pages
      yield wanted;
    }
  }
}

/** @returns how many bytes there are, fewer than wanted only at the end of the file. */
function readFully(fd: number, bytes: Buffer, position: number, source: BytePath): number {
  let read = 0;
  try {
    while (read < bytes.length) {
      const more = readSync(fd, bytes, read, bytes.length - read, position + read);
      if (more === 0) break;
      read += more;
    }
  } catch (error) {
    throw unreadable(source, error);
  }
  return read;
}

/** Chunks begin with a page: at multiples of 1 MiB, and where ranges do. */
function pageCheckOf(path: BytePath, { startLsn, pageBytes, segmentPages, onBadPage }: PageChecks): Reading['check'] {
  const relation = parseRelationFile(path);
  if (relation === undefined) return undefined;
  const segmentStart = relation.segment * segmentPages;
  return (pages, offset, readAgain) => {
    const firstBlock = segmentStart + offset / pageBytes;
    for (const index of findBadPages(pages, { firstBlock, startLsn, pageSizeBytes: pageBytes })) {
      const page = pages.subarray(index * pageBytes, (index + 1) * pageBytes);
      readAgain(offset + index * pageBytes, page); // PostgreSQL may have been writing it just then
      const block = firstBlock + index;
      if (findBadPages(page, { firstBlock: block, startLsn, pageSizeBytes: pageBytes }).length > 0) onBadPage(block);
    }
  };
}

function unreadable(source: BytePath, error: unknown): HostError {
  const code = systemErrorCode(error);
  return new HostError(`could not read "${showPath(source)}": ${systemErrorReason(error)}`, {
    hint:
      code === 'EACCES' || code === 'EPERM'
        ? 'Run it as the user that PostgreSQL runs as. The backup was given up: it would miss this file.'
        : "Look at this host's disk and its kernel's log. The backup was given up: it would miss this file.",
    cause: error,
  });
}
