/**
 * Which blocks of relations' main forks WAL has changed, in about two bytes a block: what several WAL summaries say, put together. Reads none.
 * Other forks are left out: the free space map is not in summaries, and what they say of visibility maps is not to be believed (H37).
 * @see PostgreSQL `src/common/blkreftable.c`, `GetFileBackupMethod` (basebackup_incremental.c)
 */
import assert from 'node:assert';
import type { BytePath } from '../byte-path.ts';
import { parseRelationFile } from './relation-file.ts';

/** A relation as WAL names it. `relfilenode` 0 stands for every relation of that database in that tablespace. */
export interface RelationLocator {
  readonly tablespaceOid: number;
  /** 0 for what all databases share. */
  readonly databaseOid: number;
  readonly relfilenode: number;
}

/** Block numbers are counted over all segments of a relation. */
export interface RelationChanges {
  has(block: number): boolean;
  /** How many of the `blocks` from `firstBlock` on. */
  countIn(firstBlock: number, blocks: number): number;
  /** The shortest length in blocks that the relation was cut to, 0 when it was made anew or dropped. From there on every block counts as changed. */
  readonly limitBlock: number | undefined;
}

/** Merging is on the safe side: of blocks the union, of limits the least; so the order in which they come does not matter. */
export class ChangedBlocks {
  readonly #relations = new Map<string, Relation>();

  /** In any order, but fastest in ascending order. */
  add(relation: RelationLocator, blocks: Iterable<number>): void {
    this.#relation(relation).add(blocks);
  }

  setLimit(relation: RelationLocator, limitBlock: number): void {
    assert(isBlock(limitBlock));
    this.#relation(relation).lowerLimit(limitBlock);
  }

  /**
   * What is known of the relation that a main fork's file of any segment belongs to; `path` is relative to the data directory.
   * 'whole': its database was made, moved or dropped, so nothing of an earlier file can be used. Undefined: unchanged.
   */
  of(path: BytePath): RelationChanges | 'whole' | undefined {
    const { folder, relfilenode } = locate(path);
    return this.#relations.has(`${folder}/0`) ? 'whole' : this.#relations.get(`${folder}/${relfilenode}`);
  }

  /** How many bytes of arrays and bitmaps are held; to these come some hundred for each relation. */
  get sizeBytes(): number {
    let sizeBytes = 0;
    for (const relation of this.#relations.values()) sizeBytes += relation.sizeBytes;
    return sizeBytes;
  }

  #relation({ tablespaceOid, databaseOid, relfilenode }: RelationLocator): Relation {
    const key = `${tablespaceOid}/${databaseOid}/${relfilenode}`;
    let relation = this.#relations.get(key);
    if (relation === undefined) {
      relation = new Relation();
      this.#relations.set(key, relation);
    }
    return relation;
  }
}

/** @see PostgreSQL `src/include/catalog/pg_tablespace.dat` */
const defaultTablespaceOid = 1663;
const globalTablespaceOid = 1664;

/** `base/5/1259.1` → `1663/5` and `1259`. */
function locate(path: BytePath): { readonly folder: string; readonly relfilenode: string } {
  const file = parseRelationFile(path);
  assert(file?.fork === 'main', 'not a file of a main fork'); // "unchanged" would be a lie
  const [top = '', ...names] = file.relation.split('/');
  const relfilenode = names.pop() ?? '';
  if (top === 'global') return { folder: `${globalTablespaceOid}/0`, relfilenode };
  const databaseOid = names.pop() ?? '';
  const tablespaceOid = top === 'base' ? defaultTablespaceOid : (names[0] ?? '');
  return { folder: `${tablespaceOid}/${databaseOid}`, relfilenode };
}

const blocksPerChunk = 65_536;
/** From here on a bitmap is no larger than an array of numbers. */
const mostInArray = 4096;

/** Of the blocks of a chunk: their places in it, ascending, or a bitmap of 8 KiB once they are many. */
type Chunk = Uint16Array | Uint8Array;

/** Where blocks wait that were not yet put into their chunk: of this thread. */
const waiting = new Uint16Array(blocksPerChunk);

class Relation implements RelationChanges {
  /** By number; where a chunk has no changes there is none. */
  readonly #chunks = new Map<number, Chunk>();
  #limitBlock: number | undefined;

