/** The seek table, beside an independent walk over the frames and the words of its specification. */
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import xxhash from 'xxhash-wasm';
import { bytesOf } from '../../src/bytes.ts';
import {
  decodeSeekTable,
  encodeSeekTable,
  headerEntry,
  isSeekTable,
  type SeekEntry,
  seekTableSize,
} from '../../src/codec/seekable.ts';
import { CorruptError } from '../../src/errors.ts';
import { sealWhole } from '../support/streamed.ts';
import { hasTool } from '../support/tools.ts';

const anyNumber = fc.nat({ max: 2 ** 32 - 1 });
const anyEntries = fc.array(fc.record({ storedBytes: anyNumber, rawBytes: anyNumber, checksum: anyNumber }), {
  maxLength: 50,
});
const { h64Raw } = await xxhash();
const lowHalf = (content: Uint8Array): number => Number(h64Raw(content, 0n) & 0xffff_ffffn);

it('brings back any entries, in the length that it tells beforehand', () => {
  fc.assert(
    fc.property(anyEntries, (entries) => {
      const table = encodeSeekTable(entries);
      expect(table.length).toBe(seekTableSize(entries.length));
      expect(isSeekTable(table)).toBe(true);
      expect(decodeSeekTable(table)).toEqual(entries);
    }),
  );
});

it('stands byte for byte as the specification says', () => {
  const table = encodeSeekTable([
    { storedBytes: 0x01020304, rawBytes: 0x0a0b0c0d, checksum: 0xf1f2f3f4 },
    headerEntry(9),
  ]);
  const [skippable, sizeBytes] = ['5e2a4d18', '21000000'];
  const entries = '04030201' + '0d0c0b0a' + 'f4f3f2f1' + '09000000' + '00000000' + '99e9d851';
  const [frames, descriptor, magic] = ['02000000', '80', 'b1ea928f'];
  expect(table.toString('hex')).toBe([skippable, sizeBytes, entries, frames, descriptor, magic].join(''));
  expect(headerEntry(9).checksum).toBe(lowHalf(Buffer.alloc(0)));
});

it('is refused with any byte of its frame changed, cut anywhere, and with anything behind', () => {
  const entries: SeekEntry[] = Array.from({ length: 3 }, () => ({ storedBytes: 1, rawBytes: 2, checksum: 3 }));
  const table = encodeSeekTable(entries);
  for (let at = 0; at < table.length; at += 1) {
    expect(() => decodeSeekTable(table.subarray(0, at)), `${at} bytes`).toThrow(CorruptError);
    if (at >= 8 && at < table.length - 9) continue; // an entry: its hash is committed to elsewhere
    const changed = Buffer.from(table);
    changed.writeUInt8(changed.readUInt8(at) ^ 1, at);
    expect(() => decodeSeekTable(changed), `byte ${at}`).toThrow(CorruptError);
  }
  expect(() => decodeSeekTable(Buffer.concat([table, Buffer.alloc(1)]))).toThrow(CorruptError);
  expect(() => decodeSeekTable(Buffer.concat([table, Buffer.alloc(12)]))).toThrow(CorruptError);
  expect(() => decodeSeekTable(Buffer.concat([Buffer.alloc(12), table]))).toThrow(CorruptError);
});

/** Magic, descriptor, window unless there is but one segment, content size. */
function frameHeaderBytes(descriptor: number): number {
  const isSingleSegment = (descriptor & 0b10_0000) !== 0;
  return 4 + 1 + (isSingleSegment ? 0 : 1) + ([1, 2, 4, 8][descriptor >> 6] ?? 8);
}

/** Finds the frames by their own headers and blocks alone (RFC 8878): where each begins, and how long it is. */
function walkFrames(object: Buffer): { magic: number; offset: number; length: number }[] {
  const frames: { magic: number; offset: number; length: number }[] = [];
  for (let offset = 0; offset < object.length; ) {
    const magic = object.readUInt32LE(offset);
    let end = offset + 8 + object.readUInt32LE(offset + 4);
    if (magic === 0xfd2fb528) {
      end = offset + frameHeaderBytes(object.readUInt8(offset + 4));
      for (let last = false; !last; ) {
        const header = object.readUIntLE(end, 3);
        last = (header & 1) === 1;
        end += 3 + (((header >> 1) & 3) === 1 ? 1 : header >> 3);
      }
      end += 4; // checksum
    }
    frames.push({ magic, offset, length: end - offset });
    offset = end;
  }
  return frames;
}

it.skipIf(!hasTool('zstd')).each([
  ['nothing', 0],
  ['one byte', 1],
  ['a whole frame', 2 ** 20],
  ['a frame and a byte', 2 ** 20 + 1],
  ['several frames', 3 * 2 ** 20 + 12_345],
])('ends an object of %s: every frame is where it says, zstd alone decompresses all and each', async (_, length) => {
  const content = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 64) content.writeUInt32LE(at, at);
  const { object } = await sealWhole(bytesOf(content));
  const frames = walkFrames(object);
  const table = frames.pop();
  const entries = decodeSeekTable(object.subarray(table?.offset));
  // a seeker finds the table from the end: the specification's only way
  expect(object.length - seekTableSize(object.readUInt32LE(object.length - 9))).toBe(table?.offset);
  expect(frames.map((frame) => frame.length)).toEqual(entries.map(({ storedBytes }) => storedBytes));
  expect(frames.map(({ magic }) => magic)).toEqual([0x184d2a57, ...entries.slice(1).map(() => 0xfd2fb528)]);
  expect(zstd(object).equals(content)).toBe(true);
  let rawOffset = 0;
  for (const [index, { rawBytes, checksum }] of entries.entries()) {
    const { offset = 0, length: storedBytes = 0 } = frames[index] ?? {};
    const raw = content.subarray(rawOffset, rawOffset + rawBytes);
    expect(checksum).toBe(lowHalf(raw));
    if (index > 0) expect(zstd(object.subarray(offset, offset + storedBytes)).equals(raw)).toBe(true);
    rawOffset += rawBytes;
  }
  expect(rawOffset).toBe(length);
  expect(entries.slice(1, -1).every(({ rawBytes }) => rawBytes === 2 ** 20)).toBe(true);
});

function zstd(input: Uint8Array): Buffer {
  const { stdout, status, stderr } = spawnSync('zstd', ['-dcq'], { input, maxBuffer: 2 ** 24 });
  if (status !== 0) throw new Error(String(stderr));
  return stdout;
}
