/**
 * A backlog: finished segments wait, and a real server's archiver is let go. Timed until the last one is archived; once more by calls
 * like the archiver's, which see CPU time and memory. Into a folder, and into an S3 endpoint.
 */
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { waitFor } from '../../test/support/wait.ts';
import { barman, sendingAlone, walG } from './archive-peers.ts';
import { type Archiver, makeEmpty, type Scene } from './archiver.ts';
import { callAsPostgres } from './as-postgres.ts';
import { bytesIn } from './backup-scene.ts';
import { type Bucket, openBucket } from './bucket.ts';
import { busyServer, finishSegments, isArchived, letWait } from './busy-server.ts';
import { alternate, formatRatio, ratioByRound, runOnce, type SelfTimed, type Summary } from './measure.ts';
import { hasSetting, ownCommand, ownRepository } from './own-repository.ts';
import { preparePgBackRest } from './pgbackrest.ts';

/** What the issue asks for. */
const limits = { aboveAsync: 1.3, aboveSending: 1.3, aboveBarman: 4, peakMiB: 256 };

export interface ArchiveBenchOptions {
  readonly runs: number;
  readonly segments: number;
  /** Measure S3, too. */
  readonly s3: S3Endpoint | 'test server' | undefined;
  /** Added to each request, of the test server alone. */
  readonly latencyMs: number;
  /** Of the contenders' names. */
  readonly only: RegExp;
}

interface Figures {
  readonly segments: number;
  /** The real server's; not a number for a whole process. */
  readonly serverMs: number;
  /** By calls like the server's, and what they cost. */
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakMiB: number;
  readonly longestMs: number;
  /** To the endpoint, with the server's calls; not a number where nothing counts them. */
  readonly requests: number;
  /** Not a number in a bucket. */
  readonly storedMB: number;
}

export async function benchArchive(options: ArchiveBenchOptions) {
  const folder = makeFolder('wal-t-bench');
  const endpoint = options.s3 === 'test server' ? undefined : options.s3;
  const bucket = options.s3 === undefined ? undefined : await openBucket(endpoint, options.latencyMs);
  const server = await busyServer({ segments: options.segments });
  try {
    const [entrySegment = '', ...finished] = await finishSegments(server, options.segments + 1);
    const segments = finished.slice(0, options.segments);
    letWait(server, []);
    const scene: Scene = { folder, server, segments, entrySegment, compressed: compress(folder, server, segments) };
    const groups = [intoFolder(scene), ...(bucket === undefined ? [] : [intoBucket(scene, bucket)])];
    const results: Summary<Figures>[] = [];
    for (const group of groups) {
      const chosen = group.filter(({ name }) => options.only.test(name));
      const timed = chosen.map((archiver) => timedBy(scene, archiver, bucket));
      results.push(...(await alternate(timed, options.runs, { warmUps: options.runs > 1 ? 1 : 0 })));
    }
    return { text: `${format(results)}\n\n${verdict(results)}`, results };
  } finally {
    await bucket?.stop();
    await server.remove();
    removeFolder(folder);
  }
}

function compress(folder: string, server: PostgresServer, segments: readonly string[]): string[] {
  const target = makeEmpty(join(folder, 'compressed'));
  const paths = segments.map((name) => join(server.dataDirectory, 'pg_wal', name));
  runOnce({ name: 'zstd', command: ['zstd', '-q', '-3', '--output-dir-flat', target, ...paths] });
  return segments.map((name) => join(target, `${name}.zst`));
}

function intoFolder(scene: Scene): Archiver[] {
  const { folder, server, segments } = scene;
  const copies = join(folder, 'copies');
  const paths = segments.map((name) => join(server.dataDirectory, 'pg_wal', name));
  const renew = () => void makeEmpty(copies);
  const archived = () => readdirSync(copies).length;
  const storedBytes = () => bytesIn(copies, /./);
  const copy: Archiver = {
    name: 'cp and sync',
    command: `cp %p ${copies}/%f && sync ${copies}/%f`,
    renew,
    archived,
    storedBytes,
  };
  const zstd: Archiver = {
    name: `zstd -3 -T${availableParallelism()}, one process`,
    command: `zstd -q -3 -T${availableParallelism()} --output-dir-flat ${copies} ${paths.join(' ')} && sync ${copies}/*`,
    isWhole: true,
    renew,
    archived,
    storedBytes,
  };
  return [...ownArchivers(scene, 'WAL-T'), ...pgBackRest(scene), ...walG(scene), copy, zstd];
}

