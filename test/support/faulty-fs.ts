/** A real file system with faults: a folder seen through FUSE, whose answers are switched while it is in use. Needs root and python3-fusepy. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { makeFolder, removeFolder } from './folders.ts';
import { orFailInCi } from './tools.ts';

/** A call as FUSE names it; `fsyncdir` is the fsync of a folder, `getattr` a stat. */
type Call =
  | 'link'
  | 'rename'
  | 'unlink'
  | 'mkdir'
  | 'create'
  | 'open'
  | 'read'
  | 'write'
  | 'fsync'
  | 'fsyncdir'
  | 'readdir'
  | 'getattr';

/** What is left out works as on any disk. */
export interface Behaviour {
  /** Calls that do nothing and answer this error. */
  readonly fail?: Partial<Record<Call, string>>;
  /** Calls that are done and then answer EEXIST, as NFS does when its first answer is lost. */
  readonly lostReply?: readonly Call[];
  /** Writes beyond this many bytes, counted from now, answer ENOSPC. */
  readonly spaceBytes?: number;
  /** A write takes no more than this, and says so. */
  readonly writeBytes?: number;
  readonly delayMs?: Partial<Record<Call | '*', number>>;
  /** Calls that answer only when the behaviour is set anew, or their caller is killed. */
  readonly hang?: readonly (Call | '*')[];
}

const script = fileURLToPath(new URL('faulty-fs.py', import.meta.url));
/** The first Python may be one that does not see Debian's packages. */
const python = ['python3', '/usr/bin/python3'].find(
  (path) =>
    spawnSync(path, ['-c', 'try: import fusepy\nexcept ImportError: import fuse as fusepy\nfusepy.FUSE'], {
      stdio: 'ignore',
    }).status === 0,
);

/** Can it be used here? */
export const hasFaultyFs =
  orFailInCi(process.getuid?.() === 0, 'mounting needs root') &&
  orFailInCi(python !== undefined, 'python3-fusepy is missing');

export class FaultyFs {
  /** The mount point; the content is in the folder that was given. */
  readonly path: string;
  readonly #daemon: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  private constructor(path: string, daemon: ChildProcess, answers: AsyncIterator<string>) {
    this.path = path;
    this.#daemon = daemon;
    this.#answers = answers;
  }

  /**
   * Shows `folder` at a new place. Whoever starts it unmounts it; should he be killed, it unmounts itself.
   * Where the kernel may cache what it knows of files, it is faster, but a stat may be answered without being asked.
   */
  static async start(folder: string, { cacheSeconds = 0 } = {}): Promise<FaultyFs> {
    const path = makeFolder('faulty');
    const daemon = spawn(python ?? 'python3', [script, folder, path, `${cacheSeconds}`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const answers = createInterface({ input: daemon.stdout })[Symbol.asyncIterator]();
    const mounted = await answers.next();
    if (mounted.value !== 'mounted') throw new Error('could not mount by FUSE');
    return new FaultyFs(path, daemon, answers);
  }

  /** The same, unmounted when the running test ends. */
  static async mount(folder: string): Promise<FaultyFs> {
    const mounted = await FaultyFs.start(folder);
    onTestFinished(() => mounted.unmount());
    return mounted;
  }

  /** Replaces the behaviour; calls that hang go on. */
  async set(behaviour: Behaviour): Promise<void> {
    await this.#request({ set: behaviour });
  }

  /** The calls since the last time, as `link /from /to`, in the order in which they came. Those that only look are left out. */
  async calls(): Promise<readonly string[]> {
    return JSON.parse(await this.#request({ take: 'calls' })) as string[];
  }

  /** Kills the server below the mount point: whoever uses it gets errors, for as long as it stays mounted. */
  async crash(): Promise<void> {
    const ended = once(this.#daemon, 'exit');
    this.#daemon.kill('SIGKILL');
    await ended;
  }

  /** Also when calls hang. */
  async unmount(): Promise<void> {
    if (this.#daemon.exitCode === null && this.#daemon.signalCode === null) {
      const ended = once(this.#daemon, 'exit');
      const killer = setTimeout(() => this.#daemon.kill('SIGKILL'), 5000);
      this.#daemon.stdin?.end();
      await ended;
      clearTimeout(killer);
    }
    spawnSync('umount', ['-l', this.path], { stdio: 'ignore' });
    removeFolder(this.path);
  }

  async #request(request: object): Promise<string> {
    this.#daemon.stdin?.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error('the FUSE file system has ended');
    return value;
  }
}
