/** Runs one of our own commands as a process of its own: its log lines are passed on as they come, what it prints is kept. */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { exitCodes, systemErrorReason } from '../errors.ts';
import { launcherPath } from './own-commands.ts';

export interface ChildOptions {
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Each line of its log, without the line's end. */
  readonly onLine: (line: string) => void;
  readonly signal: AbortSignal;
  /** So long after SIGTERM it is killed, with all that it has started. */
  readonly killAfterMs: number;
}

/** How it ended. */
export interface ChildEnd {
  /** 128 and the signal's number when it died by one. */
  readonly exitCode: number;
  /** Empty when it was longer than is kept. */
  readonly stdout: string;
}

/** The result of a command as JSON, even about thousands of backups, is shorter. */
const keptBytes = 16 * 1024 * 1024;

/** Never rejects: what cannot be started ends with the code of this host's faults. */
export async function runChild(words: readonly string[], options: ChildOptions): Promise<ChildEnd> {
  const { environment, onLine, signal } = options;
  // in a process group of its own: a signal for ours is not one for it, and a kill reaches all of it
  const child = spawn(launcherPath('wal-t'), words, {
    env: { ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const stop = (): void => endInTime(child, options.killAfterMs);
  if (signal.aborted) stop();
  else signal.addEventListener('abort', stop, { once: true });
  try {
    createInterface({ input: child.stderr }).on('line', onLine);
    const [stdout, exitCode] = await Promise.all([keep(child), ended(child, onLine)]);
    return { exitCode, stdout };
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

async function keep({ stdout }: ChildProcess): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stdout ?? []) {
    bytes += (chunk as Buffer).length;
    if (bytes <= keptBytes) chunks.push(chunk as Buffer);
  }
  return bytes <= keptBytes ? Buffer.concat(chunks).toString('utf8') : '';
}

function ended(child: ChildProcess, onLine: (line: string) => void): Promise<number> {
  return new Promise((resolve) => {
    child.on('error', (error) => {
      onLine(`could not be started: ${systemErrorReason(error)}`);
      resolve(exitCodes.host);
    });
    // not "exit": by then its last lines were read
    child.on('close', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  });
}

/** SIGTERM to the launcher, which passes it on; then SIGKILL to all of the group. */
function endInTime(child: ChildProcess, killAfterMs: number): void {
  child.kill('SIGTERM');
  const timer = setTimeout(() => {
    if (child.pid !== undefined) killGroup(child.pid);
  }, killAfterMs);
  child.on('close', () => clearTimeout(timer));
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // it has ended meanwhile
  }
}
