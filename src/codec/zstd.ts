/**
 * zstd frames of bounded size, each with its content size and checksum, and how they are read. Knows nothing of what the frames hold.
 * @see RFC 8878 for the frame format
 */
import { apart, type ByteReader, type Bytes, giveBack, joined } from '../bytes.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { ownZstd, type ZstdEngine } from './zstd-own.ts';

const frameMagic = 0xfd2fb528;
const magicBytes = 4;
const checksumBytes = 4;
const blockHeaderBytes = 3;
/** The largest block that zstd allows, compressed or not. */
const maxBlockBytes = 128 * 1024;

/** One for this process; the binding is loaded only where it is needed. */
let chosen: Promise<ZstdEngine> | undefined;

export function zstdEngine(): Promise<ZstdEngine> {
  chosen ??= chooseEngine();
  return chosen;
}

async function chooseEngine(): Promise<ZstdEngine> {
  return ownZstd() ?? (await import('./zstd-binding.ts')).bindingZstd();
}

/** A frame as it was read: not decompressed yet, but known to be of bounded size. */
export interface Frame {
  readonly stored: Uint8Array;
  readonly rawBytes: number;
}

/**
 * Takes the next frame from `reader` by walking its blocks.
 * @throws CorruptError when it is no frame, says no size or checksum, or would take more memory than a frame may.
 */
export async function readFrame(reader: ByteReader): Promise<Frame> {
  const start = await reader.read(magicBytes + 1);
  if (start.readUInt32LE(0) !== frameMagic) throw new CorruptError('not a zstd frame');
  const rest = await readFrameHeader(reader, start.readUInt8(4));
  const pieces: Uint8Array[] = [start, rest.bytes];
  let storedBytes = start.length + rest.bytes.length + checksumBytes;
  let plainBytes = 0;
  for (let blocks = 1, last = false; !last; blocks += 1) {
    const header = await reader.read(blockHeaderBytes);
    const bits = header.readUIntLE(0, 3);
    const [type, size] = [(bits >> 1) & 3, bits >> 3];
    last = (bits & 1) === 1;
    const blockBytes = type === 1 ? 1 : size; // type 1: one byte, repeated `size` times
    storedBytes += blockHeaderBytes + blockBytes;
    plainBytes += type === 2 ? 0 : size;
    const bounded =
      type !== 3 &&
      size <= maxBlockBytes &&
      plainBytes <= rest.rawBytes &&
      storedBytes <= limits.frameStoredBytes &&
      blocks <= limits.frameBlocks;
    if (!bounded) throw new CorruptError('a zstd frame has impossible blocks');
    pieces.push(header, ...(await reader.readPieces(blockBytes)));
  }
  pieces.push(await reader.read(checksumBytes));
  return { stored: joined(pieces), rawBytes: rest.rawBytes };
}

/** The header behind the descriptor: window 0 or 1, content size 1, 2, 4 or 8. */
async function readFrameHeader(reader: ByteReader, descriptor: number) {
  const singleSegment = (descriptor & 0b10_0000) !== 0;
  const sizeFlag = descriptor >> 6;
  const hasSize = singleSegment || sizeFlag !== 0;
  const hasChecksum = (descriptor & 0b100) !== 0;
  if (!hasSize || !hasChecksum || (descriptor & 0b1011) !== 0) {
    throw new CorruptError('a zstd frame has no size, no checksum, or needs a dictionary');
  }
  const windowBytes = singleSegment ? 0 : 1;
  const sizeBytes = [1, 2, 4, 8][sizeFlag] ?? 8;
  const bytes = await reader.read(windowBytes + sizeBytes);
  const size = bytes.readUIntLE(windowBytes, Math.min(sizeBytes, 6));
  const rawBytes = sizeFlag === 1 ? size + 256 : size;
  const tooWide = windowBytes === 1 && windowSize(bytes.readUInt8(0)) > limits.frameWindowBytes;
  const tooLong = rawBytes > limits.frameRawBytes || (sizeBytes === 8 && bytes.readUInt16LE(windowBytes + 6) !== 0);
  if (tooWide || tooLong) throw new CorruptError('a zstd frame is larger than a frame may be');
  return { bytes, rawBytes };
}

function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

/** The content of a frame. @throws CorruptError when it is not the one that its size and checksum tell. */
export async function decodeFrame({ stored, rawBytes }: Frame): Promise<Uint8Array> {
  const { decompress } = await zstdEngine();
  const raw = await decompress(stored, rawBytes).catch((cause: unknown) => {
    throw new CorruptError('a zstd frame does not decompress', { detail: String(cause), cause });
  });
  if (raw.length !== rawBytes) throw new CorruptError('a zstd frame has another size than it says');
  return raw;
}

/** Gives the memory of a frame's content back at once, where that can be, and then it is empty: for those who read GBs and hold on to none of it. */
export async function discard(content: Uint8Array): Promise<void> {
  (await zstdEngine()).discard(content);
}

/** The same for a stream of contents, each when the next one is asked for. */
export async function* discarded(contents: Bytes): AsyncGenerator<Uint8Array> {
  for await (const content of contents) {
    yield content;
    await discard(content);
  }
}

/**
 * The content of the frames from `reader` up to the end of its source, each checked against its size and checksum.
 * When it asks for more than `limits.frameStoredBytes` behind a chunk, it has copied what it took of that.
 */
export async function* decompress(reader: ByteReader): AsyncGenerator<Uint8Array> {
  yield* inFlight(framesOf(reader), decodeOnce);
}

/** `decodeFrame`, which gives the memory of the frame back: it must be apart. */
export async function decodeOnce(frame: Frame): Promise<Uint8Array> {
  const content = await decodeFrame(frame);
  giveBack(frame.stored);
  return content;
}

async function* framesOf(reader: ByteReader): AsyncGenerator<Frame> {
  while (!(await reader.ended())) yield await readFrameApart(reader);
}

/** `readFrame`, in memory of the frame's own: it outlives what it was read from. */
export async function readFrameApart(reader: ByteReader): Promise<Frame> {
  const { stored, rawBytes } = await readFrame(reader);
  return { stored: apart(stored), rawBytes };
}

/** The checksum that ends a frame: the low half of XXH64 of its content. */
export function frameChecksum(stored: Uint8Array): number {
  return asBuffer(stored).readUInt32LE(stored.length - checksumBytes);
}

/** Works on a few items at a time (zstd runs on libuv's threads) and yields the results in order. */
export async function* inFlight<Item, Result>(
  items: AsyncIterable<Item>,
  work: (item: Item) => Promise<Result>,
  most: number = limits.framesInFlight,
): AsyncGenerator<Result> {
  const running: Promise<Result>[] = [];
  for await (const item of items) {
    const result = work(item);
    result.catch(() => undefined); // awaited below; until then a failure must not count as unhandled
    running.push(result);
    if (running.length >= most) yield await (running.shift() as Promise<Result>);
  }
  for (const result of running) yield await result;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
