/** Pages of a cluster whose checksum was wrong, as people are told of them. */
import type { BadPage, BadPages } from '../archive/manifest.ts';
import { parsePath, showPath } from '../byte-path.ts';

/** `base/5/16384 block 7`: the relation's file, and the block counted over all files of the relation, as PostgreSQL's functions want it. */
export function describeBadPage(page: BadPage): string {
  return `${showPath(parsePath(page) ?? '')} block ${page.block}`;
}

/** One line for each that is named, indented, and one for those that are only counted. */
export function listBadPages({ count, pages }: BadPages): string[] {
  const more = count > pages.length ? [`  and ${count - pages.length} more`] : [];
  return [...pages.map((page) => `  ${describeBadPage(page)}`), ...more];
}

/** `1 page has`, `12 pages have`. */
export function countBadPages({ count }: BadPages): string {
  return count === 1 ? '1 page has' : `${count} pages have`;
}
