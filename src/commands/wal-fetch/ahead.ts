/**
 * Batches. PostgreSQL calls restore_command for one segment at a time, and each call costs a start of Node.js and the storage's delay. So
 * where it recovers, one call also fetches the next segments, several at a time, and publishes them for bin/wal-fetch, which takes them when
 * PostgreSQL asks. A batch, not a daemon: it is over before the call is. What was asked for is at %p by then, and what fails here comes back
 * when PostgreSQL asks for it. Loaded for such a call alone: see test/bundles.test.ts.
 */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { openWalFile } from '../../archive/wal-archive.ts';
import type { WalBehind } from '../../archive/wal-behind.ts';
import { type Binding, bindingOf } from '../../cluster/ahead.ts';
import { isPromoting } from '../../cluster/data-directory.ts';
import { type Pace, PrefetchFolder } from '../../cluster/prefetch-folder.ts';
import { writeNewFile } from '../../durable-file.ts';
import { CorruptError, StorageError } from '../../errors.ts';
import { cleanUpMs, limits } from '../../limits.ts';
import { type SegmentName, segmentStart } from '../../postgres/wal-file-name.ts';
import { planAhead } from './ahead-plan.ts';
import type { SegmentFetch } from './fetch.ts';

/** A segment that was delivered whole, and what is stored behind it. */
export interface Delivered extends SegmentFetch {
  readonly behind: Promise<WalBehind>;
}

/** The first batch of a recovery; each next one twice as many, for as long as they come in time. */
const firstDepth = 4;
/** The share of the free space that a batch may take. */
const spaceShare = 0.1;
/** A promotion elsewhere changes what is true (H2): so a standby is fetched as much as it replays in so long, and given it no longer than that. */
const standbyBatchMs = 10_000;
const standbyLastMs = 2 * standbyBatchMs;
/** So long none is fetched ahead where not one came in time. */
const restMs = 10 * 60_000;

/** Comes to an end soon, whatever happens: `hanging` when something of it does not. */
export async function fetchAhead(fetch: Delivered): Promise<'delivered' | 'hanging'> {
  const batch = new Batch(fetch);
  const work = batch.work().catch((error: unknown) => batch.fail('what comes next', error));
  const { aheadMs } = fetch.settings.times;
  const promotion = setInterval(async () => {
    if (await isPromoting(fetch.dataDirectory ?? '')) batch.leave();
  }, 500);
  const timers = [setTimeout(batch.stop, aheadMs), setTimeout(batch.leave, 2 * aheadMs)];
  const late = new Promise<'late'>((resolve) => {
    timers.push(setTimeout(resolve, 2 * aheadMs + cleanUpMs, 'late'));
  });
  const end = await Promise.race([work, late]);
  timers.map(clearTimeout);
  clearInterval(promotion);
  return end === 'late' || batch.mayHang ? 'hanging' : 'delivered';
}

class Batch {
  readonly #fetch: Delivered;
  readonly #controller = new AbortController();
  #isStopped = false;
  #isLate = false;
  /** Something was not waited for: a system call that hangs would keep the process. */
  mayHang = false;

  constructor(fetch: Delivered) {
    this.#fetch = { ...fetch, signal: AbortSignal.any([fetch.signal, this.#controller.signal]) };
  }

  /** Begins nothing more. */
  readonly stop = (): void => {
    this.#isStopped = true;
    this.#isLate = true;
  };

  /** Gives up what is on its way, too. */
  readonly leave = (): void => {
    this.stop();
    this.mayHang = true;
    this.#controller.abort(new Error('PostgreSQL waits'));
  };

