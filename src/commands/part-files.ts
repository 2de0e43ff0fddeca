/** Reads a stored part from its beginning to its end and hands out the files that stand in it, each checked against the list of files. */
import type { Archive } from '../archive/archive.ts';
import type { FileLine, PartLine } from '../archive/files-line.ts';
import { discardContent, readStream } from '../archive/part.ts';
import { showPath } from '../byte-path.ts';
import { CorruptError } from '../errors.ts';
import { type ManifestChecksums, makeChecksum } from '../postgres/file-checksum.ts';
import type { Progressing } from './crew.ts';

/** Takes the content of one file. */
export interface FileSink {
  /** Keeps nothing of the chunk: its memory is given back. */
  write(chunk: Uint8Array): void;
  /** The whole content was right. What it still does goes on beside the next file. */
  end(): Promise<void> | void;
  /** It was not, or is not to be had. */
  abandon(): Promise<void> | void;
}

export interface ReadPart {
  readonly part: PartLine;
  /** The files to take out of it, in the order of the list. */
  readonly files: readonly FileLine[];
  readonly manifestChecksums: ManifestChecksums;
}

export interface ReadPartOptions {
  readonly signal: AbortSignal;
  readonly progress: Progressing;
  readonly open: (file: FileLine) => FileSink;
}

/**
 * All of the part is read, also what no file needs: it is known to be right when this returns.
 * @throws CorruptError when it is not what the backup committed to, or a file in it has another checksum than the list says.
 */
export async function readPartFiles(
  archive: Archive,
  { part, files, manifestChecksums }: ReadPart,
  options: ReadPartOptions,
): Promise<void> {
  const name = { backup: part.backup, part: part.number };
  const endings: Promise<void>[] = [];
  const onEnding = (ending: Promise<void>): void => {
    ending.catch(() => undefined); // awaited when all are read
    endings.push(ending);
  };
  const taken = { manifestChecksums, onEnding, ...options };
  const waiting = files.map((file) => new Taking(file, startOf(file, part), taken));
  let current = 0;
  let offset = 0;
  try {
    for (; waiting[current]?.isEmpty; current += 1) waiting[current]?.take(Buffer.alloc(0), 0);
    for await (const chunk of readStream(archive, name, part, options)) {
      while (waiting[current]?.take(chunk, offset) === true) current += 1;
      offset += chunk.length;
      options.progress(chunk.length, await discardContent(chunk, part));
    }
    if (current < waiting.length)
      throw new CorruptError(`the list of files names content that part ${part.number} does not have`);
    await Promise.all(endings);
  } catch (error) {
    await waiting[current]?.abandon();
    throw error;
  } finally {
    await Promise.allSettled(endings);
  }
}

/** Where the file's content begins in the raw part. */
function startOf({ path, extents }: FileLine, part: PartLine): number {
  const [extent, ...others] = extents;
  if (extent === undefined) return 0;
  if (others.length === 0 && extent[1] === part.index) return extent[2];
  throw new CorruptError(`"${showPath(path)}" is stored in pieces`, {
    hint: 'A newer version of WAL-T made this backup: use that one.',
  });
}

interface TakingOptions extends Pick<ReadPart, 'manifestChecksums'>, Pick<ReadPartOptions, 'open'> {
  readonly onEnding: (ending: Promise<void>) => void;
}

/** A file that is being taken out of a part. */
class Taking {
  readonly #file: FileLine;
  readonly #start: number;
  readonly #open: (file: FileLine) => FileSink;
  readonly #onEnding: (ending: Promise<void>) => void;
  readonly #checksum: ReturnType<typeof makeChecksum>;
  #sink: FileSink | undefined;
  #taken = 0;

  constructor(file: FileLine, start: number, { manifestChecksums, open, onEnding }: TakingOptions) {
    this.#file = file;
    this.#start = start;
    this.#open = open;
    this.#onEnding = onEnding;
    this.#checksum = makeChecksum(file.checksum === undefined ? 'NONE' : manifestChecksums);
  }

  get isEmpty(): boolean {
    return this.#file.sizeBytes === 0;
  }

  /** Takes what is the file's of a chunk that stands at `offset` in the part. @returns whether that was the last of it. */
  take(chunk: Uint8Array, offset: number): boolean {
    const { sizeBytes } = this.#file;
    const from = this.#start + this.#taken - offset;
    if (sizeBytes > 0 && from >= chunk.length) return false;
    if (sizeBytes > 0 && from < 0) throw new CorruptError('the list of files is not in the order of its parts');
    this.#sink ??= this.#open(this.#file);
    const piece = sizeBytes === 0 ? new Uint8Array() : chunk.subarray(from, from + sizeBytes - this.#taken);
    this.#checksum.update(piece);
    if (piece.length > 0) this.#sink.write(piece);
    this.#taken += piece.length;
    if (this.#taken < sizeBytes) return false;
    this.#expectChecksum();
    const ending = this.#sink.end();
    this.#sink = undefined;
    if (ending !== undefined) this.#onEnding(ending);
    return true;
  }

  #expectChecksum(): void {
    const { path, checksum } = this.#file;
    if (checksum === undefined || this.#checksum.end() === checksum) return;
    throw new CorruptError(`"${showPath(path)}" is not what was backed up: its checksum differs`);
  }

  async abandon(): Promise<void> {
    await this.#sink?.abandon();
  }
}
