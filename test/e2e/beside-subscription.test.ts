/** A copy that stands beside a live server takes neither its replication slot nor the rows that wait in it (H30). */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { waitFor } from '../support/wait.ts';

const folder = makeFolder('beside-subscription');
const repository = new TestRepository({ folder });
let publisher: PostgresServer;
let production: PostgresServer;

beforeAll(async () => {
  await repository.init();
  publisher = PostgresServer.create({ major: 17, settings: { wal_level: 'logical', max_replication_slots: '4' } });
  production = PostgresServer.create({ major: 17, settings: repository.serverSettings });
  await Promise.all([publisher.start(), production.start()]);
  for (const server of [publisher, production]) await server.query('create table t (n int primary key)');
  await publisher.query('create publication p for table t');
  const from = `host=${publisher.folder} user=postgres dbname=postgres`;
  await production.query(`create subscription s connection '${from}' publication p`);
  await publisher.query('insert into t values (1)');
  await waitFor('the first row to arrive', async () => (await rows(production)) === '1');
});

afterAll(async () => {
  await production?.remove();
  await publisher?.remove();
  removeFolder(folder);
});

const rows = async (server: PostgresServer) => (await server.query('select n from t order by n')).flat().join(' ');
const run = async (name: string, words: readonly string[]) => {
  const { code, stdout, stderr } = await repository.run(name, words, { env: { PGUSER: 'postgres' } });
  expect(stderr, stdout).not.toContain('error:');
  expect(code).toBe(0);
  return stdout;
};

it('H30: a promoted copy subscribes to nothing, and production gets its rows', async () => {
  await run('basebackup-push', [production.dataDirectory]);
  await production.query('create table later (n int)');
  await production.waitUntilArchived(await production.switchWal());
  const copy = production.elsewhere();
  try {
    // production is away for a moment: whoever connects first takes the slot, and what waits in it
    await production.query('alter subscription s disable');
    await waitFor('the slot to be free', async () => {
      return (await publisher.value("select active::text from pg_replication_slots where slot_name = 's'")) === 'false';
    });
    await publisher.query('insert into t values (2)');
    const said = await run('wal-t', ['restore', copy.dataDirectory]);
    expect(said).toContain('subscribes to nothing');
    await copy.open();
    expect(await copy.value("select count(*) from pg_class where relname = 'later'")).toBe('1');
    expect(
      await copy.value("select count(*)::text from pg_stat_activity where backend_type like 'logical replication%'"),
    ).toBe('0');
    expect(await copy.value('show archive_mode')).toBe('off');
    await production.query('alter subscription s enable');
    await waitFor('the second row to arrive', async () => (await rows(production)) === '1 2');
    expect(await rows(copy)).toBe('1');
  } finally {
    await copy.remove();
  }
});
