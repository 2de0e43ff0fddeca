/**
 * basebackup-push [PGDATA]: a full base backup of a running cluster into the archive.
 *
 * The order of the steps is what makes it one (docs/FORMAT.md, Backups): nothing of it is believed before `lease/<id>/closed` is stored, and
 * that is stored only when every part and every WAL segment from its start to its consistent end was seen in the archive. A kill at any
 * point leaves what no command believes.
 *
 * @see https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
 */
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import { makeBackupId } from '../archive/backup-id.ts';
import { sealLines } from '../archive/files-list.ts';
import { takeLease } from '../archive/lease.ts';
import { type BackupManifest, storeManifest } from '../archive/manifest.ts';
import { storeStream } from '../archive/part.ts';
import { checkSameRepository, noRepository, readCluster, readRepository } from '../archive/repository.ts';
import type { WalRange } from '../archive/wal-range.ts';
import { formatPath } from '../byte-path.ts';
import { surveyDataDirectory } from '../cluster/backup-walk.ts';
import { readKnownRepository } from '../cluster/known-repository.ts';
import { type BackupServer, openServer } from '../cluster/server.ts';
import { readWholeControlFile, type WholeControlFile } from '../cluster/whole-control-file.ts';
import { CheckError, ConfigurationError, ObjectNotFound, PostgresError, UsageError } from '../errors.ts';
import { parseBackupLabel, parseTablespaceMap, type TablespaceLocation } from '../postgres/backup-label.ts';
import type { ManifestChecksums } from '../postgres/file-checksum.ts';
import { formatLsn, type Lsn } from '../postgres/lsn.ts';
import { segmentNameAt } from '../postgres/wal-file-name.ts';
import { describeArchiver, waitForWal } from './basebackup-push/archived-wal.ts';
import { expectNothingMissing, expectStillThere } from './basebackup-push/confirm.ts';
import { ClusterCopy, configPaths } from './basebackup-push/copy.ts';
import { ensureHistories } from './basebackup-push/histories.ts';
import { lookAtHost, readableConfigFiles } from './basebackup-push/host.ts';
import { type Context, storageOf } from './context.ts';
import { keysToSeal } from './keys.ts';

export interface BasebackupPushArguments {
  /** Else WALT_PGDATA, else PGDATA. */
  readonly pgdata?: string | undefined;
  readonly checkpoint: 'fast' | 'spread';
  /** Bytes per second that are read, of all workers together. */
  readonly maxRate?: number | undefined;
  readonly annotations: Readonly<Record<string, string>>;
  readonly manifestChecksums: ManifestChecksums;
  readonly label?: string | undefined;
}

export interface BasebackupPushResult {
  readonly manifest: BackupManifest;
  readonly seconds: number;
}

/** @returns when the backup is confirmed: it counts, also when pages with a wrong checksum were found in it. */
export async function basebackupPush(context: Context, args: BasebackupPushArguments): Promise<BasebackupPushResult> {
  const startedAt = new Date();
  const startedMs = performance.now();
  const dataDirectory = dataDirectoryOf(context, args);
  const [keys, storage] = [await keysToSeal(context), await storageOf(context)];
  const server = await openServer({
    dataDirectory,
    environment: context.libpq,
    log: context.log,
    signal: context.signal,
    connectMs: context.settings.times.connectMs,
  });
  try {
    const archive = { storage, keys, systemIdentifier: server.facts.systemIdentifier };
    // a backup whose session is lost is lost
    const signal = AbortSignal.any([context.signal, server.lost]);
    const push: Push = { ...context, signal, archive, server, dataDirectory, args, startedAt };
    const manifest = await pushLeased(push, await lookBefore(push));
    return { manifest, seconds: (performance.now() - startedMs) / 1000 };
  } catch (error) {
    // whatever was under way was only broken off
    throw server.lost.aborted && !context.signal.aborted ? server.lost.reason : error;
  } finally {
    await server.close();
  }
}

interface Push extends Context {
  readonly archive: Archive;
  readonly server: BackupServer;
  /** Absolute. */
  readonly dataDirectory: string;
  readonly args: BasebackupPushArguments;
  readonly startedAt: Date;
}

function dataDirectoryOf({ settings, libpq, workingDirectory }: Context, { pgdata }: BasebackupPushArguments): string {
  const found = pgdata ?? settings.dataDirectory ?? libpq.PGDATA;
  if (found !== undefined) return resolve(workingDirectory, found);
  throw new UsageError('it is not clear which cluster is to be backed up', {
    hint: 'Give its data directory: basebackup-push /path/to/data. WALT_PGDATA or PGDATA do as well.',
  });
}

