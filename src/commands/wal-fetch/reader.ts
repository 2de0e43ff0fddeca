/**
 * The reader: fetches ahead of PostgreSQL in the background while it replays, so that neither waits for the other. One call of wal-fetch
 * has started it and told it where to begin. It keeps so many segments published that PostgreSQL finds the next one, and ends by itself, soon:
 *   - where the plan ends: at the end of the WAL, where a timeline was left, at --end-at; what comes then is for calls of their own
 *   - when anything fails: PostgreSQL asks for that segment, and its own call tells why
 *   - when the next segment takes too long, or PostgreSQL takes none any more
 *   - when it is not its folder any more, or the server is gone, was started again, or does not recover: then at once, touching nothing
 * Whatever becomes of it, PostgreSQL's own calls deliver the same. Loaded for such a process alone: see test/bundles.test.ts.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { findBehind } from '../../archive/wal-behind.ts';
import { bindingOf, startOf } from '../../cluster/ahead.ts';
import { PrefetchFolder } from '../../cluster/prefetch-folder.ts';
import { countPublished, findReader, mayReadOn, setComing } from '../../cluster/prefetch-reader.ts';
import { limits, readerIdleMs, readerLookMs, readerPauseMs } from '../../limits.ts';
import { parseWalFileName, type SegmentName } from '../../postgres/wal-file-name.ts';
import { BoundedWork } from '../bounded-work.ts';
import type { Context } from '../context.ts';
import { planAhead } from './ahead-plan.ts';
import { mostAhead, mostInFlight, publishSegment } from './ahead-segment.ts';
import type { SegmentFetch } from './fetch.ts';
import { archiveOf, prepare, type WalFetchArguments } from './prepare.ts';

/** `processId`: the one that was appointed. Ends `hanging` where something may not come to its end: it is not to be waited for. */
export async function readAhead(
  context: Context,
  words: WalFetchArguments,
  processId: number,
): Promise<'done' | 'hanging'> {
  const fetch = await prepare(context, words);
  const { dataDirectory, file, place = '', wordsBefore } = fetch;
  if (dataDirectory === undefined || file.kind !== 'segment' || wordsBefore === undefined) return 'done';
  const { archive, control } = await archiveOf(fetch);
  const segmentSizeBytes = control?.segmentSizeBytes;
  const binding = await bindingOf(dataDirectory, place, wordsBefore);
  const folder = binding === undefined ? undefined : await PrefetchFolder.join(dataDirectory, binding);
  const appointed = folder === undefined ? undefined : await findReader(folder.path);
  if (binding === undefined || folder === undefined || segmentSizeBytes === undefined) return 'done';
  if (appointed?.processId !== processId) return 'done';
  const segmentFetch = { ...fetch, file, archive, control };
  const queue = [...appointed.coming].flatMap(segmentOf);
  const isAllowed = () => mayReadOn({ dataDirectory, folder: folder.path, processId, start: startOf(binding) });
  return new Reader(segmentFetch, { folder, segmentSizeBytes, queue }).run(isAllowed);
}

interface ReaderOptions {
  readonly folder: PrefetchFolder;
  readonly segmentSizeBytes: number;
  /** What it has promised to begin with, in order. */
  readonly queue: readonly SegmentName[];
}

class Reader {
  readonly #fetch: SegmentFetch;
  readonly #folder: PrefetchFolder;
  readonly #segmentSizeBytes: number;
  readonly #bounds: BoundedWork;
  /** Not begun yet, in order; the last that ever was in it; and whether none comes behind that. */
  readonly #queue: SegmentName[];
  #last: SegmentName;
  #isAtEnd = false;
  readonly #inFlight = new Map<string, Promise<boolean>>();
  #before = Promise.resolve(true);
  #said = '';
  /** Of all that were published, how many PostgreSQL has taken, and when the last. */
  #published: number = limits.aheadFirst;
  #taken = 0;
  #takenAt = performance.now();
  /** Since when PostgreSQL has found none. */
  #emptySince: number | undefined;
  #isTooSlow = false;

  constructor(fetch: SegmentFetch, { folder, segmentSizeBytes, queue }: ReaderOptions) {
    this.#bounds = new BoundedWork(fetch.signal);
    this.#fetch = { ...fetch, signal: this.#bounds.signal };
    this.#folder = folder;
    this.#segmentSizeBytes = segmentSizeBytes;
    this.#queue = [...queue];
    this.#last = queue.at(-1) ?? fetch.file;
  }

