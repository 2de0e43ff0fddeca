/** One wal-push archives what waits behind its file, and the launcher answers for it: only for this file, this content, this archive. */
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { giveAway } from '../support/account.ts';
import { FaultProxy } from '../support/fault-proxy.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { removeFolder } from '../support/folders.ts';
import { KeptFolder } from '../support/kept-folder.ts';
import { suffixOf } from '../support/left-overs.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { type Ended, run } from '../support/run.ts';
import { S3Server } from '../support/s3-server.ts';
import { makeDataDirectory, makeSegment } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const names = [1, 2, 3, 4, 5].map((n) => `00000001000000000000000${n}`);
const [first = '', second = '', third = ''] = names;
const longAgo = new Date(Date.now() - 3_600_000);

/** A data directory in which files wait, and a server seems to run. */
class Cluster {
  readonly repository: TestRepository;
  readonly data: string;

  constructor(repository: TestRepository, data = join(repository.folder, 'data')) {
    this.repository = repository;
    this.data = data;
  }

  /** Its segments were finished long ago, unless told otherwise. */
  static async create(
    waiting: readonly string[] = names,
    { finished = longAgo, settings = {} }: { finished?: Date; settings?: Readonly<Record<string, string>> } = {},
  ): Promise<Cluster> {
    const repository = await new TestRepository({ settings }).init();
    const cluster = new Cluster(repository);
    const write = makeDataDirectory(cluster.data);
    cluster.startServer(1000);
    for (const name of waiting) {
      write(name, makeSegment(name));
      utimesSync(cluster.path(name), finished, finished);
      cluster.write(`pg_wal/archive_status/${name}.ready`, '');
    }
    return cluster;
  }

  path(name: string): string {
    return join(this.data, 'pg_wal', name);
  }

  write(path: string, content: string): void {
    writeFileSync(join(this.data, path), content);
    giveAway(join(this.data, path));
  }

  /** Leaves the lines that a server leaves. */
  startServer(startedAt: number): void {
    this.write('postmaster.pid', `42\n${this.data}\n${startedAt}\n5432\n/tmp\n\n`);
  }

  push(name: string, env: Readonly<Record<string, string>> = {}): Promise<Ended> {
    return this.repository.run('wal-push', [`pg_wal/${name}`, name], { cwd: this.data, env });
  }

  /** Does the launcher answer by itself? Without Node.js it cannot do anything else. */
  async isAnswered(name: string, env: Readonly<Record<string, string>> = {}): Promise<boolean> {
    const { code } = await this.push(name, { WALT_NODE: '/bin/false', ...env });
    return code === 0;
  }

  /** As PostgreSQL, once the answer was 0. */
  markDone(name: string): void {
    const status = join(this.data, 'pg_wal/archive_status');
    renameSync(join(status, `${name}.ready`), join(status, `${name}.done`));
  }

  get stored(): string[] {
    return this.repository.files().flatMap((path) => /\/([0-9A-F]{24})$/.exec(path)?.[1] ?? []);
  }

  /** Relative to the folder of all markers. */
  get markers(): string[] {
    const folder = join(this.data, 'pg_wal/.wal-t/pushed');
    return existsSync(folder) ? (readdirSync(folder, { recursive: true }) as string[]) : [];
  }
}

/** What `pushFirst` has made, by its settings. */
const kept = new Map<string, { readonly cluster: Cluster; readonly folder: KeptFolder }>();
afterAll(() => {
  for (const { folder } of kept.values()) folder.remove();
});

/** With these settings, where "aws" is a file beside the settings file. */
async function pushFirst(settings: Readonly<Record<string, string>> = {}): Promise<Cluster> {
  const known = kept.get(JSON.stringify(settings));
  if (known !== undefined) {
    await known.folder.putBack();
    return known.cluster;
  }
  const cluster = await Cluster.create();
  const aws = join(cluster.repository.folder, 'aws');
  writeFileSync(aws, '');
  utimesSync(aws, longAgo, longAgo);
  cluster.repository.configure(
    Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, value.replace('aws', aws)])),
  );
  expect(await cluster.push(first)).toMatchObject({ code: 0, stderr: '' });
  expect(cluster.stored).toEqual(names);
  kept.set(JSON.stringify(settings), { cluster, folder: await KeptFolder.keep(cluster.repository.folder) });
  return cluster;
}

