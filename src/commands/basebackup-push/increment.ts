/**
 * An increment: for each file of the cluster what its parent knows of it, and what is to be read anew. The parent's list is read twice: for its
 * parts, and how much of each is still needed; then beside the walk, since both ascend by the bytes of paths.
 */
import { stat } from 'node:fs/promises';
import type { Archive } from '../../archive/archive.ts';
import { parseBackupId } from '../../archive/backup-id.ts';
import { extentsOf, piecesOf } from '../../archive/extents.ts';
import type { FileLine, PartLine } from '../../archive/files-line.ts';
import { parseLines } from '../../archive/files-list.ts';
import type { BackupManifest } from '../../archive/manifest.ts';
import { readStream } from '../../archive/part.ts';
import { type BytePath, parsePath, toFilePath } from '../../byte-path.ts';
import type { WalkEntry } from '../../cluster/backup-walk.ts';
import { isDatabaseFolder } from '../../cluster/exclusions.ts';
import { isSurelyUnchanged, type ParentTimes } from '../../cluster/unchanged-file.ts';
import { limits } from '../../limits.ts';
import type { ChangedBlocks } from '../../postgres/changed-blocks.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import { parseRelationFile } from '../../postgres/relation-file.ts';
import type { RequestOptions } from '../../storage/storage.ts';
import type { IncrementRules, KnownFile } from './changed-file.ts';
import { chooseStale, type KnownPart } from './stale-parts.ts';
import type { ClusterEntry } from './store-part.ts';

export interface IncrementOptions extends RequestOptions {
  readonly parent: BackupManifest;
  readonly rules: Omit<IncrementRules, 'staleParts'>;
  /** What WAL summaries tell; undefined where there are none. */
  readonly changes: ChangedBlocks | undefined;
  /** How old a file's times must be to tell that it is as it was; undefined where times are not trusted. */
  readonly times: ParentTimes | undefined;
  /** Of this backup: a checksum by another algorithm is not taken over. */
  readonly manifestChecksums: ManifestChecksums;
  /** Parts that were stored before are to be needed no longer. */
  readonly partsSince: Date | undefined;
}

export class Increment {
  readonly rules: IncrementRules;
  readonly #archive: Archive;
  readonly #options: IncrementOptions;
  /** By their index in the parent's list. */
  readonly #parts: ReadonlyMap<number, KnownPart>;
  /** The same, by their index in the list that is being made. */
  readonly #lineOf: readonly PartLine[];
  /** When each database's folder was made. */
  readonly #versionFiles: ReadonlyMap<BytePath, bigint>;
  /** To be stored whole: they have fallen into too many pieces. */
  readonly #scattered: ReadonlySet<BytePath>;
  readonly #badPages: ReadonlyMap<BytePath, readonly number[]>;
  /** Indexes of the parts whose lines were given. */
  readonly #given = new Set<number>();

  private constructor(archive: Archive, options: IncrementOptions, survey: Survey) {
    this.#archive = archive;
    this.#options = options;
    this.#parts = survey.parts;
    this.#lineOf = [...survey.parts.values()].map(({ line }) => line);
    this.#versionFiles = survey.versionFiles;
    const { parts, paths } = chooseStale(survey, options.partsSince);
    this.#scattered = paths;
    this.rules = { ...options.rules, staleParts: parts };
    this.#badPages = badPagesOf(options);
  }

  static async open(archive: Archive, options: IncrementOptions): Promise<Increment> {
    return new Increment(archive, options, await surveyParent(archive, options));
  }

  /** The first index that no part of an earlier backup has. */
  get firstOwnIndex(): number {
    return this.#parts.size;
  }

