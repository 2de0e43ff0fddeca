/**
 * What of a file an increment reads anew: the rules by which a page or a file counts as unchanged since its parent. In doubt it is changed.
 * Why each rule is there, and what PostgreSQL promises that it rests on, stands in docs/INCREMENTS.md.
 */
import { piecesOf, type Range, replaced } from '../../archive/extents.ts';
import { parseHashes, pieceHash } from '../../archive/file-hashes.ts';
import type { FileLine } from '../../archive/files-line.ts';
import type { DataFile } from '../../cluster/data-file.ts';
import { hasSameTimes } from '../../cluster/unchanged-file.ts';
import { limits } from '../../limits.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { changedPages } from '../../postgres/page-changes.ts';
import { parseRelationFile } from '../../postgres/relation-file.ts';

/** What an increment knows of a file from its parent. Can be sent to another thread. */
export interface KnownFile {
  /** The parent's line, but that its extents name parts by their indexes in the list that is being made. */
  readonly line: FileLine;
  /**
   * times    nothing, if size, times and inode still are what they were
   * content  what its pages tell, or its hash
   * numbers  these pages of this file, ascending, and those that it did not have
   */
  readonly changes: 'times' | 'content' | Uint32Array;
  /** Pages of this file whose checksum was wrong in the parent: whatever they are now, they are read. */
  readonly badPages: readonly number[];
}

/** The same for all files of an increment. Can be sent to another thread. */
export interface IncrementRules {
  /** The parent's start: what was changed from there on may be missing in it. */
  readonly sinceLsn: Lsn;
  readonly pageBytes: number;
  /** Pages in one segment file of a relation. */
  readonly segmentPages: number;
  readonly checksums: boolean;
  /** Nothing may refer to these parts any more: their indexes in the list that is being made. */
  readonly staleParts: ReadonlySet<number>;
}

/** Files that changed and are no longer than this are stored whole: their pieces would cost more than their bytes. */
const smallFileBytes = 128 * 1024;

/** Of the file's content: `whole` and `nothing`, or ranges of pages, ascending, none touching the next. */
export type Fresh = 'whole' | 'nothing' | readonly Range[];

/** `memory`: 1 MiB to read into. */
export function freshOf(file: DataFile, known: KnownFile, rules: IncrementRules, memory: Buffer): Fresh {
  const { line } = known;
  const isSame = known.changes === 'times' && hasSameTimes(file, line);
  const relation = parseRelationFile(line.path);
  if (relation?.fork !== 'main') {
    const isTaken = known.badPages.length === 0 && !line.extents.some(([, part]) => rules.staleParts.has(part));
    return isTaken && (isSame || hasSameHashes(file, line, memory)) ? 'nothing' : 'whole';
  }
  const firstBlock = relation.segment * rules.segmentPages;
  const changed = isSame
    ? new Uint8Array(pageCount(file, rules))
    : changedIn(file, known, { ...rules, firstBlock }, memory);
  if (changed === undefined) return 'whole';
  const { pageBytes } = rules;
  // the parent did not have them whole (H42), or they are not whole now
  changed.fill(1, Math.floor(Math.min(line.sizeBytes, file.sizeBytes) / pageBytes));
  for (const page of known.badPages) changed[page] = 1;
  markStale(changed, line, rules);
  const ranges = rangesOf(changed, file.sizeBytes, pageBytes);
  if (ranges.length === 0) return line.sizeBytes === file.sizeBytes ? 'nothing' : [];
  const freshBytes = ranges.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  if (freshBytes === file.sizeBytes || file.sizeBytes <= smallFileBytes) return 'whole';
  const pieces = replaced(piecesOf(line.extents), ranges, { sizeBytes: file.sizeBytes, part: -1, start: 0 });
  return pieces.length > limits.extentsOfFile ? 'whole' : ranges;
}

function pageCount(
  { sizeBytes }: Pick<DataFile, 'sizeBytes'>,
  { pageBytes }: Pick<IncrementRules, 'pageBytes'>,
): number {
  return Math.ceil(sizeBytes / pageBytes);
}

