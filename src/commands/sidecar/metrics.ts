/** What Prometheus is told: a text made anew for each scrape, of what is known and of nothing else. docs/SIDECAR.md has the same table. */
import { Counter, Gauge, Registry } from 'prom-client';
import { backupStates, newestConfirmed } from './archive-view.ts';
import type { Findings } from './findings.ts';
import type { JobRecord } from './scheduler.ts';

export interface KnownState {
  readonly version: string;
  readonly records: readonly JobRecord[];
  /** Milliseconds since 1970. */
  readonly nextDue: (name: JobRecord['name']) => number | undefined;
  readonly findings: Findings;
}

type Labels = Readonly<Record<string, string>>;
/** Undefined: not known, and so not there. */
type Sample = readonly [labels: Labels, value: number | undefined];

/** In Prometheus' text format. */
export async function renderMetrics(known: KnownState): Promise<{ text: string; contentType: string }> {
  const registry = new Registry();
  const page = new Page(registry);
  page.gauge('walt_build_info', 'The version of WAL-T that runs.', [[{ version: known.version }, 1]]);
  addJobs(page, known);
  addBackups(page, known.findings);
  addWal(page, known.findings);
  addAnswers(page, known.findings);
  return { text: await registry.metrics(), contentType: registry.contentType };
}

