/**
 * PostgreSQL as PID 1, as most containers have it: it becomes the parent of every process that loses its own, and takes one that ends
 * otherwise than with 0 or 1 for a crashed backend, over which it restarts. Commands of WAL-T are killed at any moment, and it must not.
 */
import { renameSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { hasPidNamespaces, joining, type NamespaceProcess, processesBeside } from '../support/pid-namespace.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher, run } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const majors = isTorture ? [15, 17, 18] : [17];
const allKills = isTorture ? 100 : 4;
/** A child that has ended, whatever it was: 15 and 17 call one that is not theirs a server process, and say so at debug2. */
const ended = (innerId: number) => new RegExp(`process \\(PID ${innerId}\\) (.*)`);
const crash = /terminating any other active server processes|all server processes terminated|shutting down due to/;

/** One running command: its launcher, and its Node.js as long as that is seen. */
interface Command {
  /** PostgreSQL calls a shell with the whole command; some replace themselves by the launcher. */
  readonly shell: NamespaceProcess | undefined;
  readonly launcher: NamespaceProcess;
  readonly node: NamespaceProcess;
}

type Victim = 'launcher' | 'node' | 'node, then the launcher' | 'shell';
const victims: readonly Victim[] = ['launcher', 'node', 'node, then the launcher', 'shell'];

let random: (limit: number) => number;
let folder: string;
const servers: PostgresServer[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) await server.remove();
  removeFolder(folder);
});

/** A server as PID 1 that archives into a new repository, with an open table. */
async function startServer(major: number): Promise<{ server: PostgresServer; repository: TestRepository }> {
  random = seededRandom(major);
  folder = makeFolder('pid-one');
  const repository = await new TestRepository({ folder }).init();
  const settings = { ...repository.serverSettings, log_min_messages: 'debug2' };
  const server = PostgresServer.create({ major, isPidOne: true, settings });
  servers.push(server);
  await server.start();
  await server.query('create table t (n int)');
  return { server, repository };
}

const isAlive = (server: PostgresServer, { processId }: NamespaceProcess) =>
  processesBeside(postmasterOf(server)).some((process) => process.processId === processId);

function postmasterOf(server: PostgresServer): number {
  if (server.processId === undefined) throw new Error(`the server is gone:\n${server.log.slice(-3000)}`);
  return server.processId;
}

/** Waits for a command of this name that was not seen before, with its Node.js. */
async function catchCommand(server: PostgresServer, name: string, seen: Set<number>): Promise<Command> {
  let found: Command | undefined;
  await waitFor(
    `${name} to run`,
    () => {
      const processes = processesBeside(postmasterOf(server));
      for (const one of processes.filter(({ words }) => words[1] === launcher(name))) {
        const node = processes.find(
          ({ parentId, words }) => parentId === one.processId && /node$/.test(words[0] ?? ''),
        );
        if (seen.has(one.innerId) || node === undefined) continue;
        seen.add(one.innerId);
        const parent = processes.find(({ processId }) => processId === one.parentId);
        found = { shell: parent?.words[1] === '-c' ? parent : undefined, launcher: one, node };
      }
      return found !== undefined;
    },
    180_000,
  );
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
}

