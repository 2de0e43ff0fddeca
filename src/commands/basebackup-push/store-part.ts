/**
 * A worker's task: reads a batch of a cluster's entries and stores them as one part, a tar archive. Every byte of the part passes this
 * thread alone. Gives back the lines of the list of files.
 */
import type { Archive } from '../../archive/archive.ts';
import { type EntryLine, formatLine, type PartLine } from '../../archive/files-line.ts';
import type { BadPage } from '../../archive/manifest.ts';
import { storeStream } from '../../archive/part.ts';
import type { BytePath } from '../../byte-path.ts';
import type { WalkEntry } from '../../cluster/backup-walk.ts';
import type { PageChecks } from '../../cluster/data-file.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import type { IncrementRules, KnownFile } from './changed-file.ts';
import { type PartOptions, PartTar } from './part-tar.ts';

/** A file whose content is in memory already. */
export interface MadeFile {
  readonly type: 'made';
  readonly path: BytePath;
  readonly content: Uint8Array;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeNs: bigint;
}

/** A file or folder of the cluster; of an increment with what its parent knows of it. */
export type ClusterEntry =
  | (Extract<WalkEntry, { type: 'file' }> & { readonly known?: KnownFile })
  | Exclude<WalkEntry, { type: 'file' }>;

/** What a part is made of, and how. Can be sent to another thread. */
export interface PartBatch {
  readonly backup: string;
  /** From 1. */
  readonly number: number;
  /** Of the part in the list of files. */
  readonly index: number;
  readonly last?: true;
  readonly entries: readonly (ClusterEntry | MadeFile)[];
  /** Undefined for a full backup. */
  readonly increment?: IncrementRules | undefined;
  readonly pageBytes: number;
  /** About the length of all contents. */
  readonly rawBytes: number;
  readonly manifestChecksums: ManifestChecksums;
  /** Undefined where the cluster has no page checksums. */
  readonly pages: Omit<PageChecks, 'onBadPage'> | undefined;
  /** zstd level. */
  readonly level: number;
  /** This worker's share of `--max-rate`. */
  readonly maxBytesPerSecond: number | undefined;
}

export interface StoredPart {
  /** Lines of the list of files: the part's own, then those of its entries, in order. */
  readonly lines: Uint8Array;
  /** False of an increment's batch in which nothing was new. */
  readonly isStored: boolean;
  /** The indexes of parts of earlier backups that the lines refer to. */
  readonly usedParts: readonly number[];
  readonly files: number;
  readonly folders: number;
  readonly tablespaces: number;
  readonly fileBytes: number;
  /** How much of the files was read from this host's disk. */
  readonly readBytes: number;
  readonly objectBytes: number;
  readonly badPages: number;
  /** The first of them. */
  readonly badPagesNamed: readonly BadPage[];
}

/** An increment's batch in which nothing changed is stored as nothing: its lines refer to earlier parts. */
export async function storePart(archive: Archive, batch: PartBatch, options: PartOptions): Promise<StoredPart> {
  const { backup, number, level, rawBytes, index } = batch;
  const tar = new PartTar(batch, options);
  const members = tar.members();
  const first = await members.next(); // its end, where there is nothing to store
  const commitment =
    tar.isEmpty && batch.increment !== undefined
      ? undefined
      : await storeStream(archive, { backup, part: number }, resumed(first, members), {
          level,
          sizeHint: rawBytes,
          signal: options.signal,
          onGarbage: (bytes) => options.progress(0, bytes),
        });
  const last = batch.last === true ? ({ last: true } as const) : {};
  const part: PartLine[] =
    commitment === undefined ? [] : [{ type: 'part', index, backup, number, ...commitment, ...last }];
  const count = (type: EntryLine['type']) => tar.lines.filter((line) => line.type === type).length;
  return {
    lines: Buffer.from([...part, ...tar.lines].map(formatLine).join('')),
    isStored: commitment !== undefined,
    usedParts: [...tar.usedParts].sort((a, b) => a - b),
    files: count('file'),
    folders: count('folder'),
    tablespaces: count('tablespace'),
    fileBytes: tar.fileBytes,
    readBytes: tar.readBytes,
    objectBytes: commitment?.objectBytes ?? 0,
    badPages: tar.badPages,
    badPagesNamed: tar.badPagesNamed,
  };
}

async function* resumed(first: IteratorResult<Uint8Array>, rest: AsyncGenerator<Uint8Array>) {
  if (first.done !== true) yield first.value;
  yield* rest;
}
