/** A push is durable, happens once and never overwrites: over repeats, races, kills, damage and the files that promotions leave. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { openWalFile } from '../../src/archive/wal-archive.ts';
import { collect } from '../../src/bytes.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { walFetch } from '../../src/commands/wal-fetch.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { ConflictError, CorruptError } from '../../src/errors.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { giveAway } from '../support/account.ts';
import { makeContext } from '../support/context.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, launcher, type RunOptions, run } from '../support/run.ts';
import { makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';
import { hasTool } from '../support/tools.ts';

const [first, second, third] = ['000000010000000000000001', '000000010000000000000002', '000000010000000000000003'];
const mebibyte = 1024 * 1024;

/** A data directory that archives into a repository, through the launchers unless told otherwise. */
class Cluster {
  readonly repository: TestRepository;
  readonly data: string;
  readonly #write: (name: string, content: Buffer) => string;

  constructor(repository: TestRepository, { name = 'data', systemIdentifier = testSystemIdentifier } = {}) {
    this.repository = repository;
    this.data = join(repository.folder, name);
    this.#write = makeDataDirectory(this.data, systemIdentifier);
  }

  /** Puts a file into pg_wal and archives it. */
  push(name: string, content: Buffer, options: RunOptions = {}): Promise<Ended> {
    const path = this.write(name, content);
    return this.repository.run('wal-push', [path, name], { cwd: this.data, ...options });
  }

  /** The same in this process. */
  pushHere(name: string, content: Buffer): Promise<unknown> {
    return walPush(this.context(), { path: this.write(name, content), name });
  }

  write(name: string, content: Buffer): string {
    return this.#write(name, content);
  }

  /** What wal-fetch delivers; undefined when it fails. */
  async fetch(name: string): Promise<Buffer | undefined> {
    const { code } = await this.repository.run('wal-fetch', [name, 'pg_wal/RECOVERYXLOG'], { cwd: this.data });
    return code === 0 ? readFileSync(this.target) : undefined;
  }

  get target(): string {
    return join(this.data, 'pg_wal/RECOVERYXLOG');
  }

  /** What `pg_wal/.wal-t/repository` remembers. */
  get remembered(): string {
    return readFileSync(join(this.data, 'pg_wal/.wal-t/repository'), 'utf8').trim();
  }

  /** For a command in this process. */
  context() {
    return makeContext({ WALT_REPO: `file://${this.repository.root}` }, { workingDirectory: this.data });
  }

  /** The content of a stored file, by its object alone. */
  async stored(name: string): Promise<Buffer> {
    const storage = new FileStorage(this.repository.root, { idleMs: 10_000, requestMs: 10_000 });
    const file = parseWalFileName(name);
    if (file === undefined) throw new Error(name);
    const { content } = await openWalFile({ storage, systemIdentifier: testSystemIdentifier, keys: noKeys }, file);
    return collect(content, 64 * mebibyte);
  }
}

async function makeCluster(): Promise<Cluster> {
  return new Cluster(await new TestRepository().init());
}

const isTorture = process.env.TORTURE === '1';

/** Files under final names, without the two documents. */
function objects({ repository }: Cluster): string[] {
  const paths = repository.files().filter((path) => !path.endsWith('.json') && !path.startsWith('.tmp/'));
  return paths.map((path) => path.slice(path.lastIndexOf('/') + 1));
}

function temporaryFiles({ repository }: Cluster): string[] {
  return repository.files().filter((path) => path.startsWith('.tmp/'));
}

function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