  /** The lines of these parts of earlier backups, without those that were given before. */
  *partLines(indexes: readonly number[]): Generator<PartLine> {
    for (const index of indexes) {
      const line = this.#lineOf[index];
      if (this.#given.has(index) || line === undefined) continue;
      this.#given.add(index);
      yield line;
    }
  }

  /** The same entries, files with what the parent knows of them: nothing where they must be taken whole. */
  async *entries(walk: AsyncIterable<WalkEntry>): AsyncGenerator<ClusterEntry> {
    const lines = this.#lines();
    const remade = new Set<BytePath>();
    let line = await lines.next();
    try {
      for await (const entry of walk) {
        if (entry.type === 'folder' && isDatabaseFolder(entry.path) && (await this.#isRemade(entry))) {
          remade.add(entry.path);
        }
        if (entry.type !== 'file') {
          yield entry;
          continue;
        }
        while (line.done !== true && line.value.path < entry.path) line = await lines.next();
        const found = line.done !== true && line.value.path === entry.path ? line.value : undefined;
        const known =
          found === undefined || remade.has(folderOf(entry.path)) || this.#scattered.has(entry.path)
            ? undefined
            : this.#known(entry, found);
        yield known === undefined ? entry : { ...entry, known };
      }
    } finally {
      await lines.return(undefined);
    }
  }

  /** The parent's files but the few that are copied last, which no increment takes over. */
  async *#lines(): AsyncGenerator<FileLine> {
    for await (const line of parentLines(this.#archive, this.#options)) {
      if (line.type === 'part' && line.last === true) return;
      if (line.type === 'file') yield line;
    }
  }

  #known(entry: Extract<WalkEntry, { type: 'file' }>, line: FileLine): KnownFile | undefined {
    const changes = this.#changes(entry, line);
    if (changes === undefined) return undefined;
    const indexOf = (part: number) => (part === -1 ? -1 : (this.#parts.get(part)?.line.index ?? -2));
    const pieces = piecesOf(line.extents).map((piece) => ({ ...piece, part: indexOf(piece.part) }));
    if (pieces.some(({ part }) => part === -2)) return undefined; // of the parent's last part
    const { parent, manifestChecksums } = this.#options;
    const checksum = parent.manifestChecksums === manifestChecksums ? line.checksum : undefined;
    const renamed = { ...line, checksum, extents: extentsOf(pieces) };
    return { line: renamed, changes, badPages: this.#badPages.get(line.path) ?? [] };
  }

  #changes(entry: Extract<WalkEntry, { type: 'file' }>, line: FileLine): KnownFile['changes'] | undefined {
    const { changes, times } = this.#options;
    const relation = parseRelationFile(entry.path);
    if (relation?.fork === 'main' && changes !== undefined) {
      const found = changes.of(entry.path);
      if (found === 'whole') return undefined;
      return found === undefined ? new Uint32Array() : this.#pagesIn(line, relation.segment, found);
    }
    return times !== undefined && isSurelyUnchanged(line, entry, times) ? 'times' : 'content';
  }

  #pagesIn(
    { sizeBytes }: FileLine,
    segment: number,
    changes: Exclude<ReturnType<ChangedBlocks['of']>, 'whole' | undefined>,
  ) {
    const { pageBytes, segmentPages } = this.#options.rules;
    const first = segment * segmentPages;
    const count = Math.floor(sizeBytes / pageBytes);
    const limit = changes.limitBlock ?? Number.POSITIVE_INFINITY;
    const pages: number[] = [];
    for (let page = 0; page < count; page += 1) {
      if (first + page >= limit || changes.has(first + page)) pages.push(page);
    }
    return Uint32Array.from(pages);
  }

  /** H40: DROP and CREATE DATABASE with the same OID gives other files under the same names, with old LSNs. */
  async #isRemade({ path, source }: { readonly path: BytePath; readonly source: BytePath }): Promise<boolean> {
    const isHere = this.#versionFiles.has(path) || (await madeAt(source)) !== undefined;
    if (isHere) return !(await this.#isAsMade(path, source));
    // in a tablespace that is not the database's own there is no PG_VERSION: it stands with the rest of the database
    const dataDirectory = source.slice(0, source.length - path.length);
    const name = path.slice(path.lastIndexOf('/'));
    const homes = [...this.#versionFiles.keys()].filter((folder) => isDatabaseFolder(folder) && folder.endsWith(name));
    const [home] = homes;
    return home === undefined || homes.length > 1 || !(await this.#isAsMade(home, `${dataDirectory}${home}`));
  }

  /** A database that was made while the parent was taken is not: its folder may be of another one there than its PG_VERSION. */
  async #isAsMade(path: BytePath, source: BytePath): Promise<boolean> {
    const known = this.#versionFiles.get(path);
    const parentMs = Date.parse(this.#options.parent.startedAt) - coarsestTimeMs;
    return known !== undefined && known < BigInt(parentMs) * 1_000_000n && known === (await madeAt(source));
  }
}

/** Some file systems round times down to seconds. */
const coarsestTimeMs = 1000;

/** When the folder of a database was made; undefined where it is gone, or is none. */
async function madeAt(source: BytePath): Promise<bigint | undefined> {
  const found = await stat(toFilePath(`${source}/PG_VERSION`), { bigint: true }).catch(() => undefined);
  return found?.mtimeNs;
}

interface Survey {
  readonly parts: ReadonlyMap<number, KnownPart>;
  readonly versionFiles: ReadonlyMap<BytePath, bigint>;
  /** Files in many pieces. */
  readonly scattered: readonly { readonly path: BytePath; readonly sizeBytes: number; readonly extents: number }[];
  /** Length of all files. */
  readonly rawBytes: number;
}

async function surveyParent(archive: Archive, options: IncrementOptions): Promise<Survey> {
  const parts = new Map<number, KnownPart & { liveBytes: number }>();
  const versionFiles = new Map<BytePath, bigint>();
  const scattered: { path: BytePath; sizeBytes: number; extents: number }[] = [];
  let rawBytes = 0;
  let isLast = false;
  for await (const line of parentLines(archive, options)) {
    isLast ||= line.type === 'part' && line.last === true;
    if (isLast) continue; // to its seal: only then all of it is known to be right
    if (line.type === 'part') {
      const startedAt = parseBackupId(line.backup)?.startedAt ?? new Date(0);
      parts.set(line.index, { line: { ...line, index: parts.size }, startedAt, liveBytes: 0 });
    }
    if (line.type !== 'file') continue;
    rawBytes += line.sizeBytes;
    for (const [lengthBytes, part] of line.extents) {
      const known = parts.get(part);
      if (known !== undefined) known.liveBytes += lengthBytes;
    }
    if (line.path.endsWith('/PG_VERSION')) versionFiles.set(folderOf(line.path), line.mtimeNs);
    const { path, sizeBytes, extents } = line;
    if (extents.length > limits.extentsOfFile / 2) scattered.push({ path, sizeBytes, extents: extents.length });
  }
  return { parts, versionFiles, scattered, rawBytes };
}

function parentLines(archive: Archive, { parent, signal }: IncrementOptions) {
  return parseLines(readStream(archive, { backup: parent.id, part: 'files' }, parent.files, { signal }));
}

/** By file: the pages of it that were wrong. */
function badPagesOf({ parent, rules }: IncrementOptions): Map<BytePath, number[]> {
  const pages = new Map<BytePath, number[]>();
  for (const { block, ...named } of parent.badPages.pages) {
    const path = parsePath(named) ?? '';
    const segment = parseRelationFile(path)?.segment ?? 0;
    pages.set(path, [...(pages.get(path) ?? []), block - segment * rules.segmentPages]);
  }
  return pages;
}

function folderOf(path: BytePath): BytePath {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}
