/** A cluster with one of each thing that a base backup can lose, a client that writes into it meanwhile, and what is compared with its restored copy. */
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { type BytePath, toBytePath, toFilePath } from '../../src/byte-path.ts';
import { type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { findBadPages } from '../../src/postgres/page.ts';
import { account, giveAway } from './account.ts';
import { PostgresServer, type ServerOptions } from './postgres.ts';
import { run } from './run.ts';

export interface BackupCluster {
  readonly server: PostgresServer;
  /** Where the linked tablespace is; another one, `inplace`, lies within the data directory. */
  readonly tablespace: string;
  /** Holds the configuration files: none is in the data directory. */
  readonly configFolder: string;
  /** Relative to the data directory: the second segment of a relation, and files of a relation that is not logged. */
  readonly secondSegment: string;
  readonly unlogged: string;
  remove(): Promise<void>;
}

/** A file name that is no UTF-8, relative to the data directory. */
export const oddName: BytePath = 'kept/caf\xe9';
/** Owner of that file, where only root could give it away. */
const foreignId = 12_345;

/** With page checksums, running; its temporary table lives until `remove`. */
export async function createBackupCluster(options: Omit<ServerOptions, 'checksums'>): Promise<BackupCluster> {
  const server = PostgresServer.create({
    ...options,
    checksums: true,
    settings: { ...options.settings, allow_in_place_tablespaces: 'on' }, // recovery refuses one without it, too
  });
  const { folder, dataDirectory } = server;
  const [configFolder, tablespace] = [join(folder, 'etc'), join(folder, 'tablespace one')];
  for (const made of [configFolder, tablespace]) {
    mkdirSync(made);
    giveAway(made);
  }
  moveConfiguration(server, configFolder);
  renameSync(join(dataDirectory, 'pg_wal'), join(folder, 'wal'));
  symlinkSync(join(folder, 'wal'), join(dataDirectory, 'pg_wal'));
  await makeOddFiles(server);
  await server.start();
  await fill(server, tablespace);
  const session = await server.connect();
  await session.query('create temporary table passing as select n from generate_series(1, 5000) n');
  await server.query('checkpoint');
  return {
    server,
    tablespace,
    configFolder,
    secondSegment: makeSecondSegment(server, await server.value(`select pg_relation_filepath('t')`)),
    unlogged: await server.value(`select pg_relation_filepath('unlogged')`),
    remove: async () => {
      await session.end();
      await server.remove();
    },
  };
}

/** As Debian has it: all configuration files elsewhere, one of them included by another. */
function moveConfiguration(server: PostgresServer, folder: string): void {
  const files = ['pg_hba.conf', 'pg_ident.conf', 'postgresql.conf'];
  const places = { hba_file: join(folder, 'pg_hba.conf'), ident_file: join(folder, 'pg_ident.conf') };
  server.configure({ ...places, include: 'more.conf' });
  for (const name of files) renameSync(join(server.dataDirectory, name), join(folder, name));
  writeFileSync(join(folder, 'more.conf'), "cluster_name = 'rich'\n");
  giveAway(join(folder, 'more.conf'));
  server.words.push('-c', `config_file=${join(folder, 'postgresql.conf')}`);
}

async function makeOddFiles({ dataDirectory }: PostgresServer): Promise<void> {
  const script = `mkdir -m 750 kept && name=$(printf 'kept/caf\\351') && echo kept >"$name" && chmod 644 "$name" && : >kept/empty`;
  const { code, stderr } = await run('sh', ['-c', script], { cwd: dataDirectory });
  if (code !== 0) throw new Error(stderr);
  if (account.uid !== undefined) chownSync(toFilePath(`${toBytePath(dataDirectory)}/${oddName}`), foreignId, foreignId);
}

const words = (from: string, to: string) =>
  `select n, md5(n::text) as word, case when n % 100 = 0 then repeat(md5(n::text), 500) end as long
     from generate_series(${from}, ${to}) n`;

async function fill(server: PostgresServer, tablespace: string): Promise<void> {
  await server.query(`create tablespace linked location '${tablespace}'`);
  await server.query(`create tablespace inplace location ''`);
  await inDatabase(
    server,
    'postgres',
    'create extension amcheck',
    ...loadTables,
    'create index on t (word)',
    `create table in_linked tablespace linked as ${words('1', '500')}`,
    'create index on in_linked (word) tablespace linked',
    `create table in_place tablespace inplace as ${words('1', '500')}`,
    `create unlogged table unlogged as ${words('1', '500')}`,
    'create index on unlogged (word)',
    'create materialized view seen as select count(*) from t',
    'create database other strategy file_copy',
    'create database spread tablespace linked strategy file_copy',
  );
  for (const database of ['other', 'spread']) {
    await inDatabase(
      server,
      database,
      'create extension amcheck',
      `create table t as ${words('1', '300')}`,
      'create index on t (word)',
    );
  }
}

/** Statements in one session of a database. @returns the rows of the last, as text. */
export async function inDatabase(
  server: PostgresServer,
  database: string,
  ...statements: string[]
): Promise<string[][]> {
  const client = new pg.Client({ ...server.connection, database });
  await client.connect();
  try {
    let rows: unknown[][] = [];
    for (const text of statements) rows = (await client.query<unknown[]>({ text, rowMode: 'array' })).rows;
    return rows.map((row) => row.map(String));
  } finally {
    await client.end();
  }
}

/** A page as PostgreSQL would have written it there, had the first segment a gibibyte: its checksum counts the block. */
function makeSecondSegment({ dataDirectory }: PostgresServer, relation: string): string {
  const page = Buffer.from(readFileSync(join(dataDirectory, relation)).subarray(0, 8192));
  const check = { firstBlock: 131_072, startLsn: 2n ** 63n, pageSizeBytes: page.length };
  for (let checksum = 1; checksum <= 0xffff; checksum += 1) {
    page.writeUInt16LE(checksum, 8);
    if (findBadPages(page, check).length > 0) continue;
    const path = join(dataDirectory, `${relation}.1`);
    writeFileSync(path, page, { mode: 0o600 });
    giveAway(path);
    return `${relation}.1`;
  }
  throw new Error('no checksum fits');
}

/** What a `WriteLoad` writes into. */
export const loadTables = [
  `create table t as ${words('1', '4000')}`,
  'alter table t add primary key (n)',
  'create table load (n int primary key, word text)',
];

/** Commits into table `load` and changes table `t`, one transaction after another, until it is stopped. */
export class WriteLoad {
  /** For each row of `load` the end of the WAL when its commit was acknowledged. */
  readonly commits: { readonly n: number; readonly lsn: Lsn }[] = [];
  #stopped = false;
  #loop: Promise<void> = Promise.resolve();

  static async start(server: PostgresServer): Promise<WriteLoad> {
    const load = new WriteLoad();
    const client = await server.connect();
    load.#loop = load.#run(client).finally(() => client.end());
    load.#loop.catch(() => undefined); // thrown by stop
    return load;
  }

  /** @throws when the server has refused anything. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
  }

  /** The last row that was certainly committed before `lsn`. */
  lastBefore(lsn: Lsn): number {
    return this.commits.findLast((commit) => commit.lsn <= lsn)?.n ?? 0;
  }

  async #run(client: pg.Client): Promise<void> {
    const { rows: found } = await client.query<{ n: number }>('select coalesce(max(n), 0) + 1 as n from load');
    for (let n = found[0]?.n ?? 1; !this.#stopped; n += 1) {
      const churn = n % 20 === 0 ? `drop table if exists churn; create table churn as select * from t limit 100;` : '';
      await client.query(
        `insert into load values (${n}, md5(${n}::text)); update t set word = md5(word) where n = ${(n * 7) % 4000}; ${churn}`,
      );
      const { rows } = await client.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn, pg_sleep(0.005)');
      this.commits.push({ n, lsn: parseLsn(rows[0]?.lsn ?? '') ?? 0n });
      if (n % 100 === 0) await client.query('checkpoint; select pg_switch_wal()');
    }
  }
}

