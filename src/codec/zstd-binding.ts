/**
 * zstd by `@mongodb-js/zstd`, for a Node.js that has none of its own. The binding writes neither size nor checksum, and without them most
 * damage would decompress to wrong bytes in silence (H43): so both are put into the frame. @see RFC 8878
 */
import * as binding from '@mongodb-js/zstd/bindings.js';
import xxhash from 'xxhash-wasm';
import { type Compressor, tunedLevel, type ZstdEngine } from './zstd-own.ts';

const frameMagic = 0xfd2fb528;
const checksumBytes = 4;
/** Bits 7–6: a content size of four bytes follows. Bit 2: a checksum ends the frame. */
const sizeAndChecksum = 0b10_0_00_1_00;

export async function bindingZstd(): Promise<ZstdEngine> {
  const { h64Raw } = await xxhash();
  /** The binding's header of magic, descriptor 0, window is patched to magic, descriptor, window, size 4; the low half of XXH64 ends the frame. */
  const compressor =
    (level: number): Compressor =>
    async (raw) => {
      const bare = await binding.compress(asBuffer(raw), level);
      if (bare.readUInt32LE(0) !== frameMagic || bare[4] !== 0) {
        throw new Error('the zstd binding writes another frame header than the one known');
      }
      const frame = Buffer.allocUnsafe(bare.length + 4 + checksumBytes);
      bare.copy(frame, 0, 0, 6);
      frame[4] = sizeAndChecksum;
      frame.writeUInt32LE(raw.length, 6);
      bare.copy(frame, 10, 6);
      frame.writeUInt32LE(Number(h64Raw(raw, 0n) & 0xffff_ffffn), frame.length - checksumBytes);
      return frame;
    };
  return {
    ways: (level) => ({ thorough: compressor(level), quick: level === tunedLevel ? compressor(1) : undefined }),
    decompress: (frame) => binding.decompress(asBuffer(frame)),
    discard: () => undefined, // its memory is not Node.js's to give
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
