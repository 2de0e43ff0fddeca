/** The server that is looked at: found, proved to be the one of the data directory, and asked in sessions that do not wait for ever. */
import { connect, isNobodyThere, type Session, type SessionOptions } from '../../cluster/connection.ts';
import { readConnectionSettings } from '../../cluster/connection-settings.ts';
import { readControlFile } from '../../cluster/data-directory.ts';
import { readPostmasterPid } from '../../cluster/postmaster-pid.ts';
import { checkSameServer } from '../../cluster/same-server.ts';
import { ConfigurationError, HostError, PostgresError } from '../../errors.ts';
import type { Context } from '../context.ts';
import { NotLookedAt } from './finding.ts';
import { inTime, LateError } from './in-time.ts';

export interface RunningServer {
  readonly session: Session;
  readonly version: string;
  readonly major: number;
  readonly inRecovery: boolean;
  readonly systemIdentifier: string;
  readonly segmentSizeBytes: number;
  readonly archiveMode: 'on' | 'off' | 'always';
  /** What the role may see: settings that are a superuser's, others' processes, the folders of the server. */
  readonly mayRead: { readonly settings: boolean; readonly processes: boolean; readonly folders: boolean };
  /** As it is called on this host; undefined where it is not here, or cannot be read. */
  readonly dataDirectory: string | undefined;
}

/** No data directory is known, and nothing listens where a server usually does. */
export class NoServerError extends PostgresError {}

const oldestVersion = 150_000;

/**
 * By libpq's variables; without them where the data directory's own server listens, or any on this host's usual socket.
 * @throws NoServerError, PostgresError, ConfigurationError, HostError
 */
export async function openRunningServer(context: Context, known: string | undefined): Promise<RunningServer> {
  if (known !== undefined) await expectRunning(known);
  const inner = await connectTo(context, known);
  const limitMs = context.settings.times.idleMs;
  const session = new BoundedSession(inner, limitMs);
  try {
    const [row] = await session.query<Row>('ask the server who it is', question, [known !== undefined]);
    if (row === undefined) throw new PostgresError('the server does not say what it is');
    if (row.version_number < oldestVersion) {
      throw new PostgresError(`PostgreSQL ${row.version} is too old: WAL-T needs 15 or later`);
    }
    if (inner.announcedPid !== row.pid) throw poolerBetween(session);
    await session.query('set up the session', withTimeouts, [String(limitMs / 2)]);
    const server = describe(session, row);
    if (known === undefined) return { ...server, dataDirectory: await readableDirectory(row) };
    await expectSame(known, server, row);
    return { ...server, dataDirectory: known };
  } catch (error) {
    await session.close();
    throw error;
  }
}

async function expectRunning(dataDirectory: string): Promise<void> {
  if ((await readControlFile(dataDirectory)) === undefined) {
    throw new HostError(`"${dataDirectory}" is not a data directory that can be read`, {
      hint: 'Give that of the server, and run this as the user that PostgreSQL runs as; --skip server on a host without one.',
    });
  }
  if ((await readPostmasterPid(dataDirectory)) === undefined) {
    throw new PostgresError(`no server runs on "${dataDirectory}"`, {
      hint: 'Start it; why it stopped is in its log. On a host that is not to have a running server: --skip server.',
    });
  }
}

async function connectTo(
  { libpq: environment, log, signal, settings, workingDirectory }: Context,
  known: string | undefined,
): Promise<Session> {
  const options: SessionOptions & { readonly environment: typeof environment; readonly connectMs: number } = {
    environment,
    log,
    signal,
    connectMs: settings.times.connectMs,
  };
  try {
    return await connect(
      await readConnectionSettings({ ...options, dataDirectory: known ?? workingDirectory }),
      options,
    );
  } catch (error) {
    const isNamed = [known, environment.PGHOST, environment.PGHOSTADDR, environment.PGPORT].some(Boolean);
    if (isNamed || !(error instanceof PostgresError) || !isNobodyThere(error)) throw error;
    throw new NoServerError('no server was found on this host, so none was looked at', {
      detail: 'no data directory is set, and nothing listens where a server usually does',
      hint: 'Name it: "wal-t check PGDATA", WALT_PGDATA, or PGHOST and PGPORT. On a host that has none: --skip server.',
    });
  }
}

interface Row {
  readonly pid: number;
  readonly version: string;
  readonly version_number: number;
  readonly in_recovery: boolean;
  readonly system: string;
  readonly segment_size: number;
  readonly archive_mode: RunningServer['archiveMode'];
  readonly reads_settings: boolean;
  readonly reads_processes: boolean;
  readonly reads_folders: boolean;
  readonly may_prove: boolean;
  readonly directory: string | null;
  /** Epoch seconds. */
  readonly started_at: number;
}

