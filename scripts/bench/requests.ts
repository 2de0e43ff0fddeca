/**
 * How many requests each command sends to S3, by their kind: what a store charges for, and what a slow link multiplies. Nothing is timed.
 * The server archives beside the commands, past the proxy that counts.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultProxy } from '../../test/support/fault-proxy.ts';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { s3Settings } from '../../test/support/repository.ts';
import { launcher, run } from '../../test/support/run.ts';
import { S3Server } from '../../test/support/s3-server.ts';
import { finishedSegments, letWait } from './busy-server.ts';
import { makeCluster, sizeOf } from './cluster.ts';

interface Counted {
  readonly command: string;
  /** By S3's names. */
  readonly requests: Readonly<Record<string, number>>;
}

interface Scene {
  readonly server: PostgresServer;
  /** Leads to the proxy. */
  readonly config: string;
  readonly proxy: FaultProxy;
  readonly restored: string;
  readonly results: Counted[];
}

interface CallOptions {
  readonly cwd?: string;
  /** That it may end with. */
  readonly expected?: readonly number[];
}

export async function benchRequests({ bytes }: { readonly bytes: number }) {
  const folder = makeFolder('wal-t-bench');
  const server = await makeCluster(
    { bytes, files: 0 },
    { archive_mode: 'on', archive_command: '', archive_timeout: '0' },
  );
  const store = await S3Server.start();
  const proxy = await FaultProxy.start(store.s3);
  try {
    const [config, direct] = [join(folder, 'settings.env'), join(folder, 'direct.env')];
    const prefix = 'bench';
    configure(config, s3Settings(proxy.s3, prefix));
    configure(direct, s3Settings(store.s3, prefix));
    const scene: Scene = { server, config, proxy, restored: join(folder, 'restored'), results: [] };
    await archiveAndCopy(scene, direct);
    await recoverAndLook(scene);
    const size = sizeOf(server.dataDirectory);
    return { text: format(scene.results, size), results: scene.results, size };
  } finally {
    await proxy.stop();
    await store.stop();
    await server.remove();
    removeFolder(folder);
  }
}

function configure(path: string, settings: Readonly<Record<string, string>>): void {
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(path, lines.join(''));
}

async function archiveAndCopy(scene: Scene, direct: string): Promise<void> {
  const { server, restored } = scene;
  const push = { cwd: server.dataDirectory };
  await count(scene, 'wal-t init', ['wal-t', 'init']);
  for (let segment = 0; segment < 3; segment += 1) {
    await server.query("select pg_logical_emit_message(true, 'bench', '')"); // so that there is something to archive
    await server.switchWal();
  }
  const [first = '', second = ''] = finishedSegments(server).slice(-2);
  letWait(server, []);
  await count(scene, 'wal-push, the first of a cluster', ['wal-push', `pg_wal/${first}`, first], push);
  await count(scene, 'wal-push', ['wal-push', `pg_wal/${second}`, second], push);
  await count(scene, 'wal-push, stored already', ['wal-push', `pg_wal/${second}`, second], push);
  letWait(server, finishedSegments(server));
  server.configure({ archive_command: `WALT_CONFIG=${direct} ${launcher('wal-push')} %p %f` });
  await server.query('select pg_reload_conf()');
  await server.waitUntilAllArchived();
  await count(scene, 'basebackup-push', ['basebackup-push', server.dataDirectory]);
  await count(scene, 'basebackup-push, one more', ['basebackup-push', server.dataDirectory]);
  await count(scene, 'basebackup-fetch', ['basebackup-fetch', restored, 'LATEST']);
}

async function recoverAndLook(scene: Scene): Promise<void> {
  const { server, restored } = scene;
  const stored = finishedSegments(server).at(-1) ?? '';
  const behind = await server.value('select pg_walfile_name(pg_current_wal_lsn() + 64 * 1024 * 1024)');
  for (const state of ['recovery', 'standby']) {
    const signal = join(restored, `${state}.signal`);
    writeFileSync(signal, '');
    const fetch = (name: string, target: string, expected = [0]) => {
      rmSync(join(restored, 'pg_wal', target), { force: true });
      return { words: ['wal-fetch', name, `pg_wal/${target}`], options: { cwd: restored, expected } };
    };
    const asked = {
      'a stored segment': fetch(stored, 'RECOVERYXLOG'),
      'behind the end': fetch(behind, 'RECOVERYXLOG', [1]),
      "the next timeline's history": fetch('00000002.history', 'RECOVERYHISTORY', [1]),
    };
    for (const [what, { words, options }] of Object.entries(asked)) {
      await count(scene, `wal-fetch in ${state}, ${what}`, words, options);
    }
    rmSync(signal);
  }
  for (const words of [
    ['backup-list'],
    ['wal-t', 'windows'],
    ['wal-t', 'wal-list'],
    ['wal-t', 'verify'],
    ['wal-t', 'verify', '--deep'],
  ]) {
    await count(scene, words.filter((word) => word !== 'wal-t').join(' '), words);
  }
  // it finds fault with a server of a bench; what it asks the store is the same
  const check = ['wal-t', 'check', '--skip', 'round-trip', server.dataDirectory];
  await count(scene, 'check, without its round-trip', check, { expected: [0, 8] });
  await count(scene, 'delete, the plan alone', ['wal-t', 'delete', '--retain', '1']);
  await count(scene, 'delete of one backup', ['wal-t', 'delete', '--retain', '1', '--confirm']);
}

/** Runs one command through the proxy. @throws when it does not end as it should. */
async function count(
  { config, server, proxy, results }: Scene,
  command: string,
  [name = '', ...words]: readonly string[],
  { cwd = '/', expected = [0] }: CallOptions = {},
): Promise<void> {
  proxy.forget();
  const env = { WALT_CONFIG: config, PGHOST: server.folder, PGUSER: 'postgres' };
  const { code, stderr } = await run(launcher(name), words, { cwd, env });
  if (!expected.includes(code ?? -1)) throw new Error(`${command} ended with ${code}: ${stderr}`);
  const requests: Record<string, number> = {};
  for (const { kind } of proxy.log) requests[kind] = (requests[kind] ?? 0) + 1;
  results.push({ command, requests });
}

/** Uploads in parts cost three kinds; PUT, POST and LIST are the dear ones everywhere. */
function format(results: readonly Counted[], { bytes }: { readonly bytes: number }): string {
  const kinds = [...new Set(results.flatMap(({ requests }) => Object.keys(requests)))].sort();
  const short = (kind: string) => kind.replace('Multipart', '').replace('Object', '').replace('Objects', 's');
  const rows = results.map(({ command, requests }) =>
    [
      command.padEnd(52),
      ...kinds.map((kind) => `${requests[kind] ?? ''}`.padStart(short(kind).length)),
      `${Object.values(requests).reduce((sum, one) => sum + one, 0)}`.padStart(5),
    ].join('  '),
  );
  const head = [''.padEnd(52), ...kinds.map(short), '  all'].join('  ');
  return [`a cluster of ${(bytes / 1e6).toFixed(0)} MB`, head, ...rows].join('\n');
}
