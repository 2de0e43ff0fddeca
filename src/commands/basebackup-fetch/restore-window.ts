/**
 * A worker's task: files whose content stands in pieces in many parts, of this and of earlier backups. Of each part only the frames are read that
 * hold some of it, each once, and their pieces are written to where they belong. Then each file is read back, out of the system's memory: for its
 * checksum, and because a page must be the one that its place says (H42).
 */
import type { Archive } from '../../archive/archive.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import { discardFrame, readFrames } from '../../archive/part-ranges.ts';
import { hasLength, isRestored, removeFile } from '../../cluster/restored-file.ts';
import { ScatteredFiles } from '../../cluster/scattered-files.ts';
import { CorruptError } from '../../errors.ts';
import { limits } from '../../limits.ts';
import type { PageRules } from '../page-rules.ts';
import { attributesOf, type Batch, type RestoredBatch, type TaskOptions, targetIn } from './batch.ts';
import { readBack } from './read-back.ts';
import { wantedIn } from './wanted-ranges.ts';

export interface WindowRestore extends Batch {
  /** Every part that an extent of these files names. */
  readonly parts: readonly PartLine[];
  /** Undefined where the cluster has no page checksums. */
  readonly pages: PageRules | undefined;
}

export async function restoreWindow(
  archive: Archive,
  batch: WindowRestore,
  options: TaskOptions,
): Promise<RestoredBatch> {
  const checksums = new Map<FileLine, string | undefined>();
  const memory = Buffer.allocUnsafeSlow(limits.frameRawBytes);
  const missing: FileLine[] = [];
  let keptBytes = 0;
  for (const file of batch.files) {
    options.signal.throwIfAborted();
    if (!isKept(batch, file, { checksums, memory })) missing.push(file);
    else {
      keptBytes += file.sizeBytes;
      options.progress(file.sizeBytes);
    }
  }
  const fetchedBytes = await restoreMissing(archive, batch, { missing, checksums, memory, ...options });
  const lacking = batch.files.filter(({ checksum }) => checksum === undefined);
  return {
    keptBytes,
    fetchedBytes,
    checksums: Buffer.from(lacking.map((file) => checksums.get(file) ?? '').join(''), 'hex'),
  };
}

interface Reading {
  readonly checksums: Map<FileLine, string | undefined>;
  readonly memory: Buffer;
}

/** Has an interrupted restore left this file, whole? What is there and is not goes. */
function isKept(batch: WindowRestore, file: FileLine, { checksums, memory }: Reading): boolean {
  const { left, manifestChecksums } = batch;
  const target = targetIn(batch, file);
  if (left === 'nothing') return false;
  if (left === 'unknown') return isRestored(target, { ...file, checksum: undefined }, manifestChecksums);
  if (!hasLength(target, file.sizeBytes)) return false;
  try {
    checksums.set(file, readBack(file, { ...batch, target, memory }));
    return true;
  } catch (error) {
    if (!(error instanceof CorruptError)) throw error;
    removeFile(target);
    return false;
  }
}

interface Missing extends Reading, TaskOptions {
  readonly missing: readonly FileLine[];
}

/** @returns how many bytes came from the storage. */
async function restoreMissing(
  archive: Archive,
  batch: WindowRestore,
  { missing, checksums, memory, signal, progress }: Missing,
): Promise<number> {
  const files = new ScatteredFiles();
  const targets = new Map(missing.map((file) => [file, targetIn(batch, file)]));
  let fetchedBytes = 0;
  try {
    for (const [file, target] of targets) await files.make(target, file.sizeBytes);
    const wanted = wantedIn(
      batch.parts,
      missing.map((file) => ({ file })),
    );
    const onFetched = (bytes: number) => {
      fetchedBytes += bytes;
    };
    for await (const frame of readFrames(archive, wanted.values(), { signal, onFetched })) {
      const { part, offset, content } = frame;
      signal.throwIfAborted();
      let used = 0;
      for (const { range, from, to } of wanted.get(part.index)?.walk.within(offset, content.length) ?? []) {
        const position = range.at + from - range.offset;
        const target = targets.get(range.file) ?? targetIn(batch, range.file);
        const opening = files.write(target, content.subarray(from - offset, to - offset), position);
        if (opening !== undefined) await opening;
        used += to - from;
      }
      progress(used, await discardFrame(frame));
    }
    for (const [file, target] of targets) {
      signal.throwIfAborted();
      await files.settle(target, file.sizeBytes);
      checksums.set(file, readBack(file, { ...batch, target, memory }));
      await files.end(target, attributesOf(batch, file));
      progress(zerosOf(file));
    }
  } finally {
    await files.abandon();
  }
  return fetchedBytes;
}

function zerosOf({ extents }: FileLine): number {
  return extents.reduce((sum, [lengthBytes, index]) => sum + (index === -1 ? lengthBytes : 0), 0);
}
