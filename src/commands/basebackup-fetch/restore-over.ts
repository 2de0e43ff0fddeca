/**
 * A worker's task: files that are there already, perhaps, and are to be as they were backed up. Each piece of 1 MiB is compared with its hash; only
 * what differs, or has none, is fetched and written. A piece is never taken for unchanged by less than 128 bits (H41).
 */
import type { Archive } from '../../archive/archive.ts';
import type { Range } from '../../archive/extents.ts';
import { parseHashes, pieceBytes, pieceHash } from '../../archive/file-hashes.ts';
import type { FileLine } from '../../archive/files-line.ts';
import { discardFrame, readFrames } from '../../archive/part-ranges.ts';
import { type BytePath, showPath } from '../../byte-path.ts';
import { type FoundFile, openFound } from '../../cluster/found-file.ts';
import { ScatteredFiles } from '../../cluster/scattered-files.ts';
import { CorruptError } from '../../errors.ts';
import { attributesOf, type RestoredBatch, type TaskOptions, targetIn } from './batch.ts';
import { readBack } from './read-back.ts';
import type { WindowRestore } from './restore-window.ts';
import { wantedIn, zerosIn } from './wanted-ranges.ts';

/** A file, and what is to be done about it. */
interface Looked {
  readonly file: FileLine;
  readonly target: BytePath;
  /** The length of what is there; undefined when nothing is. */
  readonly foundBytes: number | undefined;
  /** What is not known to be right, ascending, none touching the next. */
  readonly ranges: readonly Range[];
  readonly hashes: readonly (Buffer | undefined)[];
  readonly keepsAttributes: boolean;
}

export async function restoreOver(
  archive: Archive,
  batch: WindowRestore,
  options: TaskOptions,
): Promise<RestoredBatch> {
  const memory = Buffer.allocUnsafeSlow(pieceBytes);
  const looked: Looked[] = [];
  let keptBytes = 0;
  for (const file of batch.files) {
    options.signal.throwIfAborted();
    const one = lookAt(batch, file, memory);
    const kept = file.sizeBytes - one.ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    keptBytes += kept;
    options.progress(kept);
    looked.push(one);
  }
  const files = new ScatteredFiles();
  try {
    const fetchedBytes = await fill(archive, batch, { looked, files, memory, ...options });
    const checksums: string[] = [];
    for (const one of looked) {
      options.signal.throwIfAborted();
      if (isChanged(one)) await files.settle(one.target, one.file.sizeBytes);
      const checksum = prove(batch, one, memory);
      if (one.file.checksum === undefined) checksums.push(checksum ?? '');
      if (!one.keepsAttributes || isChanged(one)) await files.end(one.target, attributesOf(batch, one.file));
    }
    return { keptBytes, fetchedBytes, checksums: Buffer.from(checksums.join(''), 'hex') };
  } finally {
    await files.abandon();
  }
}

function lookAt(batch: WindowRestore, file: FileLine, memory: Buffer): Looked {
  const target = targetIn(batch, file);
  const hashes = parseHashes(file.hashes, file.sizeBytes);
  const found = openFound(target);
  try {
    const ranges: { offset: number; lengthBytes: number }[] = [];
    for (const [index, hash] of hashes.entries()) {
      const offset = index * pieceBytes;
      const lengthBytes = Math.min(pieceBytes, file.sizeBytes - offset);
      if (found !== undefined && hash !== undefined && holds(found, { offset, lengthBytes }, { hash, memory }))
        continue;
      const last = ranges.at(-1);
      if (last !== undefined && last.offset + last.lengthBytes === offset) last.lengthBytes += lengthBytes;
      else ranges.push({ offset, lengthBytes });
    }
    const keepsAttributes = found?.has(attributesOf(batch, file)) === true;
    return { file, target, foundBytes: found?.sizeBytes, ranges, hashes, keepsAttributes };
  } finally {
    found?.close();
  }
}

