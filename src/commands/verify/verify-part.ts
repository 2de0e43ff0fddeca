/** A worker's task: reads one part and proves that every byte, every file and every page in it is what was backed up. */
import type { Archive } from '../../archive/archive.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import type { BadPage } from '../../archive/manifest.ts';
import { formatPath } from '../../byte-path.ts';
import { limits } from '../../limits.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { findBadPages } from '../../postgres/page.ts';
import { parseRelationFile } from '../../postgres/relation-file.ts';
import { type FileSink, readPartFiles } from '../part-files.ts';

/** Can be sent to another thread. */
export interface VerifyBatch {
  readonly part: PartLine;
  readonly files: readonly FileLine[];
  readonly manifestChecksums: ManifestChecksums;
  /** Undefined where the cluster has no page checksums. */
  readonly pages: { readonly startLsn: Lsn; readonly pageBytes: number; readonly segmentPages: number } | undefined;
}

/** Pages whose checksum is wrong though they are stored as they were copied: all are counted, the first named. */
export interface VerifiedPart {
  readonly badPages: number;
  readonly badPagesNamed: readonly BadPage[];
}

/** @throws CorruptError when anything is not what the backup committed to. */
export async function verifyPart(
  archive: Archive,
  { part, files, manifestChecksums, pages }: VerifyBatch,
  options: { readonly signal: AbortSignal; readonly progress: (bytes: number) => void },
): Promise<VerifiedPart> {
  const found = { badPages: 0, badPagesNamed: [] as BadPage[] };
  const open = (file: FileLine): FileSink => {
    const relation = parseRelationFile(file.path);
    if (pages === undefined || relation === undefined) return ignoring;
    const onBadPage = (block: number) => {
      found.badPages += 1;
      if (found.badPages <= limits.badPagesNamed) found.badPagesNamed.push({ ...formatPath(file.path), block });
    };
    return new PageSink({ ...pages, firstBlock: relation.segment * pages.segmentPages, onBadPage });
  };
  await readPartFiles(archive, { part, files, manifestChecksums }, { ...options, open });
  return found;
}

const ignoring: FileSink = { write: () => undefined, end: () => undefined, abandon: () => undefined };

interface PageSinkOptions {
  readonly startLsn: Lsn;
  readonly pageBytes: number;
  readonly firstBlock: number;
  readonly onBadPage: (block: number) => void;
}

/** Looks at whole pages, however the chunks are cut. */
class PageSink implements FileSink {
  readonly #options: PageSinkOptions;
  #rest: Buffer = Buffer.alloc(0);
  #block: number;

  constructor(options: PageSinkOptions) {
    this.#options = options;
    this.#block = options.firstBlock;
  }

  write(chunk: Uint8Array): void {
    const { pageBytes, startLsn, onBadPage } = this.#options;
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const whole = Math.floor(bytes.length / pageBytes);
    const pages = bytes.subarray(0, whole * pageBytes);
    for (const index of findBadPages(pages, { firstBlock: this.#block, startLsn, pageSizeBytes: pageBytes }))
      onBadPage(this.#block + index);
    this.#block += whole;
    this.#rest = Buffer.from(bytes.subarray(pages.length));
  }

  end(): void {
    this.#rest = Buffer.alloc(0);
  }

  abandon(): void {
    this.end();
  }
}
