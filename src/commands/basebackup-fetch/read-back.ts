/** Reads a file that was put together out of pieces, and proves what can be proved of it: its checksum, or else that each page is the one of its place. */
import { piecesOf } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import { type BytePath, showPath } from '../../byte-path.ts';
import { readRestored } from '../../cluster/restored-file.ts';
import { CorruptError } from '../../errors.ts';
import { type ManifestChecksums, makeChecksum } from '../../postgres/file-checksum.ts';
import { type PageJudge, type PageRules, pageJudge, unnamedBadPages } from '../page-rules.ts';

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
  const judge = judgeOf(file, options.pages);
  let offset = 0;
  for (const chunk of readRestored(target, memory)) {
    checksum.update(chunk);
    const [block] = judge?.(chunk, offset) ?? []; // a chunk begins at a multiple of 1 MiB, and so with a page
    if (block !== undefined) throw wrongPage(file, block, options);
    offset += chunk.length;
  }
  const found = checksum.end();
  if (file.checksum !== undefined && found !== undefined && found !== file.checksum) {
    throw new CorruptError(`"${showPath(file.path)}" is not what was backed up: its checksum differs`);
  }
  return found;
}

/** A checksum of all of it says more. Where bad pages were so many that not all are named, any may be one of them. */
function judgeOf({ path, checksum }: FileLine, pages: PageRules | undefined): PageJudge | undefined {
  const isToJudge = checksum === undefined && pages !== undefined && unnamedBadPages(pages) === 0;
  return isToJudge ? pageJudge(path, pages) : undefined;
}

function wrongPage({ path, extents }: FileLine, block: number, { parts, pages }: ReadBackOptions): CorruptError {
  const at = pages === undefined ? 0 : (block % pages.segmentPages) * pages.pageBytes;
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
