/** Finds moments in stored WAL: commits are in the order of their times, nearly, so few segments are read whatever the archive's length. */
import { type Bytes, bytesOf } from '../bytes.ts';
import { ObjectNotFound } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { readWalEvents, type WalEvent } from '../postgres/wal-events.ts';
import { parseWalFileName } from '../postgres/wal-file-name.ts';
import { readWalRecords } from '../postgres/wal-record.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import type { StoredWal } from './stored-wal.ts';
import { openWalFile } from './wal-archive.ts';
import type { Chain, ChainSegment } from './window.ts';

/** A transaction's end, which alone tells recovery the time. Time in microseconds since 1970, UTC. */
export interface Moment {
  readonly lsn: Lsn;
  readonly time: bigint;
}

/** PostgreSQL counts from 2000. */
const epochMicroseconds = 946_684_800_000_000n;

export class WalSearch {
  readonly #archive: Archive;
  readonly #wal: StoredWal;
  readonly #options: RequestOptions;
  /** Of segments that were read whole: the moments in them. */
  readonly #known = new Map<string, Promise<readonly Moment[]>>();

  constructor(archive: Archive, wal: StoredWal, options: RequestOptions) {
    this.#archive = archive;
    this.#wal = wal;
    this.#options = options;
  }

  /** Ends of transactions whose record begins in one segment of the chain. */
  #momentsIn(chain: Chain, segment: ChainSegment): Promise<readonly Moment[]> {
    const known = this.#known.get(segment.name);
    if (known !== undefined) return known;
    const reading = this.#readMoments(segment, chain.segments[chain.segments.indexOf(segment) + 1]);
    this.#known.set(segment.name, reading);
    return reading;
  }

  /** The last record may go on in the next segment, of which no more than that is read. */
  async #readMoments(segment: ChainSegment, next: ChainSegment | undefined): Promise<readonly Moment[]> {
    const { segmentSizeBytes } = this.#wal;
    const endLsn = segment.startLsn + BigInt(segmentSizeBytes);
    const bytes = this.#bytes(next === undefined ? [segment] : [segment, next]);
    const moments: Moment[] = [];
    for await (const event of readWalEvents(limited(bytes, segmentSizeBytes + edgeBytes), {
      startLsn: segment.startLsn,
      segmentSizeBytes,
    })) {
      if (event.lsn >= endLsn) break;
      const moment = momentOf(event);
      if (moment !== undefined) moments.push(moment);
    }
    return moments;
  }

  /**
   * The latest moment of the last segment that has any before `lsn`; undefined when no transaction ended in the chain. Times of transactions
   * that end together are not quite in their order, and recovery stops at the first that is too late.
   */
  async lastBefore(chain: Chain, lsn: Lsn): Promise<Moment | undefined> {
    for (const segment of chain.segments.toReversed()) {
      if (segment.startLsn >= lsn) continue;
      const moments = (await this.#momentsIn(chain, segment)).filter((one) => one.lsn < lsn && one.lsn < chain.endLsn);
      const [first] = moments;
      if (first !== undefined) return moments.reduce((a, b) => (a.time > b.time ? a : b), first);
    }
    return undefined;
  }

  /** The first moment of the chain that is later than `time`: where recovery to that time stops. */
  async firstAfter(chain: Chain, time: bigint): Promise<Moment | undefined> {
    const { segments, endLsn } = chain;
    let [low, high] = [0, segments.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const moment = await this.#lastIn(chain, middle, high);
      if (moment === undefined || moment.time > time) high = middle;
      else low = moment.index + 1;
    }
    for (const segment of segments.slice(low)) {
      const moment = (await this.#momentsIn(chain, segment)).find((one) => one.time > time);
      if (moment !== undefined) return moment.lsn < endLsn ? moment : undefined;
    }
    return undefined;
  }

  /** The last moment of the first segment from `from` on that has any. */
  async #lastIn(chain: Chain, from: number, end: number) {
    const { segments, endLsn } = chain;
    for (let index = from; index < end; index += 1) {
      const segment = segments[index];
      const moment =
        segment === undefined ? undefined : (await this.#momentsIn(chain, segment)).findLast(({ lsn }) => lsn < endLsn);
      if (moment !== undefined) return { ...moment, index };
    }
    return undefined;
  }

  /** Where the last record of the chain begins: recovery can stop there, and no later. */
  async lastRecord({ segments, endLsn }: Chain): Promise<Lsn | undefined> {
    for (const segment of segments.toReversed()) {
      const lsn = await this.#lastRecordIn(segment, endLsn);
      if (lsn !== undefined) return lsn;
    }
    return undefined;
  }

  /** Where the last record begins that begins in a segment, and before `endLsn`; undefined when none does. */
  async #lastRecordIn(segment: ChainSegment, endLsn: Lsn): Promise<Lsn | undefined> {
    let last: Lsn | undefined;
    const { segmentSizeBytes } = this.#wal;
    const options = { startLsn: segment.startLsn, segmentSizeBytes };
    for await (const { lsn } of readWalRecords(this.#bytes([segment]), options)) {
      if (lsn >= endLsn) break;
      last = lsn;
    }
    return last;
  }

  /** All events of a chain, records over its segments' edges included. */
  async *eventsOf({ segments, endLsn }: Chain): AsyncGenerator<WalEvent> {
    for await (const event of this.#events(segments)) {
      if (event.lsn >= endLsn) return;
      yield event;
    }
  }

  async *#events(segments: readonly ChainSegment[]): AsyncGenerator<WalEvent> {
    const [first] = segments;
    if (first === undefined) return;
    const { segmentSizeBytes } = this.#wal;
    yield* readWalEvents(this.#bytes(segments), { startLsn: first.startLsn, segmentSizeBytes });
  }

  async *#bytes(segments: readonly ChainSegment[]): Bytes {
    for (const { name } of segments) {
      const file = parseWalFileName(name);
      if (file === undefined) throw new Error(`no segment is called ${name}`);
      try {
        yield* (await openWalFile(this.#archive, file, this.#options)).content;
      } catch (error) {
        if (!(error instanceof ObjectNotFound)) throw error;
        yield* bytesOf(); // deleted since it was listed: the reader ends here
        return;
      }
    }
  }
}

/** Of a record that goes over the edge of its segment: the end of a transaction is hardly ever longer. */
const edgeBytes = 1024 * 1024;

async function* limited(bytes: Bytes, limitBytes: number): Bytes {
  let left = limitBytes;
  for await (const chunk of bytes) {
    yield chunk.subarray(0, left);
    left -= chunk.length;
    if (left <= 0) return;
  }
}

function momentOf(event: WalEvent): Moment | undefined {
  if (event.kind !== 'commit' && event.kind !== 'abort') return undefined;
  return { lsn: event.lsn, time: event.time + epochMicroseconds };
}
