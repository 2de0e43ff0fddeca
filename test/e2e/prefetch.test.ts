/** Real recoveries with batches: the same rows by few starts of Node.js, whatever is killed, damaged, full or stuck; and nothing is left behind. */
import { existsSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type ArchivedRows,
  allRows,
  archiveRows,
  prefetchedIn,
  prefetchIn,
  recoveringFrom,
  rows,
} from '../support/archived-rows.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { removeFolder } from '../support/folders.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { at, PrefetchingCluster } from '../support/prefetching.ts';
import { archiveRow, flipByte, rowsOf } from '../support/recovery.ts';
import { run } from '../support/run.ts';
import { makeSegment } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const toMiddle = allRows.slice(0, allRows.indexOf(' 13'));

const torture = process.env.TORTURE === '1';

describe.each(torture ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  let archived: ArchivedRows;
  beforeAll(async () => {
    archived = await archiveRows(major);
  });
  afterAll(async () => {
    await archived.base.remove();
    removeFolder(archived.folder);
  });

  const recovering = (settings?: Readonly<Record<string, string>>) => recoveringFrom(archived, settings);

  it('recovers the same by far fewer starts of Node.js, and nothing is left', async () => {
    const { server, node } = await recovering();
    server.signal('recovery.signal');
    await server.open();
    expect(await rowsOf(server)).toBe(allRows);
    // the first batch and what reads on behind it; the end of the WAL and histories are asked for besides
    expect(node.starts).toBeLessThan(12);
    expect(existsSync(prefetchIn(server))).toBe(false);
    const { server: plain, node: every } = await recovering({ WALT_WAL_FETCH_AHEAD: '0' });
    plain.configure({ recovery_target_name: 'middle', recovery_target_action: 'promote' });
    plain.signal('recovery.signal');
    await plain.open();
    expect(await rowsOf(plain)).toBe(toMiddle);
    expect(every.starts).toBeGreaterThan(12); // one for each
  });

  it('lets a standby follow, and be promoted into a server that archives and has nothing left', async () => {
    const { server, repository, node } = await recovering();
    server.configure({ archive_mode: 'on', archive_command: repository.serverSettings.archive_command ?? '' });
    server.signal('standby.signal');
    await server.start();
    await waitFor('all rows', async () => (await rowsOf(server)) === allRows);
    const before = node.starts;
    expect(before).toBeLessThan(rows);
    await server.query('select pg_promote()');
    await archiveRow(server, rows + 1);
    await server.waitUntilAllArchived();
    expect(existsSync(prefetchIn(server))).toBe(false);
    expect(await rowsOf(server)).toBe(`${allRows} ${rows + 1}`);
  });

  it('H4: goes on after kills of the server and its commands, with nothing of an earlier start', async () => {
    const { server, repository } = await recovering();
    server.signal('recovery.signal');
    for (let round = 0; round < (torture ? 12 : 3); round += 1) {
      server.launch();
      await waitFor('a batch, or the end', () => prefetchedIn(server).length > 0 || isOpen(server));
      await server.stop('SIGKILL');
      await run('pkill', ['-KILL', '-f', repository.config]);
      // what a power failure may make of what was not asked for yet
      for (const name of prefetchedIn(server)) await run('cp', ['/dev/null', join(prefetchIn(server), name)]);
    }
    await server.open();
    expect(await rowsOf(server)).toBe(allRows);
    expect(existsSync(prefetchIn(server))).toBe(false);
  });

  it('stops at a damaged segment though it recovers in batches, and goes on once it is mended', async () => {
    const { server, repository } = await recovering();
    const damaged = archived.segments[9] ?? '';
    flipByte(repository.object(damaged));
    server.signal('recovery.signal');
    server.launch();
    await waitFor('the server to stop', () => !server.isRunning);
    expect(server.log).toMatch(new RegExp(`^wal-fetch: error: ".*/${damaged}" in .* is damaged`, 'm'));
    expect(server.log).not.toContain('selected new timeline');
    flipByte(repository.object(damaged));
    await server.open();
    expect(await rowsOf(server)).toBe(allRows);
  });

  it('leaves nothing where a target is reached in the middle', async () => {
    const { server } = await recovering();
    server.configure({ recovery_target_name: 'middle', recovery_target_action: 'promote' });
    server.signal('recovery.signal');
    await server.open();
    expect(await rowsOf(server)).toBe(toMiddle);
    expect(existsSync(prefetchIn(server))).toBe(false);
  });
});

function isOpen(server: PostgresServer): boolean {
  return !server.isRunning || server.log.includes('archive recovery complete');
}

const target = 'pg_wal/RECOVERYXLOG';
const names = [1, 2, 3, 4, 5, 6].map((place) => at(1, place));
const first = at(1, 1);

describe('a batch', () => {
  it.runIf(hasFaultyFs)('ends when the disk is full, and leaves no half of a segment', async () => {
    const cluster = await PrefetchingCluster.create(names);
    rmSync(join(cluster.data, 'pg_wal/.wal-t'), { recursive: true });
    const fs = await FaultyFs.mount(cluster.data);
    await fs.set({ spaceBytes: 2.5 * 2 ** 20 });
    const words = [first, target];
    const { code, stderr } = await cluster.repository.run('wal-fetch', words, { cwd: fs.path, asRoot: true });
    expect(code, stderr).toBe(0);
    expect(cluster.delivered?.equals(makeSegment(first))).toBe(true);
    expect(stderr).toMatch(/^wal-fetch: info: "[0-9A-F]{24}" could not be fetched ahead: .*(?:ENOSPC|no space)/m);
    expect(cluster.prefetched.length).toBeLessThanOrEqual(1);
    expect(leftOvers(cluster)).toEqual([]);
    await fs.set({});
    for (const name of names) {
      expect((await cluster.repository.run('wal-fetch', [name, target], { cwd: fs.path, asRoot: true })).code).toBe(0);
      expect(cluster.delivered?.equals(makeSegment(name))).toBe(true);
    }
  });

  it.runIf(hasFaultyFs)('does not hold back what was asked for when the storage hangs', async () => {
    // the next ones lie in another folder, which was moved to another disk
    const [asked, ...others] = [
      '000000010000000000000FFF',
      '000000010000000100000000',
      '000000010000000100000001',
    ] as const;
    const cluster = await PrefetchingCluster.create([asked, ...others]);
    const folder = dirname(cluster.repository.object(others[0]));
    renameSync(folder, `${cluster.folder}/moved`);
    const fs = await FaultyFs.mount(`${cluster.folder}/moved`);
    symlinkSync(fs.path, folder);
    await fs.set({ hang: ['read'] });
    cluster.repository.configure({ WALT_AHEAD_TIMEOUT: '200ms' });
    const { code, stderr } = await cluster.launch([asked, target]);
    expect(code, stderr).toBe(0);
    expect(cluster.delivered?.equals(makeSegment(asked))).toBe(true);
    expect(cluster.prefetched).toEqual([]);
    await fs.set({});
    for (const name of others) expect((await cluster.launch([name, target])).code).toBe(0);
  });
});

function leftOvers(cluster: PrefetchingCluster): string[] {
  return readdirSync(cluster.prefetch()).filter((name) => name.includes('.wal-t-'));
}
