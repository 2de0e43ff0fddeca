/**
 * The proof that a session's server runs on this data directory (H19): label from one server and files from another would be a backup
 * with rows missing and nothing to tell so.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { toBytePath } from '../byte-path.ts';
import { ConfigurationError, HostError, PostgresError, systemErrorCode } from '../errors.ts';
import type { ControlFile } from '../postgres/control-file.ts';
import { formatLsn, type Lsn, parseLsn } from '../postgres/lsn.ts';
import type { Session } from './connection.ts';
import { readControlFile } from './data-directory.ts';
import { readPostmasterPid } from './postmaster-pid.ts';
import type { ServerFacts } from './server-facts.ts';
import { unreadable } from './source-files.ts';

type WhichServer = Pick<ServerFacts, 'systemIdentifier' | 'inRecovery' | 'dataDirectory' | 'startedAt'>;

export interface ServerProof {
  readonly session: Session;
  readonly facts: WhichServer;
  /** The process that serves the session, which must stay the same one. */
  readonly backendPid: number;
  readonly dataDirectory: string;
}

/** A checkpoint may end between two readings. */
const attempts = 10;
const pauseMs = 100;

/**
 * Before anything is started: the system identifier, a server that runs on this data directory, and a file that the session makes in it.
 * @throws ConfigurationError when it is another server's. @throws HostError when it cannot be read.
 */
export async function checkSameServer(proof: ServerProof): Promise<void> {
  const control = await readControl(proof.dataDirectory);
  if (control.systemIdentifier !== proof.facts.systemIdentifier) {
    throw await refusal(proof, {
      there: `system identifier ${proof.facts.systemIdentifier}`,
      here: `system identifier ${control.systemIdentifier}`,
    });
  }
  if ((await readPostmasterPid(proof.dataDirectory)) === undefined) {
    throw await refusal(proof, { there: 'a running server', here: 'no postmaster.pid, so no running server' });
  }
  await checkSnapshotFile(proof);
}

/**
 * Right after pg_backup_start: all of that again, and what pg_control says on both sides.
 * @throws ConfigurationError when it is another server's, or another session answers than the one that started the backup.
 */
export async function proveSameServer(proof: ServerProof, startLsn: Lsn): Promise<void> {
  await checkSameServer(proof);
  let difference: Difference | undefined;
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    if (attempt > 0) await pause(pauseMs);
    const there = await askControl(proof);
    const here = await readControl(proof.dataDirectory);
    difference = compare(there, here, startLsn);
    if (difference === undefined) return;
  }
  throw await refusal(proof, difference ?? { there: '', here: '' });
}

/** @throws ConfigurationError when a pooler has put another process behind the session. */
export function checkSameProcess({ session, backendPid }: ServerProof, pid: number): void {
  if (pid === backendPid) return;
  throw new ConfigurationError(`another session answers at ${session.place} than the one that began`, {
    detail: `It was process ${backendPid} and is now process ${pid}.`,
    hint: 'A connection pooler stands between: connect to PostgreSQL itself (PGHOST, PGPORT).',
  });
}

interface Difference {
  readonly there: string;
  readonly here: string;
}

interface ControlRow {
  readonly pid: number;
  readonly in_recovery: boolean;
  readonly checkpoint: string;
  readonly redo: string;
  readonly timeline: number;
}

const controlQuestion = `
  select pg_backend_pid() as pid, pg_is_in_recovery() as in_recovery,
         checkpoint_lsn::text as checkpoint, redo_lsn::text as redo, timeline_id as timeline
    from pg_control_checkpoint()`;

async function askControl(proof: ServerProof): Promise<ControlRow> {
  const [row] = await proof.session.query<ControlRow>("read the server's control data", controlQuestion);
  if (row === undefined) throw new PostgresError('the server does not give its control data');
  checkSameProcess(proof, row.pid);
  return row;
}

