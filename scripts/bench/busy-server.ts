/** A server whose finished segments hold what a busy one writes, and the marks in archive_status that say what waits to be archived. */
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { PostgresServer } from '../../test/support/postgres.ts';

export interface BusyOptions {
  /** MiB. */
  readonly segmentSize?: number;
  /** So much WAL stays in pg_wal, archived or not. */
  readonly segments: number;
}

/**
 * PostgreSQL 15, which the peers of Debian 12 know, started, with an empty table `t`. Its archiver waits, as without an archive_command,
 * until it gets one.
 */
export async function busyServer({ segmentSize = 16, segments }: BusyOptions): Promise<PostgresServer> {
  const keptSize = `${2 * segmentSize * (segments + 32)}MB`;
  const server = PostgresServer.create({
    major: 15,
    walSegmentSize: segmentSize,
    settings: {
      wal_keep_size: keptSize,
      max_wal_size: keptSize,
      checkpoint_timeout: '1h',
      archive_mode: 'on',
      archive_command: '',
    },
  });
  try {
    await server.start();
    await server.query(
      'create table t (id serial primary key, name text, mail text, at timestamptz default now(), n numeric)',
    );
    return server;
  } catch (error) {
    await server.remove();
    throw error;
  }
}

/** The same, and a copy from before its end, not started: it knows the table, and nothing of what will be in it. */
export async function busyServerWithCopy(
  options: BusyOptions,
): Promise<{ server: PostgresServer; base: PostgresServer }> {
  const server = await busyServer(options);
  try {
    await server.stop();
    const base = server.copy();
    await server.start();
    return { server, base };
  } catch (error) {
    await server.remove();
    throw error;
  }
}

/** Writes until so many segments are finished: ratio near 2.5 at zstd's level 3. @returns their names, in order. */
export async function finishSegments(server: PostgresServer, segments: number): Promise<string[]> {
  for (;;) {
    const finished = finishedSegments(server);
    if (finished.length >= segments) return finished;
    await server.query(
      `insert into t (name, mail, n) select md5(random()::text), md5(random()::text) || '@example.com', random() * 100000
       from generate_series(1, 30000)`,
    );
  }
}

/** The segments that PostgreSQL has marked, in order. */
export function finishedSegments({ dataDirectory }: PostgresServer): string[] {
  return readdirSync(statusFolder(dataDirectory))
    .flatMap((mark) => /^([0-9A-F]{24})\.(?:ready|done)$/.exec(mark)?.[1] ?? [])
    .sort();
}

/** Exactly these files wait, whatever waited before. The server's archiver must have nothing to do. */
export function letWait({ dataDirectory }: PostgresServer, names: readonly string[]): void {
  const folder = statusFolder(dataDirectory);
  const wanted = new Set(names);
  for (const mark of readdirSync(folder)) {
    const name = mark.replace(/\.(?:ready|done)$/, '');
    const due = `${name}.${wanted.has(name) ? 'ready' : 'done'}`;
    if (due !== mark) renameSync(join(folder, mark), join(folder, due));
  }
}

export function isArchived({ dataDirectory }: PostgresServer, name: string): boolean {
  return existsSync(join(statusFolder(dataDirectory), `${name}.done`));
}

function statusFolder(dataDirectory: string): string {
  return join(dataDirectory, 'pg_wal/archive_status');
}
