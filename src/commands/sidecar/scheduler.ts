/** Runs the jobs when they are due, and remembers how each of them ended. Does not know what they print. */
import { performance } from 'node:perf_hooks';
import { exitCodeMeanings } from '../../errors.ts';
import { formatDuration } from '../../quantities.ts';
import type { Context } from '../context.ts';
import { Agenda } from './agenda.ts';
import { type Decision, parsePrinted, questions } from './archive-view.ts';
import type { Clock } from './clock.ts';
import { type JobName, type JobPlan, type Outcome, outcomeOf } from './jobs.ts';

/** How a command of ours ended. */
export interface CommandEnd {
  /** 128 and the signal's number when it died by one. */
  readonly exitCode: number;
  /** What it printed; empty when that was too much to keep. */
  readonly stdout: string;
}

/** Runs `wal-t` with these words as a process of its own, and ends it when the signal is aborted. Never rejects. */
export type RunCommand = (job: JobName, words: readonly string[], signal: AbortSignal) => Promise<CommandEnd>;

/** What is known of a job. Times in milliseconds since 1970. */
export interface JobRecord {
  readonly name: JobName;
  isRunning: boolean;
  runs: number;
  failures: number;
  consecutiveFailures: number;
  startedAt?: number;
  succeededAt?: number;
  durationMs?: number;
  exitCode?: number;
  outcome?: Outcome;
}

/** A run that has ended. */
export interface FinishedRun {
  readonly name: JobName;
  readonly outcome: Outcome;
  readonly endedAt: number;
  /** What each of its commands printed, in their order. */
  readonly printed: readonly string[];
}

export interface SchedulerOptions {
  readonly plans: readonly JobPlan[];
  readonly clock: Clock;
  readonly runCommand: RunCommand;
  readonly jobTimeoutMs: number;
  readonly onEnd: (run: FinishedRun) => void;
}

/** However far the next moment is, the clock is looked at so often: it may have been set. */
const lookAtClockMs = 60_000;

/** How long a backup waits before it asks again whether another one has ended. */
const waitForOtherMs = 5 * 60_000;

export class Scheduler {
  readonly #context: Context;
  readonly #options: SchedulerOptions;
  readonly #agenda: Agenda;
  readonly #running = new Set<Promise<void>>();
  readonly #records: ReadonlyMap<JobName, JobRecord>;
  #forget = (): void => undefined;
  #wokenAtMs = performance.now();

  constructor(context: Context, options: SchedulerOptions) {
    this.#context = context;
    this.#options = options;
    this.#agenda = new Agenda(options.plans, options.clock.now());
    this.#records = new Map(options.plans.map(({ name }) => [name, emptyRecord(name)]));
  }

  /** Runs jobs until the context's signal is aborted and the last one has ended. */
  async run(): Promise<void> {
    const { signal } = this.#context;
    const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    this.#wake();
    if (!signal.aborted) await aborted;
    this.#forget();
    await Promise.all(this.#running);
  }

  get records(): readonly JobRecord[] {
    return [...this.#records.values()];
  }

  nextDue(name: JobName): number | undefined {
    return this.#agenda.nextDue(name, this.#options.clock.now());
  }

  /** Since when nothing was looked at, in milliseconds. */
  get silentMs(): number {
    return performance.now() - this.#wokenAtMs;
  }

  #wake(): void {
    this.#forget();
    if (this.#context.signal.aborted) return;
    this.#wokenAtMs = performance.now();
    const { clock } = this.#options;
    const now = clock.now();
    this.#agenda.notice(now);
    for (const { plan, wanted } of this.#agenda.take(now)) this.#start(plan, wanted.due);
    const moment = this.#agenda.nextMoment(now) ?? Number.POSITIVE_INFINITY;
    this.#forget = clock.after(Math.min(Math.max(moment - now, 0), lookAtClockMs), () => this.#wake());
  }

  #start(plan: JobPlan, due: number): void {
    const work = this.#perform(plan, due).then(() => {
      this.#running.delete(work);
      this.#wake();
    });
    this.#running.add(work);
  }