/** All that can be known to fail, before it does. @returns about how many bytes there are to copy, and which configuration files can be kept. */
async function lookBefore(push: Push): Promise<Survey> {
  const isEntered = await expectRepository(push);
  const { rawBytes } = await surveyDataDirectory({ ...push, ...versionsOf(push), warn: () => undefined });
  await lookAtHost(push, { rawBytes, workers: workersFor(push) });
  await expectArchiving(push);
  if (!isEntered && !(await expectRepository(push))) throw neverArchived(push);
  return { expectedBytes: rawBytes, configFiles: await readableConfigFiles(push, push.server.facts.configFiles) };
}

interface Survey {
  readonly expectedBytes: number;
  /** Absolute paths. */
  readonly configFiles: readonly string[];
}

/**
 * The repository that this cluster's WAL goes to, and no other (H16).
 * @returns whether any WAL of the cluster ever came there: of a new one that was just set up the first segment is still to come.
 */
async function expectRepository({ archive, dataDirectory, signal, settings, server }: Push): Promise<boolean> {
  const { storage, systemIdentifier } = archive;
  const known = await readKnownRepository(join(dataDirectory, 'pg_wal'));
  const absent = (error: unknown): undefined => {
    if (!(error instanceof ObjectNotFound)) throw error;
  };
  const cluster = await readCluster(storage, systemIdentifier, { signal }).catch(absent);
  if (cluster !== undefined) {
    checkSameRepository(known ?? cluster.repository, cluster.repository, storage);
    return true;
  }
  const repository = await readRepository(storage, { signal }).catch(absent);
  if (repository === undefined && (settings.init !== 'auto' || known !== undefined)) throw noRepository(storage, known);
  if (repository !== undefined && known !== undefined) checkSameRepository(known, repository.repository, storage);
  if (server.facts.inRecovery && server.facts.archiveMode !== 'always') throw neverArchived({ archive });
  return false;
}

function neverArchived({ archive }: Pick<Push, 'archive'>): ConfigurationError {
  const { storage, systemIdentifier } = archive;
  return new ConfigurationError(`no WAL of this cluster was ever archived in ${storage.url}`, {
    detail: `system identifier ${systemIdentifier}; a base backup is worth nothing without its WAL`,
    hint: "Set archive_mode = on and archive_command = '… wal-push %p %f' with the same settings, restart, and look at PostgreSQL's log.",
  });
}

/** A backup without its WAL is found out now, not after hours: archiving must work, and into this very archive. */
async function expectArchiving(push: Push): Promise<void> {
  const { server, archive, settings } = push;
  const { facts } = server;
  if (facts.inRecovery && facts.archiveMode !== 'always') return; // the primary does it: only the end can tell
  if (facts.archiveMode === 'off') {
    throw new ConfigurationError('archive_mode is off', {
      hint: "Set archive_mode = on and archive_command = '… wal-push %p %f', and restart PostgreSQL.",
    });
  }
  const status = await server.archiverStatus();
  if (status.isFailing) {
    throw new CheckError(`archiving is failing: segment "${status.lastFailed}" is not archived`, {
      detail: describeArchiver(status),
      hint: "Look at PostgreSQL's log for what archive_command says, mend it, and take the backup again.",
    });
  }
  const endLsn = await server.switchWal();
  if (endLsn === undefined) return;
  const { timeline, segmentSizeBytes } = facts;
  const wal = { timeline, startLsn: endLsn - 1n, endLsn, segmentSizeBytes };
  const limitMs = settings.times.backupWalMs;
  await waitForWal(push, archive, wal, { server, limitMs, consequence: 'nothing was copied' });
}

/** From here on the archive knows of the backup, and is told when it is given up. */
async function pushLeased(push: Push, survey: Survey): Promise<BackupManifest> {
  const { archive, server, dataDirectory, startedAt, host, signal, log } = push;
  const { control } = await readWholeControlFile(dataDirectory);
  const { timeline, segmentSizeBytes } = server.facts;
  const walFloor = control.redo ?? 0n;
  const segment = segmentNameAt(timeline, walFloor, segmentSizeBytes);
  const id = makeBackupId({ startedAt, segment, type: 'full' });
  const lease = await takeLease(archive, { id, walFloor, timeline, host, signal, log });
  try {
    const { manifest, wal } = await copyAndStore(push, id, survey);
    await expectNothingMissing(archive, manifest, wal, { signal: push.signal });
    await lease.close();
    await expectStillThere(archive, manifest, { signal: push.signal });
    return manifest;
  } catch (error) {
    // a manifest whose storing was not answered may be there: nothing is cleaned up, and nothing believed (H27)
    const reason: unknown = signal.aborted ? signal.reason : error;
    await lease.fail(reason instanceof Error ? reason.message : String(reason));
    log.warning(`base backup ${id} was given up, and is never restored by itself`, {
      detail: 'backup-list shows its state',
    });
    throw reason;
  }
}

