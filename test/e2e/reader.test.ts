/** The reader, which goes on in the background when the call that has started it is over: what it brings, and what ends it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { giveAway } from '../support/account.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { at, type PrefetchingCluster } from '../support/prefetching.ts';
import {
  appointedIn,
  processesOfReader,
  type Reading,
  readerEnds,
  readerRuns,
  readersIn,
  readingCluster,
} from '../support/reading-cluster.ts';
import { flipByte } from '../support/recovery.ts';
import { makeSegment } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const target = 'pg_wal/RECOVERYXLOG';
const range = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, index) => at(1, first + index));
/** Whoever starts it fails. */
const noNode = { WALT_NODE: '/bin/false' };

async function ask(cluster: PrefetchingCluster, name: string, env: Readonly<Record<string, string>> = {}) {
  rmSync(join(cluster.data, target), { force: true });
  const { code, stderr } = await cluster.launch([name, target], env);
  expect(code, `${stderr}${wordsOfReader(cluster)}`).toBe(0);
  expect(cluster.delivered?.equals(makeSegment(name))).toBe(true);
  return stderr;
}

/** Why it has ended, where no call has told that yet. */
function wordsOfReader(cluster: PrefetchingCluster): string {
  const said = cluster.prefetch('said');
  return existsSync(said) ? `The reader: ${readFileSync(said, 'utf8')}` : '';
}

/** The first of `count` segments was asked for, and so many of the next were fetched as are kept before any is taken. */
async function reading(count = 20): Promise<Reading & { readonly reader: number }> {
  const started = await readingCluster(range(1, count));
  await ask(started.cluster, at(1, 1));
  const reader = await readerRuns(started.cluster.data);
  await waitFor('what comes next', () => started.cluster.prefetched.length === Math.min(8, count - 1));
  return { ...started, reader };
}

function isRemoved(folder: string): boolean {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch {
    // somebody wrote meanwhile
  }
  return !existsSync(folder); // whatever it said: somebody may have written behind it
}

/** A search path on which `sleep` takes no time, and leaves a file. */
function sleepless(cluster: PrefetchingCluster, naps: string): string {
  const bin = join(cluster.folder, 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, 'sleep'), `#!/bin/sh\n: >${naps}\n`, { mode: 0o755 });
  giveAway(bin);
  return `${bin}:${process.env.PATH}`;
}

