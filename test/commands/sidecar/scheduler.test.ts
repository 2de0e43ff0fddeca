/** The scheduler on a clock that is moved by hand: once each, caught up once, retried a few times, never two of a kind, never two that are heavy. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BackupRow } from '../../../src/commands/backup-list.ts';
import { planJobs } from '../../../src/commands/sidecar/jobs.ts';
import { type CommandEnd, Scheduler } from '../../../src/commands/sidecar/scheduler.ts';
import { makeContext } from '../../support/context.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';

const hour = 3_600_000;
const day = 24 * hour;
const at = (time: string) => Date.parse(time);
const noon = at('2026-11-20T12:00Z');

type Row = Pick<BackupRow, 'state' | 'started_at'>;

interface WorldOptions {
  readonly start?: number;
  readonly settings?: Readonly<Record<string, string>>;
  /** The archive's backups before the start. */
  readonly backups?: readonly Row[];
  readonly verifications?: World['verifications'];
  /** How a command ends; it takes so long by the virtual clock. */
  readonly end?: (
    command: string,
    now: number,
  ) => { readonly exitCode: number; readonly takesMs?: number; readonly stdout?: string };
}

/** A scheduler, an archive of which only the backups' names are kept, and all commands that were run. */
class World {
  readonly clock: VirtualClock;
  readonly backups: Row[];
  readonly verifications: { readonly at: number; readonly isDeep: boolean }[];
  /** Commands with the times at which they began and ended. */
  readonly runs: { readonly command: string; readonly beganAt: number; endedAt: number | undefined }[] = [];
  readonly scheduler: Scheduler;
  readonly lines: readonly string[];
  readonly #controller = new AbortController();
  readonly #running: Promise<void>;

  constructor({
    start = noon,
    settings = {},
    backups = [],
    verifications = [],
    end = () => ({ exitCode: 0 }),
  }: WorldOptions = {}) {
    this.clock = new VirtualClock(start);
    this.backups = [...backups];
    this.verifications = [...verifications];
    const quiet = { WALT_SIDECAR_CHECK_INTERVAL: 'off', WALT_SIDECAR_LOOK_INTERVAL: '500h' };
    const context = makeContext(
      { WALT_REPO: 'file:///nowhere', ...quiet, ...settings },
      { workingDirectory: '/', signal: this.#controller.signal },
    );
    this.lines = context.lines;
    this.scheduler = new Scheduler(context, {
      plans: planJobs(context.settings.sidecar, {
        seed: 'host',
        canRead: true,
        isVerifyAsked: settings.WALT_SIDECAR_VERIFY_SCHEDULE !== undefined,
      }),
      clock: this.clock,
      jobTimeoutMs: context.settings.sidecar.jobTimeoutMs,
      onEnd: () => undefined,
      runCommand: (_, words, signal) => this.#run(words.join(' '), signal, end),
    });
    this.#running = this.scheduler.run();
  }

  async #run(command: string, signal: AbortSignal, end: NonNullable<WorldOptions['end']>): Promise<CommandEnd> {
    if (command.startsWith('backup-list')) return { exitCode: 0, stdout: JSON.stringify(this.backups) };
    if (command.startsWith('check --only verified')) return { exitCode: 0, stdout: JSON.stringify(this.#verified()) };
    const beganAt = this.clock.now();
    const run: World['runs'][number] = { command, beganAt, endedAt: undefined };
    this.runs.push(run);
    const { exitCode, takesMs = 0, stdout = '{}' } = end(command, beganAt);
    const isEnded = takesMs === 0 ? true : await this.#pass(takesMs, signal);
    run.endedAt = this.clock.now();
    if (!isEnded) return { exitCode: 143, stdout: '' };
    if (exitCode === 0 && command.startsWith('basebackup-push'))
      this.backups.push({ state: 'confirmed', started_at: new Date(beganAt).toISOString() });
    if (command.startsWith('verify')) this.verifications.push({ at: beganAt, isDeep: command.includes('--deep') });
    return { exitCode, stdout };
  }

  /** As the check tells it. */
  #verified(): object {
    const age = (isDeep: boolean) =>
      Math.round(
        (this.clock.now() -
          Math.max(...this.verifications.filter((one) => one.isDeep || !isDeep).map(({ at }) => at))) /
          1000,
      );
    const figures = {
      ...(this.verifications.length === 0 ? {} : { verified_age_seconds: age(false) }),
      ...(this.verifications.some(({ isDeep }) => isDeep) ? { verified_deep_age_seconds: age(true) } : {}),
    };
    return { level: 'ok', findings: [{ check: 'verified', level: 'ok', message: '', figures }] };
  }

  /** @returns whether the time went by before it was told to end. */
  #pass(takesMs: number, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      this.clock.after(takesMs, () => resolve(true));
      signal.addEventListener('abort', () => resolve(false), { once: true });
    });
  }

  /** Lets so much time go by, and all that happens in it happen. */
  async pass(milliseconds: number): Promise<this> {
    const until = this.clock.now() + milliseconds;
    await settle();
    while (this.clock.step(until)) await settle();
    return this;
  }

  /** When commands of that name began, as seen by the clock. */
  began(name: string): string[] {
    return this.runs
      .filter(({ command }) => command === name || command.startsWith(`${name} `))
      .map(({ beganAt }) => new Date(beganAt).toISOString().replace(/:00\.000Z$/, 'Z'));
  }

  async end(): Promise<void> {
    this.#controller.abort(new Error('SIGTERM'));
    await this.#running;
  }
}

