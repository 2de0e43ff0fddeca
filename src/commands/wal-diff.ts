/** wal-t wal-diff NAME FILE: what tells a stored WAL file from another of the same name. Two servers wrote the same timeline: which is right? */
import { basename, resolve } from 'node:path';
import { openWalFile } from '../archive/wal-archive.ts';
import { ByteReader } from '../bytes.ts';
import { inspectWalFile } from '../cluster/wal-file.ts';
import { NotFoundError, ObjectNotFound, UsageError } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { parseWalFileName, segmentStart, type WalFileName } from '../postgres/wal-file-name.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';

export interface WalDiff {
  readonly name: string;
  readonly stored: {
    readonly bytes: number;
    readonly sha256: string;
    readonly pushedAt: string;
    readonly host: string;
  };
  readonly fileBytes: number;
  /** Undefined: they are the same. */
  readonly difference: { readonly offset: number; readonly lsn: Lsn | undefined } | undefined;
}

export async function walDiff(
  context: Context,
  { name, path }: { readonly name: string; readonly path: string },
): Promise<WalDiff> {
  const file = parseWalFileName(name);
  if (file === undefined) throw new UsageError(`"${name}" is not the name of a file that PostgreSQL archives`);
  const archive = await openArchive(context);
  const local = await inspectWalFile(resolve(context.workingDirectory, path), parseWalFileName(basename(path)) ?? file);
  const stored = await openWalFile(archive, file, context).catch((error: unknown) => {
    if (!(error instanceof ObjectNotFound)) throw error;
    throw new NotFoundError(`"${name}" is not archived`, { hint: 'wal-list shows what is.' });
  });
  const { bytes, sha256, pushedAt, host } = stored.header;
  const offset = await firstDifference(new ByteReader(stored.content), new ByteReader(local.read()));
  const difference = offset === undefined ? undefined : { offset, lsn: lsnAt(file, offset, bytes) };
  return { name, stored: { bytes, sha256, pushedAt, host }, fileBytes: local.sizeBytes, difference };
}

/** Both are read to their ends: whatever is wrong with either is found. */
async function firstDifference(a: ByteReader, b: ByteReader): Promise<number | undefined> {
  let found: number | undefined;
  for (let offset = 0; ; ) {
    const [one, other] = [await a.readUpTo(chunkBytes), await b.readUpTo(chunkBytes)];
    if (found === undefined && !one.equals(other)) {
      const length = Math.min(one.length, other.length);
      let at = 0;
      while (at < length && one[at] === other[at]) at += 1;
      found = offset + at;
    }
    offset += Math.max(one.length, other.length);
    if (one.length === 0 && other.length === 0) return found;
  }
}

const chunkBytes = 64 * 1024;

function lsnAt(file: WalFileName, offset: number, segmentSizeBytes: number): Lsn | undefined {
  if (file.kind === 'history' || file.kind === 'backup') return undefined;
  const start = segmentStart(file, segmentSizeBytes);
  return start === undefined ? undefined : start + BigInt(offset);
}