/** Never by 32 bits (H41). */
function hasSameHashes(file: DataFile, line: FileLine, memory: Buffer): boolean {
  if (file.sizeBytes !== line.sizeBytes) return false;
  const known = parseHashes(line.hashes, line.sizeBytes);
  let index = 0;
  for (const piece of file.content(memory, { unchecked: true })) {
    if (known[index]?.equals(pieceHash(piece)) !== true) return false;
    index += 1;
  }
  return true;
}

/** A flag for each page; undefined when it cannot be told. */
function changedIn(
  file: DataFile,
  { line, changes }: KnownFile,
  { firstBlock, sinceLsn, pageBytes, checksums }: IncrementRules & { readonly firstBlock: number },
  memory: Buffer,
): Uint8Array | undefined {
  const flags = new Uint8Array(pageCount(file, { pageBytes }));
  if (typeof changes !== 'string') {
    for (const page of changes) if (page < flags.length) flags[page] = 1;
    return flags;
  }
  const visible = bitsOf(line, pageBytes);
  if (visible === undefined) return undefined;
  const isKnownVisible = (block: number) => isSet(visible, block - firstBlock);
  let page = 0;
  for (const chunk of file.content(memory, { unchecked: true })) {
    const options = { firstBlock: firstBlock + page, sinceLsn, pageBytes, checksums, isKnownVisible };
    for (const index of changedPages(chunk, options)) flags[page + index] = 1;
    page += Math.ceil(chunk.length / pageBytes);
  }
  return flags;
}

/** PD_ALL_VISIBLE of the file's pages; undefined where the parent did not keep it. */
function bitsOf({ allVisible, sizeBytes }: FileLine, pageBytes: number): Buffer | undefined {
  if (allVisible === undefined) return undefined;
  const bits = Buffer.from(allVisible, 'base64');
  return bits.length === Math.ceil(Math.floor(sizeBytes / pageBytes) / 8) ? bits : undefined;
}

function isSet(bits: Buffer, index: number): boolean {
  return ((bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
}

/** Pages of which anything stands in a part that is to be needed no longer. */
function markStale(changed: Uint8Array, line: FileLine, { staleParts, pageBytes }: IncrementRules): void {
  let offset = 0;
  for (const [lengthBytes, part] of line.extents) {
    if (staleParts.has(part))
      changed.fill(1, Math.floor(offset / pageBytes), Math.ceil((offset + lengthBytes) / pageBytes));
    offset += lengthBytes;
  }
}

function rangesOf(changed: Uint8Array, sizeBytes: number, pageBytes: number): Range[] {
  const ranges: Range[] = [];
  for (let page = changed.indexOf(1); page !== -1; ) {
    const after = changed.indexOf(0, page);
    const end = after === -1 ? changed.length : after;
    const offset = page * pageBytes;
    ranges.push({ offset, lengthBytes: Math.min(end * pageBytes, sizeBytes) - offset });
    page = changed.indexOf(1, end);
  }
  return ranges;
}

/** The hashes of the file's pieces that no fresh range touches: they are the parent's. */
export function inheritedHashes(line: FileLine, fresh: readonly Range[], sizeBytes: number): (Buffer | undefined)[] {
  const old = parseHashes(line.hashes, line.sizeBytes);
  const touched = new Set<number>();
  const mebibyte = limits.frameRawBytes;
  for (const { offset, lengthBytes } of fresh) {
    for (let piece = Math.floor(offset / mebibyte); piece * mebibyte < offset + lengthBytes; piece += 1)
      touched.add(piece);
  }
  return Array.from({ length: Math.ceil(sizeBytes / mebibyte) }, (_, piece) => {
    const end = (piece + 1) * mebibyte;
    const isAsBefore =
      !touched.has(piece) && (end <= Math.min(sizeBytes, line.sizeBytes) || sizeBytes === line.sizeBytes);
    return isAsBefore ? old[piece] : undefined;
  });
}
