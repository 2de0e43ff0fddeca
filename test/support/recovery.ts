/** Recoveries over two timelines that wait before a segment until the test lets them on: a fault strikes in the middle, never by chance. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { copyFolder } from './copy-folder.ts';
import { makeFolder, removeFolder } from './folders.ts';
import { PostgresServer } from './postgres.ts';
import { TestRepository } from './repository.ts';
import { run } from './run.ts';
import { waitFor } from './wait.ts';

/** Rows 1 to 4 in a segment each of timeline 1, which ended within the fourth; 5 and 6 on timeline 2. */
export interface ArchivedCluster {
  /** Holds the repository. */
  readonly folder: string;
  readonly repository: TestRepository;
  /** A cold copy from before the rows, with its pg_wal: nothing but the archive keeps it from opening. */
  readonly base: PostgresServer;
  /** The segments of timeline 1 that are stored, by the number of their row. */
  readonly segments: { readonly [row: number]: string };
  remove(): Promise<void>;
}

/** What a complete recovery of an `ArchivedCluster` has. */
export const allRows = '1 2 3 4 5 6';

/** The rows of a server with `insertRow`. */
export function rowsOf(server: PostgresServer): Promise<string> {
  return server.value('select string_agg(n::text, $$ $$ order by n) from t');
}

/** Commits row `n` into table `t`. */
export async function insertRow(server: PostgresServer, n: number): Promise<void> {
  await server.query(`insert into t values (${n})`);
}

/** Commits row `n`, ends its segment and waits until that is archived. @returns the segment's name. */
export async function archiveRow(server: PostgresServer, n: number): Promise<string> {
  await insertRow(server, n);
  const segment = await server.switchWal();
  await server.waitUntilArchived(segment);
  return segment;
}

/** Puts every archived file as it was into a folder, as an archive_command of `cp` would have left it. @returns the folder. */
export async function unpack({ repository, folder }: ArchivedCluster): Promise<string> {
  const raw = join(folder, 'raw');
  await run('mkdir', [raw]);
  for (const path of repository.files().filter((path) => path.includes('/wal/'))) {
    const { code, stderr } = await repository.run('wal-fetch', [basename(path), join(raw, basename(path))]);
    if (code !== 0) throw new Error(stderr);
  }
  return raw;
}

export interface ArchiveOptions {
  /** Of the primary's repository. */
  readonly settings?: Readonly<Record<string, string>>;
  /** The same while it recovers, which may take other keys. */
  readonly recovering?: Readonly<Record<string, string>>;
}

export async function archiveTwoTimelines(major: number, options: ArchiveOptions = {}): Promise<ArchivedCluster> {
  const { settings = {}, recovering = settings } = options;
  const folder = makeFolder('archived');
  const repository = await new TestRepository({ folder, settings }).init();
  const { archive_command = '', ...commands } = repository.serverSettings;
  const server = PostgresServer.create({ major, settings: commands });
  await server.start();
  await server.query('create table t (n int)');
  await server.stop();
  const base = server.copy();
  await server.start();
  const endSegment = async (n: number) => {
    await insertRow(server, n);
    return server.switchWal();
  };
  const segments: Record<number, string> = {};
  for (const n of [1, 2, 3]) segments[n] = await endSegment(n);
  await server.archiveAtOnce(archive_command);
  await server.setArchiveCommand('');
  await insertRow(server, 4);
  await server.stop('SIGQUIT');
  repository.configure(recovering);
  server.signal('recovery.signal');
  await server.open();
  for (const n of [5, 6]) await endSegment(n);
  await server.archiveAtOnce(archive_command); // also the end of timeline 1, as .partial
  await server.remove();
  const remove = async () => {
    await base.remove();
    removeFolder(folder);
  };
  return { folder, repository, base, segments, remove };
}

export interface RecoveryOptions {
  readonly signal: 'recovery.signal' | 'standby.signal';
  /** The segment that the server asks for and is made to wait for, the first time. */
  readonly before: string;
  /** Of the repository, which is a copy unless WALT_REPO is among them. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Makes another place through which the repository in `root` is seen. @returns its path. */
  readonly through?: (root: string) => Promise<string>;
  /** Instead of wal-fetch. */
  readonly restoreCommand?: string;
}

/** A copy of the base, and of the repository, of an `ArchivedCluster`, to be recovered with a fault in its way. */
export class GatedRecovery {
  readonly server: PostgresServer;
  readonly repository: TestRepository;
  readonly #folder = makeFolder('recovery');
  readonly #archived: ArchivedCluster;
  readonly #options: RecoveryOptions;

  constructor(archived: ArchivedCluster, options: RecoveryOptions) {
    this.#archived = archived;
    this.#options = options;
    this.repository = new TestRepository({ folder: this.#folder, settings: options.settings ?? {} });
    this.server = archived.base.copy();
    this.server.signal(options.signal);
    const command = options.restoreCommand ?? this.repository.serverSettings.restore_command;
    writeFileSync(this.#hold, '');
    writeFileSync(
      join(this.#folder, 'gate'),
      // what an earlier call has fetched of it would be there, whatever becomes of the archive
      `[ "$1" = ${options.before} ] && [ -e ${this.#hold} ] || exit 0
rm -rf pg_wal/.wal-t/prefetch
: >${this.#asked}
while [ -e ${this.#hold} ]; do sleep 0.02; done\n`,
    );
    this.server.configure({ archive_mode: 'off', restore_command: `sh ${this.#folder}/gate %f; ${command}` });
  }

  get #hold(): string {
    return join(this.#folder, 'hold');
  }

  get #asked(): string {
    return join(this.#folder, 'asked');
  }

  /** Starts the server; returns when it waits for the segment, having replayed all before. */
  async reach(): Promise<void> {
    const { through, settings = {} } = this.#options;
    if (settings.WALT_REPO === undefined) {
      await copyFolder(this.#archived.repository.root, this.repository.root);
    }
    if (through !== undefined) {
      this.repository.configure({ ...settings, WALT_REPO: `file://${await through(this.repository.root)}` });
    }
    this.server.launch();
    await waitFor('the server to ask for the segment', () => existsSync(this.#asked) || !this.server.isRunning);
    if (!this.server.isRunning) throw new Error(this.server.log);
  }

  /** Lets wal-fetch be called. */
  letOn(): void {
    rmSync(this.#hold);
  }

  async remove(): Promise<void> {
    await this.server.remove();
    removeFolder(this.#folder);
  }
}

/** Reverses one byte in the middle of a file; twice, and it is as before. */
export function flipByte(path: string): void {
  const content = readFileSync(path);
  const place = content.length >> 1;
  content.writeUInt8(content.readUInt8(place) ^ 0xff, place);
  writeFileSync(path, content);
}
