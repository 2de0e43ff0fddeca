/** Times whole processes by the operating system's own account: wall, CPU with all children, peak memory of the largest one, the busiest threads. */
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
  /** Looks at what a run has left. @throws when it is not what it should be. */
  readonly after?: () => void;
}

export interface Figures {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakMiB: number;
  /** CPU time of the largest process's main thread. */
  readonly mainMs: number;
  /** Of its busiest other thread that waits for events: a worker of Node.js. */
  readonly workerMs: number;
  /** Of its busiest thread of another kind: libuv's pool, the engine's helpers. */
  readonly poolMs: number;
}

/** Of figures of one kind, the same for all runs. */
export interface Summary<Kind extends object> {
  readonly name: string;
  readonly runs: number;
  readonly median: Kind;
  readonly min: Kind;
  readonly max: Kind;
  /** Of each round. */
  readonly rounds: readonly Kind[];
}

export type Result = Summary<Figures>;

/**
 * Node.js tells nothing of a child's resources; every Python does. Threads are looked at while they live, those of the process with
 * the most CPU time count. One that was seen in epoll_wait or epoll_pwait runs an event loop.
 */
const waiter = `
import json, os, sys, threading, time
started = time.monotonic()
pid = os.fork()
if pid == 0:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.execvp(sys.argv[1], sys.argv[1:])

ticks = 1000 / os.sysconf('SC_CLK_TCK')
seen, loops, parents = {}, set(), {}

def read(path):
    with open(path, encoding='latin1') as file:
        return file.read()

def look():
    for name in filter(str.isdigit, os.listdir('/proc')):
        one = int(name)
        try:
            if one not in parents:
                parents[one] = int(read(f'/proc/{one}/stat').rsplit(')', 1)[1].split()[1])
            above = one
            while above not in (pid, 0, 1, None):
                above = parents.get(above)
            if above != pid:
                continue
            for thread in os.listdir(f'/proc/{one}/task'):
                fields = read(f'/proc/{one}/task/{thread}/stat').rsplit(')', 1)[1].split()
                seen[one, int(thread)] = (int(fields[11]) + int(fields[12])) * ticks
                if read(f'/proc/{one}/task/{thread}/syscall').split()[0] in ('22', '232', '281'):
                    loops.add(int(thread))
        except (OSError, IndexError, ValueError):
            pass

def sample():
    while not ended.wait(0.1):
        look()

ended = threading.Event()
sampler = threading.Thread(target=sample, daemon=True)
sampler.start()
_, status, used = os.wait4(pid, 0)
wall = (time.monotonic() - started) * 1000
ended.set()
sampler.join()
total = {}
for (one, _), spent in seen.items():
    total[one] = total.get(one, 0) + spent
busiest = max(total, key=total.get, default=None)
threads = {thread: spent for (one, thread), spent in seen.items() if one == busiest}
print(json.dumps({
    'status': os.waitstatus_to_exitcode(status),
    'wallMs': wall,
    'cpuMs': (used.ru_utime + used.ru_stime) * 1000,
    'peakMiB': used.ru_maxrss / 1024,
    'mainMs': threads.get(busiest, 0),
    'workerMs': max((spent for thread, spent in threads.items() if thread != busiest and thread in loops), default=0),
    'poolMs': max((spent for thread, spent in threads.items() if thread != busiest and thread not in loops), default=0),
}))
`;

/** Runs the contenders in turn, A B C A B C …, so that a machine whose speed drifts is fair to all. `warmUps` rounds are not counted. */
export function measure(
  contenders: readonly Contender[],
  runs: number,
  { warmUps = 1 }: { readonly warmUps?: number } = {},
): Result[] {
  const found = new Map<string, Figures[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 1 - warmUps; round <= runs; round += 1) {
    for (const contender of contenders) {
      const figures = runOnce(contender);
      if (round > 0) found.get(contender.name)?.push(figures);
      const { wallMs, cpuMs, peakMiB } = figures;
      process.stderr.write(
        `${round}  ${contender.name}: ${wallMs.toFixed(0)} ms, ${cpuMs.toFixed(0)} ms CPU, ${peakMiB.toFixed(0)} MiB\n`,
      );
    }
  }
  return contenders.map(({ name }) => summarise(name, found.get(name) ?? []));
}

export interface SelfTimed<Kind extends object> {
  readonly name: string;
  readonly run: () => Promise<Kind>;
}

/** The same for contenders that time themselves: `warmUps` of them are not counted. */
export async function alternate<Kind extends object>(
  contenders: readonly SelfTimed<Kind>[],
  runs: number,
  { warmUps = 1 }: { readonly warmUps?: number } = {},
): Promise<Summary<Kind>[]> {
  const found = new Map<string, Kind[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 1 - warmUps; round <= runs; round += 1) {
    for (const { name, run } of contenders) {
      const figures = await run();
      if (round > 0) found.get(name)?.push(figures);
    }
  }
  return contenders.map(({ name }) => summarise(name, found.get(name) ?? []));
}

/** One run of one contender. @throws when it fails. */
export function runOnce({ name, command, cwd = '/', env = {}, before, after }: Contender): Figures {
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
  after?.();
  return measured;
}

function summarise<Kind extends object>(name: string, figures: readonly Kind[]): Summary<Kind> {
  const of = (pick: (sorted: number[]) => number | undefined): Kind => {
    const one = (key: keyof Kind) => pick(figures.map((run) => Number(run[key])).sort((a, b) => a - b)) ?? Number.NaN;
    const keys = Object.keys(figures[0] ?? {}) as (keyof Kind)[];
    return Object.fromEntries(keys.map((key) => [key, one(key)])) as Kind;
  };
  return {
    name,
    runs: figures.length,
    median: of((sorted) => sorted[Math.floor(sorted.length / 2)]),
    min: of((sorted) => sorted[0]),
    max: of((sorted) => sorted.at(-1)),
    rounds: figures,
  };
}

export interface RatioByRound {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Of two that ran in turn, each time within the same round: a machine whose speed drifts was the same for both. */
export function ratioByRound<Kind extends object>(
  one: Summary<Kind>,
  other: Summary<Kind>,
  of: (figures: Kind) => number,
): RatioByRound {
  const ratios = one.rounds.map((figures, round) => of(figures) / of(other.rounds[round] ?? figures));
  const sorted = ratios.sort((a, b) => a - b);
  const pick = (ratio: number | undefined) => ratio ?? Number.NaN;
  return { median: pick(sorted[Math.floor(sorted.length / 2)]), min: pick(sorted[0]), max: pick(sorted.at(-1)) };
}

export function formatRatio({ median, min, max }: RatioByRound): string {
  return `${median.toFixed(2)} × (${min.toFixed(2)}–${max.toFixed(2)} in the rounds)`;
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