function intoBucket(scene: Scene, bucket: Bucket): Archiver[] {
  return [
    ...ownArchivers(scene, 'WAL-T, S3', bucket),
    sendingAlone(scene, bucket),
    ...barman(scene, bucket),
    ...walG(scene, bucket),
  ];
}

/** With the backlog looked at ahead, and one by one where that can be chosen. */
function ownArchivers({ folder, server, entrySegment }: Scene, title: string, bucket?: Bucket): Archiver[] {
  const name = title.replaceAll(/\W+/g, '-').toLowerCase();
  const where = { folder, name, server, entrySegment };
  const repository = ownRepository(bucket === undefined ? where : { ...where, bucket: bucket.slowed });
  const archiver = (suffix: string, settings: Readonly<Record<string, string>>): Archiver => ({
    name: `${title}${suffix}`,
    command: `${ownCommand('wal-push', repository.config, settings)} %p %f`,
    renew: repository.renew,
    archived: repository.segments,
    storedBytes: repository.storedBytes,
  });
  const ahead = 'WALT_WAL_PUSH_AHEAD';
  const { WALT_NODE } = process.env;
  return [
    archiver('', {}),
    ...(WALT_NODE === undefined ? [] : [archiver(', WALT_NODE', { WALT_NODE })]),
    ...(hasSetting(ahead) ? [archiver(', one by one', { [ahead]: '0' })] : []),
  ];
}

function pgBackRest({ folder, server }: Scene): Archiver[] {
  const processes = `${availableParallelism()}`;
  const ways = [
    { name: 'pgbackrest sync', settings: {} },
    {
      name: `pgbackrest async, ${processes} processes`,
      settings: { 'archive-async': 'y', 'process-max': processes },
    },
  ];
  return ways.flatMap(({ name, settings }) => {
    const made = preparePgBackRest({ folder, server, settings }, name.split(',')[0]?.replace(' ', '-'));
    if (made === undefined) return [];
    const renew = async () => {
      await made.settle();
      made.forgetWal();
    };
    const command = [...made.command, 'archive-push', '%p'].join(' ');
    return [{ name, command, renew, archived: made.segments, storedBytes: made.walBytes }];
  });
}

function timedBy(scene: Scene, archiver: Archiver, bucket: Bucket | undefined): SelfTimed<Figures> {
  const { server, segments } = scene;
  const { name, command, count = segments.length } = archiver;
  const waiting = segments.slice(0, count);
  const renew = async () => {
    letWait(server, []);
    await archiver.renew();
    letWait(server, waiting);
  };
  const expectAll = () => {
    const found = archiver.archived?.() ?? count;
    if (found !== count) throw new Error(`${name} has archived ${found} of ${count} segments`);
  };
  const run = async (): Promise<Figures> => {
    const none = { segments: count, serverMs: Number.NaN, longestMs: Number.NaN, requests: Number.NaN };
    const storedMB = () => (archiver.storedBytes?.() ?? Number.NaN) / 1e6;
    await renew();
    if (archiver.isWhole === true) {
      const { wallMs, cpuMs, peakMiB } = runOnce({ name, command: ['sh', '-c', command] });
      expectAll();
      return { ...none, wallMs, cpuMs, peakMiB, storedMB: storedMB() };
    }
    await bucket?.requests();
    const serverMs = await letGo(server, command, waiting);
    expectAll();
    const requests = (await bucket?.requests()) ?? Number.NaN;
    await renew();
    const { wallMs, cpuMs, peakMiB, longestMs } = callAsPostgres({ folder: server.dataDirectory, command });
    expectAll();
    return { ...none, serverMs, wallMs, cpuMs, peakMiB, longestMs, requests, storedMB: storedMB() };
  };
  return { name, run };
}