async function copyAndStore(push: Push, id: string, { expectedBytes, configFiles }: Survey) {
  const { archive, server, dataDirectory, args, host, settings, startedAt } = push;
  const { facts } = server;
  const label = args.label ?? id;
  const crew = push.crew(workersFor(push));
  try {
    const { startLsn } = await server.startBackup({ label, checkpoint: args.checkpoint });
    await server.proveSameServer(startLsn);
    const ended: { stop?: Awaited<ReturnType<BackupServer['stopBackup']>> } = {};
    const copy = new ClusterCopy(push, {
      ...push,
      ...versionsOf(push),
      crew,
      backup: id,
      manifestChecksums: args.manifestChecksums,
      pages: await pageChecks(push, startLsn),
      configFiles: configPaths(configFiles),
      maxRate: args.maxRate,
      expectedBytes,
      stop: async () => {
        ended.stop = await server.stopBackup();
        return ended.stop;
      },
    });
    const files = await storeStream(
      archive,
      { backup: id, part: 'files' },
      sealLines(copy.lines(), () => copy.statistics),
      {
        level: settings.compressionLevel,
        sizeHint: 0,
        signal: push.signal,
      },
    );
    if (ended.stop === undefined || copy.control === undefined) throw new Error('the copy ended without its last part');
    const { stopLsn, label: labelFile, tablespaceMap } = ended.stop;
    const { timeline } = parseBackupLabel(labelFile.toString('utf8'));
    const consistentLsn = consistentFrom(stopLsn, timeline, copy.control);
    const wal: WalRange = { timeline, startLsn, endLsn: consistentLsn, segmentSizeBytes: facts.segmentSizeBytes };
    await ensureHistories(push, archive, { timeline, dataDirectory });
    await waitForWal(push, archive, wal, {
      server,
      limitMs: settings.times.backupWalMs,
      consequence: 'everything is copied, but the backup is not confirmed',
    });
    const manifest: BackupManifest = {
      id,
      type: 'full',
      systemIdentifier: archive.systemIdentifier,
      postgres: { version: facts.version, versionNumber: facts.versionNumber },
      timeline,
      startLsn,
      stopLsn,
      consistentLsn,
      startedAt: startedAt.toISOString(),
      finishedAt: new Date().toISOString(),
      walSegmentBytes: facts.segmentSizeBytes,
      pageBytes: facts.pageSizeBytes,
      checksums: facts.checksums,
      badPages: copy.badPages,
      source: { host, dataDirectory, standby: facts.inRecovery },
      tablespaces: tablespacesOf(tablespaceMap, copy).map(({ oid, location }) => ({ oid, ...formatPath(location) })),
      label,
      backupLabel: labelFile.toString('base64'),
      tablespaceMap: tablespaceMap.toString('base64'),
      manifestChecksums: args.manifestChecksums,
      annotations: args.annotations,
      statistics: copy.statistics,
      files,
      uses: { [id]: [[1, copy.statistics.parts]] },
    };
    await storeManifest(archive, manifest, { host, signal: push.signal });
    return { manifest, wal };
  } finally {
    await crew.close();
  }
}

/** Those that were copied, which a restore must place, also one made since the start; then those of the map that were dropped meanwhile. */
function tablespacesOf(map: Buffer, { tablespaces }: ClusterCopy): TablespaceLocation[] {
  const isAnother = (one: TablespaceLocation) =>
    tablespaces.every(({ oid, location }) => oid !== one.oid && location !== one.location);
  return [...tablespaces, ...parseTablespaceMap(map).filter(isAnother)];
}

/**
 * Up to where WAL must be replayed before the files agree: a standby's own pg_control may know of a later point than the stop (H20).
 * @throws PostgresError when that point is on another timeline: the standby has followed a promotion in the middle of the backup.
 */
function consistentFrom(stopLsn: Lsn, timeline: number, { control }: WholeControlFile): Lsn {
  const { minRecoveryPoint = 0n, minRecoveryTimeline = 0 } = control;
  if (minRecoveryPoint > 0n && minRecoveryTimeline !== timeline) {
    throw new PostgresError('the standby followed another timeline during the backup', {
      detail: `it began on timeline ${timeline} and its pg_control names ${formatLsn(minRecoveryPoint)} on timeline ${minRecoveryTimeline}`,
      hint: 'Take the backup again.',
    });
  }
  return minRecoveryPoint > stopLsn ? minRecoveryPoint : stopLsn;
}

async function pageChecks({ server, dataDirectory }: Push, startLsn: Lsn) {
  const { checksums, pageSizeBytes } = server.facts;
  if (!checksums) return undefined;
  const { control } = await readWholeControlFile(dataDirectory);
  return { startLsn, pageBytes: pageSizeBytes, segmentPages: control.relationSegmentBlocks ?? usualSegmentPages };
}

function versionsOf({ server }: Push) {
  return { postgresMajor: server.facts.major, catalogVersion: server.facts.catalogVersion };
}

/** A production server has other work to do: half the cores, and four at most. */
function workersFor({ settings }: Context): number {
  return settings.workers ?? Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));
}

/** `RELSEG_SIZE` of every usual build: 1 GiB. */
const usualSegmentPages = 131_072;
