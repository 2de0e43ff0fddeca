/** The peers of a base backup and its restore, each at its best for the same task, and what no program of this kind is faster than. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { bytesIn, expectRestored, makeEmpty, type Scene } from './backup-scene.ts';
import { call } from './call.ts';
import type { Contender } from './measure.ts';

/** A program as it is measured, for the report. */
export interface Peer {
  /** With its version. */
  readonly program: string;
  readonly options: string;
  /** Does it wait until what it wrote is on the disk? */
  readonly fsync: string;
  readonly contenders: readonly Contender[];
}

export const peerNames = {
  pgBackRest: { backup: 'pgbackrest backup', restore: 'pgbackrest restore' },
  tar: { backup: 'tar | zstd -3 -T2', restore: 'zstd -d | tar x' },
  /** The same, until it is on the disk. */
  synced: { backup: 'tar | zstd -3 -T2, fsync', restore: 'zstd -d | tar x, sync' },
} as const;

/** Those of a folder that are found on this host. */
export function findPeers(scene: Scene): Peer[] {
  return [...pgBackRest(scene), ...tarAndZstd(scene), ...pgBasebackup(scene)];
}

const measuredOptions = ['process-max=2', 'compress-type=zst', 'compress-level=3', 'repo1-bundle=y', 'start-fast=y'];

/** Its stanza for the cluster of the scene; undefined where it is not on this host. */
function preparePgBackRest({ folder, server }: Scene) {
  const found = spawnSync('pgbackrest', ['version'], { encoding: 'utf8' });
  if (found.status !== 0) return undefined;
  const config = join(folder, 'pgbackrest.conf');
  const repository = join(folder, 'pgbackrest');
  const lines = [
    '[global]',
    `repo1-path=${repository}`,
    'repo1-retention-full=1',
    ...['log-path', 'lock-path', 'spool-path'].map((name) => `${name}=${folder}`),
    ...measuredOptions,
    'log-level-console=warn',
    'log-level-file=off',
    '[bench]',
    `pg1-path=${server.dataDirectory}`,
    `pg1-socket-path=${server.folder}`,
    'pg1-user=postgres',
  ];
  writeFileSync(config, `${lines.join('\n')}\n`);
  const words = [`--config=${config}`, '--stanza=bench'];
  call('pgbackrest', [...words, 'stanza-create']);
  const command = (type: string) => ['pgbackrest', ...words, `--type=${type}`, '--no-archive-check', 'backup'];
  const made = join(repository, 'backup/bench');
  return {
    version: found.stdout.trim(),
    words,
    command,
    made,
    storedBytes: () => bytesIn(made, /\/pg_data\/|\/bundle\//),
  };
}

/** A full backup, an increment, and how many bytes of backups are stored. */
export function pgBackRestIncrement(scene: Scene) {
  const prepared = preparePgBackRest(scene);
  if (prepared === undefined) return undefined;
  const { command, storedBytes } = prepared;
  const contender = (name: string, type: string): Contender => ({ name, command: command(type) });
  return { full: contender('pgbackrest full', 'full'), increment: contender('pgbackrest incr', 'incr'), storedBytes };
}

function pgBackRest(scene: Scene): Peer[] {
  const prepared = preparePgBackRest(scene);
  if (prepared === undefined) return [];
  const { version, words, command, made, storedBytes } = prepared;
  const target = join(scene.folder, 'restored');
  const { backup, restore } = peerNames.pgBackRest;
  const contenders: Contender[] = [
    {
      name: backup,
      command: command('full'),
      before: () => {
        for (const folder of foldersIn(made)) rmSync(folder, { recursive: true });
      },
      after: () => scene.stored.set(backup, storedBytes()),
    },
    {
      name: restore,
      command: ['pgbackrest', ...words, `--pg1-path=${target}`, '--type=none', 'restore'],
      before: () => makeEmpty(target),
      after: () => expectRestored(scene, restore, target),
    },
  ];
  const options = `${measuredOptions.join(', ')}; page checksums looked at; --no-archive-check: it does not wait for WAL`;
  return [{ program: version, options, fsync: 'each file', contenders }];
}

function foldersIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name));
}

