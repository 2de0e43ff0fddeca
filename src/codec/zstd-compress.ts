/** How zstd frames are made: cut, and compressed in the way that suits what is in them. */
import { type Bytes, giveBack } from '../bytes.ts';
import { limits } from '../limits.ts';
import { type Frame, inFlight, zstdEngine } from './zstd.ts';
import type { Compressor } from './zstd-own.ts';

/** A larger frame than the thorough way makes is accepted for half the time. */
const acceptedGrowth = 1.01;

/**
 * Compresses the frames of one content: at each sixteenth both ways are tried with its beginning, and up to the next one the quick way is
 * taken where it made that as small. The same content comes out the same: nothing but its bytes counts.
 */
export class FrameCompressor {
  readonly #level: number;
  #frames = 0;
  #chosen: Promise<Compressor> | undefined;

  /** @param level zstd's. */
  constructor(level: number) {
    this.#level = level;
  }

  /** A frame around `raw`, at most 1 MiB. Frames are asked for in their order; one need not be finished before the next one is asked for. */
  async compress(raw: Uint8Array): Promise<Uint8Array> {
    if (this.#chosen === undefined || this.#frames % limits.framesOfTrial === 0) this.#chosen = this.#choose(raw);
    this.#frames += 1;
    const compressor = await this.#chosen;
    return compressor(raw);
  }

  async #choose(raw: Uint8Array): Promise<Compressor> {
    const { thorough, quick } = (await zstdEngine()).ways(this.#level);
    if (quick === undefined || raw.length < limits.trialBytes) return thorough;
    const sample = raw.subarray(0, limits.trialBytes);
    const [small, quickly] = await Promise.all([thorough(sample), quick(sample)]);
    return quickly.length <= small.length * acceptedGrowth ? quick : thorough;
  }
}

/** The frames of `raw` alone. */
export async function* compress(raw: Bytes, level: number): AsyncGenerator<Uint8Array> {
  for await (const { stored } of compressFrames(raw, level)) yield stored;
}

/**
 * Cuts `raw` into frames of 1 MiB, the last one shorter, and compresses several at a time. No bytes: no frame.
 * A chunk of `raw` is copied before the next one is asked for, so its source may use the same memory for all of them.
 */
export async function* compressFrames(
  raw: Bytes,
  level: number,
  most: number = limits.framesInFlight,
): AsyncGenerator<Frame> {
  const pool = new BlockPool();
  const compressor = new FrameCompressor(level);
  const encode = async (block: Buffer) => {
    const stored = await compressor.compress(block);
    pool.release(block);
    return { stored, rawBytes: block.length };
  };
  try {
    yield* inFlight(pool.blocksOf(raw), encode, most);
  } finally {
    pool.giveBack();
  }
}

/** Cuts a stream into blocks of 1 MiB, the last one shorter, whose memory is used again: fresh memory costs more than the copy. */
class BlockPool {
  readonly #free: Buffer[] = [];

  async *blocksOf(raw: Bytes): AsyncGenerator<Buffer> {
    let block = this.#take();
    let filled = 0;
    for await (const chunk of raw) {
      for (let offset = 0; offset < chunk.length; ) {
        const piece = chunk.subarray(offset, offset + block.length - filled);
        block.set(piece, filled);
        filled += piece.length;
        offset += piece.length;
        if (filled < block.length) continue;
        yield block;
        block = this.#take();
        filled = 0;
      }
    }
    if (filled > 0) yield block.subarray(0, filled);
    else this.release(block);
  }

  #take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(limits.frameRawBytes);
  }

  release({ buffer }: Buffer): void {
    this.#free.push(Buffer.from(buffer));
  }

  /** Of what is not in use. */
  giveBack(): void {
    for (const block of this.#free.splice(0)) giveBack(block);
  }
}