/** `data_directory` is shown to members of pg_read_all_settings only. */
const question = `
  select pg_backend_pid() as pid, split_part(current_setting('server_version'), ' ', 1) as version,
         current_setting('server_version_num')::int as version_number, pg_is_in_recovery() as in_recovery,
         system_identifier::text as system, pg_size_bytes(current_setting('wal_segment_size'))::int as segment_size,
         current_setting('archive_mode') as archive_mode,
         pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') as reads_settings,
         pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') as reads_processes,
         has_function_privilege(current_user, 'pg_catalog.pg_ls_archive_statusdir()', 'EXECUTE') as reads_folders,
         $1 and has_function_privilege(current_user, 'pg_catalog.pg_export_snapshot()', 'EXECUTE') as may_prove,
         case when pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') then current_setting('data_directory') end as directory,
         extract(epoch from pg_postmaster_start_time())::float8 as started_at
    from pg_control_system()`;

/** A lock that somebody holds is waited for no longer than the client waits for the server itself. */
const withTimeouts = `
  select set_config('statement_timeout', $1, false), set_config('search_path', 'pg_catalog', false),
         set_config('idle_session_timeout', '0', false)`;

function describe(session: Session, row: Row): Omit<RunningServer, 'dataDirectory'> {
  return {
    session,
    version: row.version,
    major: Math.floor(row.version_number / 10_000),
    inRecovery: row.in_recovery,
    systemIdentifier: row.system,
    segmentSizeBytes: row.segment_size,
    archiveMode: row.archive_mode,
    mayRead: { settings: row.reads_settings, processes: row.reads_processes, folders: row.reads_folders },
  };
}

/** Where the server is said to be may be another container, or not be readable by this account. */
async function readableDirectory({ directory, system }: Row): Promise<string | undefined> {
  if (directory === null) return undefined;
  return (await readControlFile(directory))?.systemIdentifier === system ? directory : undefined;
}

async function expectSame(known: string, server: Omit<RunningServer, 'dataDirectory'>, row: Row): Promise<void> {
  const { session, systemIdentifier, inRecovery } = server;
  if (!row.may_prove) {
    const control = await readControlFile(known);
    if (control?.systemIdentifier === systemIdentifier) return; // as much as this role can see; "privileges" tells
  }
  const facts = {
    systemIdentifier,
    inRecovery,
    dataDirectory: row.directory ?? 'a folder that this role may not ask for',
    startedAt: new Date(row.started_at * 1000),
  };
  await checkSameServer({ session, facts, backendPid: row.pid, dataDirectory: known });
}

function poolerBetween({ place }: Session): ConfigurationError {
  return new ConfigurationError(`a connection pooler stands between this host and the server at ${place}`, {
    hint: 'Connect to PostgreSQL itself (PGHOST, PGPORT): base backups need that as well.',
  });
}

/** Each query ends within a bound. Once one did not, nothing more is asked: it would be the same. */
class BoundedSession implements Session {
  readonly #session: Session;
  readonly #limitMs: number;
  #isSilent = false;

  constructor(session: Session, limitMs: number) {
    this.#session = session;
    this.#limitMs = limitMs;
  }

  get place(): string {
    return this.#session.place;
  }
  get user(): string {
    return this.#session.user;
  }
  get database(): string {
    return this.#session.database;
  }
  get announcedPid(): number | undefined {
    return this.#session.announcedPid;
  }
  get lost(): AbortSignal {
    return this.#session.lost;
  }

  async query<Row extends object>(action: string, sql: string, values?: readonly unknown[]): Promise<readonly Row[]> {
    if (this.#isSilent) throw new NotLookedAt('the server did not answer any more');
    try {
      return await inTime(this.#session.query<Row>(action, sql, values), this.#limitMs);
    } catch (error) {
      if (this.lost.aborted && error instanceof PostgresError) throw this.#gone(error);
      if (!(error instanceof LateError)) throw error;
      this.#isSilent = true;
      void this.#session.close();
      throw new PostgresError(`the server at ${this.place} does not answer: could not ${action}`, {
        detail: `waited for ${this.#limitMs / 1000} s`,
        hint: 'The server hangs, or its host does: look at its processes, its disks and its log.',
      });
    }
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  /** Told once; the session's own words are about a backup. */
  #gone({ detail }: PostgresError): PostgresError {
    this.#isSilent = true;
    return new PostgresError(`the connection to the server at ${this.place} was lost`, {
      detail,
      hint: "Look at the server's log.",
    });
  }
}