/** @returns whether it was still there. */
function kill({ processId }: NamespaceProcess): boolean {
  try {
    process.kill(processId, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}

/** Strikes at a moment of the command's life. @returns the orphan that this has made, or whether it came too late. */
async function strike(
  server: PostgresServer,
  command: Command,
  victim: Victim,
): Promise<NamespaceProcess | 'missed' | 'hit'> {
  await pause(random(80));
  if (!isAlive(server, command.node)) return 'missed';
  if (victim === 'launcher') return kill(command.launcher) ? command.node : 'missed';
  if (victim === 'shell') return command.shell !== undefined && kill(command.shell) ? command.launcher : 'missed';
  if (!kill(command.node)) return 'missed';
  await waitFor('the killed process to be gone', () => !isAlive(server, command.node));
  if (victim !== 'node') kill(command.launcher);
  return 'hit';
}

/** Strikes often at commands of this name, while `during` may make them fail. @returns the orphans, all of which have ended. */
async function strikeOften(
  server: PostgresServer,
  name: string,
  among: readonly Victim[],
  { fail, kills = allKills }: { readonly fail?: (on: boolean) => void; readonly kills?: number } = {},
) {
  const seen = new Set<number>();
  const orphans: NamespaceProcess[] = [];
  for (let hits = 0; hits < kills; ) {
    fail?.(hits % 2 === 1);
    const outcome = await strike(server, await catchCommand(server, name, seen), among[hits % among.length] ?? 'node');
    if (outcome === 'missed') continue;
    hits += 1;
    if (outcome === 'hit') continue;
    orphans.push(outcome);
    await waitFor('the orphan to end', () => !isAlive(server, outcome));
  }
  fail?.(false);
  return orphans;
}

/**
 * Ends one segment after another, so that there is always something to archive. @returns what stops it and tells the segments.
 * Now and then although the archiver does not follow: after three failures in a row it waits a minute unless it is told of another one.
 */
function keepSwitching(server: PostgresServer): () => Promise<string[]> {
  const segments: string[] = [];
  const controller = new AbortController();
  const loop = (async () => {
    while (!controller.signal.aborted) {
      await insertRow(server, segments.length);
      segments.push(await server.switchWal());
      const since = Date.now();
      const hasFollowed = async () => (await server.value(backlog)) === 'false';
      while (!controller.signal.aborted && Date.now() - since < 3000 && !(await hasFollowed())) await pause(150);
    }
  })();
  loop.catch(() => undefined); // thrown by stop
  return async () => {
    controller.abort();
    await loop;
    return segments;
  };
}

const backlog = `select count(*) > 2 from pg_ls_archive_statusdir() where name like '%.ready'`;

function expectUntouched(server: PostgresServer, orphans: readonly NamespaceProcess[]): void {
  expect(server.log).not.toMatch(crash);
  for (const { innerId } of orphans) expect(ended(innerId).exec(server.log)?.[1]).toBe('exited with exit code 0');
}

describe.skipIf(!hasPidNamespaces).each(majors)('PostgreSQL %s as PID 1', (major) => {
  it('H5: never restarts over a wal-push that is killed, and archives everything', { timeout: 1_800_000 }, async () => {
    const { server, repository } = await startServer(major);
    const session = await server.connect(); // one that lives through it
    const stop = keepSwitching(server);
    const away = `${repository.root}.away`;
    let isAway = false;
    const fail = (on: boolean) => {
      if (on !== isAway) renameSync(on ? repository.root : away, on ? away : repository.root);
      isAway = on;
    };
    const orphans = await strikeOften(server, 'wal-push', victims, { fail });
    const segments = await stop();
    await waitFor(
      'everything to be archived',
      async () => (await server.value(backlog.replace('> 2', '> 0'))) === 'false',
      180_000,
    );
    expectUntouched(server, orphans);
    expect(orphans.length).toBeGreaterThanOrEqual(Math.max(1, allKills / victims.length - 1));
    expect((await session.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await session.end();
    const stored = repository.files().map((path) => path.split('/').at(-1));
    expect(stored).toEqual(expect.arrayContaining(segments));
  });

  it('H5: never restarts over a base backup within its container that is killed', { timeout: 900_000 }, async () => {
    const { server, repository } = await startServer(major);
    const orphans: NamespaceProcess[] = [];
    const env = { WALT_CONFIG: repository.config, PGUSER: 'postgres', PGHOST: server.folder, WALT_WORKERS: '2' };
    const seen = new Set<number>();
    const backup = async () => {
      const words = [launcher('basebackup-push'), server.dataDirectory, '--checkpoint', 'fast'];
      const [command = '', ...rest] = joining(postmasterOf(server), words);
      return run(command, rest, { env, asRoot: true });
    };
    for (let n = 0; n < Math.ceil(allKills / 4); n += 1) {
      for (const victim of victims) {
        const end = backup();
        const outcome = await strike(server, await catchCommand(server, 'basebackup-push', seen), victim);
        if (outcome === 'missed') continue;
        expect((await end).code, victim).not.toBe(0);
        if (outcome === 'hit') continue;
        orphans.push(outcome);
        await waitFor('the orphan to end', () => !isAlive(server, outcome));
      }
    }
    const { code, stderr } = await backup();
    expect(code, stderr).toBe(0);
    expectUntouched(server, orphans);
  });

  it('stays a standby that follows when its wal-fetch is killed', { timeout: 1_800_000 }, async () => {
    const { server: primary } = await startServer(major);
    const standby = await primary.backup();
    servers.push(standby);
    standby.configure({ archive_mode: 'off' });
    standby.signal('standby.signal');
    await archiveRow(primary, 1);
    await standby.start();
    const session = await standby.connect();
    const stop = keepSwitching(primary);
    await strikeOften(standby, 'wal-fetch', ['node'], { kills: isTorture ? allKills : 2 });
    const segments = await stop();
    await primary.waitUntilAllArchived();
    await waitFor(
      'the standby to have it all',
      async () => (await standby.value('select count(*) from t')) === String(segments.length + 1),
    );
    expect(standby.log).not.toMatch(crash);
    expect((await session.query('select pg_is_in_recovery() as recovers')).rows).toEqual([{ recovers: true }]);
    await session.end();

    // A restore_command that dies by a signal ends every server, whatever the command is. The container starts it again.
    const { launcher: direct } = await catchCommand(standby, 'wal-fetch', new Set());
    kill(direct);
    await waitFor('the standby to stop', () => !standby.isRunning);
    expect(standby.log).toMatch(
      /could not restore file ".*" from archive: child process (was terminated by signal 9|exited with exit code 137)/,
    );
    await standby.start();
    await archiveRow(primary, -1);
    await waitFor('the standby to go on', async () => (await rowsOf(standby)).startsWith('-1 '));
  });

  it('is seen to restart over an orphan that ends otherwise', async () => {
    const { server } = await startServer(major);
    const orphan = (last: string) => {
      const [command = '', ...words] = joining(postmasterOf(server), ['sh', '-c', `(sleep 0.2; ${last}) & exit 0`]);
      return run(command, words, { asRoot: true });
    };
    await orphan('exit 1');
    expect(await server.value('select 1')).toBe('1');
    await orphan('exit 2');
    await waitFor('the server to stop', () => !server.isRunning); // the tests' servers do not start again after a crash
    expect(server.log).toMatch(crash);
  });
});
