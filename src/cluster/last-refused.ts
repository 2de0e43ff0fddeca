/**
 * What `pg_wal/.wal-t/last-refused` remembers: the segment that wal-fetch did not deliver last, and why. PostgreSQL then asks for the
 * same segment of an older timeline, in a call that knows nothing of the one before (H2). bin/wal-fetch writes failures into it.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { readServerStart } from './postmaster-pid.ts';

/** The segment's name, the exit code, and of `postmaster.pid` the process id and the start time: one line. */
const pattern = /^([0-9A-F]{24}) (\d{1,3}) (-?\d+) (\d+)\n$/;

/** The exit code of what was proved absent. */
const absent = 1;

export interface LastRefused {
  /** Its name. */
  readonly segment: string;
  readonly provedAbsent: boolean;
  /** Of the call that refused it. */
  readonly exitCode: number;
}

/** Does PostgreSQL's own recovery ask, rather than pg_rewind or a person, who want what they name (H6)? */
export function isRecoveryTarget(path: string): boolean {
  return ['RECOVERYXLOG', 'RECOVERYHISTORY'].includes(basename(path));
}

/** Undefined where nothing was refused since this server started. @throws HostError when it cannot be read. */
export async function readLastRefused(dataDirectory: string): Promise<LastRefused | undefined> {
  const path = lastRefusedPath(dataDirectory);
  const text = await readFile(path, 'latin1').catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return '';
    throw new HostError(`could not read "${path}": ${systemErrorReason(error)}`, {
      hint: 'It must belong to the user that PostgreSQL runs as, as pg_wal does.',
      cause: error,
    });
  });
  const [, segment, exitCode, ...server] = pattern.exec(text) ?? [];
  if (segment === undefined || server.join(' ') !== (await readServerStart(dataDirectory))) return undefined;
  return { segment, provedAbsent: Number(exitCode) === absent, exitCode: Number(exitCode) };
}

/**
 * Remembers a segment as proved absent, until the server is started again: a power failure need not spare it.
 * @throws HostError when it cannot: then "absent" must not be said either.
 */
export async function rememberAbsent(dataDirectory: string, segment: string): Promise<void> {
  const server = await readServerStart(dataDirectory);
  if (server === undefined) return; // no server runs on it, which could ask next
  const path = lastRefusedPath(dataDirectory);
  const line = `${segment} ${absent} ${server}\n`;
  try {
    await writeFile(path, line, { mode: 0o600 }).catch(async (error: unknown) => {
      if (systemErrorCode(error) !== 'ENOENT') throw error;
      await mkdir(dirname(path), { mode: 0o700 });
      await writeFile(path, line, { mode: 0o600 });
    });
  } catch (error) {
    throw new HostError(`could not write "${path}": ${systemErrorReason(error)}`, {
      hint: 'It tells the next call what PostgreSQL was refused last. It must belong to the user that PostgreSQL runs as.',
      cause: error,
    });
  }
}

function lastRefusedPath(dataDirectory: string): string {
  return join(dataDirectory, 'pg_wal', '.wal-t', 'last-refused');
}
