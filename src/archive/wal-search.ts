/** Finds moments in stored WAL: commits are in the order of their times, nearly, so few segments are read whatever the archive's length. */
import type { Lsn } from '../postgres/lsn.ts';
import type { WalEvent } from '../postgres/wal-events.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import type { StoredWal } from './stored-wal.ts';
import { type Moment, SegmentReader } from './wal-segments.ts';
import type { Chain } from './window.ts';

export type { Moment } from './wal-segments.ts';

/** A server's clock was set back, or another server took over whose clock is behind: the moment before is later than the one after. */
export interface ClockJump {
  readonly before: Moment;
  readonly after: Moment;
}

/** A chain is looked into at so many places at least, if it has as many segments, for a clock that was set back. */
const minSamples = 16;
/** Fewer segments than this are read one after the other. */
const fewSegments = 8;
/** Transactions that end together write their records in another order than that of their times: never so far apart, nor over so many segments. */
const disorder = 10_000_000n;
const disorderedSegments = 16;

export class WalSearch {
  readonly #reader: SegmentReader;
  readonly #jumps = new Map<Lsn, ClockJump>();

  constructor(archive: Archive, { segmentSizeBytes }: StoredWal, options: RequestOptions) {
    this.#reader = new SegmentReader(archive, segmentSizeBytes, options);
  }