describe('one call', () => {
  it('archives what waits, and the launcher answers for it, once each', async () => {
    const cluster = await pushFirst();
    for (const name of names.slice(1)) {
      expect(await cluster.isAnswered(name)).toBe(true);
      expect(await cluster.isAnswered(name)).toBe(false);
      expect(await cluster.push(name)).toMatchObject({ code: 0, stderr: '' });
    }
  });

  it('is answered for without %f, too', async () => {
    const cluster = await Cluster.create();
    const push = (name: string, env: Readonly<Record<string, string>> = {}) =>
      cluster.repository.run('wal-push', [`pg_wal/${name}`], { cwd: cluster.data, env });
    expect(await push(first)).toMatchObject({ code: 0 });
    expect(await push(second, { WALT_NODE: '/bin/false' })).toMatchObject({ code: 0, stderr: '' });
  });

  it('never answers for the file that was asked for', async () => {
    const cluster = await pushFirst();
    expect(await cluster.isAnswered(first)).toBe(false);
  });

  it('takes histories first, and what a promotion and a backup leave, too', async () => {
    const cluster = await Cluster.create([first, second]);
    const history = '00000002.history';
    cluster.write(`pg_wal/${history}`, '1\t0/2000000\tno recovery target specified\n');
    utimesSync(cluster.path(history), longAgo, longAgo);
    cluster.write(`pg_wal/archive_status/${history}.ready`, '');
    expect(await cluster.push(first, { WALT_WAL_PUSH_AHEAD: '1' })).toMatchObject({ code: 0 });
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.isAnswered(history)).toBe(true);
  });

  it('archives as many as it is told, or none', async () => {
    const cluster = await Cluster.create();
    await cluster.push(first, { WALT_WAL_PUSH_AHEAD: '0' });
    expect(cluster.stored).toEqual([first]);
    await cluster.push(first, { WALT_WAL_PUSH_AHEAD: '2' });
    expect(cluster.stored).toEqual(names.slice(0, 3));
    await cluster.push(second, { WALT_WAL_PUSH_AHEAD: '2' });
    expect(cluster.stored).toEqual(names.slice(0, 3)); // first and third have markers already
  });

  it('leaves the next one to its own call when it is damaged, and goes on with the others', async () => {
    const cluster = await Cluster.create();
    writeFileSync(cluster.path(second), Buffer.alloc(1024 * 1024, 1));
    utimesSync(cluster.path(second), longAgo, longAgo);
    const { code, stderr } = await cluster.push(first);
    expect(code).toBe(0);
    expect(stderr).toContain(`"${second}" could not be archived ahead`);
    expect(cluster.stored).toEqual(names.filter((name) => name !== second));
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 6 });
    expect(await cluster.isAnswered(third)).toBe(true);
  });

  it('clears what nobody will ask for any more', async () => {
    const cluster = await pushFirst();
    expect(cluster.markers.filter((path) => path.includes('/0000'))).toHaveLength(12); // a link and two stamps each
    for (const name of names.slice(0, 4)) cluster.markDone(name);
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    expect(cluster.markers.filter((path) => /\/0000\S*$/.test(path)).map((path) => path.slice(17))).toEqual([
      names[4],
      `${names[4]}.stamp`,
      `${names[4]}.until`,
    ]);
  });

  it('is not disturbed where no markers can be made: it only takes longer', async () => {
    const cluster = await Cluster.create();
    mkdirSync(cluster.path('.wal-t'));
    giveAway(cluster.path('.wal-t'));
    const elsewhere = '/dev/shm/wal-t-test-markers'; // another file system: no hard links from there
    mkdirSync(elsewhere);
    onTestFinished(() => removeFolder(elsewhere));
    giveAway(elsewhere);
    symlinkSync(elsewhere, cluster.path('.wal-t/pushed'));
    const { code, stderr } = await cluster.push(first);
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /^wal-push: info: "\w+" could not be archived ahead: could not keep markers in ".+": invalid cross-device link$/m,
    );
    expect(stderr).toMatch(/^wal-push: hint: It must be on pg_wal's own file system, and that must have hard links\./m);
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 0 });
  });

  it('says what to do where it may not write its folder', async () => {
    const cluster = await Cluster.create();
    mkdirSync(cluster.path('.wal-t'), { mode: 0o500 });
    giveAway(cluster.path('.wal-t'));
    const { code, stderr } = await cluster.push(first);
    expect(code).toBe(0);
    expect(cluster.stored).toEqual([first]);
    const folder = cluster.path('.wal-t/pushed');
    expect(stderr).toContain('wal-push: info: what waits could not be archived ahead: could not keep markers in');
    expect(stderr).toMatch(
      new RegExp(`keep markers in "${folder}/[0-9a-f]{16}": permission denied\\nwal-push: hint: It must belong`),
    );
    expect(stderr).not.toMatch(/EACCES|ENOENT/);
  });

  it('makes none where no server runs, and none by hand', async () => {
    const cluster = await Cluster.create();
    const byHand = await cluster.repository.run('wal-push', [cluster.path(first), first], { cwd: cluster.data });
    expect(byHand).toMatchObject({ code: 0 });
    rmSync(join(cluster.data, 'postmaster.pid'));
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    expect(cluster.stored).toEqual([first]);
  });
});

