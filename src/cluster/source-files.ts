/**
 * Asks the file system about what a running server owns, by paths of bytes (H24): what is gone meanwhile is `undefined`,
 * what cannot be read is an error that tells how to mend it.
 */
import type { BigIntStats, Dirent } from 'node:fs';
import { lstat, opendir, readdir, realpath, stat } from 'node:fs/promises';
import { type BytePath, showPath, toFilePath } from '../byte-path.ts';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';

/** Attributes of the file, folder or link itself, times in nanoseconds. @throws HostError */
export function attributesOf(source: BytePath): Promise<BigIntStats | undefined> {
  return ifThere(source, lstat(toFilePath(source), { bigint: true }));
}

/** Attributes of what a link leads to, times in nanoseconds; undefined also when it leads nowhere, or to itself. @throws HostError */
export function targetAttributesOf(source: BytePath): Promise<BigIntStats | undefined> {
  return unlessBroken(source, stat(toFilePath(source), { bigint: true }));
}

/** The path without links; undefined also when a link leads nowhere, or to itself. @throws HostError */
export function realPathOf(source: BytePath): Promise<BytePath | undefined> {
  return unlessBroken(source, realpath(toFilePath(source), { encoding: 'latin1' }));
}

/**
 * A folder's names that are wanted, sorted; undefined when it is gone. @throws HostError
 * Streamed, since a list of a million takes 100 MB more. But where a file system gives no types, Node.js looks each up by itself,
 * and fails for all that follow when one is gone just then: so after that the names alone are asked for.
 */
export async function readNames(
  source: BytePath,
  isWanted: (name: BytePath) => boolean = () => true,
): Promise<BytePath[] | undefined> {
  const names = (await ifThere(source, streamNames(source, isWanted))) ?? (await listNames(source, isWanted));
  return names?.sort();
}

async function streamNames(source: BytePath, isWanted: (name: BytePath) => boolean): Promise<BytePath[]> {
  // as bytes: it would not find a name that it had decoded (H24); its type knows no 'buffer'
  const options = { encoding: 'buffer' as BufferEncoding, bufferSize: 512 };
  const folder: unknown = await opendir(toFilePath(source), options);
  const names: BytePath[] = [];
  for await (const { name } of folder as AsyncIterable<Pick<Dirent<Buffer>, 'name'>>) {
    const bytes = name.toString('latin1');
    if (isWanted(bytes)) names.push(bytes);
  }
  return names;
}

async function listNames(source: BytePath, isWanted: (name: BytePath) => boolean): Promise<BytePath[] | undefined> {
  const names = await ifThere(source, readdir(toFilePath(source), { encoding: 'latin1' }));
  return names?.filter(isWanted);
}

/** A running server removes files, and DROP DATABASE folders. */
function isGone(error: unknown): boolean {
  const code = systemErrorCode(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** What was asked about `source`; undefined when it is gone. @throws HostError */
export async function ifThere<T>(source: BytePath, asked: Promise<T>): Promise<T | undefined> {
  return asked.catch((error: unknown) => {
    if (isGone(error)) return undefined;
    throw unreadable(source, error);
  });
}

/** The same through a link, which may also lead to itself. */
async function unlessBroken<T>(source: BytePath, asked: Promise<T>): Promise<T | undefined> {
  return ifThere(
    source,
    asked.catch((error: unknown) => {
      if (systemErrorCode(error) === 'ELOOP') return undefined;
      throw error;
    }),
  );
}

/** The error for a system call that failed at `source`. */
export function unreadable(source: BytePath, error: unknown): HostError {
  const code = systemErrorCode(error);
  const hints: Readonly<Record<string, string>> = {
    EACCES: "Run this as the data directory's owner, whom PostgreSQL runs as, and give that user what lies there.",
    EPERM: "Run this as the data directory's owner, whom PostgreSQL runs as, and give that user what lies there.",
    ENOENT: 'Name the data directory of the running server.',
    ENOTDIR: 'Name the data directory of the running server.',
    EMFILE: 'Raise the limit of open files (ulimit -n).',
  };
  const hint = hints[code ?? ''] ?? "Look at this host's disk, its mounts and the kernel's log.";
  return new HostError(`could not read "${showPath(source)}": ${systemErrorReason(error)}`, { hint, cause: error });
}
