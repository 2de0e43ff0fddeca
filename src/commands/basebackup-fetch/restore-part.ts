/** A worker's task: reads one part and makes the files that stand in it, verified. They are made durable elsewhere, while it reads the next. */
import type { Archive } from '../../archive/archive.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import { isRestored, makeFile } from '../../cluster/restored-file.ts';
import { readPartFiles } from '../part-files.ts';
import { attributesOf, type Batch, type RestoredBatch, type TaskOptions, targetIn } from './batch.ts';

export interface PartRestore extends Batch {
  readonly part: PartLine;
}

export async function restorePart(
  archive: Archive,
  batch: PartRestore,
  { signal, progress }: TaskOptions,
): Promise<RestoredBatch> {
  const { part, manifestChecksums, left } = batch;
  const missing: FileLine[] = [];
  let keptBytes = 0;
  for (const file of batch.files) {
    signal.throwIfAborted();
    const expected = left === 'whole' ? file : { ...file, checksum: undefined };
    if (left === 'nothing' || !isRestored(targetIn(batch, file), expected, manifestChecksums)) missing.push(file);
    else {
      keptBytes += file.sizeBytes;
      progress(file.sizeBytes);
    }
  }
  if (missing.length > 0) {
    const open = (file: FileLine) => makeFile(targetIn(batch, file), attributesOf(batch, file));
    await readPartFiles(archive, { part, files: missing, manifestChecksums }, { signal, progress, open });
  }
  return { keptBytes, fetchedBytes: missing.length > 0 ? part.objectBytes : 0, checksums: new Uint8Array() };
}
