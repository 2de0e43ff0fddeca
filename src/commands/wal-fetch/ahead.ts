/**
 * Batches. PostgreSQL calls restore_command for one segment at a time, and each call costs a start of Node.js and the storage's delay. So
 * where it recovers, one call also fetches the next segments, several at a time, and publishes them for bin/wal-fetch, which takes them when
 * PostgreSQL asks. A batch is over before the call is. What was asked for is at %p by then, and what fails here comes back when PostgreSQL
 * asks for it. Where a process may go on when the call has ended, the batch is a small one, and a reader in the background fetches what
 * comes behind it, while PostgreSQL replays (reader.ts). Loaded for such a call alone: see test/bundles.test.ts.
 */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import type { WalBehind } from '../../archive/wal-behind.ts';
import { type Binding, bindingOf } from '../../cluster/ahead.ts';
import { isPromoting } from '../../cluster/data-directory.ts';
import { type Pace, PrefetchFolder } from '../../cluster/prefetch-folder.ts';
import { appointReader, takeLastWords } from '../../cluster/prefetch-reader.ts';
import { CorruptError } from '../../errors.ts';
import { aheadRestMs, limits, promotionLookMs, standbyBatchMs, standbyLastMs } from '../../limits.ts';
import { type SegmentName, segmentNameAt, segmentStart } from '../../postgres/wal-file-name.ts';
import { BoundedWork } from '../bounded-work.ts';
import { planAhead } from './ahead-plan.ts';
import { type AheadOptions, mostAhead, mostInFlight, publishSegment } from './ahead-segment.ts';
import type { Background, SegmentFetch } from './fetch.ts';

/** A segment that was delivered whole, and what is stored behind it. */
export interface Delivered extends SegmentFetch {
  readonly behind: Promise<WalBehind>;
}

/** Comes to an end soon, whatever happens: `hanging` when something of it does not. */
export async function fetchAhead(fetch: Delivered): Promise<'delivered' | 'hanging'> {
  const batch = new Batch(fetch);
  const work = batch.work().catch((error: unknown) => batch.fail('what comes next', error));
  const promotion = setInterval(async () => {
    if (await isPromoting(fetch.dataDirectory ?? '')) batch.bounds.leave();
  }, promotionLookMs);
  const end = await batch.bounds.end(work, fetch.settings.times.aheadMs);
  clearInterval(promotion);
  return end === 'hanging' ? 'hanging' : 'delivered';
}

class Batch {
  readonly #fetch: Delivered;
  readonly bounds: BoundedWork;

  constructor(fetch: Delivered) {
    this.bounds = new BoundedWork(fetch.signal);
    this.#fetch = { ...fetch, signal: this.bounds.signal };
  }

  fail(what: string, error: unknown): void {
    const failure = this.bounds.failed(error);
    if (failure !== undefined) this.#fetch.log.info(`${what} could not be fetched ahead: ${failure}`);
  }

