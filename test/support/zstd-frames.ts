/** zstd frames made by hand, sound and hostile, for tests. @see RFC 8878 */
import * as binding from '@mongodb-js/zstd/bindings.js';

export const rawBlock = 0;
export const rleBlock = 1;
export const compressedBlock = 2;
export const reservedBlock = 3;

/** A block's header and body; `size` is what the header says. */
export function block(
  type: number,
  size: number,
  body: Uint8Array = Buffer.alloc(type === rleBlock ? 1 : size),
): Buffer {
  const header = Buffer.alloc(3);
  header.writeUIntLE((size << 3) | (type << 1), 0, 3);
  return Buffer.concat([header, body]);
}

export interface FrameParts {
  readonly descriptor: number;
  /** Window, dictionary id, content size: the bytes behind the descriptor. */
  readonly header: readonly number[];
  /** The last of them is marked as such. */
  readonly blocks: readonly Uint8Array[];
  readonly checksum?: number;
}

export function handMadeFrame({ descriptor, header, blocks, checksum }: FrameParts): Buffer {
  const start = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, ...header]);
  const body = Buffer.concat(blocks);
  const last = body.length - (blocks.at(-1)?.length ?? 0);
  if (blocks.length > 0) body.writeUInt8(body.readUInt8(last) | 1, last);
  const end = Buffer.alloc(checksum === undefined ? 0 : 4);
  if (checksum !== undefined) end.writeUInt32LE(checksum, 0);
  return Buffer.concat([start, body, end]);
}

/** A compressed block of a few bytes that regenerates 128 KiB and needs no block before it. */
export async function denseBlock(): Promise<Buffer> {
  const frame = await binding.compress(Buffer.alloc(1024 * 1024, 'abc'), 3);
  const header = frame.readUIntLE(6, 3);
  const size = header >> 3;
  if (((header >> 1) & 3) !== compressedBlock) throw new Error('the binding begins with another block');
  return block(compressedBlock, size, frame.subarray(9, 9 + size));
}
