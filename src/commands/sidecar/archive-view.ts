/** What the archive holds, as the last looks at it found: read from what `backup-list`, `wal-list` and `windows` print as JSON. Pure. */
import type { BackupState } from '../../archive/backup-catalogue.ts';
import type { BackupRow } from '../backup-list.ts';
import type { CheckResult } from '../check.ts';
import type { JobName } from './jobs.ts';

/** JSON as `formatJson` prints it: what is a bigint in memory is a string. */
type Printed<T> = T extends bigint
  ? string
  : T extends object
    ? { readonly [member in keyof T]: Printed<T[member]> }
    : T;

export type PrintedJson<T> = Printed<T>;

/** The JSON that a command has printed; undefined when it is none. */
export function parsePrinted<T>(text: string): Printed<T> | undefined {
  try {
    return JSON.parse(text) as Printed<T>;
  } catch {
    return undefined;
  }
}

export const backupStates: readonly BackupState[] = ['confirmed', 'unconfirmed', 'running', 'failed'];

/** A backup that claims to begin so much later than now was taken while the clock was wrong: it satisfies nothing. */
const farAheadMs = 24 * 60 * 60 * 1000;

/**
 * Is a job to be done that was due?
 *
 * satisfied  no: it was done since then
 * wait       not now: it is being done elsewhere, and may be that one, or else must not have a second beside it
 * take       yes
 */
export type Decision = 'satisfied' | 'wait' | 'take';

interface Moment {
  readonly due: number;
  readonly now: number;
}

interface Question {
  /** The command that asks. */
  readonly words: readonly string[];
  /** What its answer means; one that cannot be read means that the job is to be tried. */
  readonly decide: (printed: string, moment: Moment) => Decision;
}

const backupQuestion: Question = {
  words: ['backup-list', '--no-window', '--json'],
  decide: (printed, { due, now }) => {
    const rows = parsePrinted<BackupRow[]>(printed) ?? [];
    const isNew = (begunAt: number) => begunAt >= due && begunAt < now + farAheadMs;
    if (rows.some((row) => row.state === 'confirmed' && isNew(Date.parse(row.started_at)))) return 'satisfied';
    return rows.some(({ state }) => state === 'running') ? 'wait' : 'take';
  },
};

/** Verifications leave records, and a check tells the age of the newest, in whole seconds. */
function verifyQuestion(figure: 'verified_age_seconds' | 'verified_deep_age_seconds'): Question {
  return {
    words: ['check', '--only', 'verified', '--json'],
    decide: (printed, { due, now }) => {
      const findings = parsePrinted<CheckResult>(printed)?.findings ?? [];
      const ages = findings.flatMap(({ figures }) => figures?.[figure] ?? []);
      return ages.some((seconds) => now - seconds * 1000 >= due) ? 'satisfied' : 'take';
    },
  };
}

/** What is asked before a job; of the others nothing is recorded. A deep verification is a verification, too. */
export const questions: Readonly<Partial<Record<JobName, Question>>> = {
  backup: backupQuestion,
  verify: verifyQuestion('verified_age_seconds'),
  'verify-deep': verifyQuestion('verified_deep_age_seconds'),
};

/** The one that was begun last. */
export function newestConfirmed(rows: readonly BackupRow[]): BackupRow | undefined {
  const confirmed = rows.filter(({ state }) => state === 'confirmed');
  return confirmed.reduce<BackupRow | undefined>(
    (newest, row) => (newest === undefined || row.started_at >= newest.started_at ? row : newest),
    undefined,
  );
}