  async run(isAllowed: () => boolean): Promise<'done' | 'hanging'> {
    const work = this.#work()
      .catch((error: unknown) => this.#fail('what comes next', error))
      .then(() => Promise.all(this.#inFlight.values()));
    const end = await new Promise<'done' | 'over'>((resolve) => {
      const looking = setInterval(() => {
        if (!isAllowed()) resolve('over');
        else this.#look();
      }, readerLookMs);
      this.#bounds.signal.addEventListener('abort', () => resolve('done'));
      work.then(() => resolve('done')).finally(() => clearInterval(looking));
    });
    if (end === 'over') return 'hanging';
    const ended = await this.#bounds.end(work, 0);
    // the storage gives less than PostgreSQL replays: then one at a time comes sooner
    if (this.#isTooSlow && isAllowed()) {
      this.#folder.setPace({ depth: 0, published: 0, endedAt: Date.now() });
    }
    return ended;
  }

  async #work(): Promise<void> {
    for (;;) {
      await this.#extend();
      const room = await this.#room();
      const free = mostInFlight(this.#segmentSizeBytes) - this.#inFlight.size;
      for (const file of this.#queue.splice(0, Math.max(0, Math.min(room, free)))) this.#begin(file);
      await this.#promise();
      if (this.#bounds.isStopped || this.#isIdle(room)) break;
      await Promise.race([pause(readerPauseMs), ...this.#inFlight.values()]);
    }
  }

  /** Nothing is on its way, and nothing will be: since none is left, or none may be kept though none is there. */
  #isIdle(room: number): boolean {
    if (this.#inFlight.size > 0) return false;
    return this.#queue.length === 0 || (room < 1 && countPublished(this.#folder.path) === 0);
  }

  /** Looks what is stored behind, long before PostgreSQL asks for it. */
  async #extend(): Promise<void> {
    const { archive, settings, signal } = this.#fetch;
    const most = settings.walFetchAhead;
    if (this.#isAtEnd || this.#queue.length > most / 2) return;
    const behind = await findBehind(archive, this.#last, { signal, segments: most });
    const fetch = { ...this.#fetch, file: this.#last };
    const plan = await planAhead(fetch, { behind, most, segmentSizeBytes: this.#segmentSizeBytes });
    const there = await this.#folder.published();
    this.#queue.push(...plan.filter(({ name }) => !there.has(name)));
    this.#last = plan.at(-1) ?? this.#last;
    this.#isAtEnd = plan.length < most;
  }

  /** How many may be begun: twice as many are kept ready as PostgreSQL has shown that it takes. */
  async #room(): Promise<number> {
    const most = await mostAhead(this.#fetch, this.#segmentSizeBytes);
    const depth = Math.min(most, 2 * (limits.aheadFirst + this.#taken));
    return depth - countPublished(this.#folder.path) - this.#inFlight.size;
  }

  #begin(file: SegmentName): void {
    const options = { folder: this.#folder, segmentSizeBytes: this.#segmentSizeBytes, before: this.#before };
    this.#before = publishSegment({ ...this.#fetch, file }, options)
      .catch((error: unknown) => this.#fail(`"${file.name}"`, error))
      .then((isPublished) => this.#ended(file, isPublished === true));
    this.#inFlight.set(file.name, this.#before);
  }

  #ended({ name }: SegmentName, isPublished: boolean): boolean {
    this.#inFlight.delete(name);
    if (isPublished) this.#published += 1;
    else this.#bounds.stop();
    return isPublished;
  }

  /** What is not published yet, and will be next. */
  async #promise(): Promise<void> {
    const next = this.#queue.slice(0, limits.aheadInFlight).map(({ name }) => name);
    const names = [...this.#inFlight.keys(), ...next];
    const text = names.join(' ');
    if (text === this.#said) return;
    this.#said = text;
    await setComing(this.#folder.path, names);
  }

  #look(): void {
    const { aheadMs } = this.#fetch.settings.times;
    const now = performance.now();
    const there = countPublished(this.#folder.path);
    const taken = this.#published - there;
    if (taken > this.#taken) this.#takenAt = now;
    this.#taken = Math.max(taken, this.#taken);
    this.#emptySince = there > 0 ? undefined : (this.#emptySince ?? now);
    this.#isTooSlow = this.#emptySince !== undefined && now - this.#emptySince > 2 * aheadMs;
    if (this.#isTooSlow || (there > 0 && now - this.#takenAt > readerIdleMs)) this.#bounds.leave();
  }

  #fail(what: string, error: unknown): false {
    const failure = this.#bounds.failed(error);
    if (failure !== undefined) this.#fetch.log.info(`${what} could not be fetched ahead: ${failure}`);
    return false;
  }
}

function segmentOf(name: string): SegmentName[] {
  const file = parseWalFileName(name);
  return file?.kind === 'segment' ? [file] : [];
}
