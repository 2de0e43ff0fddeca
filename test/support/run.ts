/** Runs executables as PostgreSQL does: as its account, waiting for their end, keeping what they say. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { account } from './account.ts';
import { installation } from './installation.ts';

export interface Ended {
  /** The exit code; undefined when it died by a signal. */
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Seen as soon as it runs, to kill it. */
  readonly onStart?: (child: ChildProcess) => void;
  readonly asRoot?: boolean;
  /** In a process group of its own, so that `process.kill(-pid)` reaches the launcher and all that it started. */
  readonly ownGroup?: boolean;
}

/** Variables that every command is given: none of this process's settings. */
export function plainEnvironment(): Record<string, string> {
  return { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };
}

export function run(command: string, words: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, words, {
      ...(options.asRoot === true ? {} : account),
      cwd: options.cwd ?? '/',
      env: { ...plainEnvironment(), ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: options.ownGroup === true,
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code: code ?? undefined, signal: signal ?? undefined, stdout, stderr }),
    );
    options.onStart?.(child);
  });
}

/** The path of a launcher under test. */
export function launcher(name: string): string {
  return join(installation(), 'bin', name);
}

/** Runs a launcher under test. */
export function walT(name: string, words: readonly string[], options?: RunOptions): Promise<Ended> {
  return run(launcher(name), words, options);
}
