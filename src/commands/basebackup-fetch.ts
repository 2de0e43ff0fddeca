/**
 * basebackup-fetch DIR [NAME|LATEST]: the files of a base backup, out of the archive into an empty folder, or with `delta` over a stopped cluster,
 * of which all that fits is kept. Recovery is PostgreSQL's, or `restore`'s.
 *
 * `global/pg_control` comes last, when everything else is durable: PostgreSQL starts no cluster without it, so half a restore is none.
 * The list of files is read as if an enemy had written it (H32): folders and files are made new, and nothing is ever written through a link.
 */
import { availableParallelism } from 'node:os';
import { isAbsolute, resolve } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import type { FileLine, FilesLine, PartLine } from '../archive/files-line.ts';
import { parseLines } from '../archive/files-list.ts';
import { clusterLines } from '../archive/files-order.ts';
import { controlFilePath, tablespaceMapPath } from '../archive/files-paths.ts';
import { type BackupManifest, readManifest } from '../archive/manifest.ts';
import { readStream } from '../archive/part.ts';
import { parsePath, showPath, toBytePath } from '../byte-path.ts';
import { openOldCluster } from '../cluster/old-cluster.ts';
import type { TablespacePlace } from '../cluster/restore-places.ts';
import { syncFiles } from '../cluster/restored-file.ts';
import { RestoredFolder } from '../cluster/restored-folder.ts';
import { UsageError } from '../errors.ts';
import { formatBackupManifest, type ManifestFile } from '../postgres/backup-manifest.ts';
import { chooseBackup, openArchive, readCatalogue } from './backups.ts';
import { type Batch, type RestoredBatch, targetsOf } from './basebackup-fetch/batch.ts';
import { ComputedChecksums } from './basebackup-fetch/computed-checksums.ts';
import type { PartRestore } from './basebackup-fetch/restore-part.ts';
import type { WindowRestore } from './basebackup-fetch/restore-window.ts';
import { type OldWal, type TakenOver, takeOver } from './basebackup-fetch/take-over.ts';
import { type RestoreTask, tasksOf } from './basebackup-fetch/tasks.ts';
import type { Context } from './context.ts';
import { type Crew, Pool } from './crew.ts';
import { pageRules } from './page-rules.ts';

export interface BasebackupFetchArguments {
  readonly dir: string;
  /** A backup's name, or LATEST. */
  readonly name: string;
  /** Where tablespaces go, by where they were: absolute paths. */
  readonly tablespaceMapping: ReadonlyMap<string, string>;
  /** Go on with what an interrupted restore has left. */
  readonly resume: boolean;
  /** What is there may be a stopped cluster: it is changed into the backup. Where nothing is there it is as without; interrupted, it always goes on. */
  readonly delta?: boolean;
}

export interface BasebackupFetchResult {
  readonly manifest: BackupManifest;
  readonly folder: string;
  readonly tablespaces: readonly { readonly oid: string; readonly location: string }[];
  readonly seconds: number;
  /** Bytes of files that were there, and that were right: an interrupted restore had left them, or the old cluster. */
  readonly keptBytes: number;
  /** Bytes that came from the storage: of parts and of the list of files. */
  readonly fetchedBytes: number;
  /** What became of the pg_wal of the cluster that was there; undefined where none was. */
  readonly oldWal: OldWal | undefined;
}

/** Returns when every file is there, was verified and is durable. */
export async function basebackupFetch(
  context: Context,
  args: BasebackupFetchArguments,
): Promise<BasebackupFetchResult> {
  const archive = await openArchive(context);
  const { id } = chooseBackup(await readCatalogue(context, archive), args.name);
  const manifest = await readManifest(archive, id, context);
  const again = `basebackup-fetch ${args.dir} ${id} ${args.delta === true ? '--delta' : '--resume'}`;
  return fetchBackup(context, { archive, manifest, ...args, again });
}

export interface FetchOptions extends Omit<BasebackupFetchArguments, 'name'> {
  readonly archive: Archive;
  readonly manifest: BackupManifest;
  /** The command that goes on with it when it is interrupted. */
  readonly again: string;
  /** Done when all files are there and before they are a cluster: whatever it writes must be durable when it returns. */
  readonly settle?: (target: RestoredFolder, oldWal: OldWal | undefined) => Promise<void>;
}

