/** Hands the command line to wal-t's bundle, which holds the parser: the hot path does not load it. */
import process from 'node:process';

export async function runParsed(command: string): Promise<void> {
  process.argv.splice(2, 0, command);
  await import(new URL('./wal-t.mjs', import.meta.url).href);
}
