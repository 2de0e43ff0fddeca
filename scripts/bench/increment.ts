/**
 * A chain of increments over a cluster of which 1 % of the pages change each day at random, the worst there is for a chain: what each reads and stores,
 * and what it takes to restore the last one. With WAL summaries on PostgreSQL 17; one increment by reading pages on 15, beside pgBackRest's.
 */
import { closeSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { seededRandom } from '../../test/support/random.ts';
import { launcher } from '../../test/support/run.ts';
import { pgBackRestIncrement } from './backup-peers.ts';
import type { Scene } from './backup-scene.ts';
import { call } from './call.ts';
import { makeCluster, sizeOf } from './cluster.ts';
import { type Figures, runOnce } from './measure.ts';

export interface IncrementBenchOptions {
  readonly bytes: number;
  readonly days: number;
}

interface Row extends Figures {
  readonly name: string;
  readonly storedBytes?: number;
  /** Of the cluster's files; of a restore, from the storage. */
  readonly readBytes?: number;
}

export async function benchIncrement({ bytes, days }: IncrementBenchOptions) {
  const rows: Row[] = [];
  const sizes = await chainBySummaries(rows, { bytes, days });
  await onceByPages(rows, { bytes, days });
  return { text: textOf(rows, sizes), rows, sizes };
}

async function chainBySummaries(rows: Row[], { bytes, days }: IncrementBenchOptions) {
  return withCluster({ bytes, major: 17, settings: { summarize_wal: 'on' } }, async (scene, config) => {
    const size = sizeOf(scene.server.dataDirectory);
    rows.push(push(scene, config, 'full backup'));
    for (let day = 1; day <= days; day += 1) {
      await changePages(scene.server);
      const row = push(scene, config, `increment ${day}, summaries`, '--incremental');
      if (day === 1 || day === days) rows.push(row);
    }
    const last = newest(config);
    rows.push(fetch(scene, config, `restore of increment ${days}`, last));
    rows.push(push(scene, config, 'full backup after it'));
    rows.push(fetch(scene, config, 'restore of that one', newest(config)));
    const target = join(scene.folder, 'restored');
    damage(target);
    rows.push(fetch(scene, config, 'the same, --delta, 1 % damaged', newest(config), '--delta'));
    return size;
  });
}

async function onceByPages(rows: Row[], { bytes }: IncrementBenchOptions): Promise<void> {
  await withCluster({ bytes, major: 15, settings: {} }, async (scene, config) => {
    rows.push(push(scene, config, 'full backup, 15'));
    const peer = pgBackRestIncrement(scene);
    if (peer !== undefined)
      rows.push({ name: 'pgbackrest full, 15', ...runOnce(peer.full), storedBytes: peer.storedBytes() });
    await changePages(scene.server);
    rows.push(push(scene, config, 'increment, pages, 15', '--incremental'));
    if (peer === undefined) return;
    const before = peer.storedBytes();
    const figures = runOnce(peer.increment);
    rows.push({ name: 'pgbackrest incr, 15', ...figures, storedBytes: peer.storedBytes() - before });
  });
}

async function withCluster<Result>(
  { bytes, major, settings }: { bytes: number; major: number; settings: Readonly<Record<string, string>> },
  work: (scene: Scene, config: string) => Promise<Result>,
): Promise<Result> {
  const folder = makeFolder('wal-t-bench');
  const config = join(folder, 'current.env');
  writeFileSync(config, `WALT_REPO=file://${join(folder, 'repository')}\n`);
  call(launcher('wal-t'), ['init'], { WALT_CONFIG: config });
  const archiving = { archive_mode: 'on', archive_command: `WALT_CONFIG=${config} ${launcher('wal-push')} %p %f` };
  const server = await makeCluster(
    { bytes, files: 0, major, fillfactor: 90 },
    { ...archiving, autovacuum: 'off', ...settings },
  );
  try {
    const scene = { folder, server, size: sizeOf(server.dataDirectory), stored: new Map(), config };
    return await work(scene, config);
  } finally {
    await server.remove();
    removeFolder(folder);
  }
}

/** A row in each of so many heap pages, where there is room for its new version, that it is 1 % of the cluster's pages. */
async function changePages(server: PostgresServer): Promise<void> {
  const tables = await server.query(
    `select relname, relpages, 0.01 * sum(relpages) over () / sum(relpages) filter (where relkind = 'r') over ()
       from pg_class where relname like 'orders\\_%' order by relkind desc, relname`,
  );
  for (const [table = '', pages = '0', share = '0'] of tables.filter(([name]) => /^orders_\d+$/.test(name ?? ''))) {
    await server.query(
      `update ${table} set state = 'late' where ctid = any (array(select format('(%s,%s)', page, 1 + floor(random() * 20))::tid
         from generate_series(0, ${pages} - 1) page where random() < ${share}))`,
    );
  }
}

function push({ folder, server }: Scene, config: string, name: string, ...words: string[]): Row {
  const output = join(folder, 'told.json');
  const line = `exec "$0" "$@" > '${output}'`;
  const command = ['sh', '-c', line, launcher('basebackup-push'), server.dataDirectory, '--json', ...words];
  const env = { WALT_CONFIG: config, WALT_WORKERS: '2', PGUSER: 'postgres', PGHOST: server.folder };
  const figures = runOnce({ name, command, env, before: () => void call('sync', []) });
  const { manifest, readBytes } = JSON.parse(readFileSync(output, 'utf8'));
  const listBytes = Number(manifest.files.objectBytes);
  return told({ name, ...figures, storedBytes: manifest.statistics.storedBytes + listBytes, readBytes });
}

function fetch({ folder }: Scene, config: string, name: string, id: string, ...words: string[]): Row {
  const [target, output] = [join(folder, 'restored'), join(folder, 'told.json')];
  const line = `exec "$0" "$@" > '${output}'`;
  const command = ['sh', '-c', line, launcher('basebackup-fetch'), target, id, '--json', ...words];
  const before = () => {
    if (!words.includes('--delta')) rmSync(target, { recursive: true, force: true });
    call('sync', []);
  };
  const figures = runOnce({ name, command, env: { WALT_CONFIG: config, WALT_WORKERS: '2' }, before });
  const { fetchedBytes } = JSON.parse(readFileSync(output, 'utf8'));
  return told({ name, ...figures, readBytes: fetchedBytes });
}

/** Told at once: a chain takes long. */
function told(row: Row): Row {
  const { name, wallMs, storedBytes = 0, readBytes = 0 } = row;
  process.stderr.write(`${name}: ${wallMs.toFixed(0)} ms, ${storedBytes} bytes stored, ${readBytes} read\n`);
  return row;
}

function newest(config: string): string {
  const list = JSON.parse(call(launcher('backup-list'), ['--json'], { WALT_CONFIG: config }));
  return list.at(-1).backup_name;
}

/** Overwrites 1 % of the pages of the relations' files at random. */
function damage(dataDirectory: string): void {
  const random = seededRandom(1);
  for (const entry of readdirSync(join(dataDirectory, 'base'), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/^\d+(?:\.\d+)?$/.test(entry.name)) continue;
    const path = join(entry.parentPath, entry.name);
    const pages = Math.floor(statSync(path).size / 8192);
    const fd = openSync(path, 'r+');
    for (let page = 0; page < pages; page += 1) {
      if (random(100) === 0) writeSync(fd, Buffer.alloc(8192, page % 251), 0, 8192, page * 8192);
    }
    closeSync(fd);
  }
}

function textOf(rows: readonly Row[], { bytes }: { readonly bytes: number }): string {
  const head = `${'one run each'.padEnd(34)}  wall s   CPU s  peak MiB  stored MB  of full  read MB  of cluster`;
  const full = rows[0]?.storedBytes ?? Number.NaN;
  const percent = (part: number, whole: number) => `${((100 * part) / whole).toFixed(2)} %`;
  const lines = rows.map(({ name, wallMs, cpuMs, peakMiB, storedBytes, readBytes }) =>
    [
      name.padEnd(34),
      (wallMs / 1000).toFixed(2).padStart(7),
      (cpuMs / 1000).toFixed(2).padStart(7),
      peakMiB.toFixed(0).padStart(9),
      (storedBytes === undefined ? '' : (storedBytes / 1e6).toFixed(1)).padStart(10),
      (storedBytes === undefined ? '' : percent(storedBytes, full)).padStart(8),
      (readBytes === undefined ? '' : (readBytes / 1e6).toFixed(1)).padStart(8),
      (readBytes === undefined ? '' : percent(readBytes, bytes)).padStart(11),
    ].join(' '),
  );
  return [`${(bytes / 1e6).toFixed(0)} MB`, '', head, ...lines].join('\n');
}