/** What this version's layout does not tell is left to the other proofs. */
function compare(there: ControlRow, here: ControlFile, startLsn: Lsn): Difference | undefined {
  const { checkpoint, redo, timeline, state } = here;
  const recovering = there.in_recovery ? 'in archive recovery' : 'in production';
  const same =
    (checkpoint === undefined || checkpoint === parseLsn(there.checkpoint)) &&
    (redo === undefined || (redo === parseLsn(there.redo) && redo >= startLsn)) &&
    (timeline === undefined || timeline === there.timeline) &&
    (state === undefined || state === recovering);
  if (same) return undefined;
  const show = (lsn: Lsn | undefined): string => (lsn === undefined ? 'unknown' : formatLsn(lsn));
  return {
    there: `${recovering}, checkpoint ${there.checkpoint}, redo ${there.redo}, timeline ${there.timeline}, backup started at ${formatLsn(startLsn)}`,
    here: `${state ?? 'state unknown'}, checkpoint ${show(checkpoint)}, redo ${show(redo)}, timeline ${timeline ?? 'unknown'}`,
  };
}

interface Snapshot {
  readonly pid: number;
  readonly name: string;
}

/**
 * The session exports a snapshot, for which its process writes a file that holds the process's id, into this data directory or another.
 * That tells two standbys apart whose pg_control is equal byte for byte. @see PostgreSQL `ExportSnapshot()` in `snapmgr.c`
 */
async function checkSnapshotFile(proof: ServerProof): Promise<void> {
  const { session, dataDirectory } = proof;
  await session.query('begin a transaction', 'begin');
  try {
    const question = 'select pg_backend_pid() as pid, pg_export_snapshot() as name';
    const [snapshot] = await session.query<Snapshot>('export a snapshot', question);
    if (snapshot === undefined) throw new PostgresError('the server gives no snapshot');
    checkSameProcess(proof, snapshot.pid);
    if (await hasSnapshot(join(dataDirectory, 'pg_snapshots', snapshot.name), snapshot.pid)) return;
    throw await refusal(proof, {
      there: `the session has just made "pg_snapshots/${snapshot.name}"`,
      here: 'no such file',
    });
  } finally {
    if (!session.lost.aborted) await session.query('end the transaction', 'rollback');
  }
}

async function hasSnapshot(path: string, pid: number): Promise<boolean> {
  try {
    return (await readFile(path, 'latin1')).split('\n').includes(`pid:${pid}`);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw unreadable(toBytePath(path), error);
  }
}

/** Written while it is read, it may be torn: once more then. */
async function readControl(dataDirectory: string): Promise<ControlFile> {
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const control = await readControlFile(dataDirectory);
    if (control !== undefined) return control;
    await pause(pauseMs / attempts);
  }
  const path = join(dataDirectory, 'global', 'pg_control');
  await readFile(path).catch((error: unknown) => {
    throw unreadable(toBytePath(path), error);
  });
  throw new HostError(`"${path}" is no control file of PostgreSQL`, { hint: 'Name the data directory of the server.' });
}

async function refusal(proof: ServerProof, { there, here }: Difference): Promise<ConfigurationError> {
  const { session, facts, dataDirectory } = proof;
  const running = await readPostmasterPid(dataDirectory);
  const kind = facts.inRecovery ? 'a standby' : 'a primary';
  const server = `${session.place}: ${kind} on "${facts.dataDirectory}", started ${facts.startedAt.toISOString()}`;
  const own = running === undefined ? '' : `, started ${running.startedAt.toISOString()}`;
  return new ConfigurationError(`the server that answers does not run on the data directory "${dataDirectory}"`, {
    detail: `The server (${server}): ${there}. The data directory ("${dataDirectory}"${own}): ${here}.`,
    hint: howToConnect(running, facts),
  });
}

function howToConnect(running: Awaited<ReturnType<typeof readPostmasterPid>>, facts: WhichServer): string {
  const host = running?.socketDirectory ?? running?.listenAddress;
  if (running === undefined || host === undefined) {
    return `Start the server of this data directory and connect to it, or name the other's: "${facts.dataDirectory}".`;
  }
  return `Connect to the server whose data directory this is: PGHOST=${host} PGPORT=${running.port ?? 5432}.`;
}