/** Are these bytes there, with this hash? */
function holds(
  found: FoundFile,
  { offset, lengthBytes }: Range,
  { hash, memory }: { readonly hash: Buffer; readonly memory: Buffer },
): boolean {
  if (found.sizeBytes < offset + lengthBytes) return false;
  const content = found.read(offset, memory.subarray(0, lengthBytes));
  return content.length === lengthBytes && pieceHash(content).equals(hash);
}

function isChanged({ file, foundBytes, ranges }: Looked): boolean {
  return foundBytes !== file.sizeBytes || ranges.length > 0;
}

interface Filling extends TaskOptions {
  readonly looked: readonly Looked[];
  readonly files: ScatteredFiles;
  readonly memory: Buffer;
}

/** @returns how many bytes came from the storage. */
async function fill(archive: Archive, batch: WindowRestore, filling: Filling): Promise<number> {
  const { looked, files, memory, signal, progress } = filling;
  for (const { file, target, foundBytes } of looked) {
    if (foundBytes === undefined) await files.make(target, file.sizeBytes);
    else if (foundBytes !== file.sizeBytes) await files.resize(target, file.sizeBytes);
  }
  const isNew = new Set(looked.filter(({ foundBytes }) => foundBytes === undefined).map(({ target }) => target));
  const put = async (target: BytePath, chunk: Uint8Array, position: number) => {
    const isRight = !isNew.has(target) && (await files.holds(target, chunk, { position, memory }));
    if (!isRight) await files.write(target, chunk, position);
  };
  const wanted = wantedIn(batch.parts, looked);
  let fetchedBytes = 0;
  const onFetched = (bytes: number) => {
    fetchedBytes += bytes;
  };
  const zeros = Buffer.alloc(pieceBytes);
  for (const one of looked) {
    for (const { offset, lengthBytes } of zerosIn(one)) {
      for (let done = 0; done < lengthBytes; done += pieceBytes) {
        signal.throwIfAborted();
        const chunk = zeros.subarray(0, Math.min(pieceBytes, lengthBytes - done));
        if (one.foundBytes !== undefined) await put(one.target, chunk, offset + done);
        progress(chunk.length);
      }
    }
  }
  for await (const frame of readFrames(archive, wanted.values(), { signal, onFetched })) {
    const { part, offset, content } = frame;
    signal.throwIfAborted();
    let used = 0;
    for (const { range, from, to } of wanted.get(part.index)?.walk.within(offset, content.length) ?? []) {
      const position = range.at + from - range.offset;
      await put(targetIn(batch, range.file), content.subarray(from - offset, to - offset), position);
      used += to - from;
    }
    progress(used, await discardFrame(frame));
  }
  return fetchedBytes;
}

/** @returns its checksum, where it has to be told. @throws CorruptError when the file is not what was backed up. */
function prove(batch: WindowRestore, one: Looked, memory: Buffer): string | undefined {
  const { file, target, foundBytes, hashes } = one;
  const isHashed = hashes.every((hash) => hash !== undefined);
  // of one that was not read whole for the backup the checksum is not known, and each page is to be the one of its place (H42)
  if (file.checksum === undefined || !isHashed || foundBytes === undefined) {
    return readBack(file, { ...batch, target, memory });
  }
  proveRanges(one, memory);
  return undefined;
}

/** What was written has the hashes that it is to have. */
function proveRanges({ file, target, ranges, hashes }: Looked, memory: Buffer): void {
  if (ranges.length === 0) return;
  const found = openFound(target);
  try {
    for (const { offset, lengthBytes } of ranges) {
      for (let at = offset; at < offset + lengthBytes; at += pieceBytes) {
        const piece = { offset: at, lengthBytes: Math.min(pieceBytes, file.sizeBytes - at) };
        const hash = hashes[at / pieceBytes];
        if (found !== undefined && hash !== undefined && holds(found, piece, { hash, memory })) continue;
        throw new CorruptError(`"${showPath(file.path)}" is not what was backed up: its content differs at ${at}`);
      }
    }
  } finally {
    found?.close();
  }
}
