/** WAL of real servers with all that a reader of it can meet, and what PostgreSQL itself says is in it. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { formatLsn, parseLsn } from '../../src/postgres/lsn.ts';
import { readWalEvents, type WalEvent, walTimeToDate } from '../../src/postgres/wal-events.ts';
import { parseWalFileName, segmentStart } from '../../src/postgres/wal-file-name.ts';
import { readWalRecords, type WalEnd, type WalOptions } from '../../src/postgres/wal-record.ts';
import { giveAway } from '../support/account.ts';
import { PostgresServer } from '../support/postgres.ts';

/** A row of `pg_get_wal_records_info`. */
export interface ListedRecord {
  readonly lsn: string;
  readonly endLsn: string;
  readonly xid: number;
  readonly resourceManager: string;
  readonly type: string;
  readonly sizeBytes: number;
  readonly description: string;
}

export interface Wal extends WalOptions {
  readonly chunks: readonly Buffer[];
}

export async function createServer(major: number, walSegmentSize = 1): Promise<PostgresServer> {
  const settings = {
    wal_level: 'logical',
    wal_keep_size: '2GB',
    max_wal_size: '2GB',
    max_prepared_transactions: '5',
    timezone: 'UTC',
    track_commit_timestamp: 'on',
  };
  const server = PostgresServer.create({ major, walSegmentSize, settings });
  await server.start();
  await server.query('create extension pg_walinspect');
  return server;
}

/** Everything from the next segment on. @returns where that is. */
export async function work(server: PostgresServer): Promise<string> {
  await server.query('select pg_switch_wal()');
  const from = await server.value('select pg_walfile_name(pg_current_wal_lsn())');
  const tablespace = join(server.folder, 'späce');
  mkdirSync(tablespace);
  giveAway(tablespace);
  for (const statement of statements(tablespace)) await run(server, statement);
  await server.query('select pg_switch_wal()');
  return from;
}