describe('the reader', () => {
  it('keeps ready what comes next, ever more of it, and ends with the last: one call was by Node.js', async () => {
    const { cluster } = await reading(30);
    expect(readersIn(cluster.data)).toHaveLength(1);
    for (const [index, name] of range(2, 30).entries()) {
      await ask(cluster, name, noNode); // waits for it, if need be
      if (index === 8) await waitFor('more of it', () => cluster.prefetched.length > 8);
    }
    await readerEnds(cluster.data);
    expect(cluster.prefetched).toEqual([]);
    expect(readdirSync(cluster.prefetch()).filter((name) => name.includes('.wal-t-'))).toEqual([]);
  });

  it('is none where the batch has it all, for a standby, or where none is wanted', async () => {
    const { cluster } = await readingCluster(range(1, 20));
    cluster.repository.configure({ WALT_WAL_FETCH_AHEAD: '4' });
    await ask(cluster, at(1, 1));
    cluster.repository.configure({ WALT_WAL_FETCH_AHEAD: '0' });
    await ask(cluster, at(1, 1));
    cluster.repository.configure({});
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    await ask(cluster, at(1, 1));
    expect(appointedIn(cluster.data)).toBeUndefined();
    expect(processesOfReader(cluster.data)).toEqual([]);
  });

  it('is one, too, where the settings file holds what the AWS SDK finds in the environment', async () => {
    const { cluster } = await readingCluster(range(1, 20));
    cluster.repository.configure({
      AWS_ACCESS_KEY_ID: 'key',
      AWS_SECRET_ACCESS_KEY: 'secret',
      AWS_REGION: 'here',
      AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:9',
    });
    await ask(cluster, at(1, 1));
    for (const name of range(2, 20)) await ask(cluster, name, noNode);
    await readerEnds(cluster.data);
  });

  interface End {
    readonly what: string;
    readonly change: (reading: Reading) => unknown;
  }
  const file = (name: string, { cluster }: Reading) => join(cluster.data, name);
  const ends: readonly End[] = [
    { what: 'the postmaster is killed', change: ({ postmaster }) => postmaster.kill('SIGKILL') },
    { what: 'the server is stopped', change: (all) => rmSync(file('postmaster.pid', all)) },
    {
      what: 'the server was started again',
      change: (all) => all.cluster.restart(all.postmaster.pid ?? 0, 1_790_000_001),
    },
    { what: 'a promotion is asked for', change: (all) => writeFileSync(file('promote', all), '') },
    { what: 'the recovery is over', change: (all) => rmSync(file('recovery.signal', all)) },
    { what: 'it is a standby', change: (all) => writeFileSync(file('standby.signal', all), '') },
    {
      what: 'its folder is moved away',
      change: ({ cluster }) => renameSync(cluster.prefetch(), `${cluster.folder}/away`),
    },
    { what: 'another one was appointed', change: ({ cluster }) => writeFileSync(cluster.prefetch('reader'), '1\n') },
    {
      what: 'the data directory is removed',
      // against a reader that writes: a second time what has come since must be looked for, too
      change: ({ cluster }) => waitFor('it to be gone', () => isRemoved(join(cluster.data, 'pg_wal'))),
    },
  ];
  it.each(ends)('ends, and touches nothing, when $what', async ({ change }) => {
    const all = await reading();
    await change(all);
    const there = () => (existsSync(all.cluster.prefetch()) ? readdirSync(all.cluster.prefetch()) : undefined);
    const before = there();
    await readerEnds(all.cluster.data);
    expect(there()).toEqual(before);
  });

  it('has died: the next call goes on with another one, and waits for none', async () => {
    const { cluster, reader } = await reading();
    const shell = appointedIn(cluster.data) ?? 0;
    process.kill(reader, 'SIGKILL');
    await readerEnds(cluster.data);
    const ready = cluster.prefetched;
    for (const name of ready) await ask(cluster, name, noNode);
    await ask(cluster, at(1, 2 + ready.length));
    await readerRuns(cluster.data);
    expect(appointedIn(cluster.data)).not.toBe(shell);
    for (const name of range(3 + ready.length, 20)) await ask(cluster, name, noNode);
  });

  it('ends when its shell is killed', async () => {
    const { cluster } = await reading();
    process.kill(appointedIn(cluster.data) ?? 0, 'SIGKILL');
    await readerEnds(cluster.data);
    const ready = cluster.prefetched;
    for (const name of ready) await ask(cluster, name, noNode);
    await ask(cluster, at(1, 2 + ready.length));
  });

  it('is left alone when PostgreSQL asks once more for what it had last, and dismissed when it is elsewhere', async () => {
    const { cluster, reader } = await reading(40);
    await ask(cluster, at(1, 2), noNode);
    await ask(cluster, at(1, 2));
    expect(readersIn(cluster.data)).toEqual([reader]);
    await ask(cluster, at(1, 25));
    await waitFor('another reader', () => readersIn(cluster.data).some((pid) => pid !== reader));
    await waitFor('only that', () => !readersIn(cluster.data).includes(reader));
    await waitFor('what comes next', () => cluster.prefetched.includes(at(1, 26))); // the other one may have given its last
  });

  it('is not waited for when it is dead, though nobody has buried it', async () => {
    const { cluster } = await readingCluster(range(1, 3));
    await ask(cluster, at(1, 1));
    const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 3600'], { stdio: ['ignore', 'pipe', 'ignore'] });
    onTestFinished(() => void parent.kill('SIGKILL'));
    const [dead] = await once(parent.stdout, 'data');
    const isDead = () => readFileSync(`/proc/${Number(dead)}/stat`, 'latin1').includes(') Z ');
    await waitFor('its end', isDead);
    writeFileSync(cluster.prefetch('reader'), `${Number(dead)}\n`);
    writeFileSync(cluster.prefetch('coming'), `${at(1, 4)}\n`);
    const naps = join(cluster.folder, 'naps');
    await cluster.launch([at(1, 4), target], { PATH: sleepless(cluster, naps), ...noNode });
    expect(existsSync(naps)).toBe(false);
    writeFileSync(cluster.prefetch('reader'), `${process.pid}\n`);
    await cluster.launch([at(1, 4), target], { PATH: sleepless(cluster, naps), ...noNode });
    expect(existsSync(naps)).toBe(true);
    rmSync(cluster.prefetch('reader'));
  });

  it('is waited for while it fetches, and not for ever', async () => {
    const { cluster, reader } = await reading(40);
    process.kill(reader, 'SIGSTOP');
    const ready = cluster.prefetched;
    for (const name of ready) await ask(cluster, name, noNode);
    const next = at(1, 2 + ready.length);
    const waiting = ask(cluster, next, noNode);
    process.kill(reader, 'SIGCONT');
    await waiting;

    await waitFor('more of it', () => cluster.prefetched.length >= 8);
    process.kill(reader, 'SIGSTOP');
    for (const name of cluster.prefetched) await ask(cluster, name, noNode);
    expect(cluster.prefetched).toEqual([]);
    const [coming = ''] = readFileSync(cluster.prefetch('coming'), 'utf8').split(' ');
    await ask(cluster, coming, { PATH: sleepless(cluster, join(cluster.folder, 'naps')) });
    expect(appointedIn(cluster.data)).toBeUndefined(); // it is not trusted again at once
    process.kill(reader, 'SIGCONT');
    await readerEnds(cluster.data);
  });

  it('ends at a damaged segment, and says so in the next call, which tells why', async () => {
    const started = await readingCluster(range(1, 20));
    const { cluster } = started;
    flipByte(cluster.repository.object(at(1, 10)));
    await ask(cluster, at(1, 1));
    for (const name of range(2, 9)) await ask(cluster, name);
    await readerEnds(cluster.data);
    const { code, stderr } = await cluster.launch([at(1, 10), target]);
    expect(code).toBe(200);
    expect(stderr).toContain('is damaged');
    flipByte(cluster.repository.object(at(1, 10)));
    const said = await ask(cluster, at(1, 10));
    expect(said).toMatch(/info: what was fetched ahead in the background came to an early end\n.*detail: .*is damaged/);
  });

  it.runIf(hasFaultyFs)('gives up where the storage hangs, and no more is fetched ahead for a while', async () => {
    const { cluster } = await readingCluster(range(1, 20));
    const fs = await FaultyFs.mount(cluster.repository.root);
    cluster.repository.configure({ WALT_REPO: `file://${fs.path}`, WALT_AHEAD_TIMEOUT: '200ms' });
    await ask(cluster, at(1, 1));
    await readerRuns(cluster.data);
    await waitFor('what comes next', () => cluster.prefetched.length === 8);
    await fs.set({ hang: ['read'] });
    const ready = cluster.prefetched;
    for (const name of ready) await ask(cluster, name, noNode);
    const waiting = ask(cluster, at(1, 2 + ready.length));
    await readerEnds(cluster.data);
    await fs.set({});
    await waiting;
    expect(readFileSync(cluster.prefetch('pace'), 'utf8')).toMatch(/^0 0 /);
    expect(cluster.prefetched).toEqual([]);
  });

  it.runIf(hasFaultyFs)('ends when the disk is full, and leaves no half of a segment', async () => {
    const { cluster } = await readingCluster(range(1, 20));
    const fs = await FaultyFs.mount(cluster.data);
    const askThere = async (name: string) => {
      rmSync(join(cluster.data, target), { force: true });
      const { code, stderr } = await cluster.repository.run('wal-fetch', [name, target], {
        cwd: fs.path,
        asRoot: true,
      });
      expect(code, stderr).toBe(0);
      expect(cluster.delivered?.equals(makeSegment(name))).toBe(true);
    };
    await askThere(at(1, 1));
    await readerRuns(fs.path);
    await waitFor('what comes next', () => cluster.prefetched.length === 8);
    await fs.set({ spaceBytes: 2 ** 19 });
    for (const name of cluster.prefetched) await askThere(name);
    await readerEnds(fs.path);
    expect(cluster.prefetched).toEqual([]);
    expect(readdirSync(cluster.prefetch()).filter((name) => name.includes('.wal-t-'))).toEqual([]);
    await fs.set({});
    for (const name of range(10, 20)) await askThere(name);
  });
});
