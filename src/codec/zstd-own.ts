/**
 * Node.js's own zstd, where it has one (22.15 and later). It is newer than the binding's, and writes size and checksum itself: a fifth
 * less processor time for the same frames. The types of the oldest Node.js that is supported do not know it.
 */
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { giveBack } from '../bytes.ts';

type Call = (bytes: Uint8Array, options: object) => Promise<Buffer>;

interface NewerZlib {
  readonly zstdCompress?: (
    bytes: Uint8Array,
    options: object,
    done: (error: Error | null, result: Buffer) => void,
  ) => void;
  readonly zstdDecompress?: NewerZlib['zstdCompress'];
  readonly constants: { readonly [name: string]: number | undefined };
}

export interface ZstdEngine {
  /** A frame around all of `raw`, with its size and its checksum. */
  compress(raw: Uint8Array, level: number): Promise<Uint8Array>;
  /** The content of a frame that says it has `rawBytes` bytes. Rejects when it is damaged. */
  decompress(frame: Uint8Array, rawBytes: number): Promise<Uint8Array>;
  /** Gives the memory of what it has decompressed back now, not when the garbage collector finds it: nobody may use it any more. */
  discard(content: Uint8Array): void;
}

/** Undefined where Node.js has none. */
export function ownZstd(): ZstdEngine | undefined {
  const { zstdCompress, zstdDecompress, constants } = zlib as NewerZlib;
  if (zstdCompress === undefined || zstdDecompress === undefined) return undefined;
  const { ZSTD_c_compressionLevel = 0, ZSTD_c_checksumFlag = 0, ZSTD_c_contentSizeFlag = 0 } = constants;
  const [pack, unpack] = [promisify(zstdCompress) as Call, promisify(zstdDecompress) as Call];
  return {
    compress: async (raw, level) => {
      const packed = await pack(raw, {
        pledgedSrcSize: raw.length,
        chunkSize: atLeast64(raw.length >> 1), // in one piece when it has half the size, as nearly always
        params: { [ZSTD_c_compressionLevel]: level, [ZSTD_c_checksumFlag]: 1, [ZSTD_c_contentSizeFlag]: 1 },
      });
      const frame = Buffer.from(packed); // else what is kept of it keeps room for the whole content
      giveBack(packed);
      return frame;
    },
    // a byte more: when all of a piece is used, Node.js makes another one before it asks whether that was the end
    decompress: (frame, rawBytes) =>
      unpack(frame, { chunkSize: atLeast64(rawBytes + 1), maxOutputLength: atLeast64(rawBytes) }),
    discard: giveBack,
  };
}

/** What Node.js allows. */
function atLeast64(bytes: number): number {
  return Math.max(64, bytes);
}