  async work(): Promise<void> {
    const { dataDirectory = '', control, behind, log } = this.#fetch;
    const binding = await this.#binding();
    const segmentSizeBytes = control?.segmentSizeBytes;
    if (binding === undefined || segmentSizeBytes === undefined || (await isPromoting(dataDirectory))) return;
    const folder = await PrefetchFolder.open({ dataDirectory, binding, ...this.#names(segmentSizeBytes) });
    if (folder.hasReader) return;
    const words = await takeLastWords(folder.path);
    if (words !== '') log.info('what was fetched ahead in the background came to an early end', { detail: words });
    const last = await folder.pace();
    const depth = depthAfter(last, folder.wasRefused);
    if (depth === 0) return; // one segment takes longer than a batch may: PostgreSQL asks for it sooner
    const most = Math.min(this.#mostNow(last), await mostAhead(this.#fetch, segmentSizeBytes));
    const plan = await planAhead(this.#fetch, { behind: await behind, most, segmentSizeBytes });
    await folder.keepOnly(namesOf(plan), standbyLastMs);
    const there = await folder.published();
    const missing = (files: readonly SegmentName[]) => files.filter(({ name }) => !there.has(name));
    const behindFirst = missing(plan.slice(limits.aheadFirst));
    const background = behindFirst.length > 0 ? await this.#startReader(folder) : undefined;
    const batch = plan.slice(0, background === undefined ? depth : Math.min(depth, limits.aheadFirst));
    await this.#fetchAll(missing(batch), { folder, segmentSizeBytes });
    await this.#setPace(folder, { depth, isFull: batch.length === depth });
    await this.#handOver(background, folder, missing(plan.slice(batch.length)));
  }

  #binding(): Promise<Binding | undefined> {
    const { dataDirectory = '', place = '', wordsBefore } = this.#fetch;
    return bindingOf(dataDirectory, place, wordsBefore);
  }

  #names(segmentSizeBytes: number): { readonly requested: string; readonly next: string } {
    const { file } = this.#fetch;
    const behind = (segmentStart(file, segmentSizeBytes) ?? 0n) + BigInt(segmentSizeBytes);
    return { requested: file.name, next: segmentNameAt(file.timeline, behind, segmentSizeBytes) };
  }

  /** A standby is given no more than it replays soon; in recovery nothing changes that it has not asked for. */
  #mostNow(last: Pace | undefined): number {
    if (!this.#fetch.standby) return Number.POSITIVE_INFINITY;
    const passedMs = last === undefined ? 0 : Date.now() - last.endedAt;
    if (last === undefined || passedMs <= 0) return limits.aheadFirst; // also where somebody has set the clock
    return Math.floor((standbyBatchMs * (last.published + 1)) / passedMs);
  }

  /** None for a standby: what it is given must not be old (H2), and where it has caught up there is nothing to read ahead. */
  async #startReader(folder: PrefetchFolder): Promise<Background | undefined> {
    const { background, standby, dataDirectory = '' } = this.#fetch;
    if (background === undefined || standby || folder.wasRefused) return undefined;
    const isRecovering = await access(join(dataDirectory, 'recovery.signal')).then(
      () => true,
      () => false,
    );
    return isRecovering ? background(folder.path) : undefined;
  }

  async #handOver(background: Background | undefined, folder: PrefetchFolder, plan: readonly SegmentName[]) {
    if (background === undefined) return;
    if (this.bounds.isStopped) return background.leave();
    await appointReader(folder.path, background.processId, namesOf(plan));
    await background.begin();
  }

  async #setPace(folder: PrefetchFolder, { depth, isFull }: { readonly depth: number; readonly isFull: boolean }) {
    const published = (await folder.published()).size;
    const next = isFull && !this.bounds.isStopped ? 2 * depth : depth;
    folder.setPace({ depth: this.bounds.isLate ? published : next, published, endedAt: Date.now() });
  }

  async #fetchAll(wanted: readonly SegmentName[], place: Omit<AheadOptions, 'before'>): Promise<void> {
    const waiting = wanted.values();
    let before = Promise.resolve(true);
    const fetchOnes = async (): Promise<void> => {
      for (const file of waiting) {
        if (this.bounds.isStopped) return;
        before = this.#fetchOne(file, { ...place, before });
        await before;
      }
    };
    await Promise.all(Array.from({ length: mostInFlight(place.segmentSizeBytes) }, fetchOnes));
  }

  /** @returns whether it is published. */
  async #fetchOne(file: SegmentName, options: AheadOptions): Promise<boolean> {
    try {
      const isPublished = await publishSegment({ ...this.#fetch, file }, options);
      if (!isPublished) this.bounds.stop();
      return isPublished;
    } catch (error) {
      this.fail(`"${file.name}"`, error);
      if (!(error instanceof CorruptError)) this.bounds.stop(); // the next one would fare alike
      return false;
    }
  }
}

function namesOf(files: readonly SegmentName[]): string[] {
  return files.map(({ name }) => name);
}

/** How many segments a batch may have; 0 for as long as not one came in time. */
function depthAfter(last: Pace | undefined, wasRefused: boolean): number {
  if (last === undefined) return wasRefused ? 1 : limits.aheadFirst;
  return last.depth === 0 && Date.now() - last.endedAt > aheadRestMs ? 1 : last.depth;
}
