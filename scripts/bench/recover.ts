/**
 * A recovery: a real server replays archived segments from a base copy, until it is open. The restore_command is what differs. From a
 * folder, and from an S3 endpoint with time added to each request.
 */
import { linkSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { processesIn, processTree } from '../../test/support/process-tree.ts';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { waitFor } from '../../test/support/wait.ts';
import { makeEmpty } from './archiver.ts';
import { callAsPostgres } from './as-postgres.ts';
import { type Bucket, openBucket } from './bucket.ts';
import { busyServerWithCopy, finishedSegments, finishSegments, letWait } from './busy-server.ts';
import { call } from './call.ts';
import { alternate, formatRatio, ratioByRound, type SelfTimed, type Summary } from './measure.ts';
import { hasSetting, ownCommand, ownRepository } from './own-repository.ts';
import { type PgBackRest, preparePgBackRest } from './pgbackrest.ts';

/** What the issue asks for. */
const limits = { ofCopying: 0.7, aboveOneByOne: 4, peakMiB: 256 };

/** 32 segments, as WAL-T looks ahead; pgBackRest's default would be 8. */
const queueSize = '512MiB';

export interface RecoverBenchOptions {
  readonly runs: number;
  readonly segments: number;
  /** Measure S3, too. */
  readonly s3: S3Endpoint | 'test server' | undefined;
  /** Added to each request, of the test server alone. */
  readonly latencyMs: number;
  /** Of the contenders' names. */
  readonly only: RegExp;
}

interface Scene {
  readonly folder: string;
  /** Has written and archived the WAL. */
  readonly server: PostgresServer;
  /** A cold copy from before. */
  readonly base: PostgresServer;
  /** That the copy has to replay. */
  readonly segments: readonly string[];
  readonly entrySegment: string;
  readonly rows: string;
}

interface Restorer {
  readonly name: string;
  /** Fills its archive, once for all that share it; needs the server. */
  readonly prepare: () => void;
  /** `restore_command` for a copy with this data directory. */
  readonly command: (dataDirectory: string) => string;
  readonly renew?: () => Promise<void>;
}

interface Figures {
  readonly segments: number;
  readonly wallMs: number;
  /** To the endpoint; not a number where nothing counts them. */
  readonly requests: number;
}

export async function benchRecover(options: RecoverBenchOptions) {
  const folder = makeFolder('wal-t-bench');
  const endpoint = options.s3 === 'test server' ? undefined : options.s3;
  const bucket = options.s3 === undefined ? undefined : await openBucket(endpoint, options.latencyMs);
  const { server, base } = await busyServerWithCopy({ segments: options.segments });
  const before = finishedSegments(base);
  try {
    await finishSegments(server, before.length + options.segments - 1);
    await server.switchWal(); // all that was written is in finished segments
    const segments = finishedSegments(server).slice(before.length);
    const rows = await server.value('select count(*) from t');
    const scene: Scene = { folder, server, base, segments, entrySegment: before[0] ?? '', rows };
    const all = [fromFolder(scene), ...(bucket === undefined ? [] : [fromBucket(scene, bucket)])];
    const groups = all.map((group) => group.filter(({ name }) => options.only.test(name)));
    for (const { prepare } of groups.flat()) prepare();
    await server.stop();
    const results: Summary<Figures>[] = [];
    const peaks = new Map<string, number>();
    for (const chosen of groups) {
      for (const restorer of chosen) peaks.set(restorer.name, await peakOf(scene, restorer));
      const timed = chosen.map((restorer) => timedBy(scene, restorer, bucket));
      results.push(...(await alternate(timed, options.runs, { warmUps: 0 }))); // the look at the memory has warmed up
    }
    const text = `${format(results, peaks)}\n\n${verdict(results, peaks)}`;
    return { text, results, peaksMiB: Object.fromEntries(peaks) };
  } finally {
    await bucket?.stop();
    await base.remove();
    await server.remove();
    removeFolder(folder);
  }
}

function fromFolder(scene: Scene): Restorer[] {
  const { folder, server, segments } = scene;
  const [raw, compressed] = [makeEmpty(join(folder, 'raw')), makeEmpty(join(folder, 'zstd'))];
  const paths = segments.map((name) => join(server.dataDirectory, 'pg_wal', name));
  const link = () => {
    for (const [index, name] of segments.entries()) linkSync(paths[index] ?? '', join(raw, name));
  };
  const compress = () => void call('zstd', ['-q', '-3', '--output-dir-flat', compressed, ...paths]);
  return [
    ...ownRestorers(scene, 'WAL-T'),
    ...pgBackRest(scene),
    { name: 'cp, not compressed', prepare: link, command: () => `cp ${raw}/%f %p` },
    { name: 'zstd -d', prepare: compress, command: () => `zstd -q -d ${compressed}/%f.zst -o %p` },
  ];
}

function fromBucket(scene: Scene, bucket: Bucket): Restorer[] {
  return ownRestorers(scene, 'WAL-T, S3', bucket);
}

/** In batches, and one by one where that can be chosen. */
function ownRestorers(scene: Scene, title: string, bucket?: Bucket): Restorer[] {
  const { folder, server, entrySegment } = scene;
  const where = { folder, name: title.replaceAll(/\W+/g, '-').toLowerCase(), server, entrySegment };
  const repository = ownRepository(bucket === undefined ? where : { ...where, bucket: bucket.s3 });
  const prepare = once(() => {
    letWait(server, []);
    repository.renew();
    archiveAll(scene, `${ownCommand('wal-push', repository.config)} %p %f`);
    if (bucket !== undefined) repository.reachAt(bucket.slowed);
  });
  const restorer = (suffix: string, settings: Readonly<Record<string, string>>): Restorer => ({
    name: `${title}${suffix}`,
    prepare,
    command: () => `${ownCommand('wal-fetch', repository.config, settings)} %f %p`,
  });
  const ahead = 'WALT_WAL_FETCH_AHEAD';
  const { WALT_NODE } = process.env;
  return [
    restorer('', {}),
    ...(WALT_NODE === undefined ? [] : [restorer(', WALT_NODE', { WALT_NODE })]),
    ...(hasSetting(ahead) ? [restorer(', one by one', { [ahead]: '0' })] : []),
  ];
}

function pgBackRest(scene: Scene): Restorer[] {
  const { folder, server } = scene;
  const processes = `${availableParallelism()}`;
  const made = preparePgBackRest({ folder, server, settings: { 'process-max': processes } });
  if (made === undefined) return [];
  const prepare = once(() => archiveAll(scene, [...made.command, 'archive-push', '%p'].join(' ')));
  const words = ({ command }: PgBackRest, dataDirectory: string) => [...command, `--pg1-path=${dataDirectory}`];
  const async = ['--archive-async', `--archive-get-queue-max=${queueSize}`];
  return [
    {
      name: 'pgbackrest sync',
      prepare,
      command: (data) => [...words(made, data), 'archive-get', '%f', '%p'].join(' '),
    },
    {
      name: `pgbackrest async, ${processes} processes`,
      prepare,
      command: (data) => [...words(made, data), ...async, 'archive-get', '%f', '%p'].join(' '),
      renew: made.settle,
    },
  ];
}

function once(work: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) work();
    isDone = true;
  };
}

