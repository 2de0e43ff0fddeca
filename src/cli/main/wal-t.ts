/** Entry of the wal-t bundle: every command, read by one parser. */
import process from 'node:process';
import { parseCommandLine } from '../options.ts';
import { run } from '../run.ts';

/** Executables of their own, by every name they have, and the name in their messages. */
const executables: ReadonlyMap<string, string> = new Map([
  ...['wal-push', 'wal-fetch', 'basebackup-push', 'basebackup-fetch', 'backup-list'].map(
    (name) => [name, name] as const,
  ),
  ['backup-push', 'basebackup-push'],
  ['backup-fetch', 'basebackup-fetch'],
]);

const words = process.argv.slice(2);
const [command = ''] = words;

await run(executables.get(command) ?? 'wal-t', () => parseCommandLine(words));
