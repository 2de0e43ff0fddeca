/** What `restore` and `basebackup-fetch` have in common on the command line. */
import type { BasebackupFetchResult } from '../commands/basebackup-fetch.ts';
import { formatBytes } from '../quantities.ts';

export const dirDescription = 'the new data directory: empty, or absent; or, with --delta, that of a stopped cluster';

export const deltaFlag = {
  type: 'boolean',
  default: false,
  describe: 'change a stopped cluster into the backup: what fits is kept, what is not in it is removed',
} as const;

/** How much came from where. */
export function amounts({ fetchedBytes, keptBytes }: BasebackupFetchResult): string {
  return `${formatBytes(fetchedBytes)} fetched, ${formatBytes(keptBytes)} kept`;
}

/** What became of the pg_wal that was there: the last line, since somebody must do something about it one day. */
export function oldWalLines(restored: BasebackupFetchResult | undefined, offered: readonly string[] = []): string[] {
  if (restored?.oldWal === undefined) return [];
  const { folders, pushed, failed } = restored.oldWal;
  return [
    ...(pushed.length > 0 ? [`archived out of the old pg_wal: ${pushed.length} files, up to ${pushed.at(-1)}`] : []),
    ...(offered.length > 0 ? [`recovery goes on into ${offered.join(', ')} of the old pg_wal`] : []),
    ...(failed.length > 0 ? [`NOT archived, and nowhere else than in the old pg_wal: ${failed.join(', ')}`] : []),
    ...folders.map((folder) => `the old pg_wal is in "${folder}": remove that when all is well`),
  ];
}
