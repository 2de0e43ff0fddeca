/** Does PostgreSQL's archiver get on: failing, which it counts, or silent, which it does not (H8)? */
import { formatDuration } from '../../quantities.ts';
import { describeArchiver } from '../basebackup-push/archived-wal.ts';
import type { ArchiverState } from './archiver-state.ts';
import { expectArchiving } from './archiving.ts';
import { type Check, type Figures, type Finding, failed, ok } from './finding.ts';

export const archiver: Check = {
  name: 'archiver',
  about: "PostgreSQL's archiver archives what waits, and its failures are counted",
  async look(subject) {
    const server = await subject.server.get();
    expectArchiving(server);
    const state = await subject.archiver.own();
    return { ...judge(state), figures: figuresOf(state) };
  },
};

function judge(state: ArchiverState): Finding {
  const { status, ready, problem } = state;
  const waiting = ready === undefined ? '' : `, and ${filesIn(ready.count)} ${ready.count === 1 ? 'waits' : 'wait'}`;
  if (problem === undefined) return ok(describeArchiver(status));
  const { message, hint } = problems[problem](state, waiting);
  return failed(message, { detail: problem === 'failing' ? lastArchived(state) : describeArchiver(status), hint });
}

const log = '"select pg_current_logfile()" may name it';

const problems: Readonly<
  Record<
    NonNullable<ArchiverState['problem']>,
    (state: ArchiverState, waiting: string) => { message: string; hint: string }
  >
> = {
  failing: ({ status }, waiting) => ({
    message: `archive_command fails for "${status.lastFailed}", last ${ago(status.askedAt, status.lastFailedAt)}; ${status.failedCount} failures so far${waiting}`,
    hint: `The reason is in PostgreSQL's log, in lines that begin with "wal-push:" (${log}).`,
  }),
  absent: (_, waiting) => ({
    message: `the archiver's process is not there${waiting}: archive_command kills it, which is not counted as a failure`,
    hint: `A command that is not found or not executable (127, 126), or is killed, ends it: the server's log says which (${log}).`,
  }),
  silent: ({ status, ready }) => ({
    message: `nothing was archived for ${formatDuration(status.askedAt.getTime() - (ready?.oldest?.since.getTime() ?? 0))}, though ${filesIn(ready?.count ?? 0)} ${ready?.count === 1 ? 'waits' : 'wait'}, and no failure is counted`,
    hint: 'archive_command hangs: look at the processes below "postgres: archiver", and at the storage. wal-push itself ends after WALT_WAL_PUSH_TIMEOUT.',
  }),
};

function filesIn(count: number): string {
  return count === 1 ? 'one file' : `${count} files`;
}

function ago(now: Date, then: Date | undefined): string {
  return then === undefined
    ? 'at an unknown time'
    : `${formatDuration(Math.max(0, now.getTime() - then.getTime()))} ago`;
}

function lastArchived({ status: { lastArchived, lastArchivedAt, askedAt } }: ArchiverState): string {
  if (lastArchived === undefined) return 'nothing was archived yet';
  return `last archived: "${lastArchived}", ${ago(askedAt, lastArchivedAt)}`;
}

function figuresOf({ status }: ArchiverState): Figures {
  const { archivedCount, failedCount, lastArchivedAt, lastFailedAt, askedAt } = status;
  const age = (time: Date | undefined) => (askedAt.getTime() - (time?.getTime() ?? 0)) / 1000;
  return {
    archived_total: archivedCount,
    archiver_failures_total: failedCount,
    ...(lastArchivedAt === undefined ? {} : { last_archived_age_seconds: age(lastArchivedAt) }),
    ...(lastFailedAt === undefined ? {} : { last_failed_age_seconds: age(lastFailedAt) }),
  };
}
