/**
 * The one process that fills the prefetch folder in the background while PostgreSQL replays: who it is, and what it will bring.
 *
 *   pg_wal/.wal-t/prefetch/reader  its process id. One that is not alive is none; who does not find its own there any more has to end
 *   pg_wal/.wal-t/prefetch/coming  the names that it will publish and has not yet, in one line: bin/wal-fetch waits for these
 *   pg_wal/.wal-t/prefetch/said    its messages, for the next call to tell: PostgreSQL's log is not its own
 */
import { readdirSync, readFileSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../errors.ts';
import { isAlive, temporarySuffix } from '../left-overs.ts';
import { parsePostmasterPid } from './postmaster-pid.ts';
import { segmentPattern } from './prefetched.ts';

/** What is said of a failure is shorter. */
const saidBytes = 2048;

export interface Appointed {
  readonly processId: number;
  readonly coming: ReadonlySet<string>;
}

/** Undefined when none is alive. */
export async function findReader(folder: string): Promise<Appointed | undefined> {
  const processId = Number(await readIfThere(join(folder, 'reader')));
  if (!isAlive(processId)) return undefined;
  const names = (await readIfThere(join(folder, 'coming'))).trim().split(' ');
  return { processId, coming: new Set(names.filter((name) => segmentPattern.test(name))) };
}

export async function appointReader(folder: string, processId: number, coming: readonly string[]): Promise<void> {
  await setComing(folder, coming);
  await replace(join(folder, 'reader'), `${processId}\n`);
}

/** At once, since the launcher may be reading it. */
export function setComing(folder: string, names: readonly string[]): Promise<void> {
  return replace(join(folder, 'coming'), `${names.join(' ')}\n`);
}

/** What the last one had to say; it is said once. */
export async function takeLastWords(folder: string): Promise<string> {
  const path = join(folder, 'said');
  const text = (await readIfThere(path)).slice(0, saidBytes).trim();
  if (text !== '') await rm(path, { force: true });
  return text;
}

/**
 * Is it still this process that is to fill the folder, and does the server that it was begun for still recover? Without waiting for
 * any other system call, all of which may hang: whoever asks must end in time. `start`: see `readServerStart`.
 */
export function mayReadOn(options: {
  readonly dataDirectory: string;
  readonly folder: string;
  readonly processId: number;
  readonly start: string;
}): boolean {
  const { dataDirectory, folder, processId, start } = options;
  const server = parsePostmasterPid(tryRead(join(dataDirectory, 'postmaster.pid')) ?? '', dataDirectory);
  if (server === undefined || `${server.pid} ${server.startedAt.getTime() / 1000}` !== start) return false;
  const isThere = (name: string) => tryRead(join(dataDirectory, name)) !== undefined;
  const isRecovering = isThere('recovery.signal') && !isThere('standby.signal') && !isThere('promote');
  return (
    isRecovering && isAlive(server.pid) && isAlive(processId) && tryRead(join(folder, 'reader')) === `${processId}\n`
  );
}

/** How many segments lie ready; 0 where the folder is gone. */
export function countPublished(folder: string): number {
  try {
    return readdirSync(folder).filter((name) => segmentPattern.test(name)).length;
  } catch {
    return 0;
  }
}

function tryRead(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

async function readIfThere(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return '';
    throw error;
  });
}

async function replace(path: string, text: string): Promise<void> {
  const temporary = `${path}.wal-t-${temporarySuffix()}`;
  try {
    await writeFile(temporary, text, { mode: 0o600 });
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