/** Statements of which no rows are wanted. */
export async function run(server: PostgresServer, sql: string): Promise<void> {
  const client = await server.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

/** Each is sent at once, on a connection of its own. */
const statements = (tablespace: string) => [
  `create tablespace space location '${tablespace}'`,
  'create table t (i int primary key, t text)',
  "insert into t select i, repeat('x', 300) from generate_series(1, 3000) i",
  `do $$ begin for n in 1..100 loop begin insert into t values (-n, 'sub'); exception when others then null; end; end loop; end $$`,
  "begin; insert into t values (10001, 'a'); savepoint s; insert into t values (10002, 'b'); rollback to s; commit",
  "begin; update t set t = 'c' where i = 1; rollback",
  "begin; create table u (i int); drop table t; savepoint s; create table v (i int); release s; prepare transaction 'undone'",
  "rollback prepared 'undone'",
  "begin; create table u (i int); create table gone (i int); drop table gone; create function f() returns int language sql as 'select 1'; prepare transaction 'done'",
  "commit prepared 'done'",
  "begin; drop table u; drop function f(); insert into t values (20001, 'p'); savepoint s; insert into t values (20002, 'p'); prepare transaction 'dropped'",
  "commit prepared 'dropped'",
  `select pg_replication_origin_create('there')`,
  `select pg_replication_origin_session_setup('there'); begin; select pg_replication_origin_xact_setup('0/AAAA', now()); insert into t values (30001, 'o'); commit`,
  `select pg_replication_origin_session_setup('there'); begin; insert into t values (30002, 'o'); prepare transaction 'origin'`,
  "commit prepared 'origin'",
  "select pg_create_restore_point('before the big ones')",
  "select pg_logical_emit_message(true, 'big', repeat('y', 3500000))",
  "select pg_logical_emit_message(false, 'big', repeat('z', 1048576))",
  'create table big (t text); alter table big alter t set storage external',
  'insert into big select repeat(md5(i::text), 20000) from generate_series(1, 5) i',
  `select pg_create_restore_point('${'n'.repeat(63)}')`,
  'select pg_switch_wal()',
  'create database copied strategy file_copy',
  'create database logged strategy wal_log',
  'checkpoint',
  "select pg_backup_start('b', true); select pg_backup_stop(false)",
  "insert into t select i, 'last' from generate_series(40001, 40050) i",
];

/** The segments in pg_wal from `from` on, to its end. */
export function readWal(server: PostgresServer, from: string, walSegmentSize = 1): Wal {
  const folder = join(server.dataDirectory, 'pg_wal');
  const timeline = Number.parseInt(from.slice(0, 8), 16);
  const names = readdirSync(folder).filter((name) => /^[0-9A-F]{24}$/.test(name) && name >= from);
  const chunks = names.sort().map((name) => readFileSync(join(folder, name)));
  const segmentSizeBytes = walSegmentSize * 1024 * 1024;
  const file = parseWalFileName(from);
  const startLsn = file?.kind === 'segment' ? segmentStart(file, segmentSizeBytes) : undefined;
  if (startLsn === undefined) throw new Error(`no segment: ${from}`);
  return { chunks, startLsn, segmentSizeBytes, timeline };
}

/** What `pg_walinspect` finds from `startLsn` on, as far as the WAL is flushed. */
export async function listRecords(server: PostgresServer, startLsn: bigint): Promise<ListedRecord[]> {
  const columns = 'start_lsn, end_lsn, xid, resource_manager, record_type, record_length, description';
  const end = await server.value('select pg_current_wal_flush_lsn()');
  const rows = await server.query(
    `select ${columns} from pg_get_wal_records_info('${formatLsn(startLsn)}', '${end}') order by start_lsn`,
  );
  return rows.map(([lsn = '', endLsn = '', xid, resourceManager = '', type = '', sizeBytes, description = '']) => {
    return { lsn, endLsn, xid: Number(xid), resourceManager, type, sizeBytes: Number(sizeBytes), description };
  });
}

/** All that a generator gives, and what it returns. */
export async function gather<T>(generator: AsyncGenerator<T, WalEnd>): Promise<{ found: T[]; end: WalEnd }> {
  const found: T[] = [];
  for (;;) {
    const next = await generator.next();
    if (next.done === true) return { found, end: next.value };
    found.push(next.value);
  }
}

/** Each record as one line. */
export async function recordLines({ chunks, ...options }: Wal): Promise<{ lines: string[]; end: WalEnd }> {
  const { found, end } = await gather(readWalRecords(streamOf(chunks), options));
  const lines = found.map(({ lsn, endLsn, xid, sizeBytes }) => {
    return `${formatLsn(lsn)} ${formatLsn(endLsn)} ${xid} ${sizeBytes}`;
  });
  return { lines, end };
}

export function listedLine({ lsn, endLsn, xid, sizeBytes }: ListedRecord): string {
  return `${lsn} ${endLsn} ${xid} ${sizeBytes}`;
}

/** Lines of records that begin before `lsn`. */
export function linesBefore(lines: readonly string[], lsn: string): string[] {
  return lines.filter((line) => (parseLsn(line.split(' ')[0] ?? '') ?? 0n) < (parseLsn(lsn) ?? 0n));
}

/** `bytesOf` for more chunks than a call may have arguments. */
async function* streamOf(chunks: readonly Buffer[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

/** What `pg_walinspect` says, in our own words; undefined for records that are no event. */
export function listedEvent({
  lsn,
  endLsn,
  xid,
  resourceManager,
  type,
  description,
}: ListedRecord): string | undefined {
  const place = (id: number | string = xid) => `${lsn} ${endLsn} ${id}`;
  const words = /^(?:(\d+): )?(\d{4}-\S+ [\d:.]+)/.exec(description);
  const number = (pattern: RegExp) => pattern.exec(description)?.[1] ?? '';
  switch (`${resourceManager} ${type}`) {
    case 'Transaction COMMIT':
    case 'Transaction ABORT':
      return `${place()} ${type.toLowerCase()} ${fullTime(words?.[2])}`;
    case 'Transaction COMMIT_PREPARED':
    case 'Transaction ABORT_PREPARED':
      return `${place(words?.[1])} prepared ${type.split('_')[0]?.toLowerCase()} ${fullTime(words?.[2])}`;
    case 'XLOG RESTORE_POINT':
      return `${place()} restore point ${description}`;
    case 'XLOG CHECKPOINT_ONLINE':
    case 'XLOG CHECKPOINT_SHUTDOWN': {
      const online = type === 'CHECKPOINT_ONLINE';
      return `${place()} checkpoint ${online} ${number(/redo (\S+);/)} ${number(/ tli (\d+);/)}`;
    }
    case 'XLOG END_OF_RECOVERY':
      return `${place()} end of recovery ${number(/^tli (\d+)/)} ${number(/prev tli (\d+)/)}`;
    case 'XLOG BACKUP_END':
      return `${place()} backup end ${description}`;
    case 'XLOG SWITCH':
      return `${place()} switch`;
    case 'Tablespace CREATE':
      return `${place()} tablespace create ${description}`;
    case 'Database CREATE_FILE_COPY':
      return `${place()} database create ${description}`;
    default:
      return undefined;
  }
}

function fullTime(text = ''): string {
  const [seconds = '', fraction = ''] = text.split('.');
  return `${seconds}.${fraction.padEnd(6, '0')}`;
}

export function eventLine(event: WalEvent): string {
  const place = `${formatLsn(event.lsn)} ${formatLsn(event.endLsn)} ${event.xid}`;
  switch (event.kind) {
    case 'commit':
    case 'abort':
      return `${place} ${event.prepared ? 'prepared ' : ''}${event.kind} ${timeText(event.time)}`;
    case 'restore point':
      return `${place} restore point ${event.name}`;
    case 'checkpoint':
      return `${place} checkpoint ${event.online} ${formatLsn(event.redo)} ${event.timeline}`;
    case 'end of recovery':
      return `${place} end of recovery ${event.timeline} ${event.previousTimeline}`;
    case 'backup end':
      return `${place} backup end ${formatLsn(event.startLsn)}`;
    case 'switch':
      return `${place} switch`;
    case 'tablespace create':
      return `${place} tablespace create ${event.oid} "${Buffer.from(event.location, 'latin1')}"`;
    case 'database create (file copy)': {
      const { oid, tablespaceOid, sourceOid, sourceTablespaceOid } = event;
      return `${place} database create copy dir ${sourceTablespaceOid}/${sourceOid} to ${tablespaceOid}/${oid}`;
    }
  }
}

function timeText(time: bigint): string {
  const micros = (((time % 1000n) + 1000n) % 1000n).toString().padStart(3, '0');
  return `${walTimeToDate(time).toISOString().replace('T', ' ').replace('Z', '')}${micros}`;
}

export async function events({ chunks, ...options }: Wal) {
  return gather(readWalEvents(streamOf(chunks), options));
}
