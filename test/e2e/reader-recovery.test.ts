/** The reader beside real servers: it goes when they go, hinders none of their ends, and is never where a PostgreSQL would bury it (H5). */
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type ArchivedRows,
  allRows,
  archiveRows,
  prefetchedIn,
  prefetchIn,
  recoveringFrom,
} from '../support/archived-rows.ts';
import { removeFolder, temporaryFolder } from '../support/folders.ts';
import { serverBin } from '../support/installation.ts';
import { hasPidNamespaces } from '../support/pid-namespace.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { appointedIn, processesOfReader, readerEnds, readersIn } from '../support/reading-cluster.ts';
import { rowsOf } from '../support/recovery.ts';
import { waitFor } from '../support/wait.ts';

const torture = process.env.TORTURE === '1';

/** What the descriptors of a process lead to. */
function openIn(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((name) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${name}`)];
    } catch {
      return []; // closed meanwhile
    }
  });
}

describe.each(torture ? [15, 17, 18] : [17])('the reader of PostgreSQL %s', (major) => {
  let archived: ArchivedRows;
  beforeAll(async () => {
    archived = await archiveRows(major);
  });
  afterAll(async () => {
    await archived.base.remove();
    removeFolder(archived.folder);
  });

  /** In the middle of its recovery, waiting for the test; the reader has all ready that it may have. */
  async function held() {
    const recovering = await recoveringFrom(archived, { WALT_WAL_FETCH_AHEAD: '6' });
    const { server, command } = recovering;
    const [hold, asked] = [join(server.folder, 'hold'), join(server.folder, 'asked')];
    writeFileSync(hold, '');
    const wait = `while [ -e ${hold} ] && kill -s 0 "$(head -n 1 postmaster.pid)"; do sleep 0.02; done`;
    const gate = `if [ %f = ${archived.segments[15]} ]; then : >${asked}; ${wait}; fi`;
    server.configure({ restore_command: `${gate}; ${command}` });
    server.signal('recovery.signal');
    server.launch();
    await waitFor('the server to ask', () => existsSync(asked) || !server.isRunning);
    await waitFor('the reader to be ahead', () => prefetchedIn(server).length === 6);
    expect(readersIn(server.dataDirectory)).toHaveLength(1);
    return { ...recovering, letOn: () => rmSync(hold) };
  }

  const isOver = async (server: PostgresServer) => {
    await server.waitUntilOpen();
    expect(await rowsOf(server)).toBe(allRows);
    await readerEnds(server.dataDirectory);
    expect(existsSync(prefetchIn(server))).toBe(false);
  };

  it("fetches beside the replay, with hardly a start of Node.js, and holds no file of PostgreSQL's open, nor its log", async () => {
    const { server, node, letOn } = await held();
    const foreign = (path: string) =>
      path === join(server.folder, 'log') || (path.startsWith(server.dataDirectory) && !path.includes('/.wal-t/'));
    const shell = appointedIn(server.dataDirectory) ?? 0;
    expect(openIn(shell)).toContain(join(prefetchIn(server), 'said'));
    expect(processesOfReader(server.dataDirectory).flatMap(openIn).filter(foreign)).toEqual([]);
    letOn();
    await isOver(server);
    expect(node.starts).toBeLessThan(12); // the first segment, the end of the WAL and histories
  });

  it('ends with a server that is stopped, and does not hold that up', async () => {
    const { server, letOn } = await held();
    await server.stop();
    await readerEnds(server.dataDirectory);
    letOn();
    server.launch();
    await isOver(server);
  });

  it('H4: ends with a server that is killed, and the next start believes nothing of it', async () => {
    const { server, letOn } = await held();
    await server.stop('SIGKILL');
    await readerEnds(server.dataDirectory);
    for (const name of prefetchedIn(server)) writeFileSync(join(prefetchIn(server), name), 'zeros');
    letOn();
    server.launch();
    await isOver(server);
  });

  it('does not hinder that the data directory is removed as soon as its server is dead', async () => {
    const { server } = await held();
    await server.stop('SIGKILL');
    rmSync(server.dataDirectory, { recursive: true });
    await readerEnds(server.dataDirectory);
    expect(existsSync(server.dataDirectory)).toBe(false);
  });

  // what is killed as hard, e2e/reader has
  const signals = torture ? (['SIGKILL', 'SIGTERM'] as const) : (['SIGTERM'] as const);
  it.each(signals)('is not missed when it and its shell are ended by %s', async (signal) => {
    const { server, letOn } = await held();
    for (const pid of processesOfReader(server.dataDirectory)) process.kill(pid, signal);
    await readerEnds(server.dataDirectory);
    letOn();
    await isOver(server);
  });

  it('ends when its server is promoted out of a pause, and leaves nothing', async () => {
    const { server } = await recoveringFrom(archived);
    server.configure({ recovery_target_name: 'middle', recovery_target_action: 'pause' });
    server.signal('recovery.signal');
    await server.start();
    const state = 'select pg_get_wal_replay_pause_state()';
    await waitFor('the pause', async () => (await server.value(state)) === 'paused');
    await server.query('select pg_wal_replay_resume()');
    await server.waitUntilOpen();
    await readerEnds(server.dataDirectory);
    expect(existsSync(prefetchIn(server))).toBe(false);
  });

  it('is another one for another server on the same host', async () => {
    const [one, other] = [await held(), await held()];
    const [of, ofOther] = [one, other].map(({ server }) => readersIn(server.dataDirectory));
    expect(ofOther).not.toEqual(of);
    one.letOn();
    await isOver(one.server);
    expect(readersIn(other.server.dataDirectory)).toEqual(ofOther);
    other.letOn();
    await isOver(other.server);
  });

  /** Recovers by batches alone. */
  async function expectNone(server: PostgresServer): Promise<void> {
    let seen = 0;
    server.signal('recovery.signal');
    server.launch();
    await waitFor('the recovery to end', async () => {
      // a shell that looks who would adopt it, and ends with 0, may be seen
      seen += readersIn(server.dataDirectory).length + (appointedIn(server.dataDirectory) === undefined ? 0 : 1);
      return server.log.includes('archive recovery complete');
    });
    expect(seen).toBe(0);
    expect(server.log).not.toMatch(/terminating any other active server processes|all server processes terminated/);
    await server.waitUntilOpen();
    expect(await rowsOf(server)).toBe(allRows);
  }

  it.skipIf(!hasPidNamespaces)('H5: is none where PostgreSQL is PID 1', async () => {
    const { command } = await recoveringFrom(archived);
    const server = archived.base.copy({ isPidOne: true });
    server.configure({ archive_mode: 'off', restore_command: command });
    try {
      await expectNone(server);
    } finally {
      await server.remove();
    }
  });

  it('H5: is none where PostgreSQL gets orphans though it is not PID 1', async () => {
    const { command } = await recoveringFrom(archived);
    const bin = join(temporaryFolder(), 'bin');
    mkdirSync(bin);
    const real = serverBin(major);
    for (const name of readdirSync(real)) if (name !== 'postgres') symlinkSync(join(real, name), join(bin, name));
    const subreaper = `import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.execv('${real}/postgres', ['${real}/postgres'] + sys.argv[1:])
`;
    writeFileSync(join(bin, 'postgres'), `#!/usr/bin/env python3\n${subreaper}`, { mode: 0o755 });
    const server = archived.base.copy({ bin });
    server.configure({ archive_mode: 'off', restore_command: command });
    try {
      await expectNone(server);
    } finally {
      await server.remove();
    }
  });
});
