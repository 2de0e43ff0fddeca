/** H43: hostile frames are refused by what they claim, before memory grows. In a file of its own: it looks at this process's peak. */
import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { ByteReader, bytesOf } from '../../src/bytes.ts';
import type { ObjectIdentity } from '../../src/codec/header.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { openObject } from '../../src/codec/object.ts';
import { decompress } from '../../src/codec/zstd.ts';
import { CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { envelope } from '../support/objects.ts';
import {
  block,
  compressedBlock,
  denseBlock,
  type FrameParts,
  handMadeFrame,
  rawBlock,
  reservedBlock,
  rleBlock,
} from '../support/zstd-frames.ts';

const kibibyte = 1024;
/** What the written frames have: four bytes of size, a window byte, a checksum. */
const written = 0x84;
const window2MiB = 0x58;
const rle = block(rleBlock, 128 * kibibyte);
const dense = await denseBlock();
const raw = block(rawBlock, 128 * kibibyte);

function times(count: number, one: Uint8Array): Uint8Array[] {
  return Array.from({ length: count }, () => one);
}

function size(...bytes: number[]): number[] {
  return [window2MiB, ...bytes];
}

const mebibyte = [0, 0, 16, 0];
const tiny = [1, 0, 0, 0];

const bombs: readonly (readonly [string, RegExp, FrameParts])[] = [
  [
    'RLE blocks of 4 GiB under an honest size',
    /larger than/,
    { descriptor: written, header: size(0, 0, 0, 255), blocks: times(32768, rle) },
  ],
  [
    'RLE blocks of 4 GiB under a size of 1 MiB',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: times(32768, rle) },
  ],
  ['RLE blocks of 4 GiB without a size', /no size/, { descriptor: 0x04, header: size(), blocks: times(32768, rle) }],
  [
    'a little more than 1 MiB of RLE blocks under a size of 1 MiB',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: times(9, rle) },
  ],
  [
    'one RLE block of 2 MiB',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: [block(rleBlock, 2 ** 21 - 1)] },
  ],
  [
    'compressed blocks of 25 MiB under a size of 1 MiB',
    /decompress|another size/,
    { descriptor: written, header: size(...mebibyte), blocks: times(200, dense) },
  ],
  [
    'compressed blocks of 25 MiB under a size of 1 byte',
    /decompress|another size/,
    { descriptor: written, header: size(...tiny), blocks: times(200, dense) },
  ],
  [
    'compressed blocks of 4 GiB',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: times(32768, dense) },
  ],
  [
    'more than 1 MiB of raw blocks',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: times(9, raw) },
  ],
  [
    'a million empty blocks',
    /impossible/,
    { descriptor: written, header: size(0, 0, 0, 0), blocks: times(1_000_000, block(rawBlock, 0)) },
  ],
  [
    'a compressed block above 128 KiB',
    /impossible/,
    { descriptor: written, header: size(...mebibyte), blocks: [block(compressedBlock, 2 ** 17 + 1)] },
  ],
  ['a reserved block', /impossible/, { descriptor: written, header: size(...tiny), blocks: [block(reservedBlock, 1)] }],
  ['a window of 16 MiB', /larger than/, { descriptor: written, header: [0x70, ...tiny], blocks: [block(rawBlock, 1)] }],
  [
    'a window of 3.75 TiB',
    /larger than/,
    { descriptor: written, header: [0xff, ...tiny], blocks: [block(rawBlock, 1)] },
  ],
  [
    'a size of 1 MiB and a byte',
    /larger than/,
    { descriptor: written, header: size(1, 0, 16, 0), blocks: times(8, rle) },
  ],
  [
    'a size of 1 MiB and a byte, in a single segment',
    /larger than/,
    { descriptor: 0xa4, header: [1, 0, 16, 0], blocks: times(8, rle) },
  ],
  [
    'a size of 2^32 in eight bytes',
    /larger than/,
    { descriptor: 0xc4, header: size(0, 0, 0, 0, 1, 0, 0, 0), blocks: [rle] },
  ],
  [
    'a size of 2^48 in eight bytes',
    /larger than/,
    { descriptor: 0xc4, header: size(0, 0, 0, 0, 0, 0, 1, 0), blocks: [rle] },
  ],
  [
    'a size of 2^64 - 1',
    /larger than/,
    { descriptor: 0xc4, header: size(...times(8, Buffer.alloc(1)).map(() => 255)), blocks: [rle] },
  ],
  ['a dictionary', /dictionary/, { descriptor: 0x85, header: [window2MiB, 7, ...tiny], blocks: [block(rawBlock, 1)] }],
  ['the reserved bit', /dictionary/, { descriptor: 0x8c, header: size(...tiny), blocks: [block(rawBlock, 1)] }],
  ['no checksum', /no checksum/, { descriptor: 0x80, header: size(...tiny), blocks: [block(rawBlock, 1)] }],
  ['no size', /no size/, { descriptor: 0x04, header: size(), blocks: [block(rawBlock, 1)] }],
];

