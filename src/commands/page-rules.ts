/** How the pages of a backup are judged: by their own checksums, and by what is known of them. */
import type { BackupManifest, BadPages } from '../archive/manifest.ts';
import { type BytePath, parsePath } from '../byte-path.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { findBadPages } from '../postgres/page.ts';
import { parseRelationFile } from '../postgres/relation-file.ts';

/** Can be sent to another thread. */
export interface PageRules {
  readonly startLsn: Lsn;
  readonly pageBytes: number;
  /** Pages in one segment file of a relation. */
  readonly segmentPages: number;
  /** Those that were wrong already when they were copied. */
  readonly badPages: BadPages;
}

/** Undefined where the cluster has no page checksums. */
export function pageRules({ checksums, startLsn, pageBytes, badPages }: BackupManifest): PageRules | undefined {
  return checksums ? { startLsn, pageBytes, segmentPages: 2 ** 30 / pageBytes, badPages } : undefined;
}

/** The blocks, over all segments of the relation, that are wrong and that nobody knows of; `offset` in the file is where a page begins. */
export type PageJudge = (pages: Uint8Array, offset: number) => readonly number[];

/** Undefined for what is no file of a relation. */
export function pageJudge(path: BytePath, rules: PageRules | undefined): PageJudge | undefined {
  const relation = parseRelationFile(path);
  if (relation === undefined || rules === undefined) return undefined;
  const { startLsn, pageBytes: pageSizeBytes, segmentPages, badPages } = rules;
  const known = new Set(badPages.pages.filter((one) => parsePath(one) === path).map(({ block }) => block));
  return (pages, offset) => {
    const firstBlock = relation.segment * segmentPages + offset / pageSizeBytes;
    const bad = findBadPages(pages, { firstBlock, startLsn, pageSizeBytes });
    return bad.map((index) => firstBlock + index).filter((block) => !known.has(block));
  };
}

/** So many were wrong when they were copied and are not named: nobody knows which they are. */
export function unnamedBadPages({ badPages }: Pick<PageRules, 'badPages'>): number {
  return badPages.count - badPages.pages.length;
}
