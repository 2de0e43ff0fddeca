/** Entry of the wal-t bundle: every command, read by one parser. */
import process from 'node:process';
import { parseCommandLine } from '../options.ts';
import { run } from '../run.ts';

const words = process.argv.slice(2);
const [command = ''] = words;

await run(['wal-push', 'wal-fetch'].includes(command) ? command : 'wal-t', () => parseCommandLine(words));
