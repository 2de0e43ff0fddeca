/** What a figure depends on besides the code: the machine, what else it did, and the versions of all that was measured. */
import { spawnSync } from 'node:child_process';
import { cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';
import { serverBin } from '../../test/support/installation.ts';

/** With more than this going on when a run begins its figures say little. */
const quietLoad = 1.5;

export function describeMachine(): string {
  const [cpu] = cpus();
  return `${cpus().length} × ${cpu?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node.js ${process.versions.node}`;
}

/** Processes that ran or waited to run, over the last minute, before there were ours. */
export function describeLoad(): string {
  const isTooMuch = (loadavg()[0] ?? Number.NaN) > quietLoad;
  return `load ${currentLoad()} when it began${isTooMuch ? ', TOO MUCH for figures to count' : ''}`;
}

/** At the end, with our own: about as many as a contender keeps busy, when nothing else went on. */
export function currentLoad(): string {
  return (loadavg()[0] ?? Number.NaN).toFixed(1);
}

/** Of what is on PATH. */
export function describeVersions(): string {
  const tools: readonly (readonly [command: string, word: string])[] = [
    [join(serverBin(15), 'postgres'), '--version'],
    ['pgbackrest', 'version'],
    ['barman-cloud-wal-archive', '--version'],
    ['wal-g', '--version'],
    ['zstd', '--version'],
  ];
  const found = tools.flatMap(([command, word]) => {
    const { status, stdout } = spawnSync(command, [word], { encoding: 'utf8' });
    return status === 0 ? [stdout.trim().split('\n')[0]?.replaceAll('*', '').trim() ?? ''] : [];
  });
  return found.join('; ');
}