describe('H9: no marker vouches for', () => {
  /** Each changes something, and may give other settings for the call. */
  it.each<[string, (cluster: Cluster) => unknown]>([
    ['another start of the server', (cluster) => void cluster.startServer(2000)],
    ['a data directory on which none runs', (cluster) => rmSync(join(cluster.data, 'postmaster.pid'))],
    ['another repository, in the environment', () => ({ WALT_REPO: 'file:///other' })],
    ['another endpoint, in the environment', () => ({ AWS_ENDPOINT_URL_S3: 'http://other' })],
    [
      'another repository, in the settings file',
      ({ repository }) => {
        repository.configure({ WALT_REPO: 'file:///other' });
        utimesSync(repository.config, longAgo, longAgo); // as `mv` and `cp -p` do
      },
    ],
    [
      'another settings file',
      ({ repository }) => {
        copyFileSync(repository.config, `${repository.config}.2`);
        return { WALT_CONFIG: `${repository.config}.2` };
      },
    ],
    [
      'changed settings, whatever they are',
      ({ repository }) => {
        appendFileSync(repository.config, 'WALT_COMPRESSION_LEVEL=1\n');
        const later = new Date(Date.now() + 60_000);
        utimesSync(repository.config, later, later);
      },
    ],
    ['other profiles', () => ({ AWS_PROFILE: 'other' })],
    [
      'a profile that was changed, in a file that the settings file names',
      ({ repository }) => {
        const later = new Date(Date.now() + 60_000);
        utimesSync(join(repository.folder, 'aws'), later, later);
      },
    ],
    ['a folder without its binding', (cluster) => removeMatching(cluster, /bound$/)],
  ])('%s', async (_, change) => {
    const cluster = await pushFirst({ AWS_CONFIG_FILE: '"aws"' });
    const env = (change(cluster) ?? {}) as Readonly<Record<string, string>>;
    expect(await cluster.isAnswered(second, env)).toBe(false);
  });

  it('what was set aside since, and nothing for long', async () => {
    const cluster = await pushFirst();
    const env = { WALT_PGDATA: cluster.data };
    const words = ['wal-set-aside', second, '--confirm'];
    expect(await cluster.repository.run('wal-t', words, { env })).toMatchObject({ code: 0 });
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 0 });
    expect(cluster.stored).toContain(second);
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    for (const path of cluster.markers.filter((marker) => marker.endsWith('.until'))) {
      utimesSync(join(cluster.data, 'pg_wal/.wal-t/pushed', path), longAgo, longAgo); // on another host
    }
    expect(await cluster.isAnswered(third)).toBe(false);
  });

  it('another archive of the same command: each has its own', async () => {
    const cluster = await Cluster.create();
    const other = join(cluster.repository.folder, 'other');
    const env = { WALT_REPO: `file://${other}` };
    // a cluster may be archived twice when the place at pg_wal is forgotten, or WALT_PGDATA is not; here, by the same id
    cpSync(cluster.repository.root, other, { recursive: true });
    giveAway(other);
    for (const path of readdirSync(other, { recursive: true })) giveAway(join(other, String(path)));
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    expect(await cluster.isAnswered(second, env)).toBe(false);
    expect(await cluster.push(first, env)).toMatchObject({ code: 0 });
    expect(await cluster.isAnswered(second, env)).toBe(true);
    expect(await cluster.isAnswered(second)).toBe(true);
    expect(readdirSync(other, { recursive: true }).filter((path) => /[0-9A-F]{24}$/.test(String(path)))).toHaveLength(
      5,
    );
  });

  it('a new repository at the same place, once it was adopted', async () => {
    const cluster = await pushFirst();
    rmSync(cluster.repository.root, { recursive: true });
    const adopt = { env: { WALT_PGDATA: cluster.data } };
    expect(await cluster.repository.run('wal-t', ['init', '--adopt'], adopt)).toMatchObject({ code: 0 });
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 0 });
    expect(cluster.stored).toContain(second);
  });

  it('a copy of the whole data directory, with its links, in which another server runs', async () => {
    const cluster = await pushFirst();
    const copy = new Cluster(cluster.repository, `${cluster.data}-copy`);
    const { code } = await run('cp', ['-a', cluster.data, copy.data]);
    expect(code).toBe(0);
    copy.startServer(2000);
    expect(await copy.isAnswered(second)).toBe(false);
    expect(await cluster.isAnswered(second)).toBe(true);
  });

  it('another cluster that was made in its place', async () => {
    const cluster = await pushFirst();
    const [kept, place] = [`${cluster.data}-kept`, cluster.data];
    renameSync(place, kept);
    const write = makeDataDirectory(place, '7312345678901234568');
    cluster.startServer(2000);
    write(second, makeSegment(second, { systemIdentifier: '7312345678901234568' }));
    cpSync(join(kept, 'pg_wal/.wal-t'), cluster.path('.wal-t'), { recursive: true });
    expect(await cluster.isAnswered(second)).toBe(false);
  });
});