function archiveAll({ server, segments }: Scene, command: string): void {
  letWait(server, segments);
  callAsPostgres({ folder: server.dataDirectory, command });
}

function timedBy(scene: Scene, restorer: Restorer, bucket: Bucket | undefined): SelfTimed<Figures> {
  const run = async (): Promise<Figures> => {
    await bucket?.requests();
    const wallMs = await recover(scene, restorer);
    const requests = (await bucket?.requests()) ?? Number.NaN;
    return { segments: scene.segments.length, wallMs, requests };
  };
  return { name: restorer.name, run };
}

/** Of the largest process that a restore_command was, in MiB, in a recovery that nobody times. */
async function peakOf(scene: Scene, restorer: Restorer): Promise<number> {
  let peak = 0;
  await recover(scene, restorer, (server) => {
    const called = server.processId === undefined ? [] : processTree(server.processId);
    for (const pid of [...called, ...processesIn(server.dataDirectory)]) {
      const status = tryRead(`/proc/${pid}/status`);
      if (/^Name:\s+postgres$/m.test(status)) continue;
      peak = Math.max(peak, Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024);
    }
  });
  return peak;
}

function tryRead(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // it has ended
  }
}

/** @returns milliseconds from the start of the server until it is open, with all rows. */
async function recover(
  { base, rows, segments }: Scene,
  { name, command, renew }: Restorer,
  look: (server: PostgresServer) => void = () => undefined,
): Promise<number> {
  await renew?.();
  const copy = base.copy();
  try {
    copy.configure({
      archive_mode: 'off',
      shared_buffers: '256MB',
      restore_command: command(copy.dataDirectory),
    });
    copy.signal('recovery.signal');
    const started = performance.now();
    copy.launch();
    // asking it for an answer again and again would cost it some of its time; it writes this line when it is open
    const isOpen = () => {
      look(copy);
      if (!copy.isRunning) throw new Error(`${name}: the server stopped:\n${copy.log.slice(-3000)}`);
      return copy.log.includes('database system is ready to accept connections');
    };
    await waitFor('the recovery to end', isOpen, 30 * 60_000);
    const spentMs = performance.now() - started;
    const found = await copy.value('select count(*) from t');
    const missed = segments.filter((segment) => !copy.log.includes(`restored log file "${segment}"`));
    if (found !== rows) throw new Error(`${name}: ${found} rows instead of ${rows}`);
    if (missed.length > 0) throw new Error(`${name}: ${missed.join(', ')} not restored, but:\n${copy.log}`);
    return spentMs;
  } finally {
    await copy.remove();
  }
}

