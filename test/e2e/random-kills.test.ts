/** Whatever is killed, at whatever moment, while WAL is archived and while it is recovered: the archive is complete, and the rows are the same. */
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { PostgresServer } from '../support/postgres.ts';
import { processesIn, processTree } from '../support/process-tree.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { waitFor } from '../support/wait.ts';

const rounds = process.env.TORTURE === '1' ? 200 : 8;
/** Of kills, over which one cluster is archived and then recovered. */
const roundsOfCluster = 8;

const countWaiting = `select count(*) from pg_ls_archive_statusdir() where name like '%.ready'`;
const allRows = `select count(*), md5(string_agg(n::text, ',' order by n)) from t`;

function keep(server: PostgresServer): PostgresServer {
  onTestFinished(() => server.remove());
  return server;
}

/** The server's processes, those of the commands that it calls, by name, and what goes on in its data directory without them. */
function processesOf(server: PostgresServer): { readonly pid: number; readonly isCommand: boolean }[] {
  const root = server.processId;
  if (root === undefined) return [];
  const all = new Set([...processTree(root), ...processesIn(server.dataDirectory)]);
  return [...all].flatMap((pid) => {
    try {
      return [{ pid, isCommand: readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== 'postgres' }];
    } catch {
      return []; // it has ended
    }
  });
}

/** Kills one of them, more often a command than another. */
async function strike(server: PostgresServer, random: (limit: number) => number): Promise<void> {
  const all = processesOf(server);
  const commands = all.filter(({ isCommand }) => isCommand);
  const chosen = commands.length > 0 && random(3) > 0 ? commands : all;
  const victim = chosen[random(Math.max(1, chosen.length))];
  if (victim === undefined) return;
  if (victim.pid === server.processId) {
    await server.stop('SIGKILL');
    return;
  }
  try {
    process.kill(victim.pid, 'SIGKILL');
  } catch {
    // it has ended by itself
  }
}

/** A killed process of PostgreSQL ends the server, since it is not to restart by itself; which it may not know yet. */
async function tryQuery(server: PostgresServer, sql: string): Promise<string[][] | undefined> {
  if (!server.isRunning) server.launch();
  return server.query(sql).catch(() => undefined);
}

async function query(server: PostgresServer, sql: string): Promise<string[][]> {
  let rows: string[][] | undefined;
  await waitFor('the server to answer', async () => {
    rows = await tryQuery(server, sql);
    return rows !== undefined;
  });
  return rows ?? [];
}

it.each(Array.from({ length: Math.ceil(rounds / roundsOfCluster) }, (_, n) => n + 1))(
  'random kills, seed %i',
  async (seed) => {
    const random = seededRandom(seed);
    const major = [17, 15, 18][seed % 3] ?? 17;
    const ahead = { WALT_AHEAD_TIMEOUT: '2s' };
    const repository = await new TestRepository({ settings: ahead }).init();
    const server = keep(PostgresServer.create({ major, settings: repository.serverSettings }));
    await server.start();
    await server.query('create table t (n int)');
    await server.stop();
    const copy = keep(server.copy());
    await server.start();

    let inserted = 0;
    for (let round = 0; round < roundsOfCluster; round += 1) {
      for (let segment = 0; segment <= random(6); segment += 1) {
        // what was killed with the answer on its way may have been committed: then it is there twice
        await query(server, `insert into t select generate_series(${inserted}, ${inserted + 99})`);
        await query(server, 'select pg_switch_wal()');
        inserted += 100;
      }
      await pause(random(400));
      await strike(server, random);
    }
    await query(server, 'insert into t values (-1)');
    await query(server, 'select pg_switch_wal()');
    await waitFor('everything to be archived', async () => {
      const [[waiting] = []] = (await tryQuery(server, countWaiting)) ?? [];
      return waiting === '0';
    });
    const rows = await query(server, allRows);
    await server.stop();

    copy.signal('recovery.signal');
    copy.configure({ archive_mode: 'off' });
    copy.launch();
    for (let round = 0; round < roundsOfCluster; round += 1) {
      await pause(random(400));
      await strike(copy, random);
      if (!copy.isRunning) copy.launch(); // a restart resumes a recovery that was stopped
    }
    const isOpen = async () => (await tryQuery(copy, 'select pg_is_in_recovery()'))?.[0]?.[0] === 'false';
    await waitFor('the recovery to end', isOpen, 200_000);
    expect(await query(copy, allRows)).toEqual(rows);
  },
  600_000,
);
