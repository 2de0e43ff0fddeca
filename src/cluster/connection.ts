/** One session of a PostgreSQL server, held open from a backup's start to its stop: queries, its loss, its end. Knows nothing of backups. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ConnectionOptions } from 'node:tls';
import pg from 'pg';
import { PostgresError, systemErrorCode, systemErrorReason, WalTError } from '../errors.ts';
import { cleanUpMs } from '../limits.ts';
import type { Log } from '../log.ts';
import type { ConnectionSettings, Target } from './connection-settings.ts';

export interface Session {
  /** Where the server was found, for messages. */
  readonly place: string;
  readonly user: string;
  readonly database: string;
  /** The process that the other end says it is. */
  readonly announcedPid: number | undefined;
  /** Aborted with a PostgresError as soon as the connection is lost. */
  readonly lost: AbortSignal;
  /** The rows of a query; "could not `action`: …" is what its failure says. @throws PostgresError */
  query<Row extends object>(action: string, sql: string, values?: readonly unknown[]): Promise<readonly Row[]>;
  /** Ends the session, and with it a backup that is running; returns within a bound whether the server answers or not. */
  close(): Promise<void>;
}

export interface SessionOptions {
  readonly log: Log;
  /** Ends the session, in mid-query as well. */
  readonly signal: AbortSignal;
}

/** @throws PostgresError when no server answers or this one refuses. @throws ConfigurationError when it wants a password and there is none. */
export async function connect(settings: ConnectionSettings, options: SessionOptions): Promise<Session> {
  let failure: unknown;
  for (const target of settings.targets) {
    try {
      return await connectTo(target, settings, options);
    } catch (error) {
      options.signal.throwIfAborted();
      failure = error;
      if (!isNobodyThere(error)) break;
    }
  }
  throw failure;
}

/** As libpq: where the settings leave it open, once more with TLS or without. */
async function connectTo(target: Target, settings: ConnectionSettings, options: SessionOptions): Promise<Session> {
  const failures: unknown[] = [];
  for (const tls of target.tls) {
    try {
      return await openSession({ target, tls, settings, options });
    } catch (error) {
      options.signal.throwIfAborted();
      failures.push(error);
      if (error instanceof WalTError || !mayDifferWithoutTls(error)) break;
    }
  }
  const [error] = failures.filter((failure) => !isWithoutTls(failure)).concat(failures);
  throw refusal(`connect to ${placeOf(target)}`, error);
}

interface Attempt {
  readonly target: Target;
  readonly tls: ConnectionOptions | false;
  readonly settings: ConnectionSettings;
  readonly options: SessionOptions;
}

