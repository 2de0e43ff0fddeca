/**
 * The payload of an age v1 file: STREAM, chunks of 64 KiB each with its own tag. Both directions, and access to any chunk.
 * @see https://c2sp.org/age#payload
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { ByteReader, type Bytes } from '../bytes.ts';
import { CorruptError } from '../errors.ts';

const chunkBytes = 64 * 1024;
const tagBytes = 16;
const sealedChunkBytes = chunkBytes + tagBytes;

/** Length of the sealed form of `plainBytes` bytes: one tag for each chunk, of which there is always one. */
export function sealedSize(plainBytes: number): number {
  return plainBytes + tagBytes * Math.max(1, Math.ceil(plainBytes / chunkBytes));
}

/** The inverse of `sealedSize`; undefined when no payload has this length. */
export function plainSize(sealedBytes: number): number | undefined {
  const plainBytes = sealedBytes - tagBytes * Math.max(1, Math.ceil(sealedBytes / sealedChunkBytes));
  return plainBytes >= 0 && sealedSize(plainBytes) === sealedBytes ? plainBytes : undefined;
}

/** So many chunks are given at once: fewer and larger writes, and less that waits to be collected. */
const chunksAtOnce = 16;

/** Seals `plain` under a key that is used for nothing else. */
export async function* sealStream(key: Uint8Array, plain: Bytes): AsyncGenerator<Uint8Array> {
  const reader = new ByteReader(plain);
  try {
    for (let index = 0, last = false; !last; ) {
      const sealed: Uint8Array[] = [];
      for (let count = 0; count < chunksAtOnce && !last; count += 1) {
        const chunk = await reader.readUpTo(chunkBytes);
        last = await reader.ended();
        sealed.push(...sealChunk(key, chunk, { index, last }));
        index += 1;
      }
      yield Buffer.concat(sealed);
    }
  } finally {
    await reader.close();
  }
}

/**
 * Opens a sealed payload from its beginning. Each chunk is authentic before it is given, and the stream is known to be whole when it ends.
 * @throws CorruptError at the first chunk that is not authentic, and when the payload was cut or continued.
 */
export async function* openStream(key: Uint8Array, sealed: ByteReader): AsyncGenerator<Uint8Array> {
  for (let index = 0, last = false; !last; index += 1) {
    const chunk = await sealed.readUpTo(sealedChunkBytes);
    last = await sealed.ended();
    if (chunk.length < tagBytes || (chunk.length === tagBytes && index > 0)) {
      throw new CorruptError('an encrypted payload is truncated');
    }
    yield openChunk(key, chunk, { index, last });
  }
}

/** Where the chunks lie that hold a range of the plain payload. */
export interface SealedRange {
  /** In the sealed payload. */
  readonly offset: number;
  readonly length: number;
  readonly firstChunk: number;
  /** Plain bytes of the first chunk that stand before the range. */
  readonly skip: number;
}

/** The chunks around plain bytes `offset … offset + length` of a payload that holds `plainBytes`, which must be known and contain them. */
export function sealedRange(offset: number, length: number, plainBytes: number): SealedRange {
  const firstChunk = Math.floor(offset / chunkBytes);
  const start = firstChunk * sealedChunkBytes;
  const endChunk = Math.ceil((offset + length) / chunkBytes);
  const end = Math.min(endChunk * sealedChunkBytes, sealedSize(plainBytes));
  return { offset: start, length: end - start, firstChunk, skip: offset - firstChunk * chunkBytes };
}

/**
 * Opens chunks out of the middle: `sealed` begins with chunk `firstChunk` of a payload of `plainBytes` plain bytes.
 * Their order, and which is the last, are part of what is authentic.
 */
export async function* openChunks(
  key: Uint8Array,
  sealed: Bytes,
  { firstChunk, plainBytes }: { readonly firstChunk: number; readonly plainBytes: number },
): AsyncGenerator<Uint8Array> {
  const reader = new ByteReader(sealed);
  const lastChunk = Math.max(1, Math.ceil(plainBytes / chunkBytes)) - 1;
  try {
    for (let index = firstChunk; !(await reader.ended()); index += 1) {
      const chunk = await reader.readUpTo(sealedChunkBytes);
      if (chunk.length < tagBytes) throw new CorruptError('an encrypted payload is truncated');
      yield openChunk(key, chunk, { index, last: index === lastChunk });
    }
  } finally {
    await reader.close();
  }
}

interface Position {
  readonly index: number;
  readonly last: boolean;
}

function sealChunk(key: Uint8Array, chunk: Uint8Array, position: Position): Uint8Array[] {
  const cipher = createCipheriv('chacha20-poly1305', key, nonceOf(position), { authTagLength: tagBytes });
  return [cipher.update(chunk), cipher.final(), cipher.getAuthTag()];
}

function openChunk(key: Uint8Array, chunk: Uint8Array, position: Position): Uint8Array {
  const decipher = createDecipheriv('chacha20-poly1305', key, nonceOf(position), { authTagLength: tagBytes });
  const end = chunk.length - tagBytes;
  decipher.setAuthTag(chunk.subarray(end));
  const plain = decipher.update(chunk.subarray(0, end));
  try {
    decipher.final();
  } catch (cause) {
    throw new CorruptError('an encrypted payload is damaged, cut or continued', {
      detail: `chunk ${position.index} is not authentic`,
      cause,
    });
  }
  return plain;
}

/** A counter of eleven bytes, big-endian, and one byte that tells the last chunk. */
function nonceOf({ index, last }: Position): Uint8Array {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(index, 5, 6);
  nonce[11] = last ? 1 : 0;
  return nonce;
}
