/** A disaster and its undoing, in a minute: real PostgreSQL servers, a repository in a folder, everything removed at the end. */
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, removeFolder } from '../test/support/folders.ts';
import { prepareInstallation } from '../test/support/installation.ts';
import { PostgresServer } from '../test/support/postgres.ts';
import { launcher, walT } from '../test/support/run.ts';

const undo: (() => Promise<void> | void)[] = [];

async function demo(): Promise<void> {
  undo.push(prepareInstallation());
  const folder = makeFolder('wal-t-demo');
  undo.push(() => removeFolder(folder));
  const repository = join(folder, 'repository');
  const config = join(folder, 'settings.env');
  writeFileSync(config, `WALT_REPO=file://${repository}\n`);

  step('Make a repository, once');
  say(`$ wal-t init    # WALT_REPO=file://${repository}`);
  say(await run('wal-t', ['init'], config));

  step('A PostgreSQL 17 server archives its WAL through wal-push');
  const primary = PostgresServer.create({
    major: 17,
    walSegmentSize: 16,
    settings: {
      archive_mode: 'on',
      archive_command: `WALT_CONFIG=${config} ${launcher('wal-push')} %p %f`,
      restore_command: `WALT_CONFIG=${config} ${launcher('wal-fetch')} %f %p`,
    },
  });
  undo.push(() => primary.remove());
  await primary.start();
  await primary.query('create table ledger (id bigserial primary key, at timestamptz default now(), note text)');
  await primary.query("insert into ledger (note) values ('before the backup')");
  say('1 row is in the table "ledger"');

  step('A base backup is taken while it runs');
  say('$ basebackup-push $PGDATA');
  say(await run('basebackup-push', [primary.dataDirectory], config));

  step('More is written after the backup');
  await primary.query('insert into ledger (note) select md5(n::text) from generate_series(1, 200000) n');
  await primary.query("insert into ledger (note) values ('the last committed row')");
  const expected = await lastRow(primary);
  const before = await primary.value('select clock_timestamp()::text');
  say(`last row: ${expected}`);
  say(`the time: ${before}`);

  step('Disaster: somebody drops the table');
  await primary.query('drop table ledger');
  await primary.waitUntilArchived(await primary.switchWal());
  say(`archived: ${archived(repository)}`);

  step('What can be restored?');
  say(`$ wal-t windows --at '${before}'`);
  say(await run('wal-t', ['windows', '--at', before], config));

  step('A copy beside the server, as it was a moment before');
  const copy = primary.elsewhere();
  undo.push(() => copy.remove());
  say(`$ wal-t restore ${copy.dataDirectory} --target-time '${before}'`);
  say(await run('wal-t', ['restore', copy.dataDirectory, '--target-time', before], config));
  await copy.open();
  const restored = copy.log.split('\n').filter((line) => line.includes('restored log file'));
  say(`${restored.length} segments came out of the archive, verified byte for byte`);
  const found = await lastRow(copy);
  say(`last row: ${found}`);
  if (found !== expected) throw new Error('the last committed row is not there');
  say('\nThe table is back, with its last committed row. Nothing was lost.');
}

async function lastRow(server: PostgresServer): Promise<string> {
  const [row = []] = await server.query('select id, note from ledger order by id desc limit 1');
  return row.join(' | ');
}

async function run(name: string, words: readonly string[], config: string): Promise<string> {
  const env = { WALT_CONFIG: config, PGUSER: 'postgres' };
  const { code, stdout, stderr } = await walT(name, words, { env });
  if (code !== 0) throw new Error(stderr);
  return stdout.trimEnd();
}

function archived(repository: string): string {
  const files = readdirSync(repository, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const segments = files.filter(({ name }) => /^[0-9A-F]{24}$/.test(name));
  const sizeBytes = segments.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
  return `${segments.length} segments of 16 MiB in ${(sizeBytes / 2 ** 20).toFixed(1)} MiB`;
}

let steps = 0;
let stopped = false;

function step(title: string): void {
  if (stopped) throw new Error('stopped');
  steps += 1;
  say(`\n${steps}. ${title}`);
}

function say(text: string): void {
  process.stdout.write(`${text.replaceAll(/^(?=.)/gm, /^\n?\d+\. |^\n[A-Z]/.test(text) ? '' : '   ')}\n`);
}

async function cleanUp(): Promise<void> {
  for (const action of undo.splice(0).reverse()) await action();
}

/** Ctrl-C: the servers go, so that whatever is under way fails; what it made meanwhile goes at the end. */
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    stopped = true;
    void cleanUp();
  });
}

try {
  await demo();
} catch (error) {
  process.stderr.write(
    stopped ? 'demo: stopped\n' : `demo: error: ${error instanceof Error ? error.message : error}\n`,
  );
  process.exitCode = stopped ? 130 : 1;
} finally {
  await cleanUp();
}
