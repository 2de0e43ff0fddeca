/** One zstd frame at a level, as WAL-T makes it where nothing came before it. */
import { FrameCompressor } from '../../src/codec/zstd-compress.ts';

export function encodeFrame(raw: Uint8Array, level: number): Promise<Uint8Array> {
  return new FrameCompressor(level).compress(raw);
}
