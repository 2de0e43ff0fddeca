/** The members of a part's tar archive, read from the cluster while they are asked for, and what is to be said of them in the list of files. */
import { extentsOf, piecesOf, type Range, replaced } from '../../archive/extents.ts';
import { formatHashes, pieceHash } from '../../archive/file-hashes.ts';
import type { EntryLine, Extent } from '../../archive/files-line.ts';
import type { BadPage } from '../../archive/manifest.ts';
import { type BytePath, formatPath } from '../../byte-path.ts';
import type { WalkEntry } from '../../cluster/backup-walk.ts';
import { type DataFile, openDataFile } from '../../cluster/data-file.ts';
import { encodeTarHeader, tarEnd, tarPadding } from '../../codec/tar.ts';
import { limits } from '../../limits.ts';
import { makeChecksum } from '../../postgres/file-checksum.ts';
import { parseRelationFile } from '../../postgres/relation-file.ts';
import type { Progressing } from '../crew.ts';
import { freshOf, inheritedHashes, type KnownFile } from './changed-file.ts';
import { Pace } from './pace.ts';
import type { ClusterEntry, MadeFile, PartBatch } from './store-part.ts';
import { VisiblePages } from './visible-pages.ts';

export interface PartOptions {
  readonly signal: AbortSignal;
  readonly progress: Progressing;
}

export class PartTar {
  readonly lines: EntryLine[] = [];
  readonly badPagesNamed: BadPage[] = [];
  /** Indexes of earlier backups' parts that the lines refer to. */
  readonly usedParts = new Set<number>();
  badPages = 0;
  fileBytes = 0;
  readBytes = 0;
  /** Has nothing gone into the archive? */
  isEmpty = true;
  readonly #batch: PartBatch;
  readonly #options: PartOptions;
  readonly #pace: Pace;
  readonly #memory = Buffer.allocUnsafeSlow(limits.frameRawBytes);
  /** In the raw part: where the next byte goes. */
  #offset = 0;
  /** Members that hold pages. */
  #pageMembers = 0;

  constructor(batch: PartBatch, options: PartOptions) {
    this.#batch = batch;
    this.#options = options;
    this.#pace = new Pace(batch.maxBytesPerSecond, options.signal);
  }

  async *members(): AsyncGenerator<Uint8Array> {
    for (const entry of this.#batch.entries) {
      this.#options.signal.throwIfAborted();
      if (entry.type === 'made') yield* this.#whole(entry.path, madeFile(entry));
      else if (entry.type === 'file') yield* this.#opened(entry);
      else yield* this.#folder(entry);
    }
    yield tarEnd;
  }

  /** An increment's parts hold files alone: folders are in its list. */
  *#folder(entry: Exclude<WalkEntry, { type: 'file' }>): Generator<Uint8Array> {
    const { path, uid, gid, mtimeNs } = entry;
    const owned = { path, mode: entry.mode & 0o777, uid, gid, mtimeNs };
    this.lines.push(
      entry.type === 'folder' ? { type: 'folder', ...owned } : { type: 'tablespace', ...owned, target: entry.target },
    );
    if (this.#batch.increment !== undefined && this.#batch.last !== true) return;
    const header = encodeTarHeader({ ...owned, type: 'folder', sizeBytes: 0, mtimeSeconds: secondsOf(mtimeNs) });
    this.#offset += header.length;
    this.isEmpty = false;
    yield header;
  }

  async *#opened({ source, path, known }: Extract<ClusterEntry, { type: 'file' }>) {
    const { pages, increment } = this.#batch;
    const onBadPage = (block: number) => this.#badPage(path, block);
    const file = openDataFile(source, path, pages === undefined ? undefined : { ...pages, onBadPage });
    if (file === undefined) return; // dropped since it was listed: whoever replays the WAL drops it, too
    try {
      const compared = known?.changes === 'content' ? file.sizeBytes : 0;
      const fresh =
        known === undefined || increment === undefined ? 'whole' : freshOf(file, known, increment, this.#memory);
      this.readBytes += compared;
      if (fresh === 'whole' || known === undefined) yield* this.#whole(path, file);
      else yield* this.#taken(file, known, fresh === 'nothing' ? [] : fresh);
    } finally {
      file.close();
    }
  }

