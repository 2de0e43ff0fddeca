/**
 * sidecar: base backups, deletion, verification and checks by a schedule, beside a server, for as long as it is let. Each job is a process
 * of its own that `runCommand` starts; this one only keeps time, remembers how jobs ended, and tells.
 */
import { ConfigurationError } from '../errors.ts';
import type { Context } from './context.ts';
import type { Clock } from './sidecar/clock.ts';
import { type Answer, jsonAnswer, openEndpoints } from './sidecar/endpoints.ts';
import { noFindings, takeOver } from './sidecar/findings.ts';
import { planJobs } from './sidecar/jobs.ts';
import { renderMetrics } from './sidecar/metrics.ts';
import { type JobRecord, type RunCommand, Scheduler } from './sidecar/scheduler.ts';

export interface SidecarArguments {
  readonly version: string;
  readonly clock: Clock;
  readonly runCommand: RunCommand;
  /** Did someone set the schedule of `verify`? */
  readonly isVerifyAsked: boolean;
  /** Is told the port that is served. */
  readonly onListening?: (port: number) => void;
}

/** A scheduler that has not looked around for so long stands still: it does each minute. */
const standstillMs = 5 * 60_000;

/** Ends when the context's signal is aborted, and the last job has ended. @throws ConfigurationError, HostError before the first job begins. */
export async function sidecar(context: Context, args: SidecarArguments): Promise<void> {
  const { settings, log } = context;
  const { version, clock, runCommand, isVerifyAsked } = args;
  expectSomething(context);
  const canRead = canReadManifests(context);
  const plans = planJobs(settings.sidecar, { seed: context.host, canRead, isVerifyAsked });
  const findings = noFindings();
  const scheduler = new Scheduler(context, {
    plans,
    clock,
    runCommand,
    jobTimeoutMs: settings.sidecar.jobTimeoutMs,
    onEnd: (run) => takeOver(findings, run, log),
  });
  const nextDue = (name: JobRecord['name']) => scheduler.nextDue(name);
  const startedAt = clock.now();
  const endpoints = await openEndpoints(
    {
      '/health': () => health(scheduler, startedAt),
      '/status': () => status(scheduler, findings.check?.level),
      '/metrics': async () => {
        const { text, contentType } = await renderMetrics({ version, records: scheduler.records, nextDue, findings });
        return { code: 200, contentType, text };
      },
    },
    settings.sidecar.listen,
  );
  try {
    args.onListening?.(endpoints.port);
    log.info(`sidecar ${version} of ${plans.map(({ name }) => name).join(', ')}; metrics on port ${endpoints.port}`);
    warnOfWhatIsLeftOut(context, canRead);
    await scheduler.run();
  } finally {
    await endpoints.close();
  }
  log.info('sidecar: ends');
}

/** What every job would fail with. */
function expectSomething({ settings, libpq }: Context): void {
  if (settings.repository === undefined)
    throw new ConfigurationError('no repository is set', {
      hint: 'Set WALT_REPO: "wal-t config" shows what is in force.',
    });
  if (settings.dataDirectory === undefined && libpq.PGDATA === undefined && settings.sidecar.backupSchedule !== 'off') {
    throw new ConfigurationError('no data directory is set', {
      hint: 'Set WALT_PGDATA to the data directory of the server, or WALT_SIDECAR_BACKUP_SCHEDULE=off to take no backups.',
    });
  }
}

/** Nothing encrypted is written here, or there is an identity. */
function canReadManifests({ settings: { encryption } }: Context): boolean {
  const encrypts = encryption.recipients !== undefined || encryption.recipientsFile !== undefined;
  return !encrypts || encryption.identity !== undefined || encryption.identityFiles !== undefined;
}

function warnOfWhatIsLeftOut({ log, settings: { sidecar: set } }: Context, canRead: boolean): void {
  if (set.deleteFlags === undefined)
    log.info('no policy is set: nothing is ever deleted', { hint: 'Set WALT_SIDECAR_DELETE, such as --keep-days 14.' });
  if (canRead) return;
  log.warning('there is no identity here: what can be restored is not looked at', {
    hint: 'Set WALT_AGE_IDENTITY_FILE to one that may read manifests (WALT_AGE_MANIFEST_RECIPIENTS) to verify and delete here.',
  });
}

function health(scheduler: Scheduler, startedAt: number): Answer {
  const isAlive = scheduler.silentMs < standstillMs;
  return jsonAnswer(isAlive ? 200 : 503, {
    status: isAlive ? 'ok' : 'the scheduler stands still',
    since: new Date(startedAt).toISOString(),
    running: scheduler.records.filter(({ isRunning }) => isRunning).map(({ name }) => name),
  });
}

function status(scheduler: Scheduler, checkLevel: string | undefined): Answer {
  const time = (milliseconds: number | undefined) =>
    milliseconds === undefined ? undefined : new Date(milliseconds).toISOString();
  const jobs = scheduler.records.map(({ name, isRunning, outcome, exitCode, startedAt, succeededAt }) => ({
    job: name,
    running: isRunning,
    outcome,
    exitCode,
    lastStart: time(startedAt),
    lastSuccess: time(succeededAt),
    nextDue: time(scheduler.nextDue(name)),
  }));
  const isWell = checkLevel !== 'failed' && jobs.every(({ outcome }) => outcome === undefined || outcome === 'done');
  return jsonAnswer(isWell ? 200 : 503, { status: isWell ? 'ok' : 'failed', check: checkLevel, jobs });
}
