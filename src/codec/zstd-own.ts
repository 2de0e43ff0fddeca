/**
 * Node.js's own zstd, where it has one (22.15 and later). It is newer than the binding's, and writes size and checksum itself: a fifth
 * less processor time for the same frames. The types of the oldest Node.js that is supported do not know it.
 */
import type { Transform } from 'node:stream';
import { promisify } from 'node:util';
import * as zlib from 'node:zlib';
import { giveBack } from '../bytes.ts';

interface NewerZlib {
  readonly createZstdCompress?: (options: object) => Transform;
  readonly zstdDecompress?: (
    bytes: Uint8Array,
    options: object,
    done: (error: Error | null, result: Buffer) => void,
  ) => void;
  readonly constants: { readonly [name: string]: number | undefined };
}

/** Makes a frame around all of `raw`, with its size and its checksum. */
export type Compressor = (raw: Uint8Array) => Promise<Uint8Array>;

export interface CompressionWays {
  /** As small as the level promises. */
  readonly thorough: Compressor;
  /** Takes about half the time, and for many contents the result is no larger. Undefined where the level means something else. */
  readonly quick?: Compressor | undefined;
}

export interface ZstdEngine {
  /** How frames are made at zstd's `level`. */
  ways(level: number): CompressionWays;
  /** The content of a frame that says it has `rawBytes` bytes. Rejects when it is damaged. */
  decompress(frame: Uint8Array, rawBytes: number): Promise<Uint8Array>;
  /** Gives the memory of what it has decompressed back now, not when the garbage collector finds it: nobody may use it any more. */
  discard(content: Uint8Array): void;
}

/** Undefined where Node.js has none. */
export function ownZstd(): ZstdEngine | undefined {
  const { createZstdCompress, zstdDecompress, constants } = zlib as NewerZlib;
  if (createZstdCompress === undefined || zstdDecompress === undefined) return undefined;
  const unpack = promisify(zstdDecompress) as (bytes: Uint8Array, options: object) => Promise<Buffer>;
  const compressor = (parameters: Parameters): Compressor => {
    const params = numbered({ ...parameters, checksumFlag: 1, contentSizeFlag: 1 }, constants);
    const flush = numberOf('ZSTD_e_end', constants);
    return (raw) =>
      packed(raw, createZstdCompress({ pledgedSrcSize: raw.length, chunkSize: boundOf(raw.length), flush, params }));
  };
  return {
    ways: (level) =>
      level === tunedLevel
        ? { thorough: compressor(tuned.thorough), quick: compressor(tuned.quick) }
        : { thorough: compressor({ compressionLevel: level }) },
    // a byte more: when all of a piece is used, Node.js makes another one before it asks whether that was the end
    decompress: (frame, rawBytes) =>
      unpack(frame, { chunkSize: atLeast64(rawBytes + 1), maxOutputLength: atLeast64(rawBytes) }),
    discard: giveBack,
  };
}

/** By zstd's own names. */
type Parameters = Readonly<Record<string, number>>;

/** The one whose parameters are chosen for frames of 1 MiB of PostgreSQL's pages and WAL. */
export const tunedLevel = 3;

/**
 * zstd's level 3 makes its tables for files of any size: in 1 MiB smaller ones find the same matches, and leave room in the processor's
 * caches. The quick way has a single table; with matches from five bytes on it finds what the pages of an index, or WAL, repeat.
 * Measured: docs/PERFORMANCE.md.
 */
const tuned: Readonly<Record<keyof CompressionWays, Parameters>> = {
  thorough: { compressionLevel: tunedLevel, hashLog: 16, chainLog: 15 },
  quick: { compressionLevel: 1, windowLog: 20, hashLog: 14, minMatch: 5 },
};

function numbered(parameters: Parameters, constants: NewerZlib['constants']): Readonly<Record<number, number>> {
  return Object.fromEntries(
    Object.entries(parameters).map(([name, value]) => [numberOf(`ZSTD_c_${name}`, constants), value]),
  );
}

function numberOf(name: string, constants: NewerZlib['constants']): number {
  const number = constants[name];
  if (number === undefined) throw new Error(`Node.js has zstd, but no zlib.constants.${name}`);
  return number;
}

/**
 * All at once: one write that ends the frame, into memory that has room for any result, so that zstd copies neither. The stream is not
 * ended, since that would begin another frame. Node.js's own function for that leaves the memory that it compresses into to the garbage collector.
 */
function packed(raw: Uint8Array, stream: Transform): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  return new Promise((resolve, reject) => {
    stream.on('error', reject);
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    stream.write(raw, (error) => {
      if (error) return reject(error);
      resolve(Buffer.concat(pieces));
      for (const piece of pieces) giveBack(piece);
      stream.destroy();
    });
  });
}

/** No frame becomes longer: `ZSTD_COMPRESSBOUND` of zstd.h. */
function boundOf(rawBytes: number): number {
  const small = 128 * 1024;
  return atLeast64(rawBytes + (rawBytes >> 8) + (rawBytes < small ? (small - rawBytes) >> 11 : 0));
}

/** What Node.js allows. */
function atLeast64(bytes: number): number {
  return Math.max(64, bytes);
}
