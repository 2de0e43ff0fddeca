/** Were there damaged pages in the cluster when its newest backup was taken? Then older backups may hold the last sound copy. */
import type { BadPage } from '../../archive/manifest.ts';
import { type Check, failed, NotLookedAt, ok } from './finding.ts';
import { readNewestManifest } from './newest-manifest.ts';

const namedAtMost = 5;

export const checksums: Check = {
  name: 'checksums',
  about: 'the newest backup was taken of pages with right checksums',
  async look(subject) {
    const { id, badPages, checksums: hasChecksums } = await readNewestManifest(subject);
    if (!hasChecksums) throw new NotLookedAt('the cluster has no page checksums');
    const figures = { checksum_failures: badPages.count };
    if (badPages.count === 0) return ok('no page of the newest backup had a wrong checksum', { figures });
    const more = badPages.count > namedAtMost ? `, and ${badPages.count - namedAtMost} more` : '';
    const what = badPages.count === 1 ? 'a page' : `${badPages.count} pages`;
    return failed(`${what} in the cluster had a wrong checksum when the newest backup was taken`, {
      detail: `${badPages.pages.slice(0, namedAtMost).map(describe).join(', ')}${more}; backup ${id}`,
      hint: 'Look after the disk. Keep the older backups ("wal-t pin"): they may hold the last sound copy of these pages.',
      figures,
    });
  },
};

function describe(page: BadPage): string {
  return `block ${page.block} of "${'path' in page ? page.path : `\\x${page.pathHex}`}"`;
}