/** Until every promise that can go on has gone on. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

const backupAt = (time: string, state: Row['state'] = 'confirmed'): Row => ({ state, started_at: time });
const sinceLastNight = [backupAt('2026-11-20T01:00:03Z')];
const onlyBackups = { WALT_SIDECAR_VERIFY_SCHEDULE: 'off' };

describe('on time', () => {
  it('runs each job once at each of its times', async () => {
    const settings = { WALT_SIDECAR_DELETE: '--retain 3', WALT_SIDECAR_VERIFY_DEEP_SCHEDULE: '0 5 * * 0' };
    const world = await new World({ backups: sinceLastNight, settings }).pass(4 * day);
    const mornings = ['2026-11-21', '2026-11-22', '2026-11-23', '2026-11-24'];
    expect(world.began('basebackup-push')).toEqual(mornings.map((date) => `${date}T01:00Z`));
    expect(world.began('delete')).toEqual(['2026-11-20T12:00Z', ...mornings.map((date) => `${date}T01:00Z`)]);
    expect(world.began('verify --json')).toEqual(['2026-11-20T12:00Z', ...mornings.map((date) => `${date}T04:00Z`)]);
    expect(world.began('verify --deep')).toEqual(['2026-11-20T12:00Z', '2026-11-22T05:00Z']);
    await world.end();
  });

  it('knows when each runs next', async () => {
    const world = await new World({ backups: sinceLastNight }).pass(hour);
    expect(world.scheduler.nextDue('backup')).toBe(at('2026-11-21T01:00Z'));
    expect(world.scheduler.nextDue('verify')).toBe(at('2026-11-21T04:00Z'));
    await world.end();
  });

  it('deletes nothing without a policy, and after no backup that failed', async () => {
    const without = await new World().pass(3 * day);
    expect(without.began('delete')).toEqual([]);
    await without.end();
    const end = (command: string) => ({ exitCode: command.startsWith('basebackup-push') ? 4 : 0 });
    const failing = await new World({ end, settings: { WALT_SIDECAR_DELETE: '--retain 3' } }).pass(3 * day);
    expect(failing.began('delete')).toHaveLength(1); // at the start
    await failing.end();
  });

  it('deletes nothing after a backup in which broken pages were found', async () => {
    const end = (command: string) => ({ exitCode: command.startsWith('basebackup-push') ? 8 : 0 });
    const settings = { ...onlyBackups, WALT_SIDECAR_DELETE: '--retain 3' };
    const world = await new World({ end, backups: sinceLastNight, settings }).pass(day);
    expect(world.began('basebackup-push')).toEqual(['2026-11-21T01:00Z']); // not repeated: it would find them again
    expect(world.began('delete')).toEqual(['2026-11-20T12:00Z']);
    await world.end();
  });
});

describe('what was missed', () => {
  it('is caught up once, when nobody took a backup since the last time it was due', async () => {
    const backups = [backupAt('2026-11-14T01:00:00Z')];
    const world = await new World({ backups, settings: onlyBackups }).pass(hour);
    expect(world.began('basebackup-push')).toEqual(['2026-11-20T12:00Z']);
    await world.end();
  });

  it('is not missed when somebody took one since, and a first start takes one at once', async () => {
    const satisfied = await new World({ backups: sinceLastNight, settings: onlyBackups }).pass(hour);
    expect(satisfied.began('basebackup-push')).toEqual([]);
    await satisfied.end();
    const first = await new World({ settings: onlyBackups }).pass(hour);
    expect(first.began('basebackup-push')).toEqual(['2026-11-20T12:00Z']);
    await first.end();
  });

  it('is no verification that was made since, here or elsewhere, and a deep one is one, too', async () => {
    const settings = { WALT_SIDECAR_VERIFY_DEEP_SCHEDULE: '0 5 * * 0' }; // last on the 15th
    const verifications = [{ at: at('2026-11-15T05:10Z'), isDeep: true }];
    const world = await new World({ backups: sinceLastNight, settings, verifications }).pass(hour);
    expect(world.began('verify --deep')).toEqual([]);
    expect(world.began('verify --json')).toEqual(['2026-11-20T12:00Z']);
    await world.end();
    const late = await new World({
      backups: sinceLastNight,
      settings,
      verifications: [{ at: at('2026-11-15T04:50Z'), isDeep: true }],
    }).pass(hour);
    expect(late.began('verify --deep')).toEqual(['2026-11-20T12:00Z']);
    await late.end();
  });

  it('is caught up once when the job itself took too long', async () => {
    const end = (command: string, now: number) =>
      command.startsWith('basebackup-push') && now < at('2026-11-21T02:00Z')
        ? { exitCode: 0, takesMs: 60 * hour }
        : { exitCode: 0 };
    const settings = { ...onlyBackups, WALT_SIDECAR_JOB_TIMEOUT: '100h' };
    const world = await new World({ end, backups: sinceLastNight, settings }).pass(4 * day);
    expect(world.began('basebackup-push')).toEqual(['2026-11-21T01:00Z', '2026-11-23T13:00Z', '2026-11-24T01:00Z']);
    await world.end();
  });

  it('runs once after the host slept through several times', async () => {
    const world = await new World({ backups: sinceLastNight }).pass(hour);
    world.clock.set('2026-11-25T13:00Z');
    await world.pass(2 * 60_000);
    expect(world.began('basebackup-push')).toHaveLength(1);
    expect(world.began('verify')).toHaveLength(2);
    await world.end();
  });

  it('waits while another one is being taken, and takes none when that one is confirmed', async () => {
    const world = new World({ backups: [backupAt('2026-11-20T11:00:00Z', 'running')], settings: onlyBackups });
    await world.pass(hour);
    expect(world.began('basebackup-push')).toEqual([]);
    world.backups[0] = backupAt('2026-11-20T11:00:00Z');
    await world.pass(hour);
    expect(world.began('basebackup-push')).toEqual([]);
    await world.end();
  });

  it('takes one when the other has failed', async () => {
    const world = await new World({
      backups: [backupAt('2026-11-20T11:00:00Z', 'running')],
      settings: onlyBackups,
    }).pass(hour);
    world.backups[0] = backupAt('2026-11-20T11:00:00Z', 'failed');
    await world.pass(10 * 60_000);
    expect(world.began('basebackup-push')).toHaveLength(1);
    await world.end();
  });
});

describe('what fails', () => {
  const failing = (exitCode: number) => (command: string) => ({
    exitCode: command.startsWith('basebackup-push') ? exitCode : 0,
    stdout: '',
  });

  it('is tried again a few times, ever later, and then at its next time', async () => {
    const world = await new World({ end: failing(4), settings: onlyBackups }).pass(14 * hour);
    expect(world.began('basebackup-push')).toEqual([
      '2026-11-20T12:00Z',
      '2026-11-20T12:01Z',
      '2026-11-20T12:04Z',
      '2026-11-20T12:13Z',
      '2026-11-20T12:40Z',
      '2026-11-20T13:40Z',
      '2026-11-21T01:00Z',
      '2026-11-21T01:01Z',
      '2026-11-21T01:04Z',
      '2026-11-21T01:13Z',
      '2026-11-21T01:40Z',
    ]);
    const record = world.scheduler.records.find(({ name }) => name === 'backup');
    expect(record).toMatchObject({ runs: 11, failures: 11, consecutiveFailures: 11, exitCode: 4, outcome: 'failed' });
    expect(world.lines.join('')).toContain('backup: ended with exit code 4 (storage unreachable, full or denied)');
    await world.end();
  });

  it('is not tried again at a time at which it is due anyway', async () => {
    const settings = { ...onlyBackups, WALT_SIDECAR_BACKUP_SCHEDULE: '0 * * * *' };
    const world = await new World({ end: failing(4), settings }).pass(2 * hour);
    const beginnings = world.began('basebackup-push');
    expect(new Set(beginnings).size).toBe(beginnings.length);
    expect(beginnings.filter((time) => time.endsWith('T13:00Z'))).toHaveLength(1);
    await world.end();
  });

  it('is not tried again where its words are wrong, or its answer is what it found', async () => {
    const wrong = await new World({ end: failing(2), settings: onlyBackups }).pass(hour);
    expect(wrong.began('basebackup-push')).toHaveLength(1);
    await wrong.end();
    const end = (command: string) => ({ exitCode: command.startsWith('verify') ? 8 : 0 });
    const broken = await new World({ end, backups: sinceLastNight }).pass(hour);
    expect(broken.began('verify')).toHaveLength(1);
    expect(broken.scheduler.records.find(({ name }) => name === 'verify')).toMatchObject({
      outcome: 'found',
      failures: 1,
    });
    await broken.end();
  });

  it('is ended when it takes longer than a job may', async () => {
    const end = (command: string) => ({ exitCode: 0, takesMs: command.startsWith('basebackup-push') ? 100 * hour : 0 });
    const settings = { ...onlyBackups, WALT_SIDECAR_JOB_TIMEOUT: '2h' };
    const world = await new World({ end, settings }).pass(2 * hour);
    const backup = world.runs.find(({ command }) => command.startsWith('basebackup-push'));
    expect(backup).toMatchObject({ endedAt: noon + 2 * hour });
    expect(world.lines.join('')).toContain('backup: is ended, since it took longer than 2 h');
    await world.end();
  });
});

describe('the clock is set', () => {
  it('back by less than a day: nothing runs twice', async () => {
    const settings = { WALT_SIDECAR_DELETE: '--retain 3', WALT_SIDECAR_DELETE_SCHEDULE: '0 2 * * *' };
    const world = new World({ start: at('2026-11-20T23:00Z'), backups: sinceLastNight, settings });
    await world.pass(4 * hour);
    world.clock.set('2026-11-20T23:30Z');
    await world.pass(4 * hour);
    expect(world.began('basebackup-push')).toEqual(['2026-11-21T01:00Z']);
    expect(world.began('delete')).toEqual(['2026-11-20T23:00Z', '2026-11-21T02:00Z']);
    await world.pass(day);
    expect(world.began('basebackup-push')).toEqual(['2026-11-21T01:00Z', '2026-11-22T01:00Z']);
    await world.end();
  });

  it('back from years ahead: what it said before is forgotten', async () => {
    const world = await new World({ start: at('2031-01-01T00:00Z') }).pass(2 * hour);
    expect(world.began('basebackup-push').length).toBeGreaterThan(0);
    world.clock.set('2026-11-20T12:00Z');
    await world.pass(day);
    expect(world.began('basebackup-push').at(-1)).toBe('2026-11-21T01:00Z');
    await world.end();
  });
});

const scenarios = fc.record({
  start: fc
    .integer({ min: at('2026-03-20T00:00Z'), max: at('2026-11-10T00:00Z') })
    .map((time) => time - (time % 60_000)),
  minutes: fc.tuple(fc.integer({ min: 0, max: 59 }), fc.integer({ min: 0, max: 59 }), fc.integer({ min: 0, max: 59 })),
  takes: fc.array(fc.integer({ min: 0, max: 9 * 60 }), { minLength: 1, maxLength: 6 }),
  exits: fc.array(fc.constantFrom(0, 0, 0, 4, 8, 70), { minLength: 1, maxLength: 6 }),
});

it('never runs two of a kind nor two heavy jobs beside each other, and no due time twice, whatever they take and however they end', async () => {
  await fc.assert(
    fc.asyncProperty(scenarios, async ({ start, minutes: [first, second, third], takes, exits }) => {
      let count = 0;
      const world = new World({
        start,
        settings: {
          WALT_SIDECAR_BACKUP_SCHEDULE: `${first} 1 * * *`,
          WALT_SIDECAR_VERIFY_SCHEDULE: `${second} */6 * * *`,
          WALT_SIDECAR_VERIFY_DEEP_SCHEDULE: `${third} 3 * * *`,
          WALT_SIDECAR_DELETE: '--retain 2',
          WALT_SIDECAR_CHECK_INTERVAL: '2h',
          WALT_SIDECAR_LOOK_INTERVAL: '3h',
          WALT_SIDECAR_TIME_ZONE: 'Europe/Berlin',
        },
        end: () => {
          count += 1;
          return { exitCode: exits[count % exits.length] ?? 0, takesMs: (takes[count % takes.length] ?? 0) * 60_000 };
        },
      });
      await world.pass(3 * day);
      const heavy = world.runs.filter(({ command }) => /^(?:basebackup-push|delete|verify)/.test(command));
      const light = world.runs.filter((run) => !heavy.includes(run));
      for (const lane of [heavy, light]) {
        for (const [index, run] of lane.slice(1).entries()) {
          expect(run.beganAt).toBeGreaterThanOrEqual(lane[index]?.endedAt ?? Number.POSITIVE_INFINITY);
        }
      }
      const taken = world.backups.map(({ started_at: time }) => Date.parse(time));
      expect(new Set(taken).size).toBe(taken.length);
      expect(taken.length).toBeLessThanOrEqual(5); // each day once, and what was missed before the start
      await world.end();
    }),
    { numRuns: 15 },
  );
});

it('begins nothing more when it is told to end, and ends when the last job has', async () => {
  const end = (command: string) => ({ exitCode: 0, takesMs: command.startsWith('basebackup-push') ? hour : 0 });
  const world = await new World({ end }).pass(10 * 60_000);
  await world.end();
  const backup = world.runs.find(({ command }) => command === 'basebackup-push --json');
  expect(backup).toMatchObject({ beganAt: noon, endedAt: noon + 10 * 60_000 });
  const { length } = world.runs;
  await world.pass(2 * day);
  expect(world.runs).toHaveLength(length);
});
