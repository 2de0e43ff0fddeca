/** Times whole processes by the operating system's own account: wall, CPU with all children, peak memory of the largest one. */
import { spawnSync } from 'node:child_process';
import { account } from '../../test/support/account.ts';
import { plainEnvironment } from '../../test/support/run.ts';

export interface Contender {
  readonly name: string;
  readonly command: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Undone or made ready before each run, outside the measurement. */
  readonly before?: () => void;
}

export interface Figures {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakMiB: number;
}

export interface Result {
  readonly name: string;
  readonly runs: number;
  readonly median: Figures;
  readonly min: Figures;
  readonly max: Figures;
}

/** Node.js tells nothing of a child's resources; every Python does. */
const waiter = `
import json, os, sys, time
started = time.monotonic()
pid = os.fork()
if pid == 0:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
print(json.dumps({
    'status': os.waitstatus_to_exitcode(status),
    'wallMs': (time.monotonic() - started) * 1000,
    'cpuMs': (used.ru_utime + used.ru_stime) * 1000,
    'peakMiB': used.ru_maxrss / 1024,
}))
`;

/** Runs the contenders in turn, A B C A B C …, so that a machine whose speed drifts is fair to all. One round is not counted. */
export function measure(contenders: readonly Contender[], runs: number): Result[] {
  const found = new Map<string, Figures[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round <= runs; round += 1) {
    for (const contender of contenders) {
      const figures = runOnce(contender);
      if (round > 0) found.get(contender.name)?.push(figures);
    }
  }
  return contenders.map(({ name }) => summarise(name, found.get(name) ?? []));
}

function runOnce({ name, command, cwd = '/', env = {}, before }: Contender): Figures {
  before?.();
  const { status, stdout, stderr } = spawnSync('python3', ['-c', waiter, ...command], {
    ...account,
    cwd,
    env: { ...plainEnvironment(), ...env },
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`python3, which measures, ended with ${status}: ${stderr}`);
  const measured = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Figures & { status: number };
  if (measured.status !== 0) throw new Error(`${name} ended with ${measured.status}: ${stderr}`);
  return measured;
}

function summarise(name: string, figures: readonly Figures[]): Result {
  const of = (pick: (sorted: number[]) => number | undefined): Figures => {
    const one = (key: keyof Figures) => pick(figures.map((run) => run[key]).sort((a, b) => a - b)) ?? Number.NaN;
    return { wallMs: one('wallMs'), cpuMs: one('cpuMs'), peakMiB: one('peakMiB') };
  };
  return {
    name,
    runs: figures.length,
    median: of((sorted) => sorted[Math.floor(sorted.length / 2)]),
    min: of((sorted) => sorted[0]),
    max: of((sorted) => sorted.at(-1)),
  };
}

/** A table for people: medians, with the range of the wall time. */
export function formatResults(results: readonly Result[]): string {
  const rows = results.map(({ name, median, min, max }) =>
    [
      name.padEnd(34),
      median.wallMs.toFixed(0).padStart(8),
      `${min.wallMs.toFixed(0)}–${max.wallMs.toFixed(0)}`.padStart(12),
      median.cpuMs.toFixed(0).padStart(8),
      median.peakMiB.toFixed(0).padStart(9),
    ].join(' '),
  );
  return [`${'median'.padEnd(34)}  wall ms      min–max   CPU ms  peak MiB`, ...rows].join('\n');
}