async function openSession({ target, tls, settings, options }: Attempt): Promise<Session> {
  const { user, database, connectMs } = settings;
  const socket = new Socket();
  const client = new pg.Client({
    host: target.host,
    port: target.port,
    user,
    database,
    password: () => settings.password(target),
    ssl: tls,
    sslnegotiation: tls === false ? 'postgres' : target.negotiation,
    options: settings.options,
    application_name: 'wal-t',
    client_encoding: 'UTF8',
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    connectionTimeoutMillis: connectMs,
    stream: () => socket,
  });
  guard(socket);
  client.connection.on('sslconnect', () => guard(client.connection.stream));
  const session = new OpenSession(client, { socket, place: placeOf(target), ...options });
  try {
    await session.open();
    return session;
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** What pg cannot read, such as a demand for GSSAPI, it throws where nobody catches: it ends the connection instead. */
function guard(stream: Duplex): void {
  const emit = stream.emit.bind(stream);
  stream.emit = (event: string, ...words: unknown[]): boolean => {
    try {
      return emit(event, ...words);
    } catch (error) {
      if (event !== 'data') throw error;
      stream.destroy(error instanceof Error ? error : new Error(String(error)));
      return true;
    }
  };
}

class OpenSession implements Session {
  readonly place: string;
  readonly user: string;
  readonly database: string;
  readonly #client: pg.Client;
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  readonly #lost = new AbortController();
  /** Why the server closed the connection, if it said so. */
  #lastWords: string | undefined;
  #ending: Promise<void> | undefined;
  #isOpen = false;
  readonly #stop = (): void => {
    // a client that is still connecting would forget, once ended, to reject
    if (this.#isOpen) void this.close();
    else this.#socket.destroy();
  };

  constructor(
    client: pg.Client,
    { socket, place, log, signal }: SessionOptions & { readonly socket: Socket; readonly place: string },
  ) {
    this.#client = client;
    this.#socket = socket;
    this.#signal = signal;
    this.place = place;
    this.user = client.user ?? '';
    this.database = client.database ?? '';
    client.on('error', (error) => this.#lose(error));
    client.on('end', () => this.#lose(new Error('the connection was closed')));
    client.on('notice', ({ code, message }) => {
      // an immediate shutdown says farewell with a warning
      if (code?.startsWith('57P') === true) this.#lastWords = message;
      log.debug(`the server says: ${message}`);
    });
    signal.addEventListener('abort', this.#stop, { once: true });
  }

  async open(): Promise<void> {
    this.#signal.throwIfAborted();
    await this.#client.connect();
    this.#isOpen = true;
    this.#signal.throwIfAborted();
  }

  get announcedPid(): number | undefined {
    // BackendKeyData, which the types of pg do not know
    return 'processID' in this.#client && typeof this.#client.processID === 'number'
      ? this.#client.processID
      : undefined;
  }

  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  async query<Row extends object>(
    action: string,
    text: string,
    values: readonly unknown[] = [],
  ): Promise<readonly Row[]> {
    this.#signal.throwIfAborted();
    this.#lost.signal.throwIfAborted();
    try {
      const { rows } = await this.#client.query<Row>(text, [...values]);
      this.#lastWords = undefined;
      return rows;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (error instanceof pg.DatabaseError) this.#lastWords = error.message;
      else this.#lose(error);
      this.#lost.signal.throwIfAborted();
      throw refusal(action, error);
    }
  }

  close(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async #end(): Promise<void> {
    this.#signal.removeEventListener('abort', this.#stop);
    const timer = setTimeout(() => this.#socket.destroy(), cleanUpMs);
    try {
      // in mid-query this destroys the socket itself
      await this.#client.end();
    } finally {
      clearTimeout(timer);
      this.#socket.destroy();
    }
  }

  #lose(error: unknown): void {
    if (this.#ending !== undefined || this.#lost.signal.aborted) return;
    this.#lost.abort(
      new PostgresError(`the connection to the server at ${this.place} was lost`, {
        detail: this.#lastWords ?? wordsOf(error),
        hint: "Look at the server's log, then take the backup again: the server has ended this one.",
        cause: error,
      }),
    );
  }
}

/** The server's refusal as an error of ours, with its own message, detail and hint. */
function refusal(action: string, error: unknown): Error {
  if (error instanceof WalTError) return error;
  const code = error instanceof pg.DatabaseError ? error.code : undefined;
  const [detail, said] = error instanceof pg.DatabaseError ? [error.detail, error.hint] : [];
  const known = hints[code ?? systemErrorCode(error) ?? ''];
  const hint = said ?? known ?? (code !== undefined ? seeLog : isUnknownMethod(error) ? otherMethod : unreachable);
  return new PostgresError(`could not ${action}: ${wordsOf(error)}`, { detail, hint, cause: error });
}

function wordsOf(error: unknown): string {
  if (error instanceof pg.DatabaseError) return error.message;
  if (error instanceof AggregateError && error.errors.length > 0) return wordsOf(error.errors[0]);
  const isSystemCall = /^E[A-Z0-9]+$/.test(systemErrorCode(error) ?? '');
  return error instanceof Error && !isSystemCall ? error.message : systemErrorReason(error);
}

const seeLog = "Look at the server's log.";
const otherMethod = 'Let pg_hba.conf offer peer, scram-sha-256 or cert: GSSAPI and SSPI are not supported.';
const unreachable = 'Is the server running, and do PGHOST and PGPORT name it?';
const hints: Readonly<Record<string, string>> = {
  '28P01': 'Put the right password into ~/.pgpass or PGPASSWORD.',
  '28000':
    "Look at the server's log: pg_hba.conf must let this account in, and the role must exist and have LOGIN (PGUSER).",
  '3D000': 'Set PGDATABASE to a database that exists.',
  '53300': 'Wait until a connection is free, or raise max_connections.',
  '57P03': 'Wait until the server accepts connections; a standby needs hot_standby = on.',
  EACCES: 'The socket is not open to this account: run as the account of the server.',
};

function isUnknownMethod(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('Unknown authenticationOk message');
}

/** Does nothing listen there? */
export function isNobodyThere(error: unknown): boolean {
  const cause = error instanceof WalTError ? error.cause : error;
  const inner = cause instanceof AggregateError ? cause.errors[0] : cause;
  return ['ENOENT', 'ECONNREFUSED', 'ENOTFOUND'].includes(systemErrorCode(inner) ?? '');
}

function isWithoutTls(error: unknown): boolean {
  return error instanceof Error && error.message === 'The server does not support SSL connections';
}

/** Another line of pg_hba.conf may let it in, or TLS itself be what failed; never a wrong password, nor a server that does not answer. */
function mayDifferWithoutTls(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return error.code === '28000';
  const code = systemErrorCode(error) ?? '';
  return isWithoutTls(error) || /_/.test(code) || (error instanceof Error && /SSL/.test(error.message));
}

function placeOf({ host, port }: Target): string {
  return host.startsWith('/') ? `socket "${host}", port ${port}` : `"${host}", port ${port}`;
}