/** The files of one backup. */
export async function fetchBackup(context: Context, options: FetchOptions): Promise<BasebackupFetchResult> {
  const startedMs = performance.now();
  const { archive, manifest, again, settle } = options;
  const folder = resolve(context.workingDirectory, options.dir);
  const tablespaces = placeTablespaces(manifest, options.tablespaceMapping);
  const old = options.delta === true ? await openOldCluster(folder) : undefined;
  const prepare = async () => {
    const resume = options.resume || options.delta === true;
    const { rawBytes } = manifest.statistics;
    return {
      target: await RestoredFolder.prepare(folder, { backup: manifest.id, resume, rawBytes, tablespaces, again }),
    };
  };
  const checkList = async () => {
    for await (const _ of filesOf({ ...context, archive, manifest })) context.signal.throwIfAborted();
  };
  const hint = old === undefined ? `Go on with "${again}", or remove the folder.` : `Go on with "${again}".`;
  const onIncomplete = () =>
    context.log.warning(`"${folder}" is not complete: PostgreSQL cannot start from it`, { hint });
  const prepared: Prepared =
    old === undefined
      ? await prepare()
      : await takeOver(context, old, { manifest, tablespaces, checkList, onIncomplete });
  const { target, wal: oldWal } = prepared;
  const restore: Restore = {
    ...context,
    ...prepared,
    archive,
    manifest,
    syncing: new Pool(['turn']),
    checksums: new ComputedChecksums(manifest.manifestChecksums),
    keptBytes: 0,
    fetchedBytes: (old === undefined ? 2 : 3) * manifest.files.objectBytes, // so often the list is read
    doneBytes: 0,
  };
  try {
    await restoreFiles(restore);
    await settle?.(target, oldWal);
    await target.finish(toBytePath(controlFilePath), formatManifest(restore));
  } catch (error) {
    onIncomplete();
    throw error;
  }
  const seconds = (performance.now() - startedMs) / 1000;
  const placed = tablespaces.map(({ oid, location }) => ({ oid, location: showPath(location) }));
  const { keptBytes, fetchedBytes } = restore;
  return { manifest, folder, tablespaces: placed, seconds, keptBytes, fetchedBytes, oldWal };
}

interface Prepared extends Partial<Omit<TakenOver, 'target'>> {
  readonly target: RestoredFolder;
}

interface Restore extends Context, Prepared {
  readonly archive: Archive;
  readonly manifest: BackupManifest;
  /** The files of one part after the other are made durable, here, while the workers go on. */
  readonly syncing: Pool<'turn'>;
  /** Of files whose lines have none. */
  readonly checksums: ComputedChecksums;
  keptBytes: number;
  fetchedBytes: number;
  doneBytes: number;
}

/** Where each tablespace goes. @throws UsageError when the mapping names one that the backup does not have. */
function placeTablespaces({ tablespaces }: BackupManifest, mapping: ReadonlyMap<string, string>): TablespacePlace[] {
  const known = tablespaces.map(({ oid, ...place }) => ({ oid, from: parsePath(place) ?? '' }));
  for (const from of mapping.keys()) {
    if (known.some((one) => one.from === toBytePath(from))) continue;
    throw new UsageError(`the backup has no tablespace at "${from}"`, {
      detail: known.length === 0 ? 'it has none' : `it has ${known.map((one) => `"${showPath(one.from)}"`).join(', ')}`,
      hint: 'Write --tablespace-mapping OLD=NEW, OLD as it was on the server.',
    });
  }
  return known.map(({ oid, from }) => {
    const to = [...mapping].find(([old]) => toBytePath(old) === from)?.[1];
    if (to !== undefined && !isAbsolute(to)) {
      throw new UsageError(`"${to}" is not an absolute path`, { hint: 'PostgreSQL demands one for a tablespace.' });
    }
    return { oid, location: to === undefined ? from : toBytePath(to) };
  });
}

/**
 * Every line of the backup's list of files that is to be restored, checked. `tablespace_map` is not: PostgreSQL would make the links anew
 * from it when it starts, to where the tablespaces were. They are made already, as by `pg_basebackup` in plain format.
 */
async function* filesOf({
  archive,
  manifest,
  signal,
}: Pick<Restore, 'archive' | 'manifest' | 'signal'>): AsyncGenerator<FilesLine> {
  const stream = readStream(archive, { backup: manifest.id, part: 'files' }, manifest.files, { signal });
  for await (const line of clusterLines(parseLines(stream))) {
    if (line.type !== 'file' || line.path !== tablespaceMapPath) yield line;
  }
}