const tablesQuestion = `
  select format('%I.%I', nspname, relname) from pg_class c join pg_namespace s on s.oid = relnamespace
   where relkind in ('r', 'm') and relpersistence = 'p' and nspname not in ('pg_catalog', 'information_schema')`;

/** The number of rows and a hash of every table that is logged, by database and name. */
export async function contentsOf(server: PostgresServer): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  for (const [database = ''] of await server.query('select datname from pg_database where datallowconn order by 1')) {
    for (const [table = ''] of await inDatabase(server, database, tablesQuestion)) {
      const hash = `select count(*), md5(string_agg(row::text, '' order by row::text collate "C")) from ${table} as row`;
      const [row = []] = await inDatabase(server, database, hash);
      contents[`${database} ${table}`] = row.join(' ');
    }
  }
  return contents;
}

/** Checks every B-tree index against its table. @returns how many. @throws what amcheck finds. */
export async function checkIndexes(server: PostgresServer): Promise<number> {
  let checked = 0;
  for (const database of ['postgres', 'other', 'spread']) {
    const question = `
      select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = c.relam join pg_index i on i.indexrelid = c.oid
       where a.amname = 'btree' and c.relpersistence <> 't' and i.indisvalid and i.indisready`;
    const [[count] = []] = await inDatabase(server, database, question);
    checked += Number(count);
  }
  return checked;
}

/** Mode, and if wanted owner and group, of everything in a data directory and its tablespaces, by path; what pg_wal holds is left out. */
export function attributesOf(dataDirectory: string, { owners }: { readonly owners: boolean }): Record<string, string> {
  const attributes: Record<string, string> = {};
  const folders: BytePath[] = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const name of readdirSync(toFilePath(`${toBytePath(dataDirectory)}/${folder}`), 'latin1')) {
      const path = `${folder}${name}`;
      const stats = statSync(toFilePath(`${toBytePath(dataDirectory)}/${path}`), { throwIfNoEntry: false });
      if (stats === undefined) continue;
      attributes[path] = [(stats.mode & 0o7777).toString(8), ...(owners ? [stats.uid, stats.gid] : [])].join(' ');
      if (stats.isDirectory() && path !== 'pg_wal') folders.push(`${path}/`);
    }
  }
  return attributes;
}

/** Puts a restored cluster's configuration from where it was kept into its data directory, for a server beside the one it was taken from. */
export function takeConfiguration(copy: PostgresServer, configFolder: string): void {
  const kept = join(copy.dataDirectory, 'wal-t-config', configFolder);
  for (const name of ['postgresql.conf', 'pg_hba.conf', 'pg_ident.conf', 'more.conf']) {
    const path = join(copy.dataDirectory, name);
    writeFileSync(path, readFileSync(join(kept, name)));
    giveAway(path);
  }
  const files = {
    hba_file: join(copy.dataDirectory, 'pg_hba.conf'),
    ident_file: join(copy.dataDirectory, 'pg_ident.conf'),
  };
  copy.configure({ ...files, archive_mode: 'off' });
}

/** Is it there, and itself a folder, not a link to one? */
export function isPlainFolder(path: string): boolean {
  return existsSync(path) && lstatSync(path).isDirectory();
}
