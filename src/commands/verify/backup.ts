/** The verdict over one backup. What cannot be read for want of the storage is no verdict, and ends the command. */
import type { Archive } from '../../archive/archive.ts';
import type { PartLine } from '../../archive/files-line.ts';
import { parseLines } from '../../archive/files-list.ts';
import { clusterLines } from '../../archive/files-order.ts';
import { historyKey, kindPrefix, partNumberOf } from '../../archive/keys.ts';
import { type BackupManifest, readManifest } from '../../archive/manifest.ts';
import { readStream } from '../../archive/part.ts';
import { usedParts } from '../../archive/part-uses.ts';
import { openWalFile } from '../../archive/wal-archive.ts';
import { firstMissingSegment, segmentsOf } from '../../archive/wal-range.ts';
import { type BytePath, showPath } from '../../byte-path.ts';
import { CorruptError, ObjectNotFound } from '../../errors.ts';
import { makeChecksum } from '../../postgres/file-checksum.ts';
import { formatHistoryName, parseWalFileName } from '../../postgres/wal-file-name.ts';
import type { ListedBackup } from '../backups.ts';
import type { Context } from '../context.ts';
import type { Crew } from '../crew.ts';
import { pageRules, unnamedBadPages } from '../page-rules.ts';
import type { Verdict } from '../verify.ts';
import { nameOfPart, PartReading, type PartWork } from './part-reading.ts';
import type { ReadParts } from './read-parts.ts';
import type { VerifiedPart, VerifyBatch } from './verify-part.ts';

export interface JudgeOptions {
  /** With a crew every part is read, and every segment that the backup needs. */
  readonly crew: Crew | undefined;
  readonly read: ReadParts;
}

export async function judgeBackup(
  context: Context,
  archive: Archive,
  { id, state, hasManifest, isClosed }: ListedBackup,
  options: JudgeOptions,
): Promise<Verdict> {
  const judging = new Judging(context, archive, options);
  if (!hasManifest && !isClosed) {
    const reason = state === 'running' ? 'it is still being taken' : 'it was given up before it was whole';
    return { id, isRestorable: false, reasons: [reason], badPages: { count: 0, pages: [] } };
  }
  if (!hasManifest) judging.reasons.push('it was confirmed, but its manifest is gone');
  else if (state !== 'confirmed')
    judging.reasons.push('it was never confirmed: nobody saw all of its parts and WAL in the archive');
  const manifest = await judging.attempt(() => readManifest(archive, id, context));
  if (manifest !== undefined) {
    await judging.attempt(() => judging.parts(manifest));
    await judging.attempt(() => judging.wal(manifest));
  }
  const { reasons } = judging;
  return { id, isRestorable: reasons.length === 0, reasons, badPages: manifest?.badPages ?? { count: 0, pages: [] } };
}

/** Reasons of which there may be very many, such as a folder that is gone: so many are told. */
const reasonsTold = 20;

class Judging {
  readonly reasons: string[] = [];
  readonly #context: Context;
  readonly #archive: Archive;
  readonly #crew: Crew | undefined;
  readonly #read: ReadParts;

  constructor(context: Context, archive: Archive, { crew, read }: JudgeOptions) {
    this.#context = context;
    this.#archive = archive;
    this.#crew = crew;
    this.#read = read;
  }