  /** Those that were met: by LSN. */
  get clockJumps(): readonly ClockJump[] {
    return [...this.#jumps.values()].sort((a, b) => (a.before.lsn < b.before.lsn ? -1 : 1));
  }

  /**
   * The latest moment of the last segment that has any before `lsn`; undefined when no transaction ended in the chain. Times of transactions
   * that end together are not quite in their order, and recovery stops at the first that is too late.
   */
  async lastBefore(chain: Chain, lsn: Lsn): Promise<Moment | undefined> {
    for (const [index, segment] of [...chain.segments.entries()].reverse()) {
      if (segment.startLsn >= lsn) continue;
      const moments = (await this.#momentsAt(chain, index)).filter((one) => one.lsn < lsn);
      const last = latestOf(moments);
      if (last !== undefined) return last;
    }
    return undefined;
  }

  /**
   * The first moment of the chain that is later than `time`, in the order of the WAL: where recovery to that time stops.
   *
   * Times are taken to ascend between two samples of which the second is not before the first; where it is, a clock was set back, and all
   * segments between them are read. A clock that was wrong for less time than lies between two samples is not noticed.
   */
  async firstAfter(chain: Chain, time: bigint): Promise<Moment | undefined> {
    const count = chain.segments.length;
    if (count <= fewSegments) return this.#scan(chain, { from: 0, end: count }, time);
    const samples = await this.#samples(chain);
    let [from, before]: [number, Moment | undefined] = [0, undefined];
    for (const { index: end, moment } of [...samples, { index: count, moment: undefined }]) {
      const isBack = before !== undefined && moment !== undefined && moment.time < before.time;
      const isPassed = moment !== undefined && moment.time <= time - disorder;
      let found: Moment | undefined;
      if (isBack) found = await this.#scan(chain, { from, end }, time);
      else if (!isPassed) found = await this.#bisect(chain, { from, end }, time);
      if (found !== undefined) return found;
      [from, before] = [end, moment];
    }
    return undefined;
  }

  /** The first moments of segments here and there: evenly, at the same places of the WAL in every chain, and on both sides of each new timeline. */
  async #samples(chain: Chain): Promise<readonly { readonly index: number; readonly moment: Moment }[]> {
    const { segments } = chain;
    const step = 2 ** Math.floor(Math.log2(Math.max(1, segments.length / minSamples)));
    const places = segments.flatMap(({ timeline, startLsn }, index) => {
      const isEven = (startLsn / BigInt(this.#reader.segmentSizeBytes)) % BigInt(step) === 0n;
      const isEdge =
        segments[index - 1]?.timeline !== timeline || (segments[index + 1]?.timeline ?? timeline) !== timeline;
      return isEven || isEdge ? [index] : [];
    });
    const samples: { index: number; moment: Moment }[] = [];
    for (const [order, place] of places.entries()) {
      for (let index = place; index < (places[order + 1] ?? segments.length); index += 1) {
        const moment = await this.#reader.firstMoment(chain.segments, index);
        if (moment === undefined || moment.lsn >= chain.endLsn) continue;
        const before = samples.at(-1)?.moment;
        if (before !== undefined) this.#noteJump(before, moment);
        samples.push({ index, moment });
        break;
      }
    }
    return samples;
  }

  /** Reads one segment after the other, also behind what it finds: only so a clock is noticed that was set back there. */
  async #scan(chain: Chain, { from, end }: Range, time: bigint): Promise<Moment | undefined> {
    let found: Moment | undefined;
    let latest: Moment | undefined;
    for (let index = from; index < end; index += 1) {
      for (const moment of await this.#momentsAt(chain, index)) {
        if (latest !== undefined) this.#noteJump(latest, moment);
        if (moment.time > time) found ??= moment;
        if (latest === undefined || moment.time > latest.time) latest = moment;
      }
    }
    return found;
  }

  async #bisect(chain: Chain, range: Range, time: bigint): Promise<Moment | undefined> {
    let [low, high] = [range.from, range.end];
    while (low < high) {
      const middle = (low + high) >> 1;
      const latest = await this.#latestFrom(chain, middle, high);
      if (latest === undefined || latest.moment.time > time) high = middle;
      else low = latest.index + 1;
    }
    low = await this.#withinDisorder(chain, { from: range.from, end: low }, time);
    for (let index = low; index < range.end; index += 1) {
      const moment = (await this.#momentsAt(chain, index)).find((one) => one.time > time);
      if (moment !== undefined) return moment;
    }
    return undefined;
  }

  /** Where to begin, so that no earlier segment has a moment that is a little later than what follows it. */
  async #withinDisorder(chain: Chain, { from, end }: Range, time: bigint): Promise<number> {
    let found = end;
    for (let index = end - 1; index >= Math.max(from, end - disorderedSegments); index -= 1) {
      const latest = latestOf(await this.#momentsAt(chain, index));
      if (latest === undefined) continue;
      if (latest.time > time) found = index;
      if (latest.time < time - disorder) break;
    }
    return found;
  }

  /** The latest moment of the first segment from `from` on that has any. */
  async #latestFrom(chain: Chain, from: number, end: number) {
    for (let index = from; index < end; index += 1) {
      const moment = latestOf(await this.#momentsAt(chain, index));
      if (moment !== undefined) return { moment, index };
    }
    return undefined;
  }

  /** Of the chain: what its last segment holds behind its end is not. */
  async #momentsAt({ segments, endLsn }: Chain, index: number): Promise<readonly Moment[]> {
    const moments = await this.#reader.moments(segments, index);
    return index < segments.length - 2 ? moments : moments.filter(({ lsn }) => lsn < endLsn);
  }

  /** Of one jump the first moment behind it is remembered. */
  #noteJump(before: Moment, after: Moment): void {
    if (before.time - after.time <= disorder) return;
    const isKnown = [...this.#jumps.values()].some((jump) => jump.before.lsn === before.lsn);
    if (!isKnown) this.#jumps.set(after.lsn, { before, after });
  }

  /** Where the last record of the chain begins: recovery can stop there, and no later. */
  async lastRecord({ segments, endLsn }: Chain): Promise<Lsn | undefined> {
    for (const segment of segments.toReversed()) {
      const lsn = await this.#reader.lastRecord(segment, endLsn);
      if (lsn !== undefined) return lsn;
    }
    return undefined;
  }

  /** All events of a chain, records over its segments' edges included. */
  async *eventsOf({ segments, endLsn }: Chain): AsyncGenerator<WalEvent> {
    for await (const event of this.#reader.events(segments)) {
      if (event.lsn >= endLsn) return;
      yield event;
    }
  }
}

interface Range {
  readonly from: number;
  readonly end: number;
}

function latestOf(moments: readonly Moment[]): Moment | undefined {
  let latest: Moment | undefined;
  for (const moment of moments) if (latest === undefined || moment.time > latest.time) latest = moment;
  return latest;
}
