/** Calls archive and restore commands as PostgreSQL does, from a process that sees what they cost: the server itself cannot tell. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { account } from '../../test/support/account.ts';
import { plainEnvironment } from '../../test/support/run.ts';

interface Plan {
  /** The data directory of a running server: the working directory. */
  readonly folder: string;
  /** With `%p` and `%f`. */
  readonly command: string;
  /** Segments to ask for, in order. None: what waits in archive_status is archived. */
  readonly names?: readonly string[];
  /** A file that grows by each start of Node.js: see `countStarts`. */
  readonly counter?: string;
  /** Further commands, each called once after each call, and timed as well. */
  readonly controls?: Readonly<Record<string, string>>;
}

export interface Calls {
  /** Of all calls together. */
  readonly wallMs: number;
  /** With all that the calls have started, the controls too. */
  readonly cpuMs: number;
  /** Of the largest process. */
  readonly peakMiB: number;
  readonly longestMs: number;
  /** Milliseconds of each call. */
  readonly calls: readonly number[];
  /** Of each call: no Node.js was started. Says nothing without a counter. */
  readonly answered: readonly boolean[];
  readonly controls: Readonly<Record<string, readonly number[]>>;
}

const script = readFileSync(new URL('as-postgres.py', import.meta.url), 'utf8'); // the servers' account may not be able to read it

/** @throws when a call fails. */
export function callAsPostgres(plan: Plan): Calls {
  const words = ['-c', script, JSON.stringify({ controls: {}, ...plan })];
  const { status, stdout, stderr } = spawnSync('python3', words, {
    ...account,
    env: plainEnvironment(),
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) throw new Error(`python3, which calls as PostgreSQL does, ended with ${status}: ${stderr}`);
  return JSON.parse(stdout) as Calls;
}
