/** How PostgreSQL's archiver gets on: what it counts, what waits, and whether its process lives. */
import { findReadyFiles, type ReadyFiles, summarize } from '../../cluster/archive-status.ts';
import { type ArchiverStatus, readArchiverStatus } from '../../cluster/archiver-status.ts';
import { checkThresholds } from '../../limits.ts';
import { NotLookedAt } from './finding.ts';
import type { RunningServer } from './running-server.ts';

export interface ArchiverState {
  readonly status: ArchiverStatus;
  /** Undefined where the role may not see. */
  readonly hasProcess: boolean | undefined;
  /** Undefined where nobody may see. */
  readonly ready: ReadyFiles | undefined;
  /**
   * failing  a failure is counted, and nothing was archived since
   * absent   its process died of archive_command, which is not counted (H8)
   * silent   something waits, and is neither archived nor counted as failed
   */
  readonly problem: 'failing' | 'absent' | 'silent' | undefined;
}

export async function readArchiverState(server: RunningServer, ready: ReadyFiles | undefined): Promise<ArchiverState> {
  const status = await readArchiverStatus(server.session);
  const hasProcess = await seesProcess(server);
  return { status, hasProcess, ready, problem: problemOf(status, hasProcess, ready) };
}

function problemOf(
  { isFailing, askedAt, lastArchivedAt }: ArchiverStatus,
  hasProcess: boolean | undefined,
  ready: ReadyFiles | undefined,
): ArchiverState['problem'] {
  if (ready?.count === 0) return undefined;
  if (isFailing) return 'failing';
  if (hasProcess === false) return 'absent';
  const oldest = ready?.oldest;
  if (oldest === undefined) return undefined;
  const isLong = (since: Date | undefined) =>
    since === undefined || askedAt.getTime() - since.getTime() > checkThresholds.archiverSilenceMs;
  return isLong(oldest.since) && isLong(lastArchivedAt) ? 'silent' : undefined;
}

async function seesProcess({ session, mayRead }: RunningServer): Promise<boolean | undefined> {
  if (!mayRead.processes) return undefined;
  const question = `select exists (select from pg_stat_activity where backend_type = 'archiver') as is_there`;
  const [row] = await session.query<{ is_there: boolean }>('look for the archiver', question);
  return row?.is_there;
}

/** By the data directory, else by the server. @throws NotLookedAt when this account and the role may not see it. */
export async function readReadyFiles({ session, dataDirectory, mayRead }: RunningServer): Promise<ReadyFiles> {
  if (dataDirectory !== undefined) return findReadyFiles(dataDirectory);
  if (!mayRead.folders) {
    throw new NotLookedAt(`what waits to be archived cannot be seen: GRANT pg_monitor TO ${session.user}`);
  }
  const rows = await session.query<{ name: string; changed_at: number }>('look at archive_status', readyQuestion);
  return summarize(rows.map(({ name, changed_at }) => ({ name, since: new Date(changed_at) })));
}

const readyQuestion = `
  select left(name, -6) as name, (extract(epoch from modification) * 1000)::float8 as changed_at
    from pg_ls_archive_statusdir() where name like '%.ready'`;
