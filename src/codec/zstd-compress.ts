/** How zstd frames are made: cut, and compressed in the way that suits what is in them. */
import { ByteReader, type Bytes, joined } from '../bytes.ts';
import { limits } from '../limits.ts';
import { inFlight, zstdEngine } from './zstd.ts';
import type { Compressor } from './zstd-own.ts';

/** A larger frame than the thorough way makes is accepted for half the time. */
const acceptedGrowth = 1.01;

/**
 * Compresses the frames of one content, one after another: each some MiB both ways are tried with the beginning of one, and the quick one
 * is taken as long as it makes that as small. The same content comes out the same: nothing but its bytes counts.
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

/** Cuts `raw` into frames of 1 MiB, the last one shorter, and compresses several at a time. No bytes: no frame. */
export async function* compress(raw: Bytes, level: number): AsyncGenerator<Uint8Array> {
  const compressor = new FrameCompressor(level);
  yield* inFlight(blocksOf(raw), (block) => compressor.compress(block));
}

async function* blocksOf(raw: Bytes): AsyncGenerator<Uint8Array> {
  const reader = new ByteReader(raw);
  let block: Uint8Array[] = [];
  let missing: number = limits.frameRawBytes;
  try {
    while (!(await reader.ended())) {
      const piece = await reader.readSome(missing);
      block.push(piece);
      missing -= piece.length;
      if (missing > 0) continue;
      yield joined(block);
      block = [];
      missing = limits.frameRawBytes;
    }
    if (block.length > 0) yield joined(block);
  } finally {
    await reader.close();
  }
}
