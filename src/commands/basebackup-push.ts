import { resolve } from 'node:path';
import { makeBackupId } from '../archive/backup-id.ts';
import { sealLines } from '../archive/files-list.ts';
import { type Lease, takeLease } from '../archive/lease.ts';
import { type BackupManifest, storeManifest } from '../archive/manifest.ts';
import { storeStream } from '../archive/part.ts';
import type { WalRange } from '../archive/wal-range.ts';
import { formatPath } from '../byte-path.ts';
import { type BackupServer, openServer } from '../cluster/server.ts';
import { readWholeControlFile, type WholeControlFile } from '../cluster/whole-control-file.ts';
import { PostgresError, UsageError } from '../errors.ts';
import { parseBackupLabel, parseTablespaceMap, type TablespaceLocation } from '../postgres/backup-label.ts';
import { formatLsn, type Lsn } from '../postgres/lsn.ts';
import { segmentNameAt } from '../postgres/wal-file-name.ts';
import { readCatalogue } from './backups.ts';
import { waitForWal } from './basebackup-push/archived-wal.ts';
import { expectNothingMissing, expectStillThere } from './basebackup-push/confirm.ts';
import { ClusterCopy, configPaths } from './basebackup-push/copy.ts';
import { ensureHistories } from './basebackup-push/histories.ts';
import { lookForRoom } from './basebackup-push/host.ts';
import type { Increment } from './basebackup-push/increment.ts';
import { lookBefore, type Survey } from './basebackup-push/look-before.ts';
import { chooseParent, type NoParent, type Parent, unfit } from './basebackup-push/parent.ts';
import { type IncrementStart, prepareIncrement, UnfitParent } from './basebackup-push/prepare-increment.ts';
import { type BasebackupPushArguments, type Push, versionsOf, workersFor } from './basebackup-push/push.ts';
import { type Context, storageOf } from './context.ts';
import { keysToSeal } from './keys.ts';

export interface BasebackupPushResult {
  readonly manifest: BackupManifest;
  /** How much of the cluster's files was read. */
  readonly readBytes: number;
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
    const pushed = await pushFitting(push, await lookBefore(push));
    return { ...pushed, seconds: (performance.now() - startedMs) / 1000 };
  } catch (error) {
    // whatever was under way was only broken off
    throw server.lost.aborted && !context.signal.aborted ? server.lost.reason : error;
  } finally {
    await server.close();
  }
}

function dataDirectoryOf({ settings, libpq, workingDirectory }: Context, { pgdata }: BasebackupPushArguments): string {
  const found = pgdata ?? settings.dataDirectory ?? libpq.PGDATA;
  if (found !== undefined) return resolve(workingDirectory, found);
  throw new UsageError('it is not clear which cluster is to be backed up', {
    hint: 'Give its data directory: basebackup-push /path/to/data. WALT_PGDATA or PGDATA do as well.',
  });
}

type Pushed = Omit<BasebackupPushResult, 'seconds'>;

/** An increment where one is wanted and has a parent; else a full backup. */
async function pushFitting(push: Push, survey: Survey): Promise<Pushed> {
  const sayFull = ({ reason, isDue }: NoParent) => {
    const say = isDue === true ? push.log.info : push.log.warning;
    say('this will be a full backup, no increment', { detail: reason });
  };
  if (push.args.incremental === true) {
    const found = await chooseParent(push);
    if ('reason' in found) sayFull(found);
    else {
      try {
        return await pushLeased(push, survey, found);
      } catch (error) {
        if (!(error instanceof UnfitParent)) throw error;
        if (push.args.parent !== undefined) throw unfit(push.args.parent, error.message);
        sayFull({ reason: error.message });
      }
    }
    await lookForRoom(push, survey.expectedBytes);
  }
  return pushLeased(push, survey, undefined);
}

