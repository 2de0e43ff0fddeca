/** A backup's session that ends before its time: by the server, by the network, by us. The server never stays in backup mode. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { PostgresError } from '../../src/errors.ts';
import { PostgresServer } from '../support/postgres.ts';
import { waitFor } from '../support/wait.ts';
import { countSessions, failureOf, openTo, startProxy, startServer } from './server-support.ts';

let server: PostgresServer;

beforeAll(async () => {
  server = PostgresServer.create({ major: 17, settings: { checkpoint_timeout: '1h' } });
  await server.start();
});
afterAll(() => server.remove());

it.each([
  { signal: 'SIGINT', words: 'terminating connection due to administrator command' },
  { signal: 'SIGQUIT', words: 'lost' },
  { signal: 'SIGKILL', words: 'lost' },
] as const)('says at once that the server was stopped ($signal) in mid-backup', async ({ signal, words }) => {
  const own = await startServer({ major: 17 });
  const session = await openTo(own);
  await session.startBackup({ label: 'lost', checkpoint: 'fast' });
  await own.stop(signal);
  await waitFor('the loss to be known', () => session.lost.aborted);
  const { error, text } = await failureOf(Promise.reject(session.lost.reason));
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toContain(words);
  expect((await failureOf(session.stopBackup())).error).toBe(error);
  await session.close();
});

it('says at once that the connection was lost, in mid-query as well', async () => {
  const proxy = await startProxy(server);
  const idle = await openTo(server, proxy.environment);
  await idle.startBackup({ label: 'idle', checkpoint: 'fast' });
  await makeDirty();
  const busy = await openTo(server, proxy.environment);
  const started = failureOf(busy.startBackup({ label: 'busy', checkpoint: 'spread' }));
  await checkpointRunning();
  proxy.cut();
  await waitFor('the loss to be known', () => idle.lost.aborted && busy.lost.aborted);
  const { error, text } = await started;
  expect(error).toBe(busy.lost.reason);
  expect(text).toMatch(/^the connection to the server at "127.0.0.1", port \d+ was lost/);
  await allSessionsEnded();
});

it('ends when it is told to, while a spread checkpoint runs for minutes that no timeout of the role may end', async () => {
  await server.query(`create role hurried superuser login`);
  for (const timeout of ['statement', 'lock', 'transaction', 'idle_session', 'idle_in_transaction_session']) {
    await server.query(`alter role hurried set ${timeout}_timeout = '300ms'`);
  }
  await makeDirty();
  const stop = new AbortController();
  const session = await openTo(server, { PGUSER: 'hurried' }, { signal: stop.signal });
  await anotherSessionTimedOut('idle_session_timeout', 'select 1');
  const started = session.startBackup({ label: 'spread', checkpoint: 'spread' });
  const outcome = Promise.allSettled([started]);
  await checkpointRunning();
  await anotherSessionTimedOut('statement_timeout', 'select pg_sleep(60)');
  expect(await countSessions(server)).toBe(1);
  const reason = new Error('told to stop');
  stop.abort(reason);
  expect(await outcome).toEqual([{ status: 'rejected', reason }]);
  await expect(session.stopBackup()).rejects.toBe(reason);
  await allSessionsEnded();
  expect(session.lost.aborted).toBe(false);
});

it('leaves no backup mode behind when it is closed in mid-backup, twice as well', async () => {
  const session = await openTo(server);
  await session.startBackup({ label: 'closed', checkpoint: 'fast' });
  await Promise.all([session.close(), session.close()]);
  await allSessionsEnded();
  expect(session.lost.aborted).toBe(false);
});

it('is closed although the server does not answer any more', async () => {
  const proxy = await startProxy(server);
  const session = await openTo(server, proxy.environment);
  await session.startBackup({ label: 'frozen', checkpoint: 'fast' });
  proxy.freeze();
  await session.close();
  proxy.cut(); // as keepalive does, later
  await allSessionsEnded();
});

it('two sessions back up at the same time', async () => {
  const sessions = await Promise.all([openTo(server), openTo(server)]);
  const labels = await Promise.all(
    sessions.map(async (session, n) => {
      const { startLsn } = await session.startBackup({ label: `number ${n}`, checkpoint: 'fast' });
      await session.proveSameServer(startLsn);
      return session.stopBackup();
    }),
  );
  for (const [n, { label }] of labels.entries()) expect(label.toString()).toContain(`LABEL: number ${n}\n`);
});

/** So many changed pages that the next spread checkpoint takes a minute and more. */
async function makeDirty(): Promise<void> {
  await server.query('checkpoint'); // hurries one that is still running
  await server.query('drop table if exists dirty');
  await server.query('create table dirty (row_of_a_page text) with (fillfactor = 10)');
  await server.query(`insert into dirty select repeat('x', 1000) from generate_series(1, 1200)`);
}

async function checkpointRunning(): Promise<void> {
  const waiting = `select count(*) from pg_stat_activity where application_name = 'wal-t' and wait_event = 'CheckpointDone'`;
  await waitFor('the checkpoint to be waited for', async () => (await server.value(waiting)) === '1');
}

/** What our session must not feel ends another one of that role, which began later. */
async function anotherSessionTimedOut(timeout: string, question: string): Promise<void> {
  const client = await server.connect();
  try {
    await client.query('set session authorization hurried');
    await client.query(`set ${timeout} = '300ms'`);
    let isEnded = false;
    client.on('end', () => {
      isEnded = true;
    });
    const failed = await client.query(question).then(
      () => false,
      () => true,
    );
    if (!failed) await waitFor(`${timeout} to be over`, () => isEnded);
  } finally {
    await client.end();
  }
}

async function allSessionsEnded(): Promise<void> {
  await waitFor('the server to end our sessions', async () => (await countSessions(server)) === 0);
}
