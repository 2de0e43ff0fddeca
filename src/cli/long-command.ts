/** What a command is given that takes its time: worker threads, and a display of how far it is. */
import process from 'node:process';
import type { Context } from '../commands/context.ts';
import type { Crew } from '../commands/crew.ts';
import { openLog } from '../log.ts';
import { barDisplay, type Display, lineDisplay } from './progress.ts';
import { collectSeldom } from './seldom-collected.ts';
import { threadCrew } from './workers.ts';

/** Does the work. When it is over, well or not, nothing is left of the display, and the threads have ended. */
export async function longCommand<Result>(
  program: string,
  context: Context,
  work: (context: Context) => Promise<Result>,
): Promise<Result> {
  const { settings, signal, host, workingDirectory, libpq } = context;
  const display = openDisplay(context);
  const log = openLog({ program, level: settings.logLevel, format: settings.logFormat, write: display.write });
  const crews: Crew[] = [];
  const crew = (size: number): Crew => {
    const opened = threadCrew(size, { data: { settings, host, workingDirectory, libpq }, signal, log });
    crews.push(opened);
    return opened;
  };
  try {
    return await work({ ...context, log, report: display.report, crew });
  } finally {
    display.end();
    await Promise.all(crews.map((one) => one.close()));
  }
}

/** The same for one that restores: all that it passes on gives its memory back. One that makes backups, or reads WAL beside them, would hold too much. */
export function restoringCommand<Result>(
  program: string,
  context: Context,
  work: (context: Context) => Promise<Result>,
): Promise<Result> {
  collectSeldom();
  return longCommand(program, context, work);
}

function openDisplay({ settings: { logFormat, logLevel }, log }: Context): Display {
  const isWanted = logFormat === 'text' && (logLevel === 'info' || logLevel === 'debug');
  const isTerminal = process.stderr.isTTY && process.env.TERM !== 'dumb';
  return isTerminal && isWanted ? barDisplay(process.stderr) : lineDisplay(process.stderr, (line) => log.info(line));
}
