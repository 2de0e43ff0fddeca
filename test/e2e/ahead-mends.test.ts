/** What is done ahead of PostgreSQL gives way: to a promotion, on a line that is too slow for it, and to the server's own user after root. */
import { randomUUID } from 'node:crypto';
import { readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { init } from '../../src/commands/init.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { account, giveAway } from '../support/account.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { stallDownload } from '../support/network-faults.ts';
import { at, PrefetchingCluster } from '../support/prefetching.ts';
import { s3Settings } from '../support/repository.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { makeSegment } from '../support/segment.ts';

const target = 'pg_wal/RECOVERYXLOG';
const places = [1, 2, 3, 4, 5, 6, 7, 8, 9];
const names = places.map((place) => at(1, place));
/** Whoever starts it fails. */
const noNode = { WALT_NODE: '/bin/false' };

let server: S3Server;
beforeAll(async () => {
  server = await S3Server.start();
});
afterAll(() => server.stop());

/** A recovering server whose archive, with the segments, is in a bucket behind a proxy, under a prefix of its own. */
async function inBucket(settings: Readonly<Record<string, string>>) {
  const prefix = randomUUID();
  const proxy = await FaultProxy.start(server.s3);
  onTestFinished(() => proxy.stop());
  const cluster = await PrefetchingCluster.create([]);
  const all = { ...s3Settings(proxy.s3, prefix), WALT_IDLE_TIMEOUT: '10min', ...settings };
  cluster.repository.configure(all);
  const context = cluster.context(all, { openStorage: () => openS3Storage(server.s3, { prefix }) });
  await init(context, { adopt: false });
  for (const name of names) {
    const path = `pg_wal/${name}`;
    writeFileSync(join(cluster.data, path), makeSegment(name));
    await walPush(context, { path, name });
  }
  const segmentsFetched = () =>
    proxy.log.flatMap(({ method, key }) => (method === 'GET' ? (/[0-9A-F]{24}$/.exec(key ?? '')?.[0] ?? []) : []));
  return { cluster, proxy, segmentsFetched };
}

describe('a batch of wal-fetch', () => {
  it('H7: does not make a promotion wait, however long it may take', async () => {
    const { cluster, proxy } = await inBucket({ WALT_AHEAD_TIMEOUT: '10min' });
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    const held = proxy.pause({ method: 'GET', key: new RegExp(`${at(1, 2)}$`) });
    const launched = cluster.launch([at(1, 1), target]);
    await held.reached;
    writeFileSync(join(cluster.data, 'promote'), '');
    expect(await launched).toMatchObject({ code: 0 });
    held.release();
    expect(cluster.delivered?.equals(makeSegment(at(1, 1)))).toBe(true);
  });

  it('does not hold back what was asked for when a download is stuck', async () => {
    const { cluster, proxy } = await inBucket({
      WALT_IDLE_TIMEOUT: '1h',
      WALT_REQUEST_TIMEOUT: '1h',
      WALT_AHEAD_TIMEOUT: '200ms',
    });
    for (const stuck of [2, 4])
      proxy.inject(stallDownload(1000), { kind: 'GetObject', key: new RegExp(`${at(1, stuck)}$`) });
    const { code, stderr } = await cluster.launch([at(1, 1), target]);
    expect(code, stderr).toBe(0);
    expect(cluster.delivered?.equals(makeSegment(at(1, 1)))).toBe(true);
    expect(cluster.prefetched).not.toContain(at(1, 2));
    expect(readdirSync(cluster.prefetch()).filter((name) => name.includes('.wal-t-'))).toEqual([]);
    expect(statSync(cluster.prefetch('pace')).size).toBeGreaterThan(0);
  });

  it('is none where no segment came in time: PostgreSQL asks for it sooner, and it is fetched once', async () => {
    const { cluster, proxy, segmentsFetched } = await inBucket({ WALT_AHEAD_TIMEOUT: '200ms' });
    const held = names.slice(1).map((name) => proxy.pause({ method: 'GET', key: new RegExp(`${name}$`) }));
    expect(await cluster.launch([at(1, 1), target])).toMatchObject({ code: 0 });
    for (const one of held) one.release();
    expect(cluster.prefetched).toEqual([]);
    const before = segmentsFetched().length;
    for (const name of names.slice(1, 4)) expect(await cluster.launch([name, target])).toMatchObject({ code: 0 });
    expect(segmentsFetched().slice(before)).toEqual(names.slice(1, 4));
  });

  it('is one segment again some minutes later', async () => {
    const cluster = await PrefetchingCluster.create(names);
    await cluster.fetch(at(1, 1));
    for (const [minutes, expected] of [
      [5, []],
      [11, [at(1, 7)]],
    ] as const) {
      writeFileSync(cluster.prefetch('pace'), `0 0 ${Date.now() - minutes * 60_000}\n`);
      await cluster.fetch(at(1, 6));
      expect(cluster.prefetched.filter((name) => name > at(1, 6))).toEqual(expected);
    }
  });
});

describe.runIf(account.uid !== undefined)('a call by root', () => {
  const everythingTo = (folder: string) => {
    giveAway(folder);
    for (const path of readdirSync(folder, { recursive: true })) giveAway(join(folder, String(path)));
  };

  it('leaves no folder that shuts the wal-fetch of the server out', async () => {
    const cluster = await PrefetchingCluster.create(names);
    everythingTo(cluster.repository.root);
    expect(await cluster.launch([at(1, 1), target])).toMatchObject({ code: 0 });
    expect(cluster.prefetched).toEqual(names.slice(1, 5));
    const launch = (name: string, env = {}) =>
      cluster.repository.run('wal-fetch', [name, target], { cwd: cluster.data, env });
    expect(await launch(at(1, 2))).toMatchObject({ code: 0, stderr: '' });
    expect(await launch(at(1, 3), noNode)).toMatchObject({ code: 0, stderr: '' });
    expect(cluster.delivered?.equals(makeSegment(at(1, 3)))).toBe(true);
  });

  it('leaves no folder that shuts the wal-push of the server out', async () => {
    const cluster = await PrefetchingCluster.create([]);
    everythingTo(cluster.repository.root);
    const longAgo = new Date(Date.now() - 3_600_000);
    for (const name of names) {
      const path = join(cluster.data, 'pg_wal', name);
      writeFileSync(path, makeSegment(name));
      giveAway(path);
      utimesSync(path, longAgo, longAgo);
      writeFileSync(join(cluster.data, 'pg_wal/archive_status', `${name}.ready`), '');
    }
    const push = (name: string, asRoot: boolean, env = {}) =>
      cluster.repository.run('wal-push', [`pg_wal/${name}`, name], { cwd: cluster.data, env, asRoot });
    expect(await push(at(1, 1), true)).toMatchObject({ code: 0, stderr: '' });
    everythingTo(cluster.repository.root);
    expect(await push(at(1, 2), false)).toMatchObject({ code: 0, stderr: '' });
    expect(await push(at(1, 3), false, noNode)).toMatchObject({ code: 0, stderr: '' });
  });
});
