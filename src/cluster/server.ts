/** The server's part of a base backup: one SQL session, from the proof that it is the right server to pg_backup_stop. Copies no file. */
import { ConfigurationError, PostgresError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type Lsn, parseLsn } from '../postgres/lsn.ts';
import { type ArchiverStatus, readArchiverStatus } from './archiver-status.ts';
import { connect, type Session } from './connection.ts';
import { readConnectionSettings } from './connection-settings.ts';
import { checkPrivileges } from './privileges.ts';
import { checkSameProcess, checkSameServer, proveSameServer, type ServerProof } from './same-server.ts';
import { readFacts, type ServerFacts } from './server-facts.ts';
import { readChangedBlocks, type SummariesOptions, type SummarizedChanges } from './wal-summaries.ts';

export type { ArchiverStatus } from './archiver-status.ts';
export type { ServerFacts } from './server-facts.ts';

export interface ServerOptions {
  readonly dataDirectory: string;
  /** libpq's variables (PGHOST …) as the caller found them in the environment. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly log: Log;
  /** Ends the session, whatever it does. */
  readonly signal: AbortSignal;
  /** Unless PGCONNECT_TIMEOUT says another. */
  readonly connectMs: number;
}

export interface BackupServer {
  readonly facts: ServerFacts;
  /** Ends the running segment on a primary. @returns the LSN up to which WAL must then arrive in the archive; undefined on a standby. */
  switchWal(): Promise<Lsn | undefined>;
  archiverStatus(): Promise<ArchiverStatus>;
  /** Takes as long as a checkpoint: with `spread`, minutes. */
  startBackup(options: { readonly label: string; readonly checkpoint: 'fast' | 'spread' }): Promise<{
    readonly startLsn: Lsn;
  }>;
  /** Call it right after `startBackup`. @throws ConfigurationError when the data directory is another server's (H19). */
  proveSameServer(startLsn: Lsn): Promise<void>;
  /** What WAL changed since another backup, or the reason why that cannot be told; the backup goes on. @throws when the session is lost. */
  readChangedBlocks(options: SummariesOptions): Promise<SummarizedChanges>;
  /** Does not wait for the archive (H21). @returns `backup_label` and `tablespace_map` byte for byte. */
  stopBackup(): Promise<{ readonly stopLsn: Lsn; readonly label: Buffer; readonly tablespaceMap: Buffer }>;
  /** Ends the session, and with it a backup that is running, within a bound; may be called again. */
  close(): Promise<void>;
  /** Aborted with a PostgresError as soon as the connection is lost: the backup is lost with it. */
  readonly lost: AbortSignal;
}

const oldestVersion = 150_000;

/**
 * Connects, and checks all that can be checked before anything is started.
 * @throws ConfigurationError when the variables are wrong, or lead to a pooler or to another server than the data directory's.
 * @throws PostgresError when the server is too old, refuses, is not there, or its role lacks a privilege.
 * @throws HostError when the data directory cannot be read.
 */
export async function openServer(options: ServerOptions): Promise<BackupServer> {
  const session = await connect(await readConnectionSettings(options), options);
  try {
    const { backendPid, ...kind } = await prepare(session);
    await checkPrivileges(session, kind);
    const facts = await readFacts(session);
    const proof = { session, facts, backendPid, dataDirectory: options.dataDirectory };
    await checkSameServer(proof);
    return new OpenServer(proof);
  } catch (error) {
    await session.close();
    throw error;
  }
}

interface Prepared {
  readonly backendPid: number;
  readonly major: number;
  readonly inRecovery: boolean;
}

const greeting = `
  select pg_catalog.pg_backend_pid() as pid, pg_catalog.current_setting('server_version') as version,
         pg_catalog.current_setting('server_version_num')::pg_catalog.int4 as version_number,
         pg_catalog.pg_is_in_recovery() as in_recovery,
         pg_catalog.set_config('search_path', 'pg_catalog', false)`;

/** What a role, a database or PGOPTIONS may have set, and would end an idle session or a long wait. Not every version knows all. */
const withoutTimeouts = `
  select set_config(name, '0', false) from pg_settings
   where name in ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout')`;

