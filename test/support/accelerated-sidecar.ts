/**
 * The sidecar on a clock that jumps from one due time to the next while no command runs; its commands are the real ones. A process of its
 * own, bundled by who starts it. Standard output has a line of JSON for each command that has ended, and `{"port"}` and `{"isOver"}`.
 */
import { hostname } from 'node:os';
import process from 'node:process';
import { runChild } from '../../src/cli/child-command.ts';
import { sidecar } from '../../src/commands/sidecar.ts';
import { mergeEntries, readSettings } from '../../src/config.ts';
import { openLog } from '../../src/log.ts';
import { VirtualClock } from './virtual-clock.ts';

export interface AcceleratedOptions {
  /** ISO 8601. */
  readonly start: string;
  readonly days: number;
  /** A library that shows the virtual time to the commands, where there is one. */
  readonly fakeTimeLibrary: string | undefined;
}

/** A command that has ended; `at` is when it began, by the virtual clock. */
export interface AcceleratedCommand {
  readonly job: string;
  readonly command: string;
  readonly at: string;
  readonly exitCode: number;
}

const { start, days, fakeTimeLibrary } = JSON.parse(process.argv[2] ?? '') as AcceleratedOptions;
const settings = readSettings(mergeEntries(process.env, undefined));
const controller = new AbortController();
const clock = new VirtualClock(start);
let running = 0;

process.on('SIGTERM', () => controller.abort(new Error('SIGTERM')));

function tell(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** The commands' own clock; that of timers stays as it is. */
function fakeTime(): Record<string, string> {
  if (fakeTimeLibrary === undefined) return {};
  const aheadSeconds = Math.round((clock.now() - Date.now()) / 1000);
  return {
    LD_PRELOAD: fakeTimeLibrary,
    FAKETIME: `${aheadSeconds < 0 ? '' : '+'}${aheadSeconds}`,
    DONT_FAKE_MONOTONIC: '1',
  };
}

const work = sidecar(
  {
    settings,
    log: openLog({ program: 'sidecar', level: 'info', format: 'text', write: (line) => process.stderr.write(line) }),
    signal: controller.signal,
    workingDirectory: '/',
    host: hostname(),
    libpq: {},
    crew: () => {
      throw new Error('the sidecar has no worker threads');
    },
  },
  {
    version: '0.0.0',
    clock,
    isVerifyAsked: true,
    onListening: (port) => tell({ port }),
    runCommand: async (job, words, signal) => {
      const at = new Date(clock.now()).toISOString();
      running += 1;
      const end = await runChild(words, {
        // the clock of the storage is the real one, and whether both agree is one of the checks
        environment: { ...process.env, ...(job === 'check' ? {} : fakeTime()) },
        signal,
        killAfterMs: 8000,
        onLine: (line) => process.stderr.write(`${job}: ${line}\n`),
      });
      running -= 1;
      tell({ job, command: words.join(' '), at, exitCode: end.exitCode } satisfies AcceleratedCommand);
      return end;
    },
  },
);

/** Until all that can go on has gone on. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

const until = clock.now() + days * 24 * 3_600_000;
for (;;) {
  await settle();
  if (running > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  else if (!clock.step(until)) break;
}
await settle();
tell({ isOver: true });
await work;