/** No backup, since nothing tells PostgreSQL of it, but the same bytes. What `tar` finds changed does not matter here. */
function tarAndZstd(scene: Scene): Peer[] {
  const { folder, server } = scene;
  const [stored, target] = [join(folder, 'tar.zst'), join(folder, 'restored')];
  const excluded = `--warning=none --exclude='./pg_wal/*' --exclude=pg_internal.init`;
  const pack = `tar -C ${server.dataDirectory} ${excluded} -cf - . | zstd -q -3 -T2 -f -o ${stored}`;
  const unpack = `zstd -q -d -c ${stored} | tar -C ${target} -xf -`;
  const backup = (name: string, command: string): Contender => ({
    name,
    command: ['sh', '-c', command],
    before: () => rmSync(stored, { force: true }),
    after: () => scene.stored.set(name, statSync(stored).size),
  });
  const restore = (name: string, command: string): Contender => ({
    name,
    command: ['sh', '-c', command],
    before: () => makeEmpty(target),
    after: () => expectRestored(scene, name, target),
  });
  const { tar, synced } = peerNames;
  const program = `${firstLine('tar')}, ${firstLine('zstd')}`;
  return [
    {
      program,
      options: 'tar c | zstd -3 -T2, zstd -d | tar x; no backup, no checks',
      fsync: 'nothing',
      contenders: [backup(tar.backup, pack), restore(tar.restore, unpack)],
    },
    {
      program,
      options: 'the same',
      fsync: 'the archive; the file system, when all is unpacked',
      contenders: [
        backup(synced.backup, `${pack} && sync ${stored}`),
        restore(synced.restore, `${unpack} && sync -f ${target}`),
      ],
    },
  ];
}

function pgBasebackup(scene: Scene): Peer[] {
  const bin = '/usr/lib/postgresql/15/bin/pg_basebackup';
  if (!existsSync(bin)) return [];
  const { folder, server } = scene;
  const target = join(folder, 'pg_basebackup');
  const name = 'pg_basebackup, client-zstd';
  const options = ['-Ft', '-X', 'none', '-c', 'fast', '--compress=client-zstd:level=3,workers=2'];
  const contender: Contender = {
    name,
    command: [bin, '-h', server.folder, '-U', 'postgres', '-D', target, ...options],
    before: () => rmSync(target, { recursive: true, force: true }),
    after: () => {
      scene.stored.set(name, bytesIn(target, /base\.tar/));
      rmSync(target, { recursive: true });
    },
  };
  return [{ program: firstLine(bin), options: options.join(' '), fsync: 'the archive', contenders: [contender] }];
}

/** It has no zstd: gzip is the only compression that both ends have without more packages. */
export function findBarman(scene: Scene, { endpoint, bucket, ...s3 }: S3Endpoint, run: string): Peer[] {
  const found = spawnSync('barman-cloud-backup', ['--version'], { encoding: 'utf8' });
  if (found.status !== 0) return [];
  const env = {
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    AWS_DEFAULT_REGION: s3.region,
    HOME: scene.folder,
  };
  const options = ['--gzip', '--immediate-checkpoint', '--jobs', '2'];
  const server = ['--host', scene.server.folder, '--user', 'postgres'];
  const contender: Contender = {
    name: 'barman-cloud-backup, S3',
    command: [
      'barman-cloud-backup',
      ...options,
      ...server,
      '--endpoint-url',
      endpoint,
      `s3://${bucket}/${run}`,
      'bench',
    ],
    env,
  };
  return [{ program: found.stdout.trim(), options: options.join(' '), fsync: 'S3', contenders: [contender] }];
}

function firstLine(program: string): string {
  return call(program, ['--version']).split('\n')[0]?.replaceAll('*', '').trim() ?? program;
}
