/**
 * Copies a cluster that is in backup mode: its entries in batches, each one a part that a worker stores, then the few files that come last.
 * Gives the lines of the list of files in their order, while the workers go on.
 */
import type { Archive } from '../../archive/archive.ts';
import { formatLine } from '../../archive/files-line.ts';
import { backupLabelPath, configFolder, controlFilePath, tablespaceMapPath } from '../../archive/files-paths.ts';
import type { BackupStatistics, BadPage } from '../../archive/manifest.ts';
import { type PartUses, usesOf } from '../../archive/part-uses.ts';
import { type BytePath, toBytePath } from '../../byte-path.ts';
import { type WalkEntry, walkDataDirectory } from '../../cluster/backup-walk.ts';
import { readWholeControlFile, type WholeControlFile } from '../../cluster/whole-control-file.ts';
import { limits } from '../../limits.ts';
import type { TablespaceLocation } from '../../postgres/backup-label.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import type { Context } from '../context.ts';
import type { Crew } from '../crew.ts';
import type { Increment } from './increment.ts';
import type { ClusterEntry, MadeFile, PartBatch, StoredPart } from './store-part.ts';

export interface CopyPlan {
  readonly archive: Archive;
  readonly crew: Crew;
  readonly backup: string;
  readonly dataDirectory: string;
  readonly postgresMajor: number;
  readonly catalogVersion: number;
  readonly manifestChecksums: ManifestChecksums;
  readonly pages: PartBatch['pages'];
  readonly pageBytes: number;
  /** Undefined for a full backup. */
  readonly increment: Increment | undefined;
  /** Absolute paths of files outside the data directory that are kept beside. */
  readonly configFiles: readonly BytePath[];
  /** Bytes per second, of all workers together. */
  readonly maxRate: number | undefined;
  /** About how many bytes all files have. */
  readonly expectedBytes: number;
  /** Ends backup mode, when everything but the labels is copied. */
  readonly stop: () => Promise<{ readonly label: Uint8Array; readonly tablespaceMap: Uint8Array }>;
}

/** So many tasks for each worker may be ahead of the oldest that is not done: their lines are held until it is. */
const tasksAhead = 4;

export class ClusterCopy {
  readonly statistics: { -readonly [name in keyof BackupStatistics]-?: number } = {
    parts: 0,
    files: 0,
    folders: 0,
    tablespaces: 0,
    rawBytes: 0,
    storedBytes: 0,
    usedBytes: 0,
  };
  /** Of files, from this host's disk. */
  readBytes = 0;
  /** All that the list names, of this backup and of earlier ones. */
  readonly #used: { readonly backup: string; readonly number: number }[] = [];
  readonly badPages = { count: 0, pages: [] as BadPage[] };
  /** Those that were found, also one that was made when the backup had begun: `tablespace_map` does not name it, and the list of files does. */
  readonly tablespaces: TablespaceLocation[] = [];
  /** Known when all lines were given: the one that was copied. */
  control: WholeControlFile | undefined;
  readonly #context: Context;
  readonly #plan: CopyPlan;
  #doneBytes = 0;
  #parts = 0;

  constructor(context: Context, plan: CopyPlan) {
    this.#context = context;
    this.#plan = plan;
  }

