/** Which jobs there are, which commands each is made of, when it is due, and what its end means. Pure. */
import type { SidecarSettings } from '../../config.ts';
import { ConfigurationError, exitCodes } from '../../errors.ts';
import { parseSchedule, type Schedule } from './schedule.ts';

/** In the order in which they go when several wait. */
export const jobNames = ['backup', 'delete', 'verify', 'verify-deep', 'check', 'look'] as const;
export type JobName = (typeof jobNames)[number];

/** Of each lane one job runs at a time. */
export type Lane = 'heavy' | 'light';

/**
 * schedule  at its times; the last one before the start may have been missed
 * interval  so long after its last end
 * follows   after each run of that job that succeeded, and once at the start
 */
export type Trigger =
  | { readonly kind: 'schedule'; readonly schedule: Schedule }
  | { readonly kind: 'interval'; readonly everyMs: number }
  | { readonly kind: 'follows'; readonly job: JobName };

export interface JobPlan {
  readonly name: JobName;
  readonly lane: Lane;
  readonly trigger: Trigger;
  /** The command lines, one after the other: words for the `wal-t` launcher. All are run; the first that fails gives the exit code. */
  readonly commands: readonly (readonly string[])[];
}

export interface PlanOptions {
  /** Makes this host's jitter. */
  readonly seed: string;
  /** Can manifests be read here? Without it WAL is not looked into, and only what is asked for is verified. */
  readonly canRead: boolean;
  /** Did someone set the schedule of `verify`? */
  readonly isVerifyAsked: boolean;
}

/** The jobs that the settings ask for. @throws ConfigurationError for a schedule or flags that cannot be. */
export function planJobs(settings: SidecarSettings, { seed, canRead, isVerifyAsked }: PlanOptions): JobPlan[] {
  const { timeZone, maxJitterMs, deleteFlags, deleteSchedule, checkIntervalMs, lookIntervalMs } = settings;
  const at = (name: string, text: string): Trigger | undefined =>
    text === 'off'
      ? undefined
      : { kind: 'schedule', schedule: parseSchedule(text, { name, timeZone, maxJitterMs, seed }) };
  const every = (everyMs: number | undefined): Trigger | undefined =>
    everyMs === undefined ? undefined : { kind: 'interval', everyMs };
  const flags = (name: string, text: string | undefined) => splitFlags(`WALT_SIDECAR_${name}`, text);

  const backup = at('WALT_SIDECAR_BACKUP_SCHEDULE', settings.backupSchedule);
  const deletion =
    deleteSchedule === undefined
      ? ({ kind: 'follows', job: 'backup' } as const)
      : at('WALT_SIDECAR_DELETE_SCHEDULE', deleteSchedule);
  const verify = at('WALT_SIDECAR_VERIFY_SCHEDULE', settings.verifySchedule);
  const deep = at('WALT_SIDECAR_VERIFY_DEEP_SCHEDULE', settings.verifyDeepSchedule);
  const policy = flags('DELETE', deleteFlags);
  const lists = [
    ['backup-list', '--no-window', '--json'],
    ['wal-list', '--json'],
  ];
  const windows = canRead ? [['windows', '--json']] : [];

  const heavy = (name: JobName, trigger: Trigger | undefined, words: readonly string[]) =>
    trigger === undefined ? [] : [{ name, trigger, lane: 'heavy', commands: [[...words, '--json']] } as const];
  const light = (name: JobName, trigger: Trigger | undefined, commands: JobPlan['commands']) =>
    trigger === undefined ? [] : [{ name, trigger, lane: 'light', commands } as const];
  return [
    ...heavy('backup', backup, ['basebackup-push', ...flags('BACKUP', settings.backupFlags)]),
    ...heavy('delete', policy.length === 0 ? undefined : deletion, ['delete', ...policy, '--confirm']),
    ...heavy('verify', canRead || isVerifyAsked ? verify : undefined, ['verify']),
    ...heavy('verify-deep', deep, ['verify', '--deep']),
    ...light('check', every(checkIntervalMs), [['check', '--json', ...flags('CHECK', settings.checkFlags)]]),
    ...light('look', every(lookIntervalMs), [...lists, ...windows]),
  ];
}

/** Words between white space. */
function splitFlags(name: string, text = ''): readonly string[] {
  if (!/["'\\]/.test(text)) return text.split(/\s+/).filter((word) => word !== '');
  throw new ConfigurationError(`${name} cannot be "${text}"`, {
    hint: 'Its words are separated by spaces, and quotes are not understood.',
  });
}

/**
 * done    it did its work
 * found   it did its work, and found something that somebody must look after: doing it again would find the same
 * failed  it did not
 */
export type Outcome = 'done' | 'found' | 'failed';

/** What the exit code of a job's command means. `hasAnswer`: it printed its result. */
export function outcomeOf(name: JobName, exitCode: number, hasAnswer: boolean): Outcome {
  if (exitCode === exitCodes.done) return 'done';
  if (exitCode !== exitCodes.check || !hasAnswer) return 'failed';
  switch (name) {
    case 'check':
      return 'done'; // its findings are metrics of their own
    case 'backup': // it counts, and holds broken pages of the cluster
    case 'verify':
    case 'verify-deep':
      return 'found';
    default:
      return 'failed'; // a deletion that was refused, or could not remove everything
  }
}

const minute = 60_000;
const retryDelaysMs = [1, 3, 9, 27, 60].map((minutes) => minutes * minute);

/** No run is put off by more at once. */
export const longestPauseMs = Math.max(...retryDelaysMs);

/** How long to wait after so many failures in a row, from 1. Undefined: that was the last attempt. */
export function retryDelayMs(failures: number, exitCode: number): number | undefined {
  if (exitCode === exitCodes.usage) return undefined; // the same words are wrong again
  return retryDelaysMs[failures - 1];
}