  fail(what: string, error: unknown): void {
    if (error instanceof StorageError) this.mayHang = true;
    if (this.#fetch.signal.aborted) return;
    const message = error instanceof Error ? error.message : String(error);
    this.#fetch.log.info(`${what} could not be fetched ahead: ${message}`);
  }

  async work(): Promise<void> {
    const { dataDirectory = '', control, behind, file } = this.#fetch;
    const binding = await this.#binding();
    const segmentSizeBytes = control?.segmentSizeBytes;
    if (binding === undefined || segmentSizeBytes === undefined || (await isPromoting(dataDirectory))) return;
    const folder = await PrefetchFolder.open({ dataDirectory, binding, requested: file.name });
    const last = await folder.pace();
    const rested = last !== undefined && Date.now() - last.endedAt > restMs;
    const depth = last?.depth === 0 && rested ? 1 : (last?.depth ?? (folder.wasRefused ? 1 : firstDepth));
    if (depth === 0) return; // one segment takes longer than a batch may: PostgreSQL asks for it sooner
    const most = Math.min(depth, this.#mostNow(last), await this.#mostOf(segmentSizeBytes));
    const plan = await planAhead(this.#fetch, { behind: await behind, most, segmentSizeBytes });
    const names = plan.map(({ name }) => name);
    await folder.keepOnly(names, standbyLastMs);
    const there = await folder.published();
    const wanted = plan.filter(({ name }) => !there.has(name));
    await this.#fetchAll(wanted, { folder, segmentSizeBytes });
    const published = (await folder.published()).size;
    const isFull = plan.length === depth && !this.#isStopped;
    const next = isFull ? 2 * depth : depth;
    await folder.setPace({ depth: this.#isLate ? published : next, published, endedAt: Date.now() });
  }

  #binding(): Promise<Binding | undefined> {
    const { dataDirectory = '', place = '', wordsBefore } = this.#fetch;
    return bindingOf(dataDirectory, place, wordsBefore);
  }

  /** A standby is given no more than it replays soon; in recovery nothing changes that it has not asked for. */
  #mostNow(last: Pace | undefined): number {
    if (!this.#fetch.standby) return Number.POSITIVE_INFINITY;
    const passedMs = last === undefined ? 0 : Date.now() - last.endedAt;
    if (last === undefined || passedMs <= 0) return firstDepth; // also where somebody has set the clock
    return Math.floor((standbyBatchMs * (last.published + 1)) / passedMs);
  }

  /** Of segments of this size (H18). */
  async #mostOf(segmentSizeBytes: number): Promise<number> {
    const { settings, dataDirectory = '' } = this.#fetch;
    const { bavail, bsize } = await statfs(join(dataDirectory, 'pg_wal'));
    const bytes = Math.min(limits.aheadBytes, bavail * bsize * spaceShare);
    return Math.min(settings.walFetchAhead, Math.floor(bytes / segmentSizeBytes));
  }

  async #fetchAll(wanted: readonly SegmentName[], place: Place): Promise<void> {
    const waiting = wanted.values();
    let before = Promise.resolve(true);
    const fetchOnes = async (): Promise<void> => {
      for (const file of waiting) {
        if (this.#isStopped || this.#fetch.signal.aborted) return;
        before = this.#fetchOne(file, { ...place, before });
        await before;
      }
    };
    const inFlight = Math.floor(limits.aheadInFlightBytes / place.segmentSizeBytes);
    const count = Math.max(1, Math.min(limits.aheadInFlight, inFlight));
    await Promise.all(Array.from({ length: count }, fetchOnes));
  }

  /** @returns whether it is published. `before`: the same of the one before it. */
  async #fetchOne(file: SegmentName, { folder, segmentSizeBytes, before }: Next): Promise<boolean> {
    const fetch = { ...this.#fetch, file };
    try {
      return await folder.publish(file.name, async (path) => {
        const { content } = await openWalFile(fetch.archive, file, fetch);
        await writeNewFile(path, content, 0o640);
        return !fetch.beside || ((await this.#isClear(fetch, { path, segmentSizeBytes })) && before);
      });
    } catch (error) {
      this.fail(`"${file.name}"`, error);
      if (!(error instanceof CorruptError)) this.#isStopped = true; // the next one would fare alike
      return false;
    }
  }

  /** May a copy beside its original replay it (H29)? A place that is free now may be taken until then: so no tablespace at all. */
  async #isClear(fetch: SegmentFetch, { path, segmentSizeBytes }: Written): Promise<boolean> {
    const { mayCreateTablespace } = await import('./beside.ts');
    const start = segmentStart(fetch.file, segmentSizeBytes) ?? 0n;
    if (!(await mayCreateTablespace(fetch, { path, start, sizeBytes: segmentSizeBytes }))) return true;
    this.#isStopped = true;
    return false;
  }
}

interface Place {
  readonly folder: PrefetchFolder;
  readonly segmentSizeBytes: number;
}

interface Next extends Place {
  readonly before: Promise<boolean>;
}

interface Written {
  readonly path: string;
  readonly segmentSizeBytes: number;
}
