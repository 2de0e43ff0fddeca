/**
 * A base backup and its restore, plain and encrypted, into and from a folder and an S3 endpoint, beside pgBackRest, pg_basebackup,
 * barman-cloud and `tar | zstd`.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, removeFolder } from '../../test/support/folders.ts';
import { s3Settings } from '../../test/support/repository.ts';
import { launcher } from '../../test/support/run.ts';
import { type S3Endpoint, S3Server } from '../../test/support/s3-server.ts';
import { findBarman, findPeers, type Peer } from './backup-peers.ts';
import { report } from './backup-report.ts';
import { bytesIn, expectRestored, type Scene, settled } from './backup-scene.ts';
import { call } from './call.ts';
import { type ClusterSize, makeCluster, sizeOf } from './cluster.ts';
import { type Contender, measure } from './measure.ts';

export interface BackupBenchOptions extends ClusterSize {
  readonly runs: number;
  /** Each number of workers is a contender of its own. */
  readonly workers: readonly number[];
  /** Without the peers: for a look at one's own changes. */
  readonly alone: boolean;
  /** Of the contenders' names: a restore is one of its own, of the backup before. */
  readonly only: RegExp;
  /** Measure S3, too: a given endpoint, else the test server. */
  readonly s3: S3Endpoint | 'test server' | undefined;
}

export async function benchBackup(options: BackupBenchOptions) {
  const folder = makeFolder('wal-t-bench');
  const config = join(folder, 'current.env');
  const command = `WALT_CONFIG=${config} ${launcher('wal-push')} %p %f`;
  const cluster = await makeCluster(options, { archive_mode: 'on', archive_command: command, archive_timeout: '0' });
  const store = options.s3 === 'test server' ? await S3Server.start() : undefined;
  try {
    const scene: Scene = { folder, server: cluster, size: sizeOf(cluster.dataDirectory), stored: new Map(), config };
    const endpoint = options.s3 === 'test server' ? store?.s3 : options.s3;
    const contenders: Contender[] = [];
    for (const repository of repositories(scene, endpoint)) {
      await enter(scene, repository);
      contenders.push(...options.workers.flatMap((count) => ours(scene, repository, count)));
    }
    const peers = options.alone ? [] : findPeers(scene);
    if (endpoint !== undefined && !options.alone) peers.push(...findBarman(scene, endpoint, `barman-${Date.now()}`));
    contenders.push(...peers.flatMap((peer: Peer) => peer.contenders));
    const chosen = contenders.filter(({ name }) => options.only.test(name));
    const results = measure(settled(chosen), options.runs, { warmUps: options.runs > 1 ? 1 : 0 });
    const { stored, size } = scene;
    const { text, ratios } = report({ results, peers, stored, size });
    const programs = peers.map(({ program, options: chosen, fsync }) => ({ program, options: chosen, fsync }));
    return { text, ratios, results, programs, size, stored: Object.fromEntries(stored) };
  } finally {
    await store?.stop();
    await cluster.remove();
    removeFolder(folder);
  }
}

/** Where a contender of ours stores. */
interface OurRepository {
  /** Behind the contender's name. */
  readonly title: string;
  /** The file with its settings. */
  readonly config: string;
  /** Of a repository in a folder: the backup before is removed, and the stored bytes are counted. */
  readonly root?: string;
}

function repositories({ folder }: Scene, endpoint: S3Endpoint | undefined): OurRepository[] {
  const identity = join(folder, 'identity');
  call(launcher('wal-t'), ['keygen', '-o', identity]);
  const recipient = /age1\w+/.exec(readFileSync(identity, 'utf8'))?.[0] ?? '';
  const age = { WALT_AGE_RECIPIENTS: recipient, WALT_AGE_IDENTITY_FILE: identity };
  const made = (title: string, settings: Readonly<Record<string, string>>, root?: string): OurRepository => {
    const config = join(folder, `settings${title.replaceAll(', ', '-')}.env`);
    const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
    writeFileSync(config, lines.join(''));
    return { title, config, ...(root === undefined ? {} : { root }) };
  };
  const root = join(folder, 'repository');
  const inFolders = [
    made('', { WALT_REPO: `file://${root}` }, root),
    made(', age', { WALT_REPO: `file://${root}-age`, ...age }, `${root}-age`),
  ];
  if (endpoint === undefined) return inFolders;
  const run = `bench-${Date.now().toString(36)}`;
  return [
    ...inFolders,
    made(', S3', s3Settings(endpoint, run)),
    made(', S3, age', { ...s3Settings(endpoint, `${run}-age`), ...age }),
  ];
}

/** From here on the server archives into this repository, and that is meant. */
function archiveInto({ server, config }: Scene, repository: OurRepository): void {
  const walFolder = join(server.dataDirectory, 'pg_wal');
  writeFileSync(config, readFileSync(repository.config));
  rmSync(join(walFolder, '.wal-t'), { recursive: true, force: true });
  // a backup that begins where nothing was written since looks for the last segment, which the repository before has
  const archived = readdirSync(join(walFolder, 'archive_status')).filter((name) => /^[0-9A-F]{24}\.done$/.test(name));
  const last = archived.sort().at(-1)?.replace('.done', '');
  if (last !== undefined) call(launcher('wal-push'), [join(walFolder, last)], { WALT_CONFIG: repository.config });
}

/** Makes the repository, with some WAL of the cluster in it. */
async function enter(scene: Scene, repository: OurRepository): Promise<void> {
  call(launcher('wal-t'), ['init'], { WALT_CONFIG: repository.config });
  archiveInto(scene, repository);
  await scene.server.query("select pg_logical_emit_message(true, 'bench', '')"); // so that there is something to archive
  await scene.server.waitUntilArchived(await scene.server.switchWal());
}

function ours(scene: Scene, repository: OurRepository, workers: number): Contender[] {
  const { folder, server } = scene;
  const { title, config, root } = repository;
  const target = join(folder, 'restored');
  const env = { WALT_CONFIG: config, WALT_WORKERS: String(workers), PGUSER: 'postgres', PGHOST: server.folder };
  const kind = `${workers} worker${workers > 1 ? 's' : ''}${title}`;
  const [push, fetch] = [`push, ${kind}`, `fetch, ${kind}`];
  return [
    {
      name: push,
      command: [launcher('basebackup-push'), server.dataDirectory],
      env,
      before: () => {
        archiveInto(scene, repository);
        forgetBackups(root);
      },
      after: () => {
        if (root !== undefined) scene.stored.set(push, bytesIn(root, /\/part\//));
      },
    },
    {
      name: fetch,
      command: [launcher('basebackup-fetch'), target, 'LATEST'],
      env,
      before: () => rmSync(target, { recursive: true, force: true }),
      after: () => expectRestored(scene, fetch, target),
    },
  ];
}

function forgetBackups(root: string | undefined): void {
  if (root === undefined) return;
  for (const cluster of readdirSync(root).filter((name) => /^\d+$/.test(name))) {
    for (const kind of ['part', 'files', 'manifest', 'lease'])
      rmSync(join(root, cluster, kind), { recursive: true, force: true });
  }
}