async function restoreFiles(restore: Restore): Promise<void> {
  const crew = restore.crew(workersFor(restore));
  const running = new Set<Promise<void>>();
  let failure: unknown;
  try {
    for await (const task of tasksOf(entriesMade(restore), restore.manifest)) {
      if (failure !== undefined) break;
      const ended = runTask(restore, crew, task).catch((error: unknown) => {
        failure ??= error;
      });
      running.add(ended);
      void ended.then(() => running.delete(ended));
      if (running.size >= crew.size * tasksAhead) await Promise.race(running);
    }
    await Promise.all(running);
    if (failure !== undefined) throw failure;
  } finally {
    await crew.close();
  }
}

/** So many tasks for each worker are read ahead of the list. */
const tasksAhead = 2;

/** Parts and files. Folders and links are made on the way, since the list names them before what they hold. */
async function* entriesMade(restore: Restore): AsyncGenerator<FileLine | PartLine> {
  const { surplus } = restore;
  for await (const line of filesOf(restore)) {
    if (line.type !== 'part') await surplus?.upTo(line);
    else if (line.last === true) await surplus?.toEnd(); // what follows has an order of its own
    if (line.type === 'folder') await restore.target.makeFolder(line);
    else if (line.type === 'tablespace') await restore.target.makeTablespace(line);
    else yield line;
  }
}

async function runTask(restore: Restore, crew: Crew, task: RestoreTask): Promise<void> {
  const { archive, manifest, target } = restore;
  const { manifestChecksums } = manifest;
  const { files, name } = task;
  const batch: Batch = {
    files,
    manifestChecksums,
    root: target.root,
    renamed: controlFilePath,
    owner: target.owner,
    left: target.isResumed ? (target.isFinished(name) ? 'whole' : 'unknown') : 'nothing',
  };
  const { systemIdentifier, keys } = archive;
  const parts = task.kind === 'part' ? [task.part] : task.parts;
  const work =
    task.kind === 'part' && restore.surplus === undefined
      ? { kind: 'restore-part', batch: { ...batch, part: task.part } satisfies PartRestore }
      : {
          kind: restore.surplus === undefined ? 'restore-window' : 'restore-over',
          batch: { ...batch, parts, pages: pageRules(manifest) } satisfies WindowRestore,
        };
  const lacking = restore.checksums.expect();
  const done = await crew.run<RestoredBatch>({ systemIdentifier, keys, ...work }, (bytes) => {
    restore.doneBytes += bytes;
    report(restore);
  });
  restore.keptBytes += done.keptBytes;
  restore.fetchedBytes += done.fetchedBytes;
  lacking(done.checksums);
  const turn = await restore.syncing.take();
  try {
    await syncFiles(targetsOf(batch)); // also those that were there: their fsync may never have come
  } finally {
    restore.syncing.give(turn);
  }
  if (restore.surplus !== undefined) return; // what is right is found anew each time
  if (!parts.some(({ last }) => last === true)) await target.noteFinished(name);
}

function report({ manifest, doneBytes, report }: Restore): void {
  const { rawBytes, files } = manifest.statistics;
  report?.({ what: 'restored', doneBytes: Math.min(doneBytes, rawBytes), totalBytes: rawBytes, files });
}

/** PostgreSQL's own backup_manifest, from the list of files; folders get their modes and are made durable on the way. */
async function* formatManifest(restore: Restore): AsyncGenerator<Uint8Array> {
  const { manifest, target } = restore;
  const { manifestChecksums: algorithm, timeline, startLsn, consistentLsn } = manifest;
  const computed = restore.checksums.inOrder();
  async function* files(): AsyncGenerator<ManifestFile> {
    for await (const line of filesOf(restore)) {
      if (line.type === 'folder' || line.type === 'tablespace') await target.finishFolder(line);
      if (line.type !== 'file') continue;
      const { path, sizeBytes, mtimeNs } = line;
      const checksum = line.checksum ?? computed.next().value;
      yield {
        path,
        sizeBytes,
        modifiedAt: new Date(Number(mtimeNs / 1_000_000n)),
        checksum: checksum === undefined || algorithm === 'NONE' ? undefined : { algorithm, hex: checksum },
      };
    }
  }
  yield* formatBackupManifest(files(), {
    postgresMajor: Math.floor(manifest.postgres.versionNumber / 10_000),
    systemIdentifier: manifest.systemIdentifier,
    walRanges: [{ timeline, startLsn, endLsn: consistentLsn }],
  });
}

/** A host that is restored has nothing else to do. */
function workersFor({ settings }: Context): number {
  return settings.workers ?? Math.min(16, availableParallelism());
}