function removeMatching(cluster: Cluster, pattern: RegExp): void {
  for (const path of cluster.markers) {
    if (pattern.test(path)) rmSync(join(cluster.data, 'pg_wal/.wal-t/pushed', path));
  }
}

describe('H10: no marker vouches for', () => {
  it.each<[string, (cluster: Cluster) => void]>([
    [
      'what was written into the file since',
      (cluster) => writeFileSync(cluster.path(second), makeSegment(second, { seed: 'x' })),
    ],
    [
      'another file of the same content',
      (cluster) => {
        const path = cluster.path(second);
        copyFileSync(path, `${path}.copy`);
        utimesSync(`${path}.copy`, longAgo, longAgo);
        renameSync(`${path}.copy`, path);
        giveAway(path);
      },
    ],
    ['a file whose stamp is gone', (cluster) => removeMatching(cluster, /\.stamp$/)],
    [
      'the file under another name, into which PostgreSQL recycles it',
      (cluster) => {
        rmSync(cluster.path(second));
        linkSync(cluster.path(third), cluster.path(second));
      },
    ],
  ])('%s', async (_, change) => {
    const cluster = await pushFirst();
    change(cluster);
    expect(await cluster.isAnswered(second)).toBe(false);
  });

  it('a file that was finished a moment ago: it may still be written to', async () => {
    const cluster = await Cluster.create(names, { finished: new Date(Date.now() + 3_600_000) });
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    expect(cluster.stored).toEqual([first]);
    expect(await cluster.isAnswered(second)).toBe(false);
  });

  it('what was written by a call that never told: a marker is set last', async () => {
    const cluster = await pushFirst();
    for (const path of cluster.markers.filter((marker) => /[0-9A-F]{24}$/.test(marker))) {
      const full = join(cluster.data, 'pg_wal/.wal-t/pushed', path);
      renameSync(full, `${full}.wal-t-${suffixOf(999_999_999)}`);
    }
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 0 });
    expect(cluster.markers.filter((path) => path.includes('.wal-t-'))).toEqual([]);
  });
});

