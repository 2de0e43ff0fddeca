/**
 * Parts of backups that are needed in pieces: the frames that hold these are read, each once, by ranges of stored bytes, and checked against the
 * seek table that the list of files commits to. What is known of a part is kept for the next time.
 */
import { collect, giveBack } from '../bytes.ts';
import { FrameAccess, type FrameRange, type ReadRange } from '../codec/streamed-ranges.ts';
import { type Frame, inFlight } from '../codec/zstd.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import type { RequestOptions, Storage } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import type { PartLine } from './files-line.ts';
import { objectKey, partName } from './keys.ts';
import { aboutStream, discardContent } from './part.ts';
import type { RangeList, WantedRange } from './range-walk.ts';

/** What is needed of one part. */
export interface WantedPart {
  readonly part: PartLine;
  /** In the raw part, ascending by their offsets. They may overlap, and must lie in it. */
  readonly ranges: RangeList<WantedRange>;
}

/** One frame of a part. */
export interface PartFrame {
  readonly part: PartLine;
  /** Where it stands in the raw part. */
  readonly offset: number;
  readonly content: Uint8Array;
}

export interface RangeOptions extends RequestOptions {
  /** Told of all bytes that come from the storage. */
  readonly onFetched: (bytes: number) => void;
}

/**
 * Each frame that holds something wanted, part by part and in the order of each, some read ahead: no more than a few MiB.
 * @throws CorruptError when a part is missing, or not byte for byte what the backup committed to.
 */
export async function* readFrames(
  archive: Archive,
  wanted: Iterable<WantedPart>,
  options: RangeOptions,
): AsyncGenerator<PartFrame> {
  const open = async (one: WantedPart) => ({ ...one, opened: await openPart(archive, one.part, options) });
  yield* inFlight(framesIn(requestsOf(inFlight(each(wanted), open))), async ({ part, offset, frame, stored }) => {
    const content = await attempt(archive, part, () => FrameAccess.decode(frame));
    stored.release();
    return { part, offset, content };
  });
}

/** A frame by itself leaves more behind than one of many that are read one after the other. */
const garbageShare = 1 / 2;

/** Gives the memory of a frame back when it was used. @returns about how many bytes are left for the garbage collector. */
export function discardFrame({ part, content }: PartFrame): Promise<number> {
  return discardContent(content, part, garbageShare);
}

/** Stored frames in one memory, which goes back when the last of them is decompressed; after a failure never, since others may still be at it. */
class StoredFrames {
  readonly #bytes: Uint8Array;
  #users = 1;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  use(): this {
    this.#users += 1;
    return this;
  }

  release(): void {
    this.#users -= 1;
    if (this.#users === 0) giveBack(this.#bytes);
  }
}

async function* each<Item>(items: Iterable<Item>): AsyncGenerator<Item> {
  yield* items;
}

/** A part that is open: what it is read with says which one it is when it is damaged. */
interface OpenPart {
  readonly access: FrameAccess;
  readonly read: (range: FrameRange) => Promise<Buffer>;
  readonly frames: (stored: Buffer, range: FrameRange) => AsyncGenerator<Frame>;
}

interface RangeRequest {
  readonly part: PartLine;
  readonly opened: OpenPart;
  readonly range: FrameRange;
}

/** Frames that lie close together in one request, of at most a window. */
async function* requestsOf(
  wanted: AsyncIterable<WantedPart & { readonly opened: OpenPart }>,
): AsyncGenerator<RangeRequest> {
  for await (const { part, ranges, opened } of wanted) {
    const { access } = opened;
    let range: FrameRange | undefined;
    for (let index = 0; index < ranges.length; index += 1) {
      const { offset, lengthBytes } = ranges.at(index) as WantedRange;
      const end = Math.floor((offset + lengthBytes - 1) / limits.frameRawBytes);
      for (let frame = Math.floor(offset / limits.frameRawBytes); frame <= end; frame += 1) {
        if (range === undefined) range = { first: frame, last: frame };
        if (frame <= range.last) continue;
        const joined: FrameRange = { first: range.first, last: frame };
        const gapBytes = frame === range.last + 1 ? 0 : access.storedBytes({ first: range.last + 1, last: frame - 1 });
        if (gapBytes <= limits.rangeGapBytes && access.storedBytes(joined) <= limits.windowBytes) range = joined;
        else {
          yield { part, opened, range };
          range = { first: frame, last: frame };
        }
      }
    }
    if (range !== undefined) yield { part, opened, range };
  }
}

