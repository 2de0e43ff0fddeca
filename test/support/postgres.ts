/** Real PostgreSQL servers for tests and the demo: each in a folder of its own, on a socket of its own, run as another account where we are root. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import pg from 'pg';
import { account, giveAway } from './account.ts';
import { makeCluster } from './cluster-template.ts';
import { makeFolder, removeFolder } from './folders.ts';
import { serverBin } from './installation.ts';
import { asPidOne, childOf } from './pid-namespace.ts';
import { plainEnvironment } from './run.ts';
import { waitFor } from './wait.ts';

export interface ServerOptions {
  readonly major: number;
  readonly settings?: Readonly<Record<string, string>>;
  /** MiB; one keeps tests fast. */
  readonly walSegmentSize?: number;
  /** Do the pages carry checksums? Unless told, as the version has it: 18 does, older ones do not. */
  readonly checksums?: boolean;
  /** With database `postgres` alone, so that a backup has a third of the files and bytes: nothing can create another one. */
  readonly isSmall?: boolean;
  /** Another set of executables, such as Debian's. */
  readonly bin?: string;
  /** As in a container: the server is PID 1 of a namespace of its own, and becomes the parent of whatever loses its own. */
  readonly isPidOne?: boolean;
}

/** Tables in memory, no waiting for disks, few processes: nothing here is about PostgreSQL's own durability. */
const testSettings: Readonly<Record<string, string>> = {
  listen_addresses: '',
  fsync: 'off',
  shared_buffers: '16MB',
  max_connections: '20',
  max_wal_senders: '4',
  wal_level: 'replica',
  hot_standby: 'on',
  autovacuum: 'off',
  wal_retrieve_retry_interval: '200ms',
  log_min_messages: 'info',
  restart_after_crash: 'off',
};

export class PostgresServer {
  readonly major: number;
  readonly bin: string;
  /** Holds the data directory, the socket and the log. */
  readonly folder: string;
  readonly dataDirectory: string;
  /** Further words of its command line, such as `-c config_file=…`. */
  readonly words: string[] = [];
  readonly isPidOne: boolean;
  #process: ChildProcess | undefined;

  private constructor(folder: string, options: Pick<ServerOptions, 'major' | 'bin' | 'isPidOne'>) {
    this.folder = folder;
    this.dataDirectory = join(folder, 'data');
    this.major = options.major;
    this.bin = options.bin ?? serverBin(options.major);
    this.isPidOne = options.isPidOne ?? false;
  }