function format(results: readonly Summary<Figures>[], peaks: ReadonlyMap<string, number>): string {
  const head = `${'median'.padEnd(36)} segments    wall s      min–max  segm./s  peak MiB  requests`;
  const number = (value: number, digits: number, width: number) =>
    (Number.isNaN(value) ? '' : value.toFixed(digits)).padStart(width);
  const rows = results.map(({ name, median, min, max }) =>
    [
      name.padEnd(36),
      number(median.segments, 0, 8),
      number(median.wallMs / 1000, 2, 9),
      `${(min.wallMs / 1000).toFixed(2)}–${(max.wallMs / 1000).toFixed(2)}`.padStart(12),
      number((1000 * median.segments) / median.wallMs, 1, 8),
      number(peaks.get(name) ?? Number.NaN, 0, 9),
      number(median.requests, 0, 9),
    ].join(' '),
  );
  return [
    head,
    ...rows,
    'A peak is of the commands that the server called, and of what goes on in its data directory without them.',
  ].join('\n');
}

function verdict(results: readonly Summary<Figures>[], peaks: ReadonlyMap<string, number>): string {
  const find = (name: string) => results.find((result) => result.name === name);
  const lines: string[] = [];
  const compare = (what: string, name: string, other: string, atLeast: number) => {
    const [mine, theirs] = [find(name), find(other)];
    if (mine === undefined || theirs === undefined) return;
    const ratio = ratioByRound(mine, theirs, ({ wallMs }) => 1 / wallMs);
    const word = ratio.median >= atLeast ? 'reached' : 'NOT reached';
    lines.push(`${what} (at least ${atLeast}): ${formatRatio(ratio)}: ${word}`);
  };
  compare('speed, of cp', 'WAL-T', 'cp, not compressed', limits.ofCopying);
  compare('S3: speed, of one by one', 'WAL-T, S3', 'WAL-T, S3, one by one', limits.aboveOneByOne);
  const own = [...peaks].filter(([name]) => name.startsWith('WAL-T')).map(([, peak]) => peak);
  const peak = Math.max(0, ...own);
  lines.push(
    `peak of wal-fetch: ${peak.toFixed(0)} MiB (at most ${limits.peakMiB}): ${peak <= limits.peakMiB ? 'reached' : 'NOT reached'}`,
  );
  return lines.join('\n');
}
