/** What `wal-t init` prints: what was found, and the lines to paste, right for where these executables and settings are. */
import type { InitResult } from '../commands/init.ts';
import type { Entries } from '../config.ts';
import { configQuoted, environmentAdvice, ownCommand } from './own-commands.ts';

export function describeInit({ url, repository, created, adoptedFrom }: InitResult, entries: Entries): string {
  const { conditionalPut, delete: deletes } = repository.storage;
  const lines = [
    `repository ${repository.repository} ${created ? 'made' : 'found'} at ${url}`,
    `  conditional writes: ${conditionalPut}`,
    `  deleting:           ${deletes}`,
  ];
  if (adoptedFrom !== undefined) lines.push(`  adopted: the cluster was archived into ${adoptedFrom} before`);
  const command = (name: string, words: string) => configQuoted(ownCommand(entries, name, words));
  lines.push(
    '',
    'postgresql.conf (archive_mode needs a restart, the others a reload):',
    '',
    'archive_mode = on',
    `archive_command = ${command('wal-push', '%p %f')}`,
    `restore_command = ${command('wal-fetch', '%f %p')}`,
    'archive_timeout = 60s    # what a lost host may cost at most; each segment is compressed',
  );
  return [...lines, ...environmentAdvice(entries)].join('\n');
}