  async #perform(plan: JobPlan, due: number): Promise<void> {
    const { name } = plan;
    const { clock } = this.#options;
    const decision = await this.#ask(name, due);
    if (decision === 'satisfied') return this.#agenda.drop(name);
    if (decision === 'wait') return this.#agenda.postpone(name, clock.now() + waitForOtherMs);
    if (this.#context.signal.aborted) return;
    const record = this.#record(name);
    record.isRunning = true;
    record.startedAt = clock.now();
    this.#context.log[levelOf(plan)](`${name}: begins`, { detail: `due ${new Date(due).toISOString()}` });
    const begunMs = performance.now();
    const { exitCode, printed } = await this.#runCommands(plan);
    record.isRunning = false;
    record.durationMs = performance.now() - begunMs;
    if (this.#context.signal.aborted && exitCode !== 0) return; // it was told to end
    const outcome = outcomeOf(name, exitCode, parsePrinted(printed.at(-1) ?? '') !== undefined);
    const endedAt = clock.now();
    count(record, { exitCode, outcome, endedAt });
    const retryAt = this.#agenda.end(name, { now: endedAt, outcome, exitCode });
    this.#tell(plan, record, retryAt);
    this.#options.onEnd({ name, outcome, endedAt, printed });
    if (name === 'backup' || name === 'delete') this.#agenda.want('look', endedAt);
  }

  /** All commands of the job, however the first ones end. */
  async #runCommands({ name, commands }: JobPlan): Promise<{ exitCode: number; printed: string[] }> {
    const { clock, runCommand, jobTimeoutMs } = this.#options;
    const late = new AbortController();
    const forget = clock.after(jobTimeoutMs, () => {
      this.#context.log.error(`${name}: is ended, since it took longer than ${formatDuration(jobTimeoutMs)}`, {
        hint: 'If it needs that long, set WALT_SIDECAR_JOB_TIMEOUT; else find out what it waits for.',
      });
      late.abort();
    });
    const signal = AbortSignal.any([this.#context.signal, late.signal]);
    const printed: string[] = [];
    let exitCode = 0;
    try {
      for (const words of commands) {
        if (signal.aborted) break;
        const end = await runCommand(name, words, signal);
        printed.push(end.stdout);
        if (exitCode === 0) exitCode = end.exitCode;
      }
    } finally {
      forget();
    }
    return { exitCode, printed };
  }

  /** Asks the archive whether the job was done since it was due, by whomever. Where it does not answer the job is tried, which says why. */
  async #ask(name: JobName, due: number): Promise<Decision> {
    const { clock, runCommand } = this.#options;
    const { signal, log } = this.#context;
    const question = questions[name];
    if (question === undefined) return 'take';
    const { stdout } = await runCommand(name, question.words, signal);
    const decision = question.decide(stdout, { due, now: clock.now() });
    if (decision === 'wait') log.info(`${name}: waits, since another one is under way`);
    if (decision === 'satisfied') log.info(`${name}: was done since ${new Date(due).toISOString()}`);
    return decision;
  }

  #tell(plan: JobPlan, { name, outcome, exitCode = 0, durationMs = 0 }: JobRecord, retryAt: number | undefined): void {
    const { log } = this.#context;
    const took = `after ${formatDuration(durationMs)}`;
    if (outcome === 'done') {
      log[levelOf(plan)](`${name}: done ${took}`);
      return;
    }
    const meaning = (exitCodeMeanings as Readonly<Record<number, string>>)[exitCode];
    const again = retryAt === undefined ? 'at its next time' : `again at ${new Date(retryAt).toISOString()}`;
    log.error(`${name}: ended with exit code ${exitCode}${meaning === undefined ? '' : ` (${meaning})`} ${took}`, {
      hint: `The lines above say why. It is run ${again}.`,
    });
  }

  #record(name: JobName): JobRecord {
    const record = this.#records.get(name);
    if (record === undefined) throw new Error(`no job "${name}" is planned`);
    return record;
  }
}

/** What is done every few minutes is worth a line only when it fails. */
function levelOf({ trigger }: JobPlan): 'info' | 'debug' {
  return trigger.kind === 'interval' ? 'debug' : 'info';
}

function emptyRecord(name: JobName): JobRecord {
  return { name, isRunning: false, runs: 0, failures: 0, consecutiveFailures: 0 };
}

function count(
  record: JobRecord,
  { exitCode, outcome, endedAt }: { readonly exitCode: number; readonly outcome: Outcome; readonly endedAt: number },
): void {
  const isDone = outcome === 'done';
  record.runs += 1;
  record.exitCode = exitCode;
  record.outcome = outcome;
  record.consecutiveFailures = isDone ? 0 : record.consecutiveFailures + 1;
  if (isDone) record.succeededAt = endedAt;
  else record.failures += 1;
}
