/** A cluster of about a wanted size for the backups' bench: with page checksums and content that compresses near 3 : 1. */
import { cpSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { giveAway } from '../../test/support/account.ts';
import { PostgresServer } from '../../test/support/postgres.ts';

export interface ClusterSize {
  /** About so much in tables and their indexes. */
  readonly bytes: number;
  /** So many small files besides, of one page each. */
  readonly files: number;
  /** 15 unless told: all contenders know it. */
  readonly major?: number;
  /** Of the tables. */
  readonly fillfactor?: number;
}

/** Each table with its indexes has about this size: several workers find something to do in a small cluster, too. */
const tableBytes = 200_000_000;
/** Of one row, with what stands of it in the indexes. */
const rowBytes = 270;

const words = 'the order of a customer was sent by mail late and paid on time but the parcel came back';

/** Loads the cluster without WAL, and starts it with `settings`. */
export async function makeCluster(size: ClusterSize, settings: Readonly<Record<string, string>>) {
  const loading = { wal_level: 'minimal', max_wal_senders: '0', max_wal_size: '4GB', maintenance_work_mem: '256MB' };
  const server = PostgresServer.create({
    major: size.major ?? 15,
    walSegmentSize: 16,
    checksums: true,
    settings: loading,
  });
  try {
    await server.start();
    const tables = Math.ceil(size.bytes / tableBytes);
    for (let table = 0; table < tables; table += 1)
      await load(server, `orders_${table}`, { ...size, bytes: size.bytes / tables });
    if (size.files > 0) await addFiles(server, size.files);
    await server.query('checkpoint');
    server.configure({ wal_level: 'replica', max_wal_senders: '4', ...settings });
    await server.restart();
    return server;
  } catch (error) {
    await server.remove();
    throw error;
  }
}

async function load(server: PostgresServer, table: string, { bytes, fillfactor = 100 }: ClusterSize): Promise<void> {
  const list = words
    .split(' ')
    .map((word) => `'${word}'`)
    .join(',');
  await server.query(
    `create table ${table} with (fillfactor = ${fillfactor}) as select n as id, md5(n::text || '${table}') as token, timestamp '2026-01-01' + n * interval '1 second' as at,
       (random() * 100000)::numeric(9, 2) as amount, (array['open', 'paid', 'sent', 'returned'])[1 + n % 4] as state,
       (select string_agg((array[${list}])[1 + (random() * 17)::int], ' ') from generate_series(1, 14 + n % 8)) as note
     from generate_series(1, ${Math.round(bytes / rowBytes)}) n`,
  );
  await server.query(`create index on ${table} (token)`);
  await server.query(`create index on ${table} (id)`);
}

/** Files of one page, each with a right checksum: copies of a small catalog's. PostgreSQL does not know them, and leaves them alone. */
async function addFiles(server: PostgresServer, files: number): Promise<void> {
  await server.query('create database files');
  const folder = join(
    server.dataDirectory,
    'base',
    await server.value(`select oid from pg_database where datname = 'files'`),
  );
  const page = readdirSync(folder).find((name) => /^\d+$/.test(name) && statSync(join(folder, name)).size === 8192);
  if (page === undefined) throw new Error('there is no file of one page');
  for (let file = 0; file < files; file += 1) {
    const copy = join(folder, String(5_000_000 + file));
    cpSync(join(folder, page), copy);
    giveAway(copy);
  }
}

/** Bytes in files that belong to relations; `pg_wal` and what a server writes for itself are not counted. */
export function sizeOf(dataDirectory: string): { readonly files: number; readonly bytes: number } {
  let [files, bytes] = [0, 0];
  for (const top of ['base', 'global']) {
    for (const entry of readdirSync(join(dataDirectory, top), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || entry.name === 'pg_internal.init') continue;
      files += 1;
      bytes += statSync(join(entry.parentPath, entry.name)).size;
    }
  }
  return { files, bytes };
}
