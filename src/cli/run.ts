/**
 * Runs one command in this process: settings, log, signals, deadline of the clean-up, exit code.
 * Between Node.js and the launcher the codes are private, since Node's own collide with PostgreSQL's: see `privateCodes`.
 */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import process from 'node:process';
import type { Context } from '../commands/context.ts';
import { defaultConfigFile, type Entries, mergeEntries, readSettings } from '../config.ts';
import { ConfigurationError, exitCodes, systemErrorCode, systemErrorReason, WalTError } from '../errors.ts';
import { cleanUpMs } from '../limits.ts';
import { type Log, openLog } from '../log.ts';

/** What the launchers turn into 0, 1 and 0; every other code means what the table of exit codes says. */
const privateCodes = { done: 90, absent: 91, shown: 92 } as const;

/** How a command ended that did not fail: done, or what was asked for is proved absent, or only help was shown. */
export type Outcome = keyof typeof privateCodes;

export interface Job {
  /** The executable's name, which begins every message. */
  readonly program: string;
  /** Settings given as flags: they win over the environment. */
  readonly overrides?: Readonly<Record<string, string | undefined>>;
  readonly work: (context: Context, entries: Entries) => Promise<Outcome>;
}

const parentAtStart = process.ppid;

/** Runs the job that `prepare` gives and ends the process. `program` speaks until the job is known. */
export async function run(program: string, prepare: () => Promise<Job> | Job): Promise<void> {
  let log = plainLog(program);
  process.on('uncaughtException', (error) => exit(report(log, error)));
  process.stdout.on('error', () => exit(exitCodes.bug)); // nobody reads what is printed any more
  const interruption = listenForSignals();
  try {
    const job = await prepare();
    log = plainLog(job.program);
    const entries = loadEntries(job.overrides ?? {});
    const settings = readSettings(entries);
    log = openLog({ program: job.program, level: settings.logLevel, format: settings.logFormat, write });
    const context: Context = {
      settings,
      log,
      signal: interruption.signal,
      workingDirectory: process.cwd(),
      host: hostname(),
    };
    const outcome = await job.work(context, entries);
    if (!interruption.signal.aborted) exit(privateCodes[outcome]);
  } catch (error) {
    if (!interruption.signal.aborted) exit(report(log, error));
    log.error(`interrupted by ${interruption.signal.reason.message}`);
  }
  interruption.die();
}

/** On SIGTERM and SIGINT the command is told to end; it dies by the signal, as PostgreSQL expects of its commands. */
function listenForSignals() {
  const controller = new AbortController();
  let name: NodeJS.Signals = 'SIGTERM';
  const die = (): void => {
    process.removeAllListeners(name);
    process.kill(process.pid, name);
    setInterval(() => undefined, 1000); // the signal may take a moment; until then nothing else may end the process
  };
  const stop = (signal: NodeJS.Signals): void => {
    name = signal;
    controller.abort(new Error(signal));
    setTimeout(die, cleanUpMs).unref();
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  return { signal: controller.signal, die };
}

/** Says what went wrong. @returns the exit code. */
function report(log: Log, error: unknown): number {
  if (error instanceof WalTError) {
    log.error(error.message, error);
    return error.exitCode === exitCodes.notFound ? privateCodes.absent : error.exitCode;
  }
  const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
  log.error(`internal error: ${message}`, {
    detail: stack.split('\n').slice(1, 4).join(' '),
    hint: 'This is a bug in WAL-T. Nothing was stored or delivered that was not reported before.',
  });
  return exitCodes.bug;
}

/** An orphan whose next parent is a PostgreSQL as PID 1 must not look like a crashed server process: it ends with 0 (H5). */
function exit(code: number): never {
  process.exit(process.ppid === parentAtStart ? code : 0);
}

function loadEntries(overrides: Readonly<Record<string, string | undefined>>): Entries {
  const environment = { ...process.env, ...overrides };
  const named = environment.WALT_CONFIG;
  const path = named ?? defaultConfigFile;
  try {
    return mergeEntries(environment, { path, text: readFileSync(path, 'utf8') });
  } catch (error) {
    if (error instanceof WalTError) throw error;
    if (named === undefined && systemErrorCode(error) === 'ENOENT') return mergeEntries(environment, undefined);
    throw new ConfigurationError(`could not read "${path}": ${systemErrorReason(error)}`, {
      hint: 'The user that PostgreSQL runs as must be able to read it. WALT_CONFIG names another file.',
    });
  }
}

function plainLog(program: string): Log {
  return openLog({ program, level: 'info', format: 'text', write });
}

function write(line: string): void {
  process.stderr.write(line);
}