  /** A new cluster, not started. */
  static create(options: ServerOptions): PostgresServer {
    const server = new PostgresServer(makeFolder(`pg${options.major}`), options);
    const words = ['-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    if (options.checksums !== undefined && options.checksums !== options.major >= 18) {
      words.push(options.checksums ? '--data-checksums' : '--no-data-checksums');
    }
    const segmentSize = options.walSegmentSize ?? 1;
    words.push(`--wal-segsize=${segmentSize}`);
    const kind = { initdb: join(server.bin, 'initdb'), words, isSmall: options.isSmall ?? false };
    makeCluster(kind, server.dataDirectory, (command, words) => server.#call(command, words));
    const sizes = { min_wal_size: `${2 * segmentSize}MB`, max_wal_size: `${Math.max(64, 4 * segmentSize)}MB` };
    server.configure({ ...testSettings, ...sizes, ...options.settings });
    return server;
  }

  /** A copy of this cluster's data directory in a folder of its own, not started. The server must be stopped, or in backup mode. */
  copy(options: Pick<ServerOptions, 'bin' | 'isPidOne'> = {}): PostgresServer {
    const { major, bin, isPidOne } = this;
    const copy = new PostgresServer(makeFolder(`pg${major}`), { major, bin, isPidOne, ...options });
    this.#call('cp', ['-a', this.dataDirectory, copy.dataDirectory]);
    rmSync(join(copy.dataDirectory, 'postmaster.pid'), { force: true });
    copy.configure({ unix_socket_directories: copy.folder });
    return copy;
  }

  /** A server like this one, whose data directory is still to be made: by a restore. */
  elsewhere(): PostgresServer {
    return new PostgresServer(makeFolder(`pg${this.major}`), this);
  }

  /** A base backup by hand, as the manual tells it: for restores, without pg_wal's content. */
  async backup(): Promise<PostgresServer> {
    const client = await this.connect();
    let copy: PostgresServer | undefined;
    try {
      await client.query(`select pg_backup_start('test', true)`);
      copy = this.copy();
      this.#call('find', [join(copy.dataDirectory, 'pg_wal'), '-type', 'f', '-delete']);
      const { rows } = await client.query<{ labelfile: string }>('select labelfile from pg_backup_stop(false)');
      const label = join(copy.dataDirectory, 'backup_label');
      writeFileSync(label, rows[0]?.labelfile ?? '');
      giveAway(label);
      return copy;
    } catch (error) {
      await copy?.remove();
      throw error;
    } finally {
      await client.end();
    }
  }

  configure(settings: Readonly<Record<string, string>>): void {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`);
    appendFileSync(join(this.dataDirectory, 'postgresql.conf'), lines.join(''));
  }

  /** An empty file in the data directory, such as `standby.signal`. */
  signal(name: 'recovery.signal' | 'standby.signal' | 'promote'): void {
    const path = join(this.dataDirectory, name);
    writeFileSync(path, '');
    giveAway(path);
  }

  /** Starts the server and waits for it to answer, unless it must not. @throws when it stops instead. */
  async start(): Promise<void> {
    this.launch();
    await waitFor('the server to answer', async () => {
      if (!this.isRunning) throw new Error(`the server stopped:\n${this.log.slice(-3000)}`);
      return this.#answers();
    });
  }

  /** Starts the server and waits until it has recovered and is open for writes. @throws when it stops instead. */
  async open(): Promise<void> {
    this.launch();
    await this.waitUntilOpen();
  }

  /** Waits until the server has recovered and is open for writes. @throws when it stops instead. */
  async waitUntilOpen(): Promise<void> {
    // a hundred commands may be called until then, on a machine that does other things
    const limitMs = 300_000;
    const isOpen = async (): Promise<boolean> => {
      if (!this.isRunning) throw new Error(`the server stopped:\n${this.log.slice(-3000)}`);
      if (this.#state !== 'ready') return false;
      return (await this.#answers()) && (await this.value('select pg_is_in_recovery()')) === 'false';
    };
    await waitFor('the recovery to end', isOpen, limitMs);
  }

  /** Starts the server without waiting. */
  launch(): void {
    const log = openSync(join(this.folder, 'log'), 'a', 0o644);
    const postmaster = [join(this.bin, 'postgres'), '-D', this.dataDirectory, '-k', this.folder, ...this.words];
    const [command = '', ...words] = this.isPidOne ? asPidOne(postmaster) : postmaster;
    const child = spawn(command, words, {
      ...(this.isPidOne ? {} : account),
      cwd: '/',
      env: plainEnvironment(),
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    child.on('exit', () => {
      if (this.#process === child) this.#process = undefined;
    });
    this.#process = child;
  }

  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /** The postmaster's process id as it is seen from here. */
  get processId(): number | undefined {
    const { pid } = this.#process ?? {};
    return pid === undefined || !this.isPidOne ? pid : childOf(pid);
  }

  /** SIGINT: fast, SIGQUIT: immediate, SIGKILL: as by a power failure. */
  async stop(signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL' = 'SIGINT'): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const { processId } = this;
    if (processId !== undefined) process.kill(processId, signal);
    await ended;
    if (signal === 'SIGKILL') await this.#orphansGone();
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Stops the server and removes all that is of it. */
  async remove(): Promise<void> {
    await this.stop('SIGQUIT');
    removeFolder(this.folder);
  }

  /** Everything that the server and the commands it called have written. */
  get log(): string {
    const path = join(this.folder, 'log');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  get connection(): { host: string; user: string; database: string } {
    return { host: this.folder, user: 'postgres', database: 'postgres' };
  }

  async connect(): Promise<pg.Client> {
    const client = new pg.Client(this.connection);
    client.on('error', () => undefined); // the server may be killed
    await client.connect();
    return client;
  }

  /** The rows of a query, each as an array of text. */
  async query(sql: string): Promise<string[][]> {
    const client = await this.connect();
    try {
      const { rows } = await client.query<unknown[]>({ text: sql, rowMode: 'array' });
      return rows.map((row) => row.map(String));
    } finally {
      await client.end();
    }
  }

  /** The only value of a query. */
  async value(sql: string): Promise<string> {
    return (await this.query(sql))[0]?.[0] ?? '';
  }

  /** Ends the running segment. @returns its name. */
  async switchWal(): Promise<string> {
    const name = await this.value('select pg_walfile_name(pg_current_wal_lsn())');
    await this.query('select pg_switch_wal()');
    return name;
  }

  /** Archives what waits of a server that had no command until now: by few calls, since all of it seems to be finished for long. */
  async archiveAtOnce(command: string): Promise<void> {
    const [wal, longAgo] = [join(this.dataDirectory, 'pg_wal'), new Date(Date.now() - 3_600_000)];
    const waiting = readdirSync(join(wal, 'archive_status')).filter((mark) => mark.endsWith('.ready'));
    for (const mark of waiting) utimesSync(join(wal, mark.slice(0, -'.ready'.length)), longAgo, longAgo);
    await this.setArchiveCommand(command);
    await this.waitUntilAllArchived();
  }

  /** While it runs; none where it is empty. */
  async setArchiveCommand(command: string): Promise<void> {
    await this.query(`alter system set archive_command = '${command}'`);
    await this.query('select pg_reload_conf()');
  }

  /** Waits until nothing is ready to be archived any more. */
  async waitUntilAllArchived(): Promise<void> {
    const folder = join(this.dataDirectory, 'pg_wal/archive_status');
    await waitFor('everything to be archived', () => !readdirSync(folder).some((name) => name.endsWith('.ready')));
  }

  async waitUntilArchived(name: string): Promise<void> {
    const done = join(this.dataDirectory, 'pg_wal/archive_status', `${name}.done`);
    await waitFor(`${basename(name)} to be archived`, () => existsSync(done));
  }

  /** What the postmaster says of itself, as pg_ctl reads it: to look costs the server nothing, and a connection much. */
  get #state(): string {
    try {
      const lines = readFileSync(join(this.dataDirectory, 'postmaster.pid'), 'latin1').split('\n');
      return (lines[7] ?? '').trim();
    } catch {
      return ''; // it does not run, or its data directory is still to be made
    }
  }

  async #answers(): Promise<boolean> {
    if (!['ready', 'standby'].includes(this.#state)) return false;
    try {
      return (await this.value('select 1')) === '1';
    } catch {
      return false;
    }
  }

  /** After a kill of the postmaster its children end by themselves, and hold the shared memory until then. */
  async #orphansGone(): Promise<void> {
    const pattern = `postgres: .*|${this.dataDirectory}`;
    await waitFor('the killed server to be gone', () => {
      const { stdout } = spawnSync('pgrep', ['-f', pattern], { encoding: 'utf8' });
      return !stdout.split('\n').some((pid) => {
        if (pid === '') return false;
        const found = spawnSync('readlink', [`/proc/${pid}/cwd`], { encoding: 'utf8' });
        return found.stdout.trim() === this.dataDirectory;
      });
    });
  }

  #call(command: string, words: readonly string[]): void {
    const { status, stderr, error } = spawnSync(command, words, {
      ...account,
      cwd: dirname(this.folder),
      env: plainEnvironment(),
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(`${command} ended with ${status}: ${stderr || error}`);
  }
}