/** All that `decompress` gives of `stored`. @returns how many bytes. */
async function drain(stored: Uint8Array): Promise<number> {
  let sizeBytes = 0;
  for await (const chunk of decompress(new ByteReader(bytesOf(stored)))) sizeBytes += chunk.length;
  return sizeBytes;
}

/** The most memory that this process ever had, in MiB. */
function peak(): number {
  return process.resourceUsage().maxRSS / kibibyte;
}

it.each(bombs)('H43: refuses %s', async (_what, message, parts) => {
  const stored = handMadeFrame({ checksum: 0, ...parts });
  await drain(await encodeFrame(Buffer.alloc(2 ** 20), 3)); // what an honest frame needs
  const before = peak();
  const refusal = drain(stored);
  await expect(refusal).rejects.toThrow(CorruptError);
  await expect(refusal).rejects.toThrow(message);
  expect(peak() - before).toBeLessThan(64);
});

it('H43: refuses a frame that stores more than a frame may', async () => {
  const incompressible = block(compressedBlock, 128 * kibibyte);
  const stored = handMadeFrame({
    descriptor: written,
    header: size(...mebibyte),
    blocks: times(9, incompressible),
    checksum: 0,
  });
  await expect(drain(stored)).rejects.toThrow('impossible blocks');
});

it('H43: refuses an object whose many sound frames give more than its header says, at once', async () => {
  const identity: ObjectIdentity = { kind: 'history', name: 'wal/history/00000002.history', systemIdentifier: '1' };
  const frame = await encodeFrame(Buffer.alloc(2 ** 20), 3);
  const stored = envelope(
    { ...identity, bytes: 1000, sha256: createHash('sha256').update('').digest('hex') },
    Buffer.concat(times(4096, frame)),
  );
  let taken = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for (let offset = 0; offset < stored.length; offset += 4096) {
      taken += 1;
      yield stored.subarray(offset, offset + 4096);
    }
  }
  const before = peak();
  const { content } = await openObject(source(), stored.length, identity, noKeys);
  await expect(content[Symbol.asyncIterator]().next()).rejects.toThrow('longer than its header says');
  expect(taken).toBeLessThan(4);
  expect(peak() - before).toBeLessThan(64);
});

it('reads frames in all the forms that its limits allow', async () => {
  const byte = block(rawBlock, 1, Buffer.from('x'));
  const checksum = (await encodeFrame(Buffer.from('x'), 1)).subarray(-4);
  const sound = Buffer.from(checksum).readUInt32LE(0);
  const forms: readonly FrameParts[] = [
    { descriptor: 0x84, header: [0x68, ...tiny], blocks: [byte], checksum: sound }, // a window of 8 MiB
    { descriptor: 0x24, header: [1], blocks: [byte], checksum: sound },
    { descriptor: 0xc4, header: size(1, 0, 0, 0, 0, 0, 0, 0), blocks: [byte], checksum: sound },
    {
      descriptor: 0x84,
      header: size(...tiny),
      blocks: [...times(limits.frameBlocks - 1, block(rawBlock, 0)), byte],
      checksum: sound,
    },
  ];
  for (const form of forms) expect(await drain(handMadeFrame(form))).toBe(1);
  const zeros = Buffer.alloc(256); // two bytes of size count from 256
  const end = Buffer.from((await encodeFrame(zeros, 1)).subarray(-4)).readUInt32LE(0);
  const two = { descriptor: 0x44, header: size(0, 0), blocks: [block(rleBlock, 256)], checksum: end };
  expect(await drain(handMadeFrame(two))).toBe(256);
});
