/** A sidecar as a process of its own, through its launcher, beside a server. */
import { type ChildProcess, spawn } from 'node:child_process';
import { onTestFinished } from 'vitest';
import { account } from './account.ts';
import type { PostgresServer } from './postgres.ts';
import { processTree } from './process-tree.ts';
import type { TestRepository } from './repository.ts';
import { launcher, plainEnvironment } from './run.ts';
import { waitFor } from './wait.ts';

/** One line of its log. */
export interface LogLine {
  readonly severity: string;
  readonly program: string;
  readonly message: string;
  readonly hint?: string;
  readonly job?: string;
}

export class TestSidecar {
  /** The launcher. */
  readonly child: ChildProcess;
  log = '';
  #ended: { readonly code: number | null; readonly signal: NodeJS.Signals | null } | undefined;

  /** Listens on any free port; takes a backup at once when there is none, and neither checks nor looks at the archive by itself soon. */
  constructor(repository: TestRepository, server: PostgresServer, settings: Readonly<Record<string, string>> = {}) {
    this.child = spawn(launcher('wal-t'), ['sidecar', '--config', repository.config], {
      ...account,
      cwd: '/',
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...plainEnvironment(),
        WALT_PGDATA: server.dataDirectory,
        PGUSER: 'postgres',
        WALT_SIDECAR_LISTEN: '127.0.0.1:0',
        WALT_SIDECAR_VERIFY_SCHEDULE: 'off',
        WALT_SIDECAR_CHECK_INTERVAL: 'off',
        ...settings,
      },
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.log += text;
    });
    this.child.on('close', (code, signal) => {
      this.#ended = { code, signal };
    });
    onTestFinished(() => {
      if (this.#ended === undefined) for (const pid of this.tree()) tryKill(pid);
    });
  }

  /** How it ended; undefined while it runs. */
  get ended() {
    return this.#ended;
  }

  get lines(): LogLine[] {
    return this.log
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as LogLine);
  }

  async waitForLine(pattern: RegExp): Promise<void> {
    await this.#waitFor(`the sidecar to say ${pattern}`, () => this.lines.some(({ message }) => pattern.test(message)));
  }

  /** What it answers at `path`. */
  async get(path: string): Promise<{ readonly status: number; readonly text: string }> {
    await this.waitForLine(/metrics on port/);
    const [, port] = /metrics on port (\d+)/.exec(this.log) ?? [];
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, text: await response.text() };
  }

  async waitForMetric(sample: string): Promise<void> {
    await this.#waitFor(sample, async () => (await this.get('/metrics')).text.split('\n').includes(sample));
  }

  /** It and all that it has started. */
  tree(): number[] {
    return processTree(this.child.pid ?? 0);
  }

  /** @returns how many milliseconds it took until it and all of its processes were gone. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number> {
    const began = performance.now();
    this.child.kill(signal);
    await waitFor('the sidecar to end', () => this.#ended !== undefined);
    return performance.now() - began;
  }

  async #waitFor(what: string, isTrue: () => Promise<boolean> | boolean): Promise<void> {
    await waitFor(what, () => {
      if (this.#ended !== undefined) throw new Error(`the sidecar ended: ${this.log}`);
      return isTrue();
    }).catch((error: Error) => {
      throw new Error(`${error.message}\n${this.log.slice(-3000)}`);
    });
  }
}

function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}
