/** Starts what goes on when the command has ended, where that may be: bin/reader.sh looks. Loaded only in recoveries. */
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import process from 'node:process';
import type { Readable, Writable } from 'node:stream';
import type { Background } from '../commands/wal-fetch/fetch.ts';
import { givenEnvironment } from './aws-environment.ts';

/**
 * It gets the same words with `word` in front, the same environment and working directory; what it says goes to a file in `folder`.
 * Undefined: it may not be.
 */
export async function startReader(folder: string, word: string): Promise<Background | undefined> {
  const [, bundle = '', ...words] = process.argv;
  const script = join(dirname(bundle), '../bin/reader.sh');
  const command = [process.execPath, bundle, word, ...words];
  const child = spawn('/bin/sh', [script, 'begin', folder, ...command], {
    env: givenEnvironment(),
    detached: true, // a session of its own: PostgreSQL signals the whole process group of what it has called
    stdio: ['ignore', 'pipe', 'ignore', 'pipe'], // standard input would be closed with the first child's end
  });
  const [, stdout, , telling] = child.stdio as unknown as [null, Readable, null, Writable];
  telling.on('error', () => undefined); // it has ended already
  const processId = await new Promise<number>((resolve) => {
    child.on('error', () => resolve(0));
    stdout.on('data', (said: Buffer) => resolve(Number(said.toString('latin1'))));
    stdout.on('close', () => resolve(0));
  });
  const leave = (): void => {
    telling.destroy();
    stdout.destroy();
  };
  if (!(processId > 0)) {
    leave();
    return undefined;
  }
  const begin = async (): Promise<void> => {
    await new Promise<void>((resolve) => telling.end('begin\n', () => resolve()));
    leave();
  };
  return { processId, begin, leave };
}