/** From here on the archive knows of the backup, and is told when it is given up. @throws UnfitParent when another backup may be begun instead. */
async function pushLeased(push: Push, survey: Survey, parent: Parent | undefined): Promise<Pushed> {
  const { archive, server, dataDirectory, startedAt, host, signal, log } = push;
  const { control } = await readWholeControlFile(dataDirectory);
  const { timeline, segmentSizeBytes } = server.facts;
  const walFloor = control.redo ?? 0n;
  const segment = segmentNameAt(timeline, walFloor, segmentSizeBytes);
  const id = makeBackupId({ startedAt, segment, type: parent === undefined ? 'full' : 'incremental' });
  const lease = await takeLease(archive, { id, walFloor, timeline, host, signal, log });
  try {
    if (parent !== undefined) await holdParent(push, lease, parent);
    const { manifest, wal, readBytes } = await copyAndStore(push, { id, survey, parent });
    await expectNothingMissing(archive, manifest, wal, { signal: push.signal });
    await lease.close();
    await expectStillThere(archive, manifest, { signal: push.signal });
    return { manifest, readBytes };
  } catch (error) {
    // a manifest whose storing was not answered may be there: nothing is cleaned up, and nothing believed (H27)
    const reason: unknown = signal.aborted ? signal.reason : error;
    await lease.fail(reason instanceof Error ? reason.message : String(reason));
    if (reason instanceof UnfitParent) throw reason;
    log.warning(`base backup ${id} was given up, and is never restored by itself`, {
      detail: 'backup-list shows its state',
    });
    throw reason;
  }
}

/** No deletion that begins from here on takes what the parent needs; one that has begun may have taken it already (H27). @throws UnfitParent */
async function holdParent(push: Push, lease: Lease, { manifest: { id, uses } }: Parent): Promise<void> {
  await lease.nameParent({ parent: id, uses });
  const isThere = (await readCatalogue(push, push.archive)).some((one) => one.id === id && one.state === 'confirmed');
  if (!isThere) throw new UnfitParent(`${id} was deleted just now`);
}

interface Copying {
  readonly id: string;
  readonly survey: Survey;
  readonly parent: Parent | undefined;
}

async function copyAndStore(push: Push, { id, survey: { expectedBytes, configFiles }, parent }: Copying) {
  const { archive, server, dataDirectory, args, host, settings, startedAt } = push;
  const { facts } = server;
  const label = args.label ?? id;
  const crew = push.crew(workersFor(push));
  try {
    const { startLsn } = await server.startBackup({ label, checkpoint: args.checkpoint });
    await server.proveSameServer(startLsn);
    const { control } = await readWholeControlFile(dataDirectory);
    const segmentPages = control.relationSegmentBlocks ?? usualSegmentPages;
    const start = { startLsn, segmentPages, timeline: control.timeline };
    const increment = parent === undefined ? undefined : await prepareOrStop(push, parent, start);
    const ended: { stop?: Awaited<ReturnType<BackupServer['stopBackup']>> } = {};
    const copy = new ClusterCopy(push, {
      ...push,
      ...versionsOf(push),
      crew,
      backup: id,
      manifestChecksums: args.manifestChecksums,
      pages: facts.checksums ? { startLsn, pageBytes: facts.pageSizeBytes, segmentPages } : undefined,
      pageBytes: facts.pageSizeBytes,
      increment,
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
      type: parent === undefined ? 'full' : 'incremental',
      parent: parent?.manifest.id,
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
      uses: copy.uses,
    };
    await storeManifest(archive, manifest, { host, signal: push.signal });
    return { manifest, wal, readBytes: copy.readBytes };
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

/** The same session can begin another backup when this one is stopped. @throws UnfitParent */
async function prepareOrStop(push: Push, parent: Parent, start: IncrementStart): Promise<Increment> {
  try {
    return await prepareIncrement(push, parent, start);
  } catch (error) {
    if (error instanceof UnfitParent) await push.server.stopBackup();
    throw error;
  }
}

/** `RELSEG_SIZE` of every usual build: 1 GiB. */
const usualSegmentPages = 131_072;
