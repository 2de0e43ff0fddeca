/** Cuts a list of files into what one worker does at a time: a part that is read whole, or files whose content stands in pieces in many parts. Pure. */
import { createHash } from 'node:crypto';
import { type FileLine, type PartLine, unsound } from '../../archive/files-line.ts';
import type { BackupManifest } from '../../archive/manifest.ts';
import { limits } from '../../limits.ts';

export type RestoreTask = {
  /** Tells it from every other task, of this and of other restores: the same list is always cut in the same way. */
  readonly name: string;
  readonly files: readonly FileLine[];
} & (
  | { readonly kind: 'part'; readonly part: PartLine }
  /** With the parts that the files need. */
  | { readonly kind: 'window'; readonly parts: readonly PartLine[] }
);

export async function* tasksOf(
  lines: AsyncIterable<FileLine | PartLine>,
  manifest: Pick<BackupManifest, 'type' | 'files' | 'statistics' | 'manifestChecksums'>,
): AsyncGenerator<RestoreTask> {
  const parts = new Map<number, PartLine>();
  const [leastBytes, mostBytes] = limits.restoreRawBytes;
  const options: WindowOptions = {
    ...manifest,
    parts,
    // longer ones read fewer frames twice, those at their edges; and enough of them for all workers
    sizeBytes: Math.min(mostBytes, Math.max(leastBytes, manifest.statistics.rawBytes / 16)),
  };
  let window = new Window(options);
  let bytes = 0;
  for await (const line of lines) {
    bytes += line.type === 'file' ? line.sizeBytes : 0;
    // zeros cost an enemy nothing, and there is room for no more than the manifest says
    if (bytes > manifest.statistics.rawBytes) throw unsound('its files are longer than the manifest says');
    const isFull = line.type === 'part' ? manifest.type === 'full' || line.last === true : !window.hasRoomFor(line);
    if (isFull && !window.isEmpty) {
      yield window.task();
      window = new Window(options);
    }
    if (line.type === 'part') parts.set(line.index, line);
    else window.add(line);
  }
  if (!window.isEmpty) yield window.task();
}

interface WindowOptions extends Pick<BackupManifest, 'type' | 'files' | 'manifestChecksums'> {
  readonly parts: ReadonlyMap<number, PartLine>;
  readonly sizeBytes: number;
}

/** Consecutive files. */
class Window {
  readonly #options: WindowOptions;
  readonly #files: FileLine[] = [];
  readonly #parts = new Map<number, PartLine>();
  #bytes = 0;
  #extents = 0;
  /** Does each file stand in one part, whole and behind the one before? Where the last one ends in it. */
  #wholeUpTo: number | undefined = 0;

  constructor(options: WindowOptions) {
    this.#options = options;
  }

  get isEmpty(): boolean {
    return this.#files.length === 0;
  }

  hasRoomFor(file: FileLine): boolean {
    const { type, sizeBytes } = this.#options;
    const isOfAnother = file.extents[0] !== undefined && !this.#parts.has(file.extents[0][1]);
    const part = this.#wholePart();
    if (part !== undefined && (type === 'full' || part.last === true)) return true; // what the part holds
    if (part !== undefined && isOfAnother) return false;
    return (
      this.#files.length < limits.partFiles &&
      this.#bytes + file.sizeBytes <= sizeBytes &&
      this.#extents + file.extents.length <= limits.restoreExtents
    );
  }

  add(file: FileLine): void {
    this.#files.push(file);
    this.#bytes += file.sizeBytes;
    this.#extents += file.extents.length;
    for (const [, index] of file.extents) {
      if (index === -1 || this.#parts.has(index)) continue;
      const part = this.#options.parts.get(index);
      if (part === undefined) throw unsound(`no part has the index ${index}`);
      this.#parts.set(index, part);
    }
    this.#wholeUpTo = this.#endIfWhole(file);
  }

  #endIfWhole({ extents, checksum }: FileLine): number | undefined {
    const [extent, ...others] = extents;
    if (checksum === undefined && this.#options.manifestChecksums !== 'NONE') return undefined; // it must be read back
    if (extent === undefined || this.#wholeUpTo === undefined) return this.#wholeUpTo;
    const [lengthBytes, , skipBytes] = extent;
    const follows = others.length === 0 && this.#parts.size === 1 && skipBytes >= this.#wholeUpTo;
    return follows && extent[1] !== -1 ? skipBytes + lengthBytes : undefined;
  }

  /** The part that is best read as a whole, since nearly all that it holds is needed. */
  #wholePart(): PartLine | undefined {
    const [part] = this.#parts.values();
    if (part === undefined || this.#wholeUpTo === undefined) return undefined;
    if (this.#options.type === 'full' || part.last === true) return part;
    return this.#bytes >= part.rawBytes * 0.9 ? part : undefined;
  }

  task(): RestoreTask {
    const part = this.#wholePart();
    const files = this.#files;
    if (part !== undefined) return { kind: 'part', name: part.sha256, files, part };
    const hash = createHash('sha256').update(this.#options.files.sha256);
    for (const file of [files[0], files.at(-1)]) hash.update(`\0${file?.path}`);
    return { kind: 'window', name: hash.digest('hex'), files, parts: [...this.#parts.values()] };
  }
}