/** So that a server notices in mid-checkpoint that we are gone; 0 and no other value where the system cannot. */
const checkConnection = `select set_config('client_connection_check_interval', '2s', false)`;

async function prepare(session: Session): Promise<Prepared> {
  const [row] = await session.query<{ pid: number; version: string; version_number: number; in_recovery: boolean }>(
    'begin a session',
    greeting,
  );
  if (row === undefined) throw new PostgresError('the server does not say what it is');
  if (row.pid !== session.announcedPid) throw poolerBetween(session, row.pid);
  if (row.version_number < oldestVersion) {
    throw new PostgresError(`PostgreSQL ${row.version} is too old: base backups begin with PostgreSQL 15`, {
      hint: 'Upgrade it, or back it up with pg_basebackup.',
    });
  }
  await session.query('set up the session', withoutTimeouts);
  await session.query('set up the session', checkConnection).catch((error: unknown) => {
    if (session.lost.aborted || !(error instanceof PostgresError)) throw error;
  });
  return { backendPid: row.pid, major: Math.floor(row.version_number / 10_000), inRecovery: row.in_recovery };
}

function poolerBetween({ place, announcedPid }: Session, pid: number): ConfigurationError {
  return new ConfigurationError(`a connection pooler stands between this host and the server at ${place}`, {
    detail: `The connection says it is process ${announcedPid ?? 'unknown'}, the server says process ${pid}.`,
    hint: 'A base backup needs one session from start to stop: connect to PostgreSQL itself (PGHOST, PGPORT).',
  });
}

class OpenServer implements BackupServer {
  readonly facts: ServerFacts;
  readonly lost: AbortSignal;
  readonly #proof: ServerProof;
  readonly #session: Session;

  constructor(proof: ServerProof & { readonly facts: ServerFacts }) {
    this.#proof = proof;
    this.#session = proof.session;
    this.facts = proof.facts;
    this.lost = proof.session.lost;
  }

  async switchWal(): Promise<Lsn | undefined> {
    if (this.facts.inRecovery) return undefined;
    // when nothing was written since the last switch it gives the running segment's beginning: the one before must be there as well
    return this.#lsn('switch WAL', 'select pg_switch_wal()::text as lsn');
  }

  archiverStatus(): Promise<ArchiverStatus> {
    return readArchiverStatus(this.#session);
  }

  async startBackup({ label, checkpoint }: Parameters<BackupServer['startBackup']>[0]): Promise<{ startLsn: Lsn }> {
    const question = 'select pg_backup_start(label => $1, fast => $2)::text as lsn';
    return { startLsn: await this.#lsn('start the backup', question, [label, checkpoint === 'fast']) };
  }

  proveSameServer(startLsn: Lsn): Promise<void> {
    return proveSameServer(this.#proof, startLsn);
  }

  readChangedBlocks(options: SummariesOptions): Promise<SummarizedChanges> {
    return readChangedBlocks(this.#session, options);
  }

  async stopBackup(): Promise<{ stopLsn: Lsn; label: Buffer; tablespaceMap: Buffer }> {
    // names of tablespaces may be no text of the database's encoding: nothing is to be converted or checked
    await this.#session.query('set up the session', `set client_encoding = 'SQL_ASCII'`);
    const [row] = await this.#session.query<StopRow>('stop the backup', stopQuestion);
    if (row === undefined) throw new PostgresError('the server gives no backup label');
    checkSameProcess(this.#proof, row.pid);
    return { stopLsn: parsed(row.lsn), label: row.label, tablespaceMap: row.tablespace_map ?? Buffer.alloc(0) };
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  async #lsn(action: string, question: string, values?: readonly unknown[]): Promise<Lsn> {
    const [row] = await this.#session.query<{ lsn: string }>(action, question, values);
    return parsed(row?.lsn ?? '');
  }
}

interface StopRow {
  readonly pid: number;
  readonly lsn: string;
  readonly label: Buffer;
  readonly tablespace_map: Buffer | null;
}

const stopQuestion = `
  select pg_backend_pid() as pid, lsn::text as lsn, textsend(labelfile) as label, textsend(spcmapfile) as tablespace_map
    from pg_backup_stop(wait_for_archive => false)`;

function parsed(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined) throw new PostgresError(`the server gives no LSN: "${text}"`);
  return lsn;
}
