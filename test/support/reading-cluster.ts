/** A data directory for which the reader runs in the background, as it would for a recovering server, and that reader. Linux. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { PrefetchingCluster } from './prefetching.ts';
import { processesIn } from './process-tree.ts';
import { waitFor } from './wait.ts';

/** Much longer than a reader may take to see that it has to end, on a machine that does other things. */
const endsWithinMs = 20_000;

export interface Reading {
  readonly cluster: PrefetchingCluster;
  /** Stands for the postmaster. */
  readonly postmaster: ChildProcess;
}

/** With these segments archived, by a server that recovers. */
export async function readingCluster(segments: readonly string[]): Promise<Reading> {
  const cluster = await PrefetchingCluster.create(segments);
  const postmaster = spawn('sleep', ['3600'], { stdio: 'ignore' });
  onTestFinished(async () => {
    postmaster.kill('SIGKILL');
    for (const pid of readersIn(cluster.data)) process.kill(pid, 'SIGCONT');
    await waitFor('the reader to end', () => readersIn(cluster.data).length === 0, endsWithinMs);
  });
  cluster.restart(postmaster.pid ?? 0);
  writeFileSync(join(cluster.data, 'recovery.signal'), '');
  return { cluster, postmaster };
}

/** The processes of Node.js that read ahead in this data directory, which are to be one. */
export function readersIn(dataDirectory: string): number[] {
  return processesIn(dataDirectory).filter((pid) => isReader(commandLineOf(pid)));
}

/** The shell that has started it, and what it is known by; undefined when none was appointed. */
export function appointedIn(dataDirectory: string): number | undefined {
  const path = join(dataDirectory, 'pg_wal/.wal-t/prefetch/reader');
  return existsSync(path) ? Number(readFileSync(path, 'utf8')) : undefined;
}

export async function readerRuns(dataDirectory: string): Promise<number> {
  let found: number | undefined;
  await waitFor('the reader to run', () => {
    [found] = readersIn(dataDirectory);
    return found !== undefined;
  });
  return found ?? 0;
}

export function readerEnds(dataDirectory: string): Promise<void> {
  return waitFor('the reader to end', () => processesOfReader(dataDirectory).length === 0, endsWithinMs);
}

/** The reader, and the shell that waits for it. */
export function processesOfReader(dataDirectory: string): number[] {
  return processesIn(dataDirectory).filter((pid) => commandLineOf(pid).includes('--read-ahead'));
}

function isReader(words: readonly string[]): boolean {
  return words.includes('--read-ahead') && words[0]?.endsWith('sh') !== true;
}

function commandLineOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it has ended
  }
}
