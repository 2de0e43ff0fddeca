/** Reads stored segments of a chain for what a search wants to know of them. What was read last is remembered. */
import { type Bytes, bytesOf } from '../bytes.ts';
import { CorruptError, ObjectNotFound, WrongKeyError } from '../errors.ts';
import type { Lsn } from '../postgres/lsn.ts';
import { readWalEvents, type WalEvent } from '../postgres/wal-events.ts';
import { parseWalFileName } from '../postgres/wal-file-name.ts';
import { readWalRecords } from '../postgres/wal-record.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { openWalFile } from './wal-archive.ts';
import type { ChainSegment } from './window.ts';

/** A transaction's end, which alone tells recovery the time. Time in microseconds since 1970, UTC. */
export interface Moment {
  readonly lsn: Lsn;
  readonly time: bigint;
}

/** A stored segment is damaged: recovery cannot pass it, and whatever does not need it is possible nevertheless. */
export class UnreadableSegment extends CorruptError {
  readonly segment: string;
  constructor(segment: string, { message, detail, hint }: CorruptError) {
    super(message, { detail, hint });
    this.segment = segment;
  }
}

/** PostgreSQL counts from 2000. */
const epochMicroseconds = 946_684_800_000_000n;
/** Of a record that goes over the edge of its segment: the end of a transaction is hardly ever longer. */
const edgeBytes = 1024 * 1024;
/** Segments whose moments are kept: a search comes back to the last ones. */
const keptSegments = 16;

export class SegmentReader {
  readonly segmentSizeBytes: number;
  readonly #archive: Archive;
  readonly #options: RequestOptions;
  readonly #moments = new Map<string, readonly Moment[]>();
  readonly #firsts = new Map<string, Moment | undefined>();

  constructor(archive: Archive, segmentSizeBytes: number, options: RequestOptions) {
    this.#archive = archive;
    this.segmentSizeBytes = segmentSizeBytes;
    this.#options = options;
  }

  /** Ends of transactions whose record begins in the segment. @throws UnreadableSegment */
  async moments(segments: readonly ChainSegment[], index: number): Promise<readonly Moment[]> {
    const key = keyOf(segments, index);
    const known = this.#moments.get(key);
    if (known !== undefined) return known;
    const moments: Moment[] = [];
    for await (const moment of this.#read(segments, index)) moments.push(moment);
    this.#moments.set(key, moments);
    const [oldest] = this.#moments.keys();
    if (this.#moments.size > keptSegments && oldest !== undefined) this.#moments.delete(oldest);
    this.#firsts.set(key, moments[0]);
    return moments;
  }

  /** The first of them; no more is read than that takes. @throws UnreadableSegment */
  async firstMoment(segments: readonly ChainSegment[], index: number): Promise<Moment | undefined> {
    const key = keyOf(segments, index);
    if (!this.#firsts.has(key)) {
      let first: Moment | undefined;
      for await (const moment of this.#read(segments, index)) {
        first = moment;
        break;
      }
      this.#firsts.set(key, first);
    }
    return this.#firsts.get(key);
  }

  /** The last record may go on in the next segment, of which no more than that is read. */
  async *#read(segments: readonly ChainSegment[], index: number): AsyncGenerator<Moment, void> {
    const [segment, next] = segments.slice(index, index + 2);
    if (segment === undefined) return;
    const { segmentSizeBytes } = this;
    const { startLsn } = segment;
    const endLsn = startLsn + BigInt(segmentSizeBytes);
    const bytes = limited(this.#bytes(next === undefined ? [segment] : [segment, next]), segmentSizeBytes + edgeBytes);
    for await (const event of readWalEvents(bytes, { startLsn, segmentSizeBytes })) {
      if (event.lsn >= endLsn) return;
      const moment = momentOf(event);
      if (moment !== undefined) yield moment;
    }
  }

  /** Where the last record begins that begins in a segment, and before `endLsn`; undefined when none does. @throws UnreadableSegment */
  async lastRecord(segment: ChainSegment, endLsn: Lsn): Promise<Lsn | undefined> {
    let last: Lsn | undefined;
    const { segmentSizeBytes } = this;
    const options = { startLsn: segment.startLsn, segmentSizeBytes };
    for await (const { lsn } of readWalRecords(this.#bytes([segment]), options)) {
      if (lsn >= endLsn) break;
      last = lsn;
    }
    return last;
  }

  /** All events of segments that follow each other. @throws UnreadableSegment */
  async *events(segments: readonly ChainSegment[]): AsyncGenerator<WalEvent> {
    const [first] = segments;
    if (first === undefined) return;
    const { segmentSizeBytes } = this;
    yield* readWalEvents(this.#bytes(segments), { startLsn: first.startLsn, segmentSizeBytes });
  }

  async *#bytes(segments: readonly ChainSegment[]): Bytes {
    for (const { name } of segments) {
      const file = parseWalFileName(name);
      if (file === undefined) throw new Error(`no segment is called ${name}`);
      try {
        yield* (await openWalFile(this.#archive, file, this.#options)).content;
      } catch (error) {
        // another key would read it: that is no damage, and the same for many
        if (error instanceof CorruptError && !(error instanceof WrongKeyError))
          throw new UnreadableSegment(name, error);
        if (!(error instanceof ObjectNotFound)) throw error;
        yield* bytesOf(); // deleted since it was listed: the reader ends here
        return;
      }
    }
  }
}

/** What a segment holds to its end depends on whether the next one is there. */
function keyOf(segments: readonly ChainSegment[], index: number): string {
  return `${segments[index]?.name} ${segments[index + 1]?.name}`;
}

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
