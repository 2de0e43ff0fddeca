/** Which way frames are compressed: the quick one where it makes them as small, the thorough one elsewhere, and the same ones for the same content. */
import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { bytesOf } from '../../src/bytes.ts';
import { zstdEngine } from '../../src/codec/zstd.ts';
import { compress, FrameCompressor } from '../../src/codec/zstd-compress.ts';
import { limits } from '../../src/limits.ts';
import { cut, join } from '../support/objects.ts';
import { seededRandom } from '../support/random.ts';

const mebibyte = 2 ** 20;

/** Rows that repeat hardly anything but their frame: the quick way makes them smaller. */
function digests(sizeBytes: number): Buffer {
  const noise = createHash('shake256', { outputLength: Math.ceil(sizeBytes / 2) }).digest('hex');
  const rows = noise.match(/.{1,32}/g) ?? [];
  return Buffer.from(rows.join('@example.com ')).subarray(0, sizeBytes);
}

const words = 'the order of a customer was sent by mail late and paid on time but the parcel came back'.split(' ');

/** Sentences of few words, many matches: the thorough way makes them smaller by several hundredths. */
function sentences(sizeBytes: number): Buffer {
  const random = seededRandom(7);
  const text: string[] = [];
  for (let length = 0; length < sizeBytes; length += (text.at(-1)?.length ?? 0) + 1) {
    text.push(words[random(words.length)] ?? '');
  }
  return Buffer.from(text.join(' ')).subarray(0, sizeBytes);
}

async function framesOf(content: Uint8Array, level = 3): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for await (const frame of compress(bytesOf(content), level)) frames.push(frame);
  return frames;
}

/** Frame `index` of `content` by one of the ways. */
async function frameBy(way: 'thorough' | 'quick', content: Buffer, index: number): Promise<Uint8Array> {
  const compressor = (await zstdEngine()).ways(3)[way];
  if (compressor === undefined) throw new Error(`there is no ${way} way`);
  return compressor(content.subarray(index * mebibyte, (index + 1) * mebibyte));
}

const isSame = (a: Uint8Array | undefined, b: Uint8Array) => a !== undefined && Buffer.compare(a, b) === 0;

it('compresses what the quick way makes as small by that, and what it does not by the thorough one', async () => {
  for (const [content, way, other] of [
    [digests(2 * mebibyte), 'quick', 'thorough'],
    [sentences(2 * mebibyte), 'thorough', 'quick'],
  ] as const) {
    const frames = await framesOf(content);
    for (const [index, frame] of frames.entries()) {
      expect(isSame(frame, await frameBy(way, content, index))).toBe(true);
      expect(isSame(frame, await frameBy(other, content, index))).toBe(false);
      expect(frame.length).toBeLessThan((await frameBy(other, content, index)).length * 1.01);
    }
  }
});

it('looks again when the content may have become another one', async () => {
  const size = limits.framesOfTrial * mebibyte;
  const content = Buffer.concat([digests(size), sentences(2 * mebibyte)]);
  const frames = await framesOf(content);
  expect(isSame(frames[1], await frameBy('quick', content, 1))).toBe(true);
  for (const index of [limits.framesOfTrial, limits.framesOfTrial + 1]) {
    expect(isSame(frames[index], await frameBy('thorough', content, index))).toBe(true);
  }
});

it('makes the same frames of the same content, however it arrives and however long each takes', async () => {
  const content = Buffer.concat([sentences(3 * mebibyte), digests(16 * mebibyte + 5)]);
  const once = await join(compress(bytesOf(content), 3));
  expect(once.equals(await join(compress(cut(content, [5, 70_000, 2 * mebibyte, 2 * mebibyte + 1]), 3)))).toBe(true);
  const oneByOne = new FrameCompressor(3);
  const frames: Uint8Array[] = [];
  for (let offset = 0; offset < content.length; offset += mebibyte) {
    frames.push(await oneByOne.compress(content.subarray(offset, offset + mebibyte)));
  }
  expect(once.equals(Buffer.concat(frames))).toBe(true);
});

it('tries nothing with little content, nor at another level than the default', async () => {
  const small = digests(limits.trialBytes - 2);
  const [frame] = await framesOf(small);
  expect(isSame(frame, await frameBy('thorough', small, 0))).toBe(true);
  const engine = await zstdEngine();
  for (let level = 1; level <= 19; level += 1) expect(engine.ways(level).quick === undefined).toBe(level !== 3);
});

it('passes on what fails, to each frame that waits for it', async () => {
  const compressor = new FrameCompressor(3);
  const nothing = undefined as never;
  const results = await Promise.allSettled([compressor.compress(nothing), compressor.compress(nothing)]);
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
});
