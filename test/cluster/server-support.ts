/** Sessions for tests of the server: opened as a backup does, closed when the test ends; and a proxy that does what poolers and networks do. */
import { createServer, connect as dial, type Socket } from 'node:net';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type BackupServer, openServer, type ServerOptions } from '../../src/cluster/server.ts';
import { WalTError } from '../../src/errors.ts';
import type { Log } from '../../src/log.ts';
import { PostgresServer, type ServerOptions as ServerChoice } from '../support/postgres.ts';

export type Environment = ServerOptions['environment'];

const silent = (): void => undefined;
export const quietLog: Log = { error: silent, warning: silent, info: silent, debug: silent };

/** As the operator of the tests' servers, who has no folder of its own. */
const plainUser = { PGUSER: 'postgres', HOME: '/nonexistent' };

/** A session for this server's data directory: of this server, or with PGHOST of another one. */
export async function openTo(
  { dataDirectory }: Pick<PostgresServer, 'dataDirectory'>,
  environment: Environment = {},
  options: Partial<ServerOptions> = {},
): Promise<BackupServer> {
  const server = await openServer({
    dataDirectory,
    environment: { ...plainUser, ...environment },
    log: quietLog,
    signal: new AbortController().signal,
    connectMs: 10_000,
    ...options,
  });
  onTestFinished(() => server.close());
  return server;
}

/** A server of this test alone, running. */
export async function startServer(choice: ServerChoice): Promise<PostgresServer> {
  const server = PostgresServer.create(choice);
  onTestFinished(() => server.remove());
  await server.start();
  return server;
}

/** A standby of the server, running; the caller removes it. The primary keeps what it may still have to stream: each backup fills a segment. */
export async function startStandby(primary: PostgresServer): Promise<PostgresServer> {
  await primary.query(`alter system set wal_keep_size = '256MB'`);
  await primary.query('select pg_reload_conf()');
  const standby = await primary.backup();
  standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres` });
  standby.signal('standby.signal');
  await standby.start();
  return standby;
}

export interface Failure {
  readonly error: WalTError;
  /** Message, detail and hint. */
  readonly text: string;
}

/** What it fails with. */
export async function failureOf(work: Promise<unknown>): Promise<Failure> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof WalTError)) throw new Error(`should have failed with an error of ours, not ${error}`);
  return { error, text: [error.message, error.detail, error.hint].join(' | ') };
}

/** Is a session of ours still open on this server? */
export async function countSessions(server: PostgresServer): Promise<number> {
  return Number(await server.value(`select count(*) from pg_stat_activity where application_name = 'wal-t'`));
}

export interface Proxy {
  /** PGHOSTADDR and PGPORT. */
  readonly environment: Environment;
  /** Closes all connections. */
  cut(): void;
  /** From now on nothing is passed on, in neither direction. */
  freeze(): void;
  /** From now on a second session of the same server answers, as from a pooler that shares sessions out. */
  swap(): void;
}

/** A TCP port before the server's socket; what the server says goes through `change`. */
export async function startProxy(server: PostgresServer, change = (data: Buffer): Buffer => data): Promise<Proxy> {
  const sockets: Socket[] = [];
  let [isFrozen, answering] = [false, 0];
  const listener = createServer({ allowHalfOpen: true }, (client) => {
    const path = join(server.folder, '.s.PGSQL.5432');
    const backends = [dial(path), dial(path)];
    sockets.push(client, ...backends);
    let isGreeted = false;
    client.on('data', (data) => {
      if (isFrozen) return;
      for (const backend of isGreeted ? backends.slice(answering, answering + 1) : backends) backend.write(data);
    });
    for (const [n, backend] of backends.entries()) {
      backend.on('data', (data) => {
        if (n !== answering || isFrozen) return;
        isGreeted = true;
        client.write(change(data));
      });
      backend.on('close', () => n === answering && client.destroy());
    }
    client.on('end', () => isFrozen || client.end());
    client.on('close', () => backends.map((backend) => backend.end()));
    for (const socket of [client, ...backends]) socket.on('error', silent);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const cut = (): void => void sockets.map((socket) => socket.destroy());
  onTestFinished(() => {
    cut();
    listener.close();
  });
  const address = listener.address();
  const port = typeof address === 'object' && address !== null ? String(address.port) : '';
  return {
    environment: { PGHOSTADDR: '127.0.0.1', PGPORT: port, PGSSLMODE: 'disable' },
    cut,
    freeze: () => {
      isFrozen = true;
    },
    swap: () => {
      answering = 1;
    },
  };
}

/** What a pooler does: keys of its own for its clients. BackendKeyData is `K`, length 12, process id, key. */
export function withForgedKey(data: Buffer): Buffer {
  const at = data.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
  if (at >= 0) data.writeInt32BE(data.readInt32BE(at + 5) + 1, at + 5);
  return data;
}
