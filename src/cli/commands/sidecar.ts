/** wal-t sidecar: the process around it. How its commands are run, what they are given, its log, and how it ends. */
import process from 'node:process';
import packageJson from '../../../package.json' with { type: 'json' };
import type { JobName } from '../../commands/sidecar/jobs.ts';
import type { RunCommand } from '../../commands/sidecar/scheduler.ts';
import type { Entries } from '../../config.ts';
import { type LogFormat, openLog } from '../../log.ts';
import { givenEnvironment } from '../aws-environment.ts';
import type { AddCommand } from '../command.ts';

const program = 'sidecar';

/** Kubernetes and others kill after ten seconds, or later. */
const killAfterMs = 8000;

export const addSidecar: AddCommand = (parser, setJob) =>
  parser.command(
    program,
    'take base backups, delete, verify and check by a schedule, and tell Prometheus',
    (options) => options,
    (args) =>
      setJob(program, args, async (context, entries) => {
        const [{ sidecar }, { hostClock }, { runChild }] = await Promise.all([
          import('../../commands/sidecar.ts'),
          import('../../commands/sidecar/clock.ts'),
          import('../child-command.ts'),
        ]);
        const format = entries.WALT_LOG_FORMAT === undefined ? 'json' : context.settings.logFormat;
        const write = (line: string) => process.stderr.write(line);
        const log = openLog({ program, level: context.settings.logLevel, format, write });
        const environment = childEnvironment(entries, format);
        const runCommand: RunCommand = (job, words, signal) =>
          runChild(words, {
            environment,
            signal,
            killAfterMs,
            onLine: (line) => write(named(job, line, format)),
          });
        await sidecar(
          { ...context, log, signal: untilToldToEnd() },
          {
            version: packageJson.version,
            clock: hostClock,
            runCommand,
            isVerifyAsked: entries.WALT_SIDECAR_VERIFY_SCHEDULE !== undefined,
          },
        );
        return 'done';
      }),
  );

/**
 * Other commands die by the signal, soon. This one ends when its jobs have ended, and that was its work: it is done. So the signals are
 * taken over from `run`.
 */
function untilToldToEnd(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.removeAllListeners(name);
    process.on(name, () => controller.abort(new Error(name)));
  }
  return controller.signal;
}

/** What the jobs are given: our own environment, flags of this command line as settings, and other defaults where nobody has set them. */
function childEnvironment(entries: Entries, format: LogFormat): Record<string, string | undefined> {
  const flags = Object.entries(entries).filter(([, { source }]) => source === 'command line');
  return {
    ...givenEnvironment(),
    ...Object.fromEntries(flags.map(([name, { value }]) => [name, value])),
    WALT_LAUNCHER: undefined,
    WALT_LOG_FORMAT: format,
    ...(entries.WALT_WORKERS === undefined ? { WALT_WORKERS: '1' } : {}), // each takes memory
  };
}

/** A line of a job's log, with the job's name. */
function named(job: JobName, line: string, format: LogFormat): string {
  if (format === 'text') return `${job}: ${line}\n`;
  const message = parseLine(line) ?? { time: new Date().toISOString(), program, severity: 'info', message: line };
  return `${JSON.stringify({ ...message, job })}\n`;
}

/** A line of our own as JSON; undefined when it is a text. */
function parseLine(line: string): object | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return JSON.parse(line) as object;
  } catch {
    return undefined;
  }
}