/** Metrics with at least one sample; samples without a value are left away. */
class Page {
  readonly #registry: Registry;

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  gauge(name: string, help: string, samples: readonly Sample[]): void {
    const known = withValue(samples);
    if (known.length === 0) return;
    const gauge = new Gauge({ name, help, labelNames: labelsOf(known), registers: [this.#registry] });
    for (const [labels, value] of known) gauge.set(labels, value);
  }

  counter(name: string, help: string, samples: readonly Sample[]): void {
    const known = withValue(samples);
    if (known.length === 0) return;
    const counter = new Counter({ name, help, labelNames: labelsOf(known), registers: [this.#registry] });
    for (const [labels, value] of known) counter.inc(labels, value);
  }
}

function withValue(samples: readonly Sample[]): (readonly [Labels, number])[] {
  return samples.flatMap(([labels, value]) => (value === undefined || Number.isNaN(value) ? [] : [[labels, value]]));
}

function labelsOf(samples: readonly (readonly [Labels, number])[]): string[] {
  return Object.keys(samples[0]?.[0] ?? {});
}

const seconds = (milliseconds: number | undefined): number | undefined =>
  milliseconds === undefined ? undefined : milliseconds / 1000;
const secondsOf = (time: string | undefined): number | undefined =>
  time === undefined ? undefined : seconds(Date.parse(time));
/** From PostgreSQL's microseconds, as JSON has them. */
const secondsOfMicros = (time: string | undefined): number | undefined =>
  time === undefined ? undefined : Number(time) / 1e6;
const only = (value: number | undefined): readonly Sample[] => [[{}, value]];

function addJobs(page: Page, { records, nextDue }: KnownState): void {
  const each = (value: (record: JobRecord) => number | undefined): readonly Sample[] =>
    records.map((record) => [{ task: record.name }, value(record)]);
  page.counter(
    'walt_job_runs_total',
    'Runs of the job that have ended.',
    each(({ runs }) => runs),
  );
  page.counter(
    'walt_job_failures_total',
    'Runs that failed, found something wrong, or were killed.',
    each(({ failures }) => failures),
  );
  page.gauge(
    'walt_job_running',
    '1 while the job runs.',
    each(({ isRunning }) => (isRunning ? 1 : 0)),
  );
  page.gauge(
    'walt_job_consecutive_failures',
    'Failures since the last success.',
    each(({ consecutiveFailures }) => consecutiveFailures),
  );
  page.gauge(
    'walt_job_last_exit_code',
    'Exit code of the last run.',
    each(({ exitCode }) => exitCode),
  );
  page.gauge(
    'walt_job_last_duration_seconds',
    'How long the last run took.',
    each(({ durationMs }) => seconds(durationMs)),
  );
  page.gauge(
    'walt_job_last_start_timestamp_seconds',
    'When the last run began.',
    each(({ startedAt }) => seconds(startedAt)),
  );
  page.gauge(
    'walt_job_last_success_timestamp_seconds',
    'When the last run that succeeded ended.',
    each(({ succeededAt }) => seconds(succeededAt)),
  );
  page.gauge(
    'walt_job_next_due_timestamp_seconds',
    'When the job is to run next.',
    each(({ name }) => seconds(nextDue(name))),
  );
}

function addBackups(page: Page, { backups }: Findings): void {
  if (backups === undefined) return;
  const states = backupStates.map((state): Sample => [{ state }, backups.filter((row) => row.state === state).length]);
  page.gauge('walt_backups', 'Base backups in the archive, by state.', states);
  const confirmed = backups.filter(({ state }) => state === 'confirmed');
  const sizes = confirmed.flatMap(({ stored_bytes: stored }) => (stored === undefined ? [] : [stored]));
  // not of some of them, where a manifest could not be read
  const sum = sizes.length === confirmed.length ? sizes.reduce((total, size) => total + size, 0) : undefined;
  page.gauge('walt_backups_stored_bytes', 'What is stored for all confirmed backups.', only(sum));
  const newest = newestConfirmed(backups);
  const ofNewest = 'of the newest confirmed backup';
  page.gauge('walt_backup_newest_start_timestamp_seconds', `Start ${ofNewest}.`, only(secondsOf(newest?.started_at)));
  page.gauge('walt_backup_newest_end_timestamp_seconds', `End ${ofNewest}.`, only(secondsOf(newest?.finished_at)));
  page.gauge('walt_backup_newest_raw_bytes', `Restored size ${ofNewest}.`, only(newest?.raw_bytes));
  page.gauge('walt_backup_newest_stored_bytes', `Stored size ${ofNewest}.`, only(newest?.stored_bytes));
  page.gauge(
    'walt_backup_newest_checksum_failures',
    `Pages ${ofNewest} whose checksum was wrong in the cluster itself.`,
    only(newest?.checksum_failures),
  );
}

function addWal(page: Page, { wal, windows }: Findings): void {
  const storedAt = wal?.timelines.flatMap(({ lastStoredAt }) => (lastStoredAt === undefined ? [] : [lastStoredAt]));
  page.gauge(
    'walt_wal_newest_stored_timestamp_seconds',
    'When the newest WAL file was stored.',
    only(secondsOf(storedAt?.sort().at(-1))),
  );
  const bytes = wal?.timelines.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  page.gauge('walt_wal_stored_bytes', 'Stored WAL of all timelines.', only(bytes));

  const main = windows?.timelines.find(({ isMain }) => isMain)?.windows;
  if (main === undefined) return;
  const starts = main.map(({ from }) => Number(from.time));
  const ends = main.flatMap(({ to }) => (to.time === undefined ? [] : [Number(to.time)]));
  page.gauge(
    'walt_restorable_from_timestamp_seconds',
    'The oldest moment that can be restored.',
    only(secondsOfMicros(starts.length === 0 ? undefined : String(Math.min(...starts)))),
  );
  page.gauge(
    'walt_restorable_to_timestamp_seconds',
    'The newest moment that can be restored.',
    only(secondsOfMicros(ends.length === 0 ? undefined : String(Math.max(...ends)))),
  );
  const holes = main.filter(({ hole }) => hole !== undefined).length;
  page.gauge('walt_restorable_holes', 'Holes in the WAL behind the backups.', only(holes));
}

const checkLevels = ['ok', 'warning', 'failed', 'skipped'] as const;

function addAnswers(page: Page, { verified, deleted, check }: Findings): void {
  const results = [...verified];
  page.gauge(
    'walt_verified_backups',
    'Backups by the verdict of the last verification.',
    results.flatMap(([task, { restorable, broken }]): Sample[] => [
      [{ task, verdict: 'restorable' }, restorable],
      [{ task, verdict: 'broken' }, broken],
    ]),
  );
  page.gauge(
    'walt_verified_timestamp_seconds',
    'When the last verification ended.',
    results.map(([task, { endedAt }]): Sample => [{ task }, seconds(endedAt)]),
  );
  page.counter('walt_deleted_objects_total', 'Objects that deletions have removed.', only(deleted.objects));
  page.counter('walt_deleted_bytes_total', 'Bytes that deletions have removed.', only(deleted.bytes));
  if (check === undefined) return;
  const names = [...new Set(check.findings.map((finding) => finding.check))];
  const count = (name: string, level: string) =>
    check.findings.filter((one) => one.check === name && one.level === level).length;
  page.gauge(
    'walt_check_findings',
    'Findings of the last check.',
    names.flatMap((name) => checkLevels.map((level): Sample => [{ check: name, level }, count(name, level)])),
  );
  const worst = { ok: 0, warning: 1, failed: 2, skipped: undefined }[check.level];
  page.gauge('walt_check_level', 'The worst finding of the last check: 0 ok, 1 warning, 2 failed.', only(worst));
  const figures = new Map(check.findings.flatMap((finding) => Object.entries(finding.figures ?? {})));
  for (const [name, value] of figures) {
    if (!isFigureName(name)) continue;
    const [metric, help] = [`walt_check_${name}`, `From the last check: ${name.replaceAll('_', ' ')}.`];
    // what only grows on the server, as in pg_stat_archiver
    if (name.endsWith('_total')) page.counter(metric, help, only(value));
    else page.gauge(metric, help, only(value));
  }
}

/** A name that Prometheus takes, and that is none of ours. */
function isFigureName(name: string): boolean {
  return /^[a-z][a-z0-9_]*$/.test(name) && !/^(?:findings|level)$|_(?:count|sum|bucket)$/.test(name);
}