/** Asks for the next ranges while one is used. */
async function* framesIn(requests: AsyncIterable<RangeRequest>) {
  const running: { readonly request: RangeRequest; readonly bytes: number; readonly stored: Promise<Buffer> }[] = [];
  let bytesRunning = 0;
  async function* taken() {
    const oldest = running.shift();
    if (oldest === undefined) return;
    const bytes = await oldest.stored;
    bytesRunning -= oldest.bytes;
    const { part, opened, range } = oldest.request;
    const stored = new StoredFrames(bytes);
    let offset = range.first * limits.frameRawBytes;
    for await (const frame of opened.frames(bytes, range)) {
      yield { part, offset, frame, stored: stored.use() };
      offset += limits.frameRawBytes;
    }
    stored.release();
  }
  for await (const request of requests) {
    const bytes = request.opened.access.storedBytes(request.range);
    const isFull = () =>
      running.length >= limits.rangesInFlight ||
      (running.length > 0 && bytesRunning + bytes > limits.windowsInFlight * limits.windowBytes);
    while (isFull()) yield* taken();
    const stored = request.opened.read(request.range);
    stored.catch(() => undefined); // awaited in its turn
    running.push({ request, bytes, stored });
    bytesRunning += bytes;
  }
  while (running.length > 0) yield* taken();
}

async function openPart(archive: Archive, part: PartLine, options: RangeOptions): Promise<OpenPart> {
  const read = (offset: number, lengthBytes: number) => readRange(archive, part, { offset, lengthBytes, ...options });
  const access = await accessOf(archive, part, read);
  return {
    access,
    read: (range) => attempt(archive, part, () => access.read(read, range)),
    frames: (stored, range) => framesOf(archive, part, access.split(stored, range)),
  };
}

/** Says of which part it is said when one is wrong. */
async function* framesOf(archive: Archive, part: PartLine, frames: AsyncGenerator<Frame>): AsyncGenerator<Frame> {
  try {
    yield* frames;
  } catch (error) {
    throw aboutStream(error, archive, partKey(archive, part));
  }
}

/** What was opened, by what commits to it; the parts that were used last, as many as have no more frames than may be known. */
class KnownParts {
  readonly #parts = new Map<string, FrameAccess>();
  #frames = 0;

  take(name: string): FrameAccess | undefined {
    const found = this.#parts.get(name);
    if (found !== undefined) this.#put(name, found);
    return found;
  }

  add(name: string, access: FrameAccess): void {
    if (this.#parts.has(name)) return;
    this.#frames += weightOf(access);
    this.#put(name, access);
    for (const [oldest, dropped] of this.#parts) {
      if (this.#frames <= limits.framesKnown) return;
      this.#parts.delete(oldest);
      this.#frames -= weightOf(dropped);
    }
  }

  #put(name: string, access: FrameAccess): void {
    this.#parts.delete(name);
    this.#parts.set(name, access); // the last one now
  }
}

/** Of a part with few frames the rest is most of it. */
const weightOf = ({ frames }: FrameAccess) => frames + 64;

/** Of this thread. */
const known = new WeakMap<Storage, KnownParts>();

async function accessOf(archive: Archive, part: PartLine, read: ReadRange): Promise<FrameAccess> {
  const parts = known.get(archive.storage) ?? new KnownParts();
  known.set(archive.storage, parts);
  const name = [partKey(archive, part), part.tableSha256, part.keyCommitment].join(' ');
  const found = parts.take(name);
  if (found !== undefined) return found;
  const opened = await attempt(archive, part, () => FrameAccess.open(read, { commitment: part, keys: archive.keys }));
  parts.add(name, opened);
  return opened;
}

function partKey({ systemIdentifier }: Archive, { backup, number }: PartLine): string {
  return objectKey(systemIdentifier, partName(backup, number));
}

async function readRange(
  archive: Archive,
  part: PartLine,
  { offset, lengthBytes, onFetched, signal }: RangeOptions & { readonly offset: number; readonly lengthBytes: number },
): Promise<Uint8Array> {
  const range = { offset, length: lengthBytes };
  const { sizeBytes, body } = await archive.storage.get(partKey(archive, part), { range, signal });
  const bytes = await collect(body, lengthBytes);
  onFetched(bytes.length);
  if (sizeBytes !== part.objectBytes) {
    throw new CorruptError(sizeBytes < part.objectBytes ? 'it is truncated' : 'bytes follow after it', {
      detail: `${sizeBytes} bytes are stored, ${part.objectBytes} were`,
    });
  }
  if (bytes.length !== lengthBytes) throw new CorruptError('fewer bytes came than are stored');
  return bytes;
}

/** Says of which part it is said. */
async function attempt<Result>(archive: Archive, part: PartLine, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    throw aboutStream(error, archive, partKey(archive, part));
  }
}
