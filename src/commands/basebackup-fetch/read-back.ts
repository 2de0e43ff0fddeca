/** Reads a file that was put together out of pieces, and proves what can be proved of it: its checksum, or else that each page is the one of its place. */
import { piecesOf } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import type { BadPages } from '../../archive/manifest.ts';
import { type BytePath, parsePath, showPath } from '../../byte-path.ts';
import { readRestored } from '../../cluster/restored-file.ts';
import { CorruptError } from '../../errors.ts';
import { type ManifestChecksums, makeChecksum } from '../../postgres/file-checksum.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { findBadPages } from '../../postgres/page.ts';
import { parseRelationFile } from '../../postgres/relation-file.ts';

/** How pages are judged. */
export interface PageRules {
  readonly startLsn: Lsn;
  readonly pageBytes: number;
  /** Pages in one segment file of a relation. */
  readonly segmentPages: number;
  /** Those that were wrong already when they were copied. */
  readonly badPages: BadPages;
}

export interface ReadBackOptions {
  readonly target: BytePath;
  /** 1 MiB. */
  readonly memory: Buffer;
  readonly manifestChecksums: ManifestChecksums;
  readonly pages: PageRules | undefined;
  readonly parts: readonly PartLine[];
}

/**
 * @returns its checksum; undefined for NONE.
 * @throws CorruptError when it has another one than its line says, or when a page is not what was backed up there.
 */
export function readBack(file: FileLine, options: ReadBackOptions): string | undefined {
  const { target, memory, manifestChecksums } = options;
  const checksum = makeChecksum(manifestChecksums);
  const judge = pageJudge(file, options);
  let offset = 0;
  for (const chunk of readRestored(target, memory)) {
    checksum.update(chunk);
    judge(chunk, offset);
    offset += chunk.length;
  }
  const found = checksum.end();
  if (file.checksum !== undefined && found !== undefined && found !== file.checksum) {
    throw new CorruptError(`"${showPath(file.path)}" is not what was backed up: its checksum differs`);
  }
  return found;
}

/** Chunks begin at multiples of 1 MiB, and so with a page. */
function pageJudge(file: FileLine, { pages, parts }: ReadBackOptions): (chunk: Uint8Array, offset: number) => void {
  const relation = parseRelationFile(file.path);
  if (relation === undefined || pages === undefined || file.checksum !== undefined) return () => undefined;
  const { startLsn, pageBytes, segmentPages, badPages } = pages;
  // of more than are named nobody knows which they are
  if (badPages.count > badPages.pages.length) return () => undefined;
  const known = new Set(badPages.pages.filter((one) => parsePath(one) === file.path).map(({ block }) => block));
  const segmentStart = relation.segment * segmentPages;
  return (chunk, offset) => {
    const firstBlock = segmentStart + offset / pageBytes;
    for (const index of findBadPages(chunk, { firstBlock, startLsn, pageSizeBytes: pageBytes })) {
      if (!known.has(firstBlock + index))
        throw wrongPage(file, { block: firstBlock + index, at: offset + index * pageBytes, parts });
    }
  };
}

function wrongPage(
  { path, extents }: FileLine,
  { block, at, parts }: { readonly block: number; readonly at: number; readonly parts: readonly PartLine[] },
): CorruptError {
  let start = 0;
  let index = -1;
  for (const { lengthBytes, part } of piecesOf(extents)) {
    if (start <= at) index = part;
    start += lengthBytes;
  }
  const part = parts.find((one) => one.index === index);
  const place = part === undefined ? 'no part' : `part ${part.number} of backup ${part.backup}`;
  return new CorruptError(`block ${block} of "${showPath(path)}" is not the page that belongs there`, {
    detail: `its checksum is wrong; it stands in ${place}`,
    hint: 'Restore from another backup; "wal-t verify --deep" tells which are sound.',
  });
}