  /** The parts that the list names. */
  get uses(): PartUses {
    return usesOf(this.#used);
  }

  /** Copies while it is read. */
  async *lines(): AsyncGenerator<Uint8Array> {
    const running: Promise<StoredPart>[] = [];
    let isWhole = false;
    let number = 0;
    const next = async () => {
      number += 1;
      return this.#counted(await first(running), number);
    };
    try {
      for await (const entries of this.#batches()) {
        running.push(this.#store(entries));
        if (running.length >= this.#plan.crew.size * tasksAhead) yield await next();
      }
      while (running.length > 0) yield await next();
      running.push(this.#storeLast());
      yield await next();
      isWhole = true;
    } finally {
      // one part has failed: the others would go on for as long as their files are large, and the failure be told hours later
      if (!isWhole) await this.#plan.crew.close();
      await Promise.allSettled(running);
    }
  }

  /** Batches of about 256 MiB that are read. A file that is large by itself does not wait for small ones to be read before it. */
  async *#batches(): AsyncGenerator<ClusterEntry[]> {
    const { dataDirectory, postgresMajor, catalogVersion, increment } = this.#plan;
    const { signal, log } = this.#context;
    const warn = (message: string, details?: { detail?: string; hint?: string }) => log.warning(message, details);
    let batch: ClusterEntry[] = [];
    let sizeBytes = 0;
    let extents = 0;
    const walk = walkDataDirectory({ dataDirectory, postgresMajor, catalogVersion, signal, warn });
    const known: AsyncIterable<ClusterEntry> = increment === undefined ? walk : increment.entries(walk);
    for await (const entry of known) {
      const entryBytes = this.#readBytesOf(entry);
      if (entryBytes >= limits.partRawBytes && sizeBytes >= limits.partRawBytes / 4) {
        yield batch;
        [batch, sizeBytes, extents] = [[], 0, 0];
      }
      if (entry.type === 'tablespace') {
        this.tablespaces.push({ oid: entry.path.slice(entry.path.lastIndexOf('/') + 1), location: entry.target });
      }
      batch.push(entry);
      sizeBytes += entryBytes;
      extents += entry.type === 'file' ? (entry.known?.line.extents.length ?? 0) : 0;
      const isFull =
        sizeBytes >= limits.partRawBytes || batch.length >= limits.partFiles || extents >= limits.extentsOfFile;
      if (!isFull) continue;
      yield batch;
      [batch, sizeBytes, extents] = [[], 0, 0];
    }
    if (batch.length > 0) yield batch;
  }

  #store(entries: PartBatch['entries'], last?: true): Promise<StoredPart> {
    const { archive, crew, backup, manifestChecksums, pages, pageBytes, increment, maxRate } = this.#plan;
    const { systemIdentifier, keys } = archive;
    this.#parts += 1;
    const batch: PartBatch = {
      backup,
      number: this.#parts,
      index: (increment?.firstOwnIndex ?? 0) + this.#parts - 1,
      increment: increment?.rules,
      pageBytes,
      ...(last === true ? { last } : {}),
      entries,
      rawBytes: entries.reduce((sum, entry) => sum + this.#readBytesOf(entry) + 1024, 0),
      manifestChecksums,
      pages,
      level: this.#context.settings.compressionLevel,
      maxBytesPerSecond: maxRate === undefined ? undefined : maxRate / crew.size,
    };
    const stored = crew.run<StoredPart>({ kind: 'store-part', systemIdentifier, keys, batch }, (bytes) => {
      this.#doneBytes += bytes;
      this.#report();
    });
    stored.catch(() => undefined); // awaited in its turn
    return stored;
  }

  /** pg_control after everything else, and before backup mode ends: copied later, it may demand WAL beyond the stop (H20). */
  async #storeLast(): Promise<StoredPart> {
    const { configFiles, dataDirectory, stop } = this.#plan;
    this.control = await readWholeControlFile(dataDirectory);
    const { bytes, attributes } = this.control;
    const made = (path: BytePath, content: Uint8Array): MadeFile => ({
      type: 'made',
      path,
      content,
      mode: attributes.mode,
      uid: attributes.uid,
      gid: attributes.gid,
      mtimeNs: attributes.mtimeNs,
    });
    const { label, tablespaceMap } = await stop();
    const labels = [made(backupLabelPath, label)];
    if (tablespaceMap.length > 0) labels.push(made(tablespaceMapPath, tablespaceMap));
    const config = configEntries(configFiles, attributes);
    return this.#store([...config, made(controlFilePath, bytes), ...labels], true);
  }

  /** The lines of the batch, behind those of the parts that it is the first to need. */
  #counted(part: StoredPart, number: number): Uint8Array {
    const { statistics, badPages } = this;
    const { backup, increment } = this.#plan;
    const earlier = [...(increment?.partLines(part.usedParts) ?? [])];
    if (part.isStored) this.#used.push({ backup, number });
    this.#used.push(...earlier);
    statistics.parts += earlier.length + (part.isStored ? 1 : 0);
    statistics.files += part.files;
    statistics.folders += part.folders;
    statistics.tablespaces += part.tablespaces;
    statistics.rawBytes += part.fileBytes;
    statistics.storedBytes += part.objectBytes;
    statistics.usedBytes += earlier.reduce((sum, { objectBytes }) => sum + objectBytes, part.objectBytes);
    this.readBytes += part.readBytes;
    badPages.count += part.badPages;
    badPages.pages.push(...part.badPagesNamed.slice(0, limits.badPagesNamed - badPages.pages.length));
    this.#report();
    return earlier.length === 0
      ? part.lines
      : Buffer.concat([Buffer.from(earlier.map(formatLine).join('')), part.lines]);
  }

  /** How much of a file will be read, as far as that can be told. */
  #readBytesOf(entry: ClusterEntry | MadeFile): number {
    if (entry.type !== 'file') return entry.type === 'made' ? entry.content.length : 0;
    const { sizeBytes, known } = entry;
    if (known === undefined) return sizeBytes;
    const { changes, line } = known;
    const { pageBytes, increment } = this.#plan;
    const stale = line.extents.filter(([, part]) => increment?.rules.staleParts.has(part));
    const staleBytes = stale.reduce((sum, [lengthBytes]) => sum + lengthBytes, 0);
    if (changes === 'times') return staleBytes;
    if (changes === 'content') return Math.max(staleBytes, sizeBytes / comparedShare);
    return Math.max(0, sizeBytes - line.sizeBytes) + Math.max(staleBytes, changes.length * pageBytes);
  }

  #report(): void {
    const { expectedBytes } = this.#plan;
    this.#context.report?.({
      what: 'copied',
      doneBytes: this.#doneBytes,
      totalBytes: Math.max(expectedBytes, this.#doneBytes),
      files: this.statistics.files,
    });
  }
}

/** Comparing is cheaper than storing, and little of it will be: parts are not to become too small. */
const comparedShare = 4;

/** The oldest of the running tasks, which leaves the queue. */
async function first(running: Promise<StoredPart>[]): Promise<StoredPart> {
  const [oldest] = running;
  if (oldest === undefined) throw new Error('no task is running');
  const part = await oldest;
  running.shift();
  return part;
}

/** Files outside the data directory below their own paths, with the folders above them, in the order of the list. */
function configEntries(
  sources: readonly BytePath[],
  { uid, gid, mtimeNs }: WholeControlFile['attributes'],
): WalkEntry[] {
  const entries = new Map<BytePath, WalkEntry>();
  for (const source of sources) {
    for (let at = 0; at !== -1; at = source.indexOf('/', at + 1)) {
      const above = source.slice(0, at);
      const path = `${configFolder}${above}`;
      entries.set(path, { type: 'folder', path, source: above, mode: 0o700, uid, gid, mtimeNs });
    }
    const path = `${configFolder}${source}`;
    entries.set(path, { type: 'file', path, source, sizeBytes: 0, mtimeNs, ctimeNs: mtimeNs, inode: 0n });
  }
  return [...entries.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** As paths of bytes. */
export function configPaths(files: readonly string[]): readonly BytePath[] {
  return files.map(toBytePath);
}
