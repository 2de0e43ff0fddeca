/** A data directory that a server seems to recover, its archive, and what was fetched ahead for it. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { init } from '../../src/commands/init.ts';
import type { WalFetchArguments } from '../../src/commands/wal-fetch/prepare.ts';
import { type WalFetchResult, walFetch } from '../../src/commands/wal-fetch.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { makeContext, type TestContext } from './context.ts';
import { temporaryFolder } from './folders.ts';
import { TestRepository } from './repository.ts';
import type { Ended } from './run.ts';
import { makeDataDirectory, makeSegment } from './segment.ts';

/** The segment of a timeline at a place within the first 4 GiB of WAL. */
export const at = (timeline: number, place: number): string =>
  `${String(timeline).padStart(8, '0')}00000000${place.toString(16).toUpperCase().padStart(8, '0')}`;

/** As the server writes them. */
export const postmasterPid = (pid: number, started = 1_790_000_000): string =>
  `${pid}\n/data\n${started}\n5432\n/tmp\n\n  1 2\nready   \n`;

const target = 'pg_wal/RECOVERYXLOG';

/** What this process has archived of `makeSegment`, by name: most tests want the same ones, and an object is the same in every repository. */
const known = new Map<string, { readonly path: string; readonly object: Buffer }>();

export class PrefetchingCluster {
  readonly folder = temporaryFolder();
  readonly data = join(this.folder, 'data');
  readonly repository = new TestRepository({ folder: this.folder });
  readonly #put: (name: string, content: Buffer) => string;

  private constructor() {
    mkdirSync(this.data);
    this.#put = makeDataDirectory(this.data);
    this.restart(1);
  }

  /** With segments and histories, by name and content, in its archive, and in no pg_wal. */
  static async create(
    segments: readonly string[],
    histories: Readonly<Record<string, string>> = {},
  ): Promise<PrefetchingCluster> {
    const cluster = new PrefetchingCluster();
    await init(cluster.context(), { adopt: false });
    for (const [index, name] of segments.entries()) await cluster.#archiveSegment(name, index > 0);
    for (const [name, text] of Object.entries(histories)) await cluster.archive(name, Buffer.from(text));
    return cluster;
  }

  /** By a copy where `mayCopy` says so: the first push enters the cluster, and is one. */
  async #archiveSegment(name: string, mayCopy: boolean): Promise<void> {
    const { root } = this.repository;
    const copied = mayCopy ? known.get(name) : undefined;
    if (copied === undefined) {
      await this.archive(name, makeSegment(name));
      const path = this.repository.object(name);
      known.set(name, { path: relative(root, path), object: readFileSync(path) });
      return;
    }
    const path = join(root, copied.path);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, copied.object);
  }

  async archive(name: string, content: Buffer): Promise<void> {
    const path = this.#put(name, content);
    await walPush(this.context(), { path, name });
    rmSync(join(this.data, path));
  }

  /** In which PostgreSQL's own recovery runs. */
  context(settings: Readonly<Record<string, string>> = {}, members: Partial<TestContext> = {}): TestContext {
    const all = { WALT_REPO: `file://${this.repository.root}`, ...settings };
    return makeContext(all, { workingDirectory: this.data, place: 'here\n', ...members });
  }

  restart(pid: number, started?: number): void {
    writeFileSync(join(this.data, 'postmaster.pid'), postmasterPid(pid, started));
  }

  /** As PostgreSQL asks, in this process. */
  async fetch(name: string, flags: Partial<WalFetchArguments> = {}, context = this.context()): Promise<WalFetchResult> {
    const path = flags.path ?? target;
    rmSync(join(this.data, path), { force: true });
    return walFetch(context, { name, path, wordsBefore: '', ...flags });
  }

  /** By the launcher, in the data directory. */
  launch(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
    return this.repository.run('wal-fetch', words, { cwd: this.data, asRoot: true, env });
  }

  /** What stands where PostgreSQL wants it. */
  get delivered(): Buffer | undefined {
    const path = join(this.data, target);
    return existsSync(path) ? readFileSync(path) : undefined;
  }

  /** A file of the folder. */
  prefetch(name = ''): string {
    return join(this.data, 'pg_wal/.wal-t/prefetch', name);
  }

  /** The segments that the launcher may hand out; each is what was archived. */
  get prefetched(): string[] {
    if (!existsSync(this.prefetch())) return [];
    const names = readdirSync(this.prefetch()).filter((name) => /^[0-9A-F]{24}$/.test(name));
    for (const name of names) {
      if (!readFileSync(this.prefetch(name)).equals(makeSegment(name)))
        throw new Error(`${name} is not what was archived`);
    }
    return names.sort();
  }
}
