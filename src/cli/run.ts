/**
 * Runs one command in this process: settings, log, signals, deadline of the clean-up, exit code.
 * Between Node.js and the launcher the codes are private, since Node's own collide with PostgreSQL's: see `privateCodes`.
 */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import process from 'node:process';
import type { Context } from '../commands/context.ts';
import { type Entries, mergeEntries, readSettings, type Settings } from '../config.ts';
import {
  ConfigurationError,
  exitCodes,
  NotFoundError,
  systemErrorCode,
  systemErrorReason,
  WalTError,
} from '../errors.ts';
import { isAlive } from '../left-overs.ts';
import { cleanUpMs } from '../limits.ts';
import { type Log, openLog } from '../log.ts';
import { placeOf } from '../place.ts';
import { defaultConfigFile } from '../settings.ts';
import { prepareAwsEnvironment } from './aws-environment.ts';

/** What the launchers turn into 0, 1 and 0; every other code means what the table of exit codes says. */
const privateCodes = {
  done: 90,
  hanging: 90,
  absent: 91,
  shown: 92,
  checkFailed: exitCodes.check,
  // what a monitoring plugin says with 1, 2 and 3
  pluginWarning: 91,
  pluginCritical: 2,
  pluginUnknown: 3,
} as const;

/** How a command ended that came to its end: done, or done while something besides does not end, or what was asked for is proved absent, or only help was shown, or it found something wrong. */
export type Outcome = keyof typeof privateCodes;

export interface Job {
  /** The executable's name, which begins every message. */
  readonly program: string;
  /** Settings given as flags: they win over the environment. */
  readonly overrides?: Readonly<Record<string, string | undefined>>;
  readonly work: (context: Context, entries: Entries) => Promise<Outcome>;
  /** What to do when the settings are wrong, instead of telling the error. */
  readonly whenSettingsAreWrong?: ((error: ConfigurationError) => Outcome) | undefined;
  /** Are there threads that have not ended? Only jobs that have threads say. */
  readonly hasThreads?: () => boolean;
}

/** The launcher says who it is: it may be killed before this process can ask for its parent. */
const launcherVariable = 'WALT_LAUNCHER';

/** The job's own, once it is known. */
let hasThreads = (): boolean => false;

/** Runs the job that `prepare` gives and ends the process. `program` speaks until the job is known. */
export async function run(program: string, prepare: () => Promise<Job> | Job): Promise<void> {
  let log = plainLog(program);
  process.on('uncaughtException', (error) => exit(report(log, error)));
  process.stdout.on('error', () => exit(exitCodes.bug)); // nobody reads what is printed any more
  process.stderr.on('error', () => undefined); // whether WAL is archived does not hang on who reads the log
  const interruption = listenForSignals();
  try {
    const job = await prepare();
    log = plainLog(job.program);
    hasThreads = job.hasThreads ?? hasThreads;
    const { entries, settings, place } = settingsOf(job);
    prepareAwsEnvironment(entries);
    log = openLog({ program: job.program, level: settings.logLevel, format: settings.logFormat, write });
    const context: Context = {
      settings,
      log,
      signal: interruption.signal,
      workingDirectory: process.cwd(),
      host: hostname(),
      place,
      libpq: libpqEnvironment(),
      crew: () => {
        throw new Error(`${job.program} has no worker threads`);
      },
    };
    const outcome = await job.work(context, entries);
    if (!interruption.signal.aborted) exit(privateCodes[outcome], outcome === 'hanging');
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
    if (isOrphan()) process.exit(0);
    process.removeAllListeners(name);
    process.kill(process.pid, name);
    setInterval(() => undefined, 1000); // the signal may take a moment; until then nothing else may end the process
  };
  const stop = (signal: NodeJS.Signals): void => {
    if (controller.signal.aborted) return; // PostgreSQL signals the whole group, and the launcher passes its own on
    name = signal;
    controller.abort(new Error(signal));
    setTimeout(die, cleanUpMs).unref();
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  return { signal: controller.signal, die };
}

/** Says what went wrong. @returns the exit code. */
function report(log: Log, error: unknown): number {
  if (error instanceof WalTError) {
    log.error(error.message, error);
    if (error instanceof NotFoundError) return privateCodes.absent;
    // absence is proved and returned; an object that was missed on the way proves nothing (H1)
    return error.exitCode === exitCodes.notFound ? exitCodes.corrupt : error.exitCode;
  }
  const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
  log.error(`internal error: ${message}`, {
    detail: stack.split('\n').slice(1, 4).join(' '),
    hint: 'This is a bug in WAL-T. Nothing was stored or delivered that was not reported before.',
  });
  return exitCodes.bug;
}

/** An orphan whose next parent is a PostgreSQL as PID 1 must not look like a crashed server process: it ends with 0 (H5). */
function exit(code: number, isHanging = false): never {
  if (isOrphan()) process.exit(0);
  if (isHanging) dieHanging(hangingCode);
  const failed = code <= exitCodes.host || code === exitCodes.bug;
  if (failed && (hasThreads() || process.getActiveResourcesInfo().some((name) => name.startsWith('FSReq'))))
    dieHanging(code);
  process.exit(code);
}

/** Done, though something besides does not end: the next number behind those of the table that a signal can tell. */
const hangingCode = 10;

/**
 * `process.exit` waits for each system call that still runs: on a file system that hangs, for ever. Death by a signal does not wait,
 * so the code is told by the signal's number, 50 and the code, of those that Linux has for applications: see launch.sh.
 */
function dieHanging(code: number): void {
  process.kill(process.pid, code === exitCodes.bug || process.platform !== 'linux' ? 'SIGKILL' : 50 + code);
}

function isOrphan(): boolean {
  const launcher = process.env[launcherVariable];
  return launcher !== undefined && !isAlive(Number(launcher));
}

interface FoundSettings {
  readonly entries: Entries;
  readonly settings: Settings;
  readonly place: string;
}

function settingsOf(job: Job): FoundSettings {
  try {
    const { entries, place } = loadEntries(job.overrides ?? {});
    return { entries, settings: readSettings(entries), place };
  } catch (error) {
    if (!(error instanceof ConfigurationError) || job.whenSettingsAreWrong === undefined) throw error;
    return exit(privateCodes[job.whenSettingsAreWrong(error)]);
  }
}

function loadEntries(flags: Readonly<Record<string, string | undefined>>) {
  const environment: NodeJS.ProcessEnv = { ...process.env, ...flags, [launcherVariable]: undefined };
  const file = readConfigFile(environment.WALT_CONFIG || undefined);
  const entries = mergeEntries(environment, file);
  const given = Object.entries(flags).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, { value, source: 'command line' }]],
  );
  return { entries: { ...entries, ...Object.fromEntries(given) }, place: placeOf(process.env, file) };
}

function libpqEnvironment(): Readonly<Record<string, string>> {
  const ours = Object.entries(process.env).filter(([name]) => name.startsWith('PG') || name === 'HOME');
  return Object.fromEntries(ours.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

/** The file that was named, which must be there, or the one that may be. */
function readConfigFile(named: string | undefined): { readonly path: string; readonly text: string } | undefined {
  const path = named ?? defaultConfigFile;
  try {
    return { path, text: readFileSync(path, 'utf8') };
  } catch (error) {
    if (named === undefined && systemErrorCode(error) === 'ENOENT') return undefined;
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