  /** What is wrong with the archive is a reason; what keeps from reading it is not. */
  async attempt<Result>(work: () => Promise<Result>): Promise<Result | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#because(reasonOf(error));
      return undefined;
    }
  }

  #because(reason: string): void {
    if (this.reasons.length < reasonsTold) this.reasons.push(reason);
    else if (this.reasons.length === reasonsTold) this.reasons.push('and more');
  }

  /**
   * The list of files is whole and agrees with the manifest; each part it names is stored in its length, and, if deep, in its bytes, which are
   * those that the list says: file by file, and page by page where a file stands in pieces.
   */
  async parts(manifest: BackupManifest): Promise<void> {
    const { signal } = this.#context;
    const stored = await this.#storedParts(manifest);
    const used = new Set([...usedParts(manifest)].map(nameOfPart));
    const tablespaces = new Set(manifest.tablespaces.map(({ oid }) => oid));
    const crew = this.#crew;
    const reading =
      crew &&
      new PartReading({
        work: (work) => this.#deep(crew, manifest, work),
        atOnce: crew.size * 2,
        isProven: (part, piece) => this.#read.hasProved({ part, hasPageChecksums: manifest.checksums }, piece),
      });
    const count = { parts: 0, files: 0, folders: 0, tablespaces: 0 };
    const emptyChecksum = makeChecksum(manifest.manifestChecksums).end();
    let rawBytes = 0;
    try {
      const list = readStream(this.#archive, { backup: manifest.id, part: 'files' }, manifest.files, { signal });
      for await (const line of clusterLines(parseLines(list))) {
        count[`${line.type}s`] += 1;
        if (line.type === 'tablespace' && !tablespaces.has(nameOf(line.path))) {
          this.#because(`its manifest does not name the tablespace "${showPath(line.path)}"`);
        }
        if (line.type === 'file') {
          rawBytes += line.sizeBytes;
          if (line.sizeBytes === 0 && (line.checksum ?? emptyChecksum) !== emptyChecksum) {
            this.#because(`"${showPath(line.path)}" is empty, and has another checksum`);
          }
          await reading?.addFile(line);
        }
        if (line.type !== 'part') continue;
        const name = nameOfPart(line);
        if (!used.has(name)) this.#because(`part ${name} is used, but the manifest does not say so`);
        if (!this.#isThere(line, stored.get(name))) continue;
        if (line.backup === manifest.id) await reading?.addOwn(line);
        else reading?.addOther(line);
      }
      await reading?.dispatch();
    } finally {
      await reading?.end();
    }
    if (rawBytes > manifest.statistics.rawBytes) this.#because('its files are longer than its manifest says');
    const agrees = Object.entries(count).every(
      ([name, number]) => manifest.statistics[name as keyof typeof count] === number,
    );
    if (!agrees) this.#because('its manifest counts other files than its list has');
  }

  /** Sizes of the stored parts, by `<backup>/<number>`. */
  async #storedParts({ uses }: BackupManifest): Promise<Map<string, number>> {
    const { storage, systemIdentifier } = this.#archive;
    const stored = new Map<string, number>();
    for (const backup of Object.keys(uses)) {
      const prefix = `${kindPrefix(systemIdentifier, 'part')}${backup}/`;
      for await (const { key, sizeBytes } of storage.list(prefix, this.#context)) {
        stored.set(`${backup}/${partNumberOf(key)}`, sizeBytes);
      }
    }
    return stored;
  }

  #isThere({ backup, number, objectBytes }: PartLine, sizeBytes: number | undefined): boolean {
    if (sizeBytes === objectBytes) return true;
    const what = `part ${number} of backup ${backup}`;
    if (sizeBytes === undefined) this.#because(`${what} is missing`);
    else this.#because(`${what} has ${sizeBytes} bytes, and ${objectBytes} were stored`);
    return false;
  }

  async #deep(crew: Crew, manifest: BackupManifest, { part, pieces }: PartWork): Promise<void> {
    const { systemIdentifier, keys } = this.#archive;
    const use = { part, hasPageChecksums: manifest.checksums };
    const isOwn = part.backup === manifest.id;
    if (!isOwn && pieces.length === 0 && this.#read.has(use)) return;
    const { manifestChecksums } = manifest;
    const batch: VerifyBatch = { part, pieces, manifestChecksums, pages: pageRules(manifest) };
    let read: VerifiedPart;
    try {
      read = await crew.run<VerifiedPart>({ kind: 'verify-part', systemIdentifier, keys, batch });
    } catch (error) {
      this.#because(isOwn ? reasonOf(error) : `part ${part.number} of backup ${part.backup}: ${reasonOf(error)}`);
      return;
    }
    const { badPages, badPagesNamed } = read;
    const [first] = badPagesNamed;
    // those that are only counted were told when the backup was taken
    if (first !== undefined && badPages > unnamedBadPages(manifest)) {
      const path = 'path' in first ? first.path : `\\x${first.pathHex}`;
      const place = isOwn ? `part ${part.number}` : `part ${part.number} of backup ${part.backup}`;
      this.#because(`${badPages} pages in ${place} have a wrong checksum, such as block ${first.block} of "${path}"`);
      return;
    }
    const excused = new Set(read.excused);
    const proven = pieces.filter((_, index) => !excused.has(index));
    this.#read.add(use, proven, manifest.id);
  }

  /** From its start to where its files agree: no less is needed to start from it. */
  async wal(manifest: BackupManifest): Promise<void> {
    const { timeline, startLsn, consistentLsn: endLsn, walSegmentBytes: segmentSizeBytes } = manifest;
    const range = { timeline, startLsn, endLsn, segmentSizeBytes };
    const { signal } = this.#context;
    const missing = await firstMissingSegment(this.#archive, range, { signal });
    if (missing !== undefined) this.#because(`segment "${missing}", which it needs, is not in the archive`);
    if (timeline > 1 && !(await this.#isStored(historyKey(this.#archive.systemIdentifier, timeline)))) {
      this.#because(`"${formatHistoryName(timeline)}", the history of its timeline, is not in the archive`);
    }
    if (this.#crew === undefined) return;
    const histories = timeline > 1 ? [formatHistoryName(timeline)] : [];
    for (const name of [...histories, ...segmentsOf(range)]) {
      const file = parseWalFileName(name);
      if (file === undefined || name === missing) continue;
      await this.attempt(async () => {
        const { content } = await openWalFile(this.#archive, file, { signal });
        for await (const _ of content); // its hash is looked at when it ends
      });
    }
  }

  async #isStored(key: string): Promise<boolean> {
    for await (const found of this.#archive.storage.list(key, this.#context)) return found.key === key;
    return false;
  }
}

/** @throws the error when it says nothing about the archive. */
function reasonOf(error: unknown): string {
  // that no identity of this host opens a part is a reason as well: here it cannot be restored
  if (!(error instanceof CorruptError || error instanceof ObjectNotFound)) throw error;
  return [error.message, error.detail].filter(Boolean).join(': ');
}

function nameOf(path: BytePath): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
