/** What a file of commands/ makes its command of: the parser, and the job that is done when it was asked for. */
import type { Argv } from 'yargs';
import { formatLsn } from '../postgres/lsn.ts';
import type { Job } from './run.ts';

/** Flags that every command has. */
export interface GlobalFlags {
  readonly config: string | undefined;
  readonly cluster: string | undefined;
}

export type Parser = Argv<GlobalFlags>;

/** Says what is to be done. `program` begins every message. */
export type SetJob = (
  program: string,
  flags: GlobalFlags,
  work: Job['work'],
  more?: Pick<Job, 'whenSettingsAreWrong'>,
) => void;

/** Adds one command to the parser. What only it needs it loads when it runs: wal-push with flags is read by the same parser. */
export type AddCommand = (parser: Parser, setJob: SetJob) => Parser;

/** The flag `--json` of commands that print a result. */
export const jsonFlag = { type: 'boolean', default: false, describe: 'print the result as JSON' } as const;

/** What `--json` prints. LSNs are strings as PostgreSQL writes them, identifiers and times finer than a millisecond strings of digits (H46). */
export function formatJson(result: unknown): string {
  return JSON.stringify(result, (name, value) => (typeof value === 'bigint' ? formatInteger(name, value) : value), 2);
}

/** The member's name tells what it is: `lsn`, `startLsn` … */
function formatInteger(name: string, value: bigint): string {
  return /lsn$/i.test(name) ? formatLsn(value) : String(value);
}
