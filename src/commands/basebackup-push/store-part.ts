/**
 * A worker's task: reads a batch of a cluster's entries and stores them as one part, a tar archive. Every byte of the part passes this
 * thread alone. Gives back the lines of the list of files.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Archive } from '../../archive/archive.ts';
import { type EntryLine, type FileLine, formatLine, type PartLine } from '../../archive/files-line.ts';
import type { BadPage } from '../../archive/manifest.ts';
import { storeStream } from '../../archive/part.ts';
import { type BytePath, formatPath } from '../../byte-path.ts';
import type { WalkEntry } from '../../cluster/backup-walk.ts';
import { type DataFile, openDataFile, type PageChecks } from '../../cluster/data-file.ts';
import { encodeTarHeader, tarEnd, tarPadding } from '../../codec/tar.ts';
import { limits } from '../../limits.ts';
import { type ManifestChecksums, makeChecksum } from '../../postgres/file-checksum.ts';

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

/** What a part is made of, and how. Can be sent to another thread. */
export interface PartBatch {
  readonly backup: string;
  /** From 1; the index of the part in the list of files is one less. */
  readonly number: number;
  readonly last?: true;
  readonly entries: readonly (WalkEntry | MadeFile)[];
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
  readonly files: number;
  readonly folders: number;
  readonly tablespaces: number;
  readonly fileBytes: number;
  readonly objectBytes: number;
  readonly badPages: number;
  /** The first of them. */
  readonly badPagesNamed: readonly BadPage[];
}

interface PartOptions {
  readonly signal: AbortSignal;
  readonly progress: (bytes: number) => void;
}

export async function storePart(archive: Archive, batch: PartBatch, options: PartOptions): Promise<StoredPart> {
  const { backup, number, level, rawBytes } = batch;
  const tar = new PartTar(batch, options);
  const commitment = await storeStream(archive, { backup, part: number }, tar.members(), {
    level,
    sizeHint: rawBytes,
    signal: options.signal,
  });
  const part: PartLine = {
    type: 'part',
    index: number - 1,
    backup,
    number,
    ...commitment,
    ...(batch.last === true ? { last: true } : {}),
  };
  const lines = Buffer.from([part, ...tar.lines].map(formatLine).join(''));
  const count = (type: EntryLine['type']) => tar.lines.filter((line) => line.type === type).length;
  return {
    lines,
    files: count('file'),
    folders: count('folder'),
    tablespaces: count('tablespace'),
    fileBytes: tar.fileBytes,
    objectBytes: commitment.objectBytes,
    badPages: tar.badPages,
    badPagesNamed: tar.badPagesNamed,
  };
}

/** The members of a part's archive, and what is to be said of them in the list of files. */
class PartTar {
  readonly lines: EntryLine[] = [];
  readonly badPagesNamed: BadPage[] = [];
  badPages = 0;
  fileBytes = 0;
  readonly #batch: PartBatch;
  readonly #options: PartOptions;
  readonly #pace: Pace;
  /** In the raw part: where the next byte goes. */
  #offset = 0;

  constructor(batch: PartBatch, options: PartOptions) {
    this.#batch = batch;
    this.#options = options;
    this.#pace = new Pace(batch.maxBytesPerSecond, options.signal);
  }

  async *members(): AsyncGenerator<Uint8Array> {
    const memory = Buffer.allocUnsafeSlow(limits.frameRawBytes);
    for (const entry of this.#batch.entries) {
      this.#options.signal.throwIfAborted();
      if (entry.type === 'made') yield* this.#file(entry.path, madeFile(entry), memory);
      else if (entry.type === 'file') yield* this.#opened(entry, memory);
      else yield this.#folder(entry);
    }
    yield tarEnd;
  }

  #folder(entry: Exclude<WalkEntry, { type: 'file' }>): Uint8Array {
    const { path, uid, gid, mtimeNs } = entry;
    const owned = { path, mode: entry.mode & 0o777, uid, gid, mtimeNs };
    this.lines.push(
      entry.type === 'folder' ? { type: 'folder', ...owned } : { type: 'tablespace', ...owned, target: entry.target },
    );
    const header = encodeTarHeader({ ...owned, type: 'folder', sizeBytes: 0, mtimeSeconds: secondsOf(mtimeNs) });
    this.#offset += header.length;
    return header;
  }

  async *#opened({ source, path }: { readonly source: BytePath; readonly path: BytePath }, memory: Buffer) {
    const { pages } = this.#batch;
    const onBadPage = (block: number) => this.#badPage(path, block);
    const file = openDataFile(source, path, pages === undefined ? undefined : { ...pages, onBadPage });
    if (file === undefined) return; // dropped since it was listed: whoever replays the WAL drops it, too
    try {
      yield* this.#file(path, file, memory);
    } finally {
      file.close();
    }
  }

  async *#file(path: BytePath, file: DataFile, memory: Buffer) {
    const { sizeBytes, uid, gid, mode, mtimeNs, ctimeNs, inode } = file;
    const header = encodeTarHeader({ type: 'file', path, sizeBytes, mode, uid, gid, mtimeSeconds: secondsOf(mtimeNs) });
    const checksum = makeChecksum(this.#batch.manifestChecksums);
    yield header;
    for (const chunk of file.content(memory)) {
      checksum.update(chunk);
      yield chunk;
      this.#options.progress(chunk.length);
      await this.#pace.passed(chunk.length);
    }
    const padding = tarPadding(sizeBytes);
    if (padding > 0) yield Buffer.alloc(padding);
    const start = this.#offset + header.length;
    this.#offset = start + sizeBytes + padding;
    const extents: FileLine['extents'] = sizeBytes === 0 ? [] : [[sizeBytes, this.#batch.number - 1, start]];
    const owned = { path, uid, gid, mode, mtimeNs };
    this.lines.push({ type: 'file', ...owned, sizeBytes, ctimeNs, inode, checksum: checksum.end(), extents });
    this.fileBytes += sizeBytes;
  }

  #badPage(path: BytePath, block: number): void {
    this.badPages += 1;
    if (this.badPages <= limits.badPagesNamed) this.badPagesNamed.push({ ...formatPath(path), block });
  }
}

function madeFile({ content, mode, uid, gid, mtimeNs }: MadeFile): DataFile {
  return {
    sizeBytes: content.length,
    mode,
    uid,
    gid,
    mtimeNs,
    ctimeNs: mtimeNs,
    inode: 0n,
    *content() {
      if (content.length > 0) yield content;
    },
    close: () => undefined,
  };
}

function secondsOf(mtimeNs: bigint): number {
  return Number(mtimeNs / 1_000_000_000n);
}

/** Holds a reader to a rate, on average since it began. */
class Pace {
  readonly #bytesPerSecond: number | undefined;
  readonly #signal: AbortSignal;
  readonly #startedMs = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number | undefined, signal: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#signal = signal;
  }

  async passed(bytes: number): Promise<void> {
    if (this.#bytesPerSecond === undefined) return;
    this.#bytes += bytes;
    const aheadMs = (this.#bytes / this.#bytesPerSecond) * 1000 - (performance.now() - this.#startedMs);
    if (aheadMs > 0) await sleep(aheadMs, undefined, { signal: this.#signal });
  }
}
