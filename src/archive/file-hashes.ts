/** The hashes of a file's pieces of 1 MiB, as its line in the list of files has them. Both directions. */
import { createHash } from 'node:crypto';
import { limits } from '../limits.ts';

export const pieceBytes: number = limits.frameRawBytes;
const hashBytes = 16;

/** The first half of the SHA-256 of one piece. */
export function pieceHash(piece: Uint8Array): Buffer {
  return createHash('sha256').update(piece).digest().subarray(0, hashBytes);
}

/** Of a whole file, or `undefined` for a piece of which it is not known. None when none is. */
export function formatHashes(hashes: readonly (Uint8Array | undefined)[]): string | undefined {
  if (hashes.every((hash) => hash === undefined)) return undefined;
  return Buffer.concat(hashes.map((hash) => hash ?? Buffer.alloc(hashBytes))).toString('base64');
}

/** One for each begun MiB of a file of `sizeBytes`; undefined where it is not known. */
export function parseHashes(text: string | undefined, sizeBytes: number): (Buffer | undefined)[] {
  const count = Math.ceil(sizeBytes / pieceBytes);
  const bytes = Buffer.from(text ?? '', 'base64');
  const isWhole = bytes.length === count * hashBytes;
  return Array.from({ length: count }, (_, index) => {
    const hash = bytes.subarray(index * hashBytes, (index + 1) * hashBytes);
    return isWhole && hash.some((byte) => byte !== 0) ? hash : undefined;
  });
}