  get limitBlock(): number | undefined {
    return this.#limitBlock;
  }

  get sizeBytes(): number {
    let sizeBytes = 0;
    for (const chunk of this.#chunks.values()) sizeBytes += chunk.byteLength;
    return sizeBytes;
  }

  lowerLimit(limitBlock: number): void {
    this.#limitBlock = Math.min(limitBlock, this.#limitBlock ?? limitBlock);
  }

  add(blocks: Iterable<number>): void {
    let [number, count] = [0, 0];
    const flush = (): void => {
      if (count > 0) this.#chunks.set(number, merge(this.#chunks.get(number), waiting.subarray(0, count)));
      count = 0;
    };
    for (const block of blocks) {
      if (!isBlock(block)) assert.fail(`no block: ${block}`); // a call of assert for each would take longer than all else
      const next = block >>> 16;
      if (next !== number || count === waiting.length) flush();
      number = next;
      waiting[count] = block; // its lower 16 bits
      count += 1;
    }
    flush();
  }

  has(block: number): boolean {
    if (this.#limitBlock !== undefined && block >= this.#limitBlock) return true;
    const chunk = this.#chunks.get(Math.floor(block / blocksPerChunk));
    if (chunk === undefined) return false;
    const place = block % blocksPerChunk;
    if (chunk instanceof Uint8Array) return ((chunk[place >> 3] ?? 0) & (1 << (place & 7))) !== 0;
    return chunk[firstFrom(chunk, place)] === place;
  }

  countIn(firstBlock: number, blocks: number): number {
    const end = firstBlock + blocks;
    const limited = Math.min(end, Math.max(firstBlock, this.#limitBlock ?? end));
    let count = end - limited;
    for (let at = firstBlock; at < limited; ) {
      const number = Math.floor(at / blocksPerChunk);
      const chunkStart = number * blocksPerChunk;
      const chunkEnd = Math.min(limited, chunkStart + blocksPerChunk);
      const chunk = this.#chunks.get(number);
      if (chunk !== undefined) count += countWithin(chunk, at - chunkStart, chunkEnd - chunkStart);
      at = chunkEnd;
    }
    return count;
  }
}

/** `InvalidBlockNumber` is the one after the last. */
function isBlock(block: number): boolean {
  return block >>> 0 === block && block !== 0xffff_ffff;
}

/** Sorts `places`. */
function merge(chunk: Chunk | undefined, places: Uint16Array): Chunk {
  if (chunk instanceof Uint8Array) return mark(chunk, places);
  places.sort();
  const merged = new Uint16Array((chunk?.length ?? 0) + places.length);
  let [count, left, right] = [0, 0, 0];
  while (count < merged.length) {
    const one = chunk?.[left] ?? blocksPerChunk;
    const other = places[right] ?? blocksPerChunk;
    const place = Math.min(one, other);
    if (place === blocksPerChunk) break;
    if (merged[count - 1] !== place || count === 0) merged[count++] = place;
    if (one === place) left += 1;
    if (other === place) right += 1;
  }
  if (count > mostInArray) return mark(new Uint8Array(blocksPerChunk / 8), merged.subarray(0, count));
  return count === merged.length ? merged : merged.slice(0, count);
}

function mark(bitmap: Uint8Array, places: Uint16Array): Uint8Array {
  for (const place of places) bitmap[place >> 3] = (bitmap[place >> 3] ?? 0) | (1 << (place & 7));
  return bitmap;
}

/** The index of the first place that is not below `place`, by bisection. */
function firstFrom(places: Uint16Array, place: number): number {
  let [low, high] = [0, places.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((places[middle] ?? 0) < place) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How many places of the chunk are from `start` to below `end`. */
function countWithin(chunk: Chunk, start: number, end: number): number {
  if (!(chunk instanceof Uint8Array)) return firstFrom(chunk, end) - firstFrom(chunk, start);
  let count = 0;
  for (let place = start; place < end; ) {
    const byte = chunk[place >> 3] ?? 0;
    if ((place & 7) === 0 && place + 8 <= end) {
      count += bitsOf[byte] ?? 0;
      place += 8;
    } else {
      count += (byte >> (place & 7)) & 1;
      place += 1;
    }
  }
  return count;
}

/** How many bits are set in a byte. */
const bitsOf = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length);
