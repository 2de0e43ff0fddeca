/** What all tasks of a restore need: can be sent to another thread. */
import type { FileLine } from '../../archive/files-line.ts';
import type { BytePath } from '../../byte-path.ts';
import { type FileAttributes, temporaryEnding } from '../../cluster/restored-file.ts';
import type { OwnerRule } from '../../cluster/restored-folder.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import type { Progressing } from '../crew.ts';

export interface Batch {
  readonly files: readonly FileLine[];
  readonly manifestChecksums: ManifestChecksums;
  /** The folder that is restored into: absolute. */
  readonly root: BytePath;
  /** The path that is written under a temporary name: it makes a cluster out of files. */
  readonly renamed: BytePath;
  readonly owner: OwnerRule;
  /** Of an interrupted restore: all of these files, or perhaps some, of which a checksum of 32 bits does not tell enough. */
  readonly left: 'nothing' | 'whole' | 'unknown';
}

export interface RestoredBatch {
  /** Of files that were there already, and right. */
  readonly keptBytes: number;
  /** What came from the storage. */
  readonly fetchedBytes: number;
  /** Checksums of the files whose lines have none, one behind the other, in the order of their lines. */
  readonly checksums: Uint8Array;
}

export interface TaskOptions {
  readonly signal: AbortSignal;
  readonly progress: Progressing;
}

/** Where all files of the batch are then. */
export function targetsOf(batch: Pick<Batch, 'files' | 'root' | 'renamed'>): BytePath[] {
  return batch.files.map((file) => targetIn(batch, file));
}

export function targetIn({ root, renamed }: Pick<Batch, 'root' | 'renamed'>, { path }: FileLine): BytePath {
  return `${root}/${path}${path === renamed ? temporaryEnding : ''}`;
}

export function attributesOf({ owner }: Pick<Batch, 'owner'>, { mode, mtimeNs, uid, gid }: FileLine): FileAttributes {
  return { mode, mtimeNs, owner: owner === 'as backed up' ? { uid, gid } : owner };
}
