/** A worker's task: reads one part and makes the files that stand in it, verified. They are made durable elsewhere, while it reads the next. */
import type { Archive } from '../../archive/archive.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import type { BytePath } from '../../byte-path.ts';
import { isRestored, makeFile, temporaryEnding } from '../../cluster/restored-file.ts';
import type { OwnerRule } from '../../cluster/restored-folder.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import { readPartFiles } from '../part-files.ts';

/** Can be sent to another thread. */
export interface RestoreBatch {
  readonly part: PartLine;
  readonly files: readonly FileLine[];
  readonly manifestChecksums: ManifestChecksums;
  /** The folder that is restored into: absolute. */
  readonly root: BytePath;
  /** The path that is written under a temporary name: it makes a cluster out of files. */
  readonly renamed: BytePath;
  readonly owner: OwnerRule;
  /** Of an interrupted restore: all files of this part, or perhaps some, of which a checksum of 32 bits does not tell enough. */
  readonly left: 'nothing' | 'whole' | 'unknown';
}

/** @returns how many bytes of files were there already, and right. */
export async function restorePart(
  archive: Archive,
  batch: RestoreBatch,
  { signal, progress }: { readonly signal: AbortSignal; readonly progress: (bytes: number) => void },
): Promise<number> {
  const { part, manifestChecksums, owner, left } = batch;
  const targetOf = (file: FileLine) => targetIn(batch, file);
  const missing: FileLine[] = [];
  let keptBytes = 0;
  for (const file of batch.files) {
    signal.throwIfAborted();
    const expected = left === 'whole' ? file : { ...file, checksum: undefined };
    if (left === 'nothing' || !isRestored(targetOf(file), expected, manifestChecksums)) missing.push(file);
    else {
      keptBytes += file.sizeBytes;
      progress(file.sizeBytes);
    }
  }
  if (missing.length > 0) {
    const open = (file: FileLine) =>
      makeFile(targetOf(file), { ...file, owner: owner === 'as backed up' ? { uid: file.uid, gid: file.gid } : owner });
    await readPartFiles(archive, { part, files: missing, manifestChecksums }, { signal, progress, open });
  }
  return keptBytes;
}

/** Where all files of the part are then. */
export function targetsOf(batch: RestoreBatch): BytePath[] {
  return batch.files.map((file) => targetIn(batch, file));
}

function targetIn({ root, renamed }: RestoreBatch, { path }: FileLine): BytePath {
  return `${root}/${path}${path === renamed ? temporaryEnding : ''}`;
}