describe('H18: the launcher', () => {
  it('leaves it to Node.js when it cannot remove a marker', async () => {
    const cluster = await pushFirst();
    const tools = join(cluster.repository.folder, 'tools');
    mkdirSync(tools);
    writeFileSync(join(tools, 'rm'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    const env = { PATH: `${tools}:${process.env.PATH}` };
    expect(await cluster.isAnswered(second, env)).toBe(false);
    expect(await cluster.push(second, env)).toMatchObject({ code: 0 });
  });

  it.each(['dash', 'bash', 'busybox sh'])('answers under %s', async (shell) => {
    const cluster = await pushFirst();
    const line = `${shell} ${join(process.cwd(), 'bin/wal-push')} pg_wal/${second} ${second}`;
    const env = { WALT_CONFIG: cluster.repository.config, WALT_NODE: '/bin/false' };
    expect(await run('sh', ['-c', line], { cwd: cluster.data, env })).toMatchObject({ code: 0, stderr: '' });
    writeFileSync(cluster.path(third), makeSegment(third, { seed: 'x' }));
    const changed = await run('sh', ['-c', line.replaceAll(second, third)], { cwd: cluster.data, env });
    expect(changed.code).not.toBe(0);
  });
});

describe('what is on its way beside the file that PostgreSQL waits for', () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());

  it('is left when it hangs in a bucket: the answer comes', async () => {
    const proxy = await FaultProxy.start(server.s3);
    onTestFinished(() => proxy.stop());
    const settings = { ...s3Settings(proxy.s3, 'ahead'), WALT_AHEAD_TIMEOUT: '300ms', WALT_IDLE_TIMEOUT: '10min' };
    const cluster = await Cluster.create(names, { settings });
    const held = [second, third].map((name) => proxy.pause({ method: 'PUT', key: new RegExp(`${name}$`) }));
    expect(await cluster.push(first)).toMatchObject({ code: 0 });
    for (const one of held) one.release();
    expect(await cluster.isAnswered(second)).toBe(false);
    expect(await cluster.push(second)).toMatchObject({ code: 0 });
  });

  it('gives way on a line on which the file that was asked for does not get through', async () => {
    const proxy = await FaultProxy.start(server.s3);
    onTestFinished(() => proxy.stop());
    const settings = { ...s3Settings(proxy.s3, 'slow'), WALT_AHEAD_TIMEOUT: '300ms', WALT_IDLE_TIMEOUT: '10min' };
    const cluster = await Cluster.create(names, { settings });
    const [asked, other] = [first, second].map((name) => proxy.pause({ method: 'PUT', key: new RegExp(`${name}$`) }));
    const pushed = cluster.push(first);
    await Promise.all([asked?.reached, other?.reached]);
    const ofOther = () => proxy.log.find(({ key, ended }) => key?.endsWith(second) === true && ended === 'client gone');
    await waitFor('the other to be given up', () => ofOther() !== undefined);
    asked?.release();
    other?.release();
    expect(await pushed).toMatchObject({ code: 0 });
  });

  it.runIf(hasFaultyFs).each(['10min', '200ms'])(
    'is left when a system call of it never ends, told after %s',
    async (idle) => {
      const cluster = await Cluster.create();
      const fs = await FaultyFs.start(cluster.repository.root);
      onTestFinished(() => fs.unmount());
      cluster.repository.configure({
        WALT_REPO: `file://${fs.path}`,
        WALT_AHEAD_TIMEOUT: '300ms',
        WALT_IDLE_TIMEOUT: idle,
      });
      expect(await cluster.push(first, { WALT_WAL_PUSH_AHEAD: '0' })).toMatchObject({ code: 0 });
      await fs.set({ hang: ['create', 'write'] }); // what is stored already is not written again
      const { code, stderr } = await cluster.push(first);
      await fs.set({});
      if (idle === '10min') expect(stderr).toBe('');
      expect(code).toBe(0);
    },
  );
});
