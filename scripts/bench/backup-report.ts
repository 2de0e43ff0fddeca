/** What the backups' bench has found, as text: the figures, who is compared with whom, and what was to be reached. */
import { type Peer, peerNames } from './backup-peers.ts';
import { formatRatio, type RatioByRound, type Result, ratioByRound } from './measure.ts';

export interface Found {
  readonly results: readonly Result[];
  readonly peers: readonly Peer[];
  /** Bytes, by the contender's name. */
  readonly stored: ReadonlyMap<string, number>;
  /** Of the cluster. */
  readonly size: { readonly files: number; readonly bytes: number };
}

export interface Ratio {
  readonly name: string;
  readonly to: string;
  /** Of the wall time. */
  readonly ratio: RatioByRound;
  /** Of the CPU time, which other work on the machine changes less. */
  readonly cpuRatio: RatioByRound;
  /** What is to be reached, where anything is. */
  readonly atMost?: number;
}

const limitPeakMiB = 256;
/** With as many workers as the peers are given. */
const own = { push: 'push, 2 workers', fetch: 'fetch, 2 workers' };
const goals: readonly Omit<Ratio, 'ratio' | 'cpuRatio'>[] = [
  { name: own.push, to: peerNames.pgBackRest.backup, atMost: 1 },
  { name: own.push, to: peerNames.tar.backup, atMost: 1.25 },
  { name: own.push, to: peerNames.synced.backup },
  { name: own.push, to: 'pg_basebackup, client-zstd' },
  { name: `${own.push}, age`, to: own.push, atMost: 1.15 },
  { name: own.fetch, to: peerNames.pgBackRest.restore, atMost: 1 },
  { name: own.fetch, to: peerNames.tar.restore, atMost: 1.25 },
  { name: own.fetch, to: peerNames.synced.restore },
  { name: `${own.fetch}, age`, to: own.fetch },
  { name: `${own.push}, S3`, to: 'barman-cloud-backup, S3' },
];

/** Shares are of the wall time: a thread at 100 % is what the whole waits for. */
export function report({ results, peers, stored, size }: Found): { readonly text: string; readonly ratios: Ratio[] } {
  const head = `${'median'.padEnd(32)}   wall s    min–max     MB/s    CPU s  peak MiB   main worker  pool  stored MB  ratio`;
  const rows = results.map((result) => row(result, stored.get(result.name), size.bytes));
  const programs = peers.map(
    ({ program, options, fsync, contenders }) =>
      `${contenders.map(({ name }) => name).join('; ')}: ${program}; ${options}; fsyncs: ${fsync}`,
  );
  const ratios = ratiosOf(results);
  const blocks = [
    [`${(size.bytes / 1e6).toFixed(0)} MB in ${size.files} files`, head, ...rows],
    [
      'push; fetch: zstd 3, page checksums, CRC-32C and SHA-256; fsyncs: each object; each file and folder',
      ...programs,
    ],
    [...ratios.map(line), peakLine(results)],
  ];
  return { text: blocks.map((lines) => lines.join('\n')).join('\n\n'), ratios };
}

function row({ name, median, min, max }: Result, storedBytes: number | undefined, sizeBytes: number): string {
  const share = (ms: number) => `${((100 * ms) / median.wallMs).toFixed(0)} %`.padStart(6);
  return [
    name.padEnd(32),
    seconds(median.wallMs).padStart(8),
    `${seconds(min.wallMs)}–${seconds(max.wallMs)}`.padStart(11),
    (sizeBytes / 1000 / median.wallMs).toFixed(0).padStart(8),
    seconds(median.cpuMs).padStart(8),
    max.peakMiB.toFixed(0).padStart(9),
    share(median.mainMs),
    share(median.workerMs),
    share(median.poolMs),
    (storedBytes === undefined ? '' : (storedBytes / 1e6).toFixed(0)).padStart(9),
    (storedBytes === undefined ? '' : (sizeBytes / storedBytes).toFixed(2)).padStart(6),
  ].join(' ');
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function ratiosOf(results: readonly Result[]): Ratio[] {
  const find = (name: string) => results.find((result) => result.name === name);
  return goals.flatMap((goal) => {
    const [mine, other] = [find(goal.name), find(goal.to)];
    if (mine === undefined || other === undefined) return [];
    const ratio = ratioByRound(mine, other, ({ wallMs }) => wallMs);
    return [{ ...goal, ratio, cpuRatio: ratioByRound(mine, other, ({ cpuMs }) => cpuMs) }];
  });
}

function line({ name, to, ratio, cpuRatio, atMost }: Ratio): string {
  const verdict =
    atMost === undefined ? '' : ` (at most ${atMost}: ${ratio.median <= atMost ? 'reached' : 'NOT reached'})`;
  return `${name}, of ${to}: ${formatRatio(ratio)}${verdict}; CPU time ${cpuRatio.median.toFixed(2)} ×`;
}

function peakLine(results: readonly Result[]): string {
  const mine = results.filter(({ name }) => /^(push|fetch), 2/.test(name));
  const peak = Math.max(...mine.map(({ max }) => max.peakMiB));
  return `highest peak of push and fetch with 2 workers: ${peak.toFixed(0)} MiB (at most ${limitPeakMiB}: ${peak <= limitPeakMiB ? 'reached' : 'NOT reached'})`;
}
