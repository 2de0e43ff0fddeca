/** What a list of files must be as a whole: its order, its folders, its parts; and what one must hold that a cluster can be made of. */
import type { BytePath } from '../byte-path.ts';
import { limits } from '../limits.ts';
import { type EntryLine, type FileLine, type FilesLine, type PartLine, unsound } from './files-line.ts';
import { backupLabelPath, controlFilePath, isConfig, isCopiedLast, lastPaths, tablespacePath } from './files-paths.ts';

/**
 * The same lines, of a list that a cluster can be made of: without pg_control it would not start, and without backup_label
 * it would, from the wrong point.
 * @throws CorruptError when one of the two is missing, or the folder of a configuration file.
 */
export async function* clusterLines(lines: AsyncIterable<FilesLine>): AsyncGenerator<FilesLine> {
  const missing = new Set<BytePath>([controlFilePath, backupLabelPath]);
  const folders = new Set<BytePath>(['']);
  for await (const line of lines) {
    if (line.type === 'file') missing.delete(line.path);
    if (line.type === 'folder' && isCopiedLast(line.path)) folders.add(line.path);
    if (line.type !== 'part' && isConfig(line.path) && !folders.has(parentOf(line.path))) {
      throw unsound(`the folder of "${line.path}" is not listed`);
    }
    yield line;
  }
  for (const path of missing) throw unsound(`"${path}" is not listed`);
}

/** What the lines before allow the next one to be. */
export class Order {
  readonly #count = { parts: 0, files: 0, folders: 0, tablespaces: 0 };
  readonly #parts = new Map<number, PartLine>();
  /** The folders that later paths may lie in, outer ones first: what is in `a` comes after `a.b` and what is in that. */
  #folders: BytePath[] = [''];
  #path = '';
  #isLast = false;

  expect(line: FilesLine): void {
    if (line.type === 'part') {
      if (this.#isLast) throw unsound('a part is out of order');
      if (this.#parts.has(line.index)) throw unsound('two parts have one index');
      if (line.last === true) {
        this.#isLast = true;
        this.#path = '';
      }
      this.#parts.set(line.index, line);
      this.#count.parts += 1;
      return;
    }
    this.#expectPath(line);
    if (line.type === 'file') this.#expectExtents(line);
    this.#count[`${line.type}s`] += 1;
  }

  #expectPath({ path, type }: EntryLine): void {
    if (isCopiedLast(path) !== this.#isLast) throw unsound(`"${path}" stands where it may not`);
    const inOrder = this.#isLast ? lastOrder(path) > lastOrder(this.#path) || this.#path === '' : path > this.#path;
    if (!inOrder) throw unsound(`"${path}" is out of order`);
    this.#path = path;
    if (this.#isLast) {
      if (type === 'tablespace' || (type === 'folder' && lastPaths.includes(path))) {
        throw unsound(`"${path}" stands where it may not`);
      }
      return;
    }
    const parent = parentOf(path);
    while (isOver(this.#folders.at(-1) ?? '', path)) this.#folders.pop();
    if (!this.#folders.includes(parent)) throw unsound(`the folder of "${path}" is not listed`);
    if (type !== 'file') this.#folders.push(path);
    this.#expectVersionFolder(parent, path, type);
  }

  /** Where a tablespace's link leads may be anywhere: nothing but what PostgreSQL has there is made. */
  #expectVersionFolder(parent: BytePath, path: BytePath, type: EntryLine['type']): void {
    if (!tablespacePath.test(parent)) return;
    const isOne = type === 'folder' && /^PG_\d+_\d+$/.test(path.slice(parent.length + 1));
    if (!isOne) throw unsound(`"${path}" is nothing of a tablespace`);
  }

  #expectExtents({ path, sizeBytes, extents }: FileLine): void {
    let total = 0;
    const stopped = new Map<number, number>();
    for (const [lengthBytes, index, skipBytes] of extents) {
      total += lengthBytes;
      if (index === -1) continue;
      const end = (stopped.get(index) ?? 0) + skipBytes + lengthBytes;
      stopped.set(index, end);
      if (end > (this.#parts.get(index)?.rawBytes ?? -1)) throw unsound(`"${path}" is not where it is said to be`);
    }
    if (extents.length > limits.extentsOfFile) throw unsound(`"${path}" lies in too many pieces`);
    if (total !== sizeBytes) throw unsound(`"${path}" has another length than its extents`);
  }

  expectSeal(seal: Record<string, unknown>, sha256: string): void {
    const agrees = Object.entries(this.#count).every(([name, number]) => seal[name] === number);
    if (!agrees || seal.sha256 !== sha256) throw unsound('its seal does not fit');
  }
}

function parentOf(path: BytePath): BytePath {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

/** Configuration, then pg_control, then the labels. */
function lastOrder(path: BytePath): string {
  const index = lastPaths.indexOf(path);
  return index === -1 ? `0${path}` : String(index + 1);
}

/** Can nothing of `folder` come any more, from `path` on? */
function isOver(folder: BytePath, path: BytePath): boolean {
  const start = `${folder}/`;
  return folder !== '' && path > start && !path.startsWith(start);
}