  async *#whole(path: BytePath, file: DataFile) {
    const { sizeBytes } = file;
    const checksum = makeChecksum(this.#batch.manifestChecksums);
    const hashes: Buffer[] = [];
    const visible = this.#visiblePages(path, file);
    const start = yield* this.#header(path, file, sizeBytes);
    for (const chunk of file.content(this.#memory)) {
      checksum.update(chunk);
      hashes.push(pieceHash(chunk));
      visible?.look(chunk);
      yield* this.#content(chunk);
    }
    yield* this.#padding(sizeBytes);
    const extents: Extent[] = sizeBytes === 0 ? [] : [[sizeBytes, this.#batch.index, start]];
    const told = { checksum: checksum.end(), hashes: formatHashes(hashes), allVisible: visible?.text, extents };
    this.lines.push({ type: 'file', path, ...attributesOf(file), ...told });
    this.fileBytes += sizeBytes;
  }

  /** A file that is its parent's but for some ranges. */
  async *#taken(file: DataFile, { line }: KnownFile, fresh: readonly Range[]) {
    const { path } = line;
    const { sizeBytes } = file;
    const freshBytes = fresh.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    const visible = this.#visiblePages(path, file, line);
    let start = 0;
    if (freshBytes > 0) {
      this.#pageMembers += 1;
      start = yield* this.#header(`.wal-t/pages/${this.#pageMembers}`, file, freshBytes);
      for (const range of fresh) {
        visible?.goTo(range.offset);
        for (const chunk of file.content(this.#memory, { ranges: [range] })) {
          visible?.look(chunk);
          yield* this.#content(chunk);
        }
      }
      yield* this.#padding(freshBytes);
    }
    const isAsBefore = freshBytes === 0 && sizeBytes === line.sizeBytes;
    const placed = { sizeBytes, part: this.#batch.index, start };
    const extents = isAsBefore ? line.extents : extentsOf(replaced(piecesOf(line.extents), fresh, placed));
    for (const [, part] of extents) if (part !== -1 && part !== this.#batch.index) this.usedParts.add(part);
    const told = {
      checksum: isAsBefore ? line.checksum : undefined,
      hashes: isAsBefore ? line.hashes : formatHashes(inheritedHashes(line, fresh, sizeBytes)),
      allVisible: visible?.text,
      extents,
    };
    this.lines.push({ type: 'file', path, ...attributesOf(file), ...told });
    this.fileBytes += sizeBytes;
    this.#options.progress(sizeBytes - freshBytes, 0);
  }

  #visiblePages(path: BytePath, { sizeBytes }: DataFile, line?: KnownFile['line']): VisiblePages | undefined {
    const { pageBytes } = this.#batch;
    if (parseRelationFile(path)?.fork !== 'main') return undefined;
    return VisiblePages.of({ sizeBytes, pageBytes }, line);
  }

  /** @returns where in the raw part the content begins. */
  *#header(path: BytePath, file: DataFile, sizeBytes: number): Generator<Uint8Array, number> {
    const { uid, gid, mode, mtimeNs } = file;
    const header = encodeTarHeader({ type: 'file', path, sizeBytes, mode, uid, gid, mtimeSeconds: secondsOf(mtimeNs) });
    this.isEmpty = false;
    yield header;
    const start = this.#offset + header.length;
    this.#offset = start + sizeBytes + tarPadding(sizeBytes);
    return start;
  }

  async *#content(chunk: Uint8Array) {
    this.readBytes += chunk.length;
    yield chunk;
    this.#options.progress(chunk.length, 0); // the next one has its memory
    await this.#pace.passed(chunk.length);
  }

  *#padding(sizeBytes: number): Generator<Uint8Array> {
    const padding = tarPadding(sizeBytes);
    if (padding > 0) yield Buffer.alloc(padding);
  }

  #badPage(path: BytePath, block: number): void {
    this.badPages += 1;
    if (this.badPages <= limits.badPagesNamed) this.badPagesNamed.push({ ...formatPath(path), block });
  }
}

function attributesOf({ uid, gid, mode, mtimeNs, sizeBytes, ctimeNs, inode }: DataFile) {
  return { uid, gid, mode, mtimeNs, sizeBytes, ctimeNs, inode };
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
      for (let at = 0; at < content.length; at += limits.frameRawBytes) {
        yield content.subarray(at, at + limits.frameRawBytes);
      }
    },
    close: () => undefined,
  };
}

function secondsOf(mtimeNs: bigint): number {
  return Number(mtimeNs / 1_000_000_000n);
}