describe('the same name again', () => {
  it('stores a segment once, however often it is pushed', async () => {
    const cluster = await makeCluster();
    expect(await cluster.push(first, makeSegment(first))).toMatchObject({ code: 0, stdout: '', stderr: '' });
    const object = readFileSync(cluster.repository.object(first));
    expect(await cluster.push(first, makeSegment(first))).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(objects(cluster)).toEqual([first]);
    expect(readFileSync(cluster.repository.object(first)).equals(object)).toBe(true);
    expect(temporaryFiles(cluster)).toEqual([]);
  });

  it('refuses other content, keeps what is stored, and names both origins', async () => {
    const cluster = await makeCluster();
    const [mine, others] = [makeSegment(first), makeSegment(first, { seed: 'diverged' })];
    await cluster.push(first, mine);
    const { code, stderr } = await cluster.push(first, others);
    expect(code).toBe(5);
    const hosts = `stored: SHA-256 ${sha256(mine).slice(0, 16)}…, pushed 20.*Z by .+; refused: SHA-256 ${sha256(others).slice(0, 16)}…, from .+;`;
    expect(stderr).toMatch(new RegExp(`^wal-push: detail: ${hosts}`, 'm'));
    expect((await cluster.stored(first)).equals(mine)).toBe(true);
    expect(temporaryFiles(cluster)).toEqual([]);
  });

  it.each([
    { how: 'truncated', sizeBytes: 10_000 },
    { how: 'cut by its last byte', sizeBytes: -1 },
    { how: 'cut in its header', sizeBytes: 20 },
    { how: 'emptied', sizeBytes: 0 },
  ])('H15: never calls an object "already there" that is $how, nor a conflict', async ({ sizeBytes }) => {
    const cluster = await makeCluster();
    await cluster.pushHere(first, makeSegment(first));
    const object = cluster.repository.object(first);
    const size = readFileSync(object).length;
    truncateSync(object, sizeBytes < 0 ? size + sizeBytes : sizeBytes);
    const left = readFileSync(object);
    const other = cluster.pushHere(first, makeSegment(first, { seed: 'diverged' }));
    await expect(other).rejects.toBeInstanceOf(CorruptError);
    expect((await cluster.push(first, makeSegment(first), { asRoot: true })).code).toBe(6);
    expect(readFileSync(object).equals(left)).toBe(true);
  });

  it('H15: syncs an object that is there already before it says so', { skip: !hasTool('strace') }, async () => {
    const cluster = await makeCluster();
    await cluster.push(first, makeSegment(first));
    const trace = join(cluster.repository.folder, 'trace');
    const words = ['-f', '-y', '-e', 'trace=fsync,exit_group', '-o', trace, launcher('wal-push')];
    const env = { WALT_CONFIG: cluster.repository.config };
    const ended = await run('strace', [...words, `pg_wal/${first}`, first], { cwd: cluster.data, env, asRoot: true });
    expect(ended.code).toBe(0);
    const object = cluster.repository.object(first);
    const synced = [...readFileSync(trace, 'utf8').matchAll(/fsync\(\d+<([^>]*)>/g)].map(([, path]) => path);
    for (let path = object; path !== cluster.repository.folder; path = dirname(path)) expect(synced).toContain(path);
  });
});

describe('racing pushers', () => {
  const count = (racers: number) => Array.from({ length: racers }, (_, index) => index);
  // where each is a process, few meet anyhow
  const racers = count(isTorture ? 16 : 6);

  it('of different content: exactly one wins, and what is stored is its own', async () => {
    const repository = await new TestRepository().init();
    const clusters = racers.map((racer) => new Cluster(repository, { name: `clone${racer}` }));
    const content = (racer: number) => makeSegment(first, { seed: `${racer}` });
    const ended = await Promise.all(clusters.map((cluster, racer) => cluster.push(first, content(racer))));
    const codes = ended.map(({ code }) => code);
    expect([...codes].sort()).toEqual([0, ...racers.slice(1).map(() => 5)]);
    const [cluster] = clusters as [Cluster];
    expect((await cluster.stored(first)).equals(content(codes.indexOf(0)))).toBe(true);
    expect(temporaryFiles(cluster)).toEqual([]);
  });

  it('in one process, where every step meets every other: exactly one of 16 wins', async () => {
    const racers = count(16);
    const repository = await new TestRepository().init();
    const clusters = racers.map((racer) => new Cluster(repository, { name: `clone${racer}` }));
    const content = (racer: number) => makeSegment(first, { seed: `${racer}` });
    const pushes = clusters.map((cluster, racer) =>
      walPush(cluster.context(), { path: cluster.write(first, content(racer)), name: first }),
    );
    const ended = await Promise.allSettled(pushes);
    const winners = racers.filter((racer) => ended[racer]?.status === 'fulfilled');
    expect(winners).toHaveLength(1);
    for (const one of ended) if (one.status === 'rejected') expect(one.reason).toBeInstanceOf(ConflictError);
    const [cluster] = clusters as [Cluster];
    expect((await cluster.stored(first)).equals(content(winners[0] ?? -1))).toBe(true);
    expect(temporaryFiles(cluster)).toEqual([]);
  });

  it('of the same content: all succeed, with one object and one entry of the cluster', async () => {
    const repository = await new TestRepository().init();
    const clusters = racers.map((racer) => new Cluster(repository, { name: `clone${racer}` }));
    const ended = await Promise.all(clusters.map((cluster) => cluster.push(first, makeSegment(first))));
    expect(ended.map(({ code }) => code)).toEqual(racers.map(() => 0));
    const [cluster] = clusters as [Cluster];
    expect((await cluster.stored(first)).equals(makeSegment(first))).toBe(true);
    expect(repository.files().filter((path) => !path.startsWith('probe/'))).toHaveLength(3);
  });
});

it('leaves no part of an object when it is killed, again and again; the next push succeeds, and what was left behind goes', async () => {
  const cluster = await makeCluster();
  const random = seededRandom(9);
  const nameOf = (index: number) => `0000000100000000${index.toString(16).toUpperCase().padStart(8, '0')}`;
  const contentOf = (index: number) => makeSegment(nameOf(index), { sizeBytes: 4 * mebibyte, fill: 'random' });
  const started = Date.now();
  expect((await cluster.push(nameOf(100), contentOf(100), { asRoot: true })).code).toBe(0);
  const durationMs = Date.now() - started;
  let killed = 0;
  const rounds = isTorture ? 50 : 10;
  for (let index = 0; index < rounds; index += 1) {
    const [name, content] = [nameOf(index), contentOf(index)];
    const pushing = cluster.push(name, content, {
      asRoot: true,
      ownGroup: true,
      onStart: async ({ pid = 0 }) => {
        // every other one at the time that matters most: while the object is written and gets its name
        if (index % 2 === 0) await pause(random(durationMs));
        else await appearance(cluster, name, random(10));
        killGroup(pid);
      },
    });
    const { signal, code } = await pushing;
    if (signal === 'SIGKILL') killed += 1;
    else expect(code).toBe(0);
    if (objects(cluster).includes(name)) expect((await cluster.stored(name)).equals(content)).toBe(true);
    if (index % 10 === 0) expect((await cluster.push(name, content, { asRoot: true })).code).toBe(0);
    else await walPush(cluster.context(), { path: `pg_wal/${name}`, name });
    expect((await cluster.stored(name)).equals(content)).toBe(true);
    rmSync(join(cluster.data, 'pg_wal', name));
    rmSync(cluster.repository.object(name));
  }
  expect(killed).toBeGreaterThan(rounds / 5);
  expect((await cluster.push(nameOf(101), contentOf(101), { asRoot: true })).code).toBe(0);
  expect(temporaryFiles(cluster)).toEqual([]);
});

describe('one changed byte of a stored object', () => {
  const changes = isTorture ? 200 : 100;

  /** The first bytes of the envelope and the last of the object, then anywhere. */
  function* changedObjects(object: Buffer, seed: number) {
    const random = seededRandom(seed);
    for (let index = 0; index < changes; index += 1) {
      const offset = index < 40 ? index : index < 50 ? object.length - 1 - (index - 40) : random(object.length);
      const changed = Buffer.from(object);
      changed.writeUInt8(changed.readUInt8(offset) ^ (1 + random(255)), offset);
      yield { index, offset, changed };
    }
  }

  it('is refused, with no file at the destination, or delivered byte for byte', async () => {
    const cluster = await makeCluster();
    const content = makeSegment(first);
    await cluster.push(first, content, { asRoot: true });
    const path = cluster.repository.object(first);
    const answers = { refused: 0, delivered: 0 };
    for (const { index, offset, changed } of changedObjects(readFileSync(path), 17)) {
      writeFileSync(path, changed);
      rmSync(cluster.target, { force: true });
      const answer = index % 50 === 0 ? await fetchByLauncher(cluster, first) : await fetchInProcess(cluster, first);
      answers[answer] += 1;
      const found = existsSync(cluster.target) ? readFileSync(cluster.target) : undefined;
      expect(found?.equals(content), `byte ${offset}`).toBe(answer === 'delivered' ? true : undefined);
      expect(readdirSync(join(cluster.data, 'pg_wal')).filter((name) => name.includes('.wal-t-'))).toEqual([]);
    }
    expect(answers.refused).toBeGreaterThan(changes * 0.9);
  });

  it('is noticed by zstd -d, or gives the same bytes', { skip: !hasTool('zstd') }, async () => {
    const cluster = await makeCluster();
    const content = makeSegment(first);
    await cluster.push(first, content, { asRoot: true });
    const path = cluster.repository.object(first);
    const wrong: number[] = [];
    for (const { index, offset, changed } of changedObjects(readFileSync(path), 17)) {
      if (index >= 60 && !isTorture) break; // each is a process
      writeFileSync(path, changed);
      const { status, stdout } = spawnSync('zstd', ['-dc', path], { maxBuffer: 64 * mebibyte });
      if (status === 0 && !stdout.equals(content)) wrong.push(offset);
    }
    expect(wrong).toEqual([]);
  });
});

describe('content', () => {
  const history = Buffer.from('1\t0/3000100\tno recovery target specified\n');
  const label = `${third}.00000028.backup`;
  const labelText = `START WAL LOCATION: 0/300028 (file ${third})\nSTOP WAL LOCATION: 0/300100 (file ${third})\n`;

  it.each([
    { what: 'a segment', name: first, content: makeSegment(first) },
    { what: 'a segment that does not compress', name: first, content: makeSegment(first, { fill: 'random' }) },
    { what: 'a segment of zeros', name: first, content: makeSegment(first, { fill: 'zeros' }) },
    {
      what: 'a segment of 16 MiB',
      name: first,
      content: makeSegment(first, { sizeBytes: 16 * mebibyte, fill: 'random' }),
    },
    {
      what: 'H11: the first segment of a new timeline, with the old one in its header',
      name: '000000020000000000000003',
      content: makeSegment('000000020000000000000003', { timeline: 1 }),
    },
    {
      what: "H17: a segment of a new major version's unknown magic",
      name: first,
      content: withMagic(makeSegment(first), 0xd7ff),
    },
    { what: 'a partial segment', name: `${third}.partial`, content: makeSegment(`${third}.partial`) },
    { what: 'a history file', name: '00000002.history', content: history },
    { what: 'a backup history file', name: label, content: Buffer.from(labelText) },
  ])('comes back byte for byte, by wal-fetch and by zstd -d: $what', async ({ name, content }) => {
    const cluster = await makeCluster();
    expect(await cluster.push(name, content)).toMatchObject({ code: 0, stderr: '' });
    expect((await cluster.fetch(name))?.equals(content)).toBe(true);
    if (!hasTool('zstd')) return;
    const { stdout } = spawnSync('zstd', ['-dc', cluster.repository.object(name)], { maxBuffer: 64 * mebibyte });
    expect(stdout.equals(content)).toBe(true);
  });

  it('H12: keeps both ends of a segment that two standbys were promoted out of', async () => {
    const cluster = await makeCluster();
    const partial = `${third}.partial`;
    const [mine, other] = [makeSegment(partial), makeSegment(partial, { seed: 'other standby' })];
    const beside = `${partial}.${sha256(other).slice(0, 8)}`;
    expect((await cluster.push(partial, mine)).code).toBe(0);
    for (let times = 0; times < 2; times += 1) expect((await cluster.push(partial, other)).code).toBe(0);
    expect((await cluster.push(partial, mine)).code).toBe(0);
    expect(objects(cluster)).toEqual([partial, beside]);
    expect((await cluster.stored(partial)).equals(mine)).toBe(true);
    expect((await cluster.stored(beside)).equals(other)).toBe(true);
  });

  it('keeps clusters of different system identifiers apart under one prefix', async () => {
    const one = await makeCluster();
    const two = new Cluster(one.repository, { name: 'other', systemIdentifier: '42' });
    const [mine, others] = [makeSegment(first), makeSegment(first, { systemIdentifier: '42' })];
    expect((await one.push(first, mine)).code).toBe(0);
    expect((await two.push(first, others)).code).toBe(0);
    expect((await one.fetch(first))?.equals(mine)).toBe(true);
    expect((await two.fetch(first))?.equals(others)).toBe(true);
  });
});

describe('the first push of a cluster', () => {
  const branch = '000000030000000000000004';
  const histories = {
    '00000002.history': Buffer.from('1\t0/200100\tno recovery target specified\n'),
    '00000003.history': Buffer.from('1\t0/200100\tno recovery target specified\n2\t0/400100\tpromoted again\n'),
  };

  it('H14: stores the histories of its timelines, which were archived long ago and elsewhere', async () => {
    const cluster = await makeCluster();
    for (const [name, content] of Object.entries(histories)) cluster.write(name, content);
    expect((await cluster.push(branch, makeSegment(branch))).code).toBe(0);
    expect(objects(cluster)).toEqual([branch, ...Object.keys(histories)]);
    for (const [name, content] of Object.entries(histories)) {
      expect((await cluster.stored(name)).equals(content)).toBe(true);
      expect(await cluster.push(name, content)).toMatchObject({ code: 0, stderr: '' });
    }
  });

  it('H14: enters no cluster whose history is not one', async () => {
    const cluster = await makeCluster();
    cluster.write('00000002.history', Buffer.from('nonsense\n'));
    expect((await cluster.push(branch, makeSegment(branch))).code).toBe(6);
    expect(objects(cluster)).toEqual([]);
    expect(cluster.repository.files().filter((path) => path.endsWith('cluster.json'))).toEqual([]);
  });

  it('H16: remembers the repository, and is not misled by another one', async () => {
    const cluster = await makeCluster();
    await cluster.push(first, makeSegment(first));
    const repositoryId = idOf(cluster.repository);
    expect(cluster.remembered).toBe(repositoryId);
    rmSync(cluster.repository.root, { recursive: true });
    await cluster.repository.init();
    expect(idOf(cluster.repository)).not.toBe(repositoryId);
    expect((await cluster.push(second, makeSegment(second))).code).toBe(3);
    expect(objects(cluster)).toEqual([]);
    const env = { WALT_PGDATA: cluster.data };
    expect((await cluster.repository.run('wal-t', ['init', '--adopt'], { env })).code).toBe(0);
    expect((await cluster.push(second, makeSegment(second))).code).toBe(0);
    expect(cluster.remembered).toBe(idOf(cluster.repository));
  });
});

describe('WALT_INIT=auto', () => {
  function emptyCluster(): Cluster {
    const repository = new TestRepository({ settings: { WALT_INIT: 'auto' } });
    mkdirSync(repository.root);
    giveAway(repository.root);
    return new Cluster(repository);
  }

  it('makes the repository once, also when several clusters begin at the same time', async () => {
    const { repository } = emptyCluster();
    const clusters = ['42', '43', '44', '45'].map((id) => new Cluster(repository, { name: id, systemIdentifier: id }));
    const ended = await Promise.all(
      clusters.map((cluster, index) => cluster.push(first, makeSegment(first, { systemIdentifier: `${42 + index}` }))),
    );
    expect(ended.map(({ code }) => code)).toEqual([0, 0, 0, 0]);
    expect(clusters.map(({ remembered }) => remembered)).toEqual(clusters.map(() => idOf(repository)));
  });

  it('H16: makes none where this cluster was archived before and the folder is empty now', async () => {
    const cluster = emptyCluster();
    expect((await cluster.push(first, makeSegment(first))).code).toBe(0);
    rmSync(cluster.repository.root, { recursive: true });
    mkdirSync(cluster.repository.root);
    giveAway(cluster.repository.root);
    const { code, stderr } = await cluster.push(second, makeSegment(second));
    expect(code).toBe(3);
    expect(stderr).toMatch(/^wal-push: error: the repository is not at file:/m);
    expect(cluster.repository.files()).toEqual([]);
  });

  it('H16: makes no folder', async () => {
    const cluster = emptyCluster();
    rmSync(cluster.repository.root, { recursive: true });
    expect((await cluster.push(first, makeSegment(first))).code).toBe(4);
    expect(existsSync(cluster.repository.root)).toBe(false);
  });
});

/** Waits until something of the object is in the repository, then a little longer. */
async function appearance({ repository }: Cluster, name: string, afterMs: number): Promise<void> {
  const isThere = () => repository.files().some((path) => path.startsWith('.tmp/') || path.endsWith(`/${name}`));
  for (let polls = 0; polls < 2000 && !isThere(); polls += 1) await pause(1);
  await pause(afterMs);
}

/** The launcher and all that it started; it may have ended. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // nothing is left to kill
  }
}

async function fetchInProcess(cluster: Cluster, name: string): Promise<'refused' | 'delivered'> {
  try {
    await walFetch(cluster.context(), { name, path: 'pg_wal/RECOVERYXLOG' });
    return 'delivered';
  } catch (error) {
    expect(error).toBeInstanceOf(CorruptError);
    return 'refused';
  }
}

async function fetchByLauncher({ repository, data }: Cluster, name: string): Promise<'refused' | 'delivered'> {
  const { code } = await repository.run('wal-fetch', [name, 'pg_wal/RECOVERYXLOG'], { cwd: data, asRoot: true });
  expect([0, 200]).toContain(code);
  return code === 0 ? 'delivered' : 'refused';
}

function idOf({ root }: TestRepository): string {
  const document = JSON.parse(readFileSync(join(root, 'repository.json'), 'utf8')) as { readonly repository: string };
  return document.repository;
}

function withMagic(segment: Buffer, magic: number): Buffer {
  segment.writeUInt16LE(magic, 0);
  return segment;
}