/** Gives the server's archiver its command until nothing waits any more. @returns milliseconds. */
async function letGo(server: PostgresServer, command: string, waiting: readonly string[]): Promise<number> {
  const last = waiting.at(-1) ?? '';
  const limitMs = 30 * 60_000;
  const failures = () => server.value('select failed_count from pg_stat_archiver');
  const failedBefore = await failures();
  server.configure({ archive_command: command });
  const started = performance.now();
  await server.query('select pg_reload_conf()');
  await waitFor('the backlog to be archived', () => isArchived(server, last), limitMs);
  const spentMs = performance.now() - started;
  server.configure({ archive_command: '' });
  await server.query('select pg_reload_conf()');
  await pause(300); // the archiver hears of it by a signal, and nothing tells when it has
  if ((await failures()) !== failedBefore) throw new Error(`${command} has failed:\n${server.log.slice(-3000)}`);
  return spentMs;
}

/** Segments in a second, by the server where there is one. */
function rateOf({ segments, serverMs, wallMs }: Figures): number {
  return (1000 * segments) / (Number.isNaN(serverMs) ? wallMs : serverMs);
}

function format(results: readonly Summary<Figures>[]): string {
  const head = `${'median'.padEnd(36)} segments  server s      min–max  segm./s  calls s   CPU s  peak MiB  longest ms  requests  stored MB`;
  const number = (value: number, digits: number, width: number) =>
    (Number.isNaN(value) ? '' : value.toFixed(digits)).padStart(width);
  const rows = results.map(({ name, median, min, max }) => {
    const range = Number.isNaN(min.serverMs) ? [min.wallMs, max.wallMs] : [min.serverMs, max.serverMs];
    return [
      name.padEnd(36),
      number(median.segments, 0, 8),
      number(median.serverMs / 1000, 2, 9),
      range
        .map((ms) => (ms / 1000).toFixed(2))
        .join('–')
        .padStart(12),
      number(rateOf(median), 1, 8),
      number(median.wallMs / 1000, 2, 8),
      number(median.cpuMs / 1000, 2, 7),
      number(max.peakMiB, 0, 9),
      number(median.longestMs, 0, 11),
      number(median.requests, 0, 9),
      number(median.storedMB, 0, 10),
    ].join(' ');
  });
  return [head, ...rows].join('\n');
}

function verdict(results: readonly Summary<Figures>[]): string {
  const find = (start: string) => results.find(({ name }) => name.startsWith(start));
  const barman = results
    .filter(({ name }) => name.startsWith('barman'))
    .sort((a, b) => rateOf(b.median) - rateOf(a.median))[0];
  const [own, overS3] = [find('WAL-T'), find('WAL-T, S3')];
  const lines: string[] = [];
  const compare = (what: string, mine: typeof own, other: typeof own, atLeast: number) => {
    if (mine === undefined || other === undefined) return;
    const ratio = ratioByRound(mine, other, rateOf);
    const word = ratio.median >= atLeast ? 'reached' : 'NOT reached';
    lines.push(`${what} (at least ${atLeast.toFixed(2)}): ${formatRatio(ratio)}: ${word}`);
  };
  compare("rate, of pgbackrest async's", own, find('pgbackrest async'), limits.aboveAsync);
  compare('S3: rate, of sending alone', overS3, find('sending alone'), 1 / limits.aboveSending);
  compare("S3: rate, of barman-cloud's best", overS3, barman, limits.aboveBarman);
  const peak = Math.max(...results.filter(({ name }) => name.startsWith('WAL-T')).map(({ max }) => max.peakMiB));
  if (Number.isFinite(peak)) {
    const isReached = peak <= limits.peakMiB;
    lines.push(
      `peak of wal-push: ${peak.toFixed(0)} MiB (at most ${limits.peakMiB}): ${isReached ? 'reached' : 'NOT reached'}`,
    );
  }
  return lines.join('\n');
}
