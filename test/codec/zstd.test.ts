/** zstd frames: any content comes back, each frame says its size and checksum, and Debian's zstd reads them as we read its own. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ByteReader, type Bytes, bytesOf } from '../../src/bytes.ts';
import { decodeFrame, decompress, discard } from '../../src/codec/zstd.ts';
import { bindingZstd } from '../../src/codec/zstd-binding.ts';
import { compress } from '../../src/codec/zstd-compress.ts';
import { ownZstd } from '../../src/codec/zstd-own.ts';
import { CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { temporaryFolder } from '../support/folders.ts';
import { cut, join } from '../support/objects.ts';
import { hasTool } from '../support/tools.ts';

const withZstd = it.skipIf(!hasTool('zstd'));
const mebibyte = 2 ** 20;

const unzip = (bytes: Bytes): Promise<Buffer> => join(decompress(new ByteReader(bytes)));

async function framesOf(content: Uint8Array, level = 3): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for await (const frame of compress(bytesOf(content), level)) frames.push(frame);
  return frames;
}

/** Contents of every nature, the same at each run. */
const contents: Readonly<Record<string, (sizeBytes: number) => Buffer>> = {
  zeros: (sizeBytes) => Buffer.alloc(sizeBytes),
  text: (sizeBytes) => Buffer.alloc(sizeBytes, 'START WAL LOCATION: 0/2000028 '),
  noise: (sizeBytes) =>
    createHash('shake256', { outputLength: sizeBytes + 1 })
      .digest()
      .subarray(1),
};
const sizes = [0, 1, 255, 256, 65535, 2 ** 17 + 1, mebibyte - 1, mebibyte, mebibyte + 1, 2 * mebibyte, 3_500_000];

const table = Object.keys(contents).flatMap((nature) => sizes.map((sizeBytes) => ({ nature, sizeBytes })));

it.each(table)('brings back $sizeBytes bytes of $nature, in frames of 1 MiB', async ({ nature, sizeBytes }) => {
  const content = contents[nature]?.(sizeBytes) ?? Buffer.alloc(0);
  const frames = await framesOf(content);
  expect(frames).toHaveLength(Math.ceil(sizeBytes / mebibyte));
  expect((await unzip(bytesOf(...frames))).equals(content)).toBe(true);
  for (const frame of frames) expect(frame.length).toBeLessThanOrEqual(limits.frameStoredBytes);
});

it('brings back any content, however it and its frames are cut into chunks', async () => {
  const anyContent = fc.oneof(
    fc.uint8Array({ maxLength: 5000 }),
    fc
      .tuple(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.nat(2_500_000))
      .map(([seed, n]) => Buffer.alloc(n, seed)),
  );
  const anyCuts = fc.array(fc.nat(2 ** 22), { maxLength: 12 });
  await fc.assert(
    fc.asyncProperty(anyContent, anyCuts, anyCuts, async (content, contentCuts, frameCuts) => {
      const frames = await join(compress(cut(content, contentCuts), 1));
      expect(frames.equals(await join(compress(bytesOf(content), 1)))).toBe(true);
      expect((await unzip(cut(frames, frameCuts))).equals(content)).toBe(true);
    }),
    { numRuns: 40 },
  );
});

it('brings back content that arrives byte by byte', async () => {
  const content = contents.noise?.(1000) ?? Buffer.alloc(0);
  async function* bytewise(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += 1) yield bytes.subarray(at, at + 1);
  }
  expect((await unzip(bytewise(await join(compress(bytewise(content), 3))))).equals(content)).toBe(true);
});

/** The content size that a frame's header says. @see RFC 8878, 3.1.1.1 */
function sizeIn(frame: Buffer): number {
  const descriptor = frame.readUInt8(4);
  const isSingleSegment = (descriptor & 0b10_0000) !== 0;
  const at = isSingleSegment ? 5 : 6;
  return (
    [() => frame.readUInt8(at), () => frame.readUInt16LE(at) + 256, () => frame.readUInt32LE(at)][
      descriptor >> 6
    ]?.() ?? 0
  );
}

it.skipIf(ownZstd() === undefined)(
  "reads by Node.js's own zstd what the binding wrote, and the other way round",
  async () => {
    const [own, binding] = [ownZstd(), await bindingZstd()];
    if (own === undefined) return;
    for (const { nature, sizeBytes } of table.filter((row) => row.sizeBytes > 0 && row.sizeBytes <= mebibyte)) {
      const content = contents[nature]?.(sizeBytes) ?? Buffer.alloc(0);
      for (const [writer, reader] of [
        [own, binding],
        [binding, own],
      ] as const) {
        const frame = await writer.ways(3).thorough(content);
        expect(sizeIn(Buffer.from(frame))).toBe(sizeBytes);
        expect(Buffer.compare(await reader.decompress(frame, sizeBytes), content)).toBe(0);
      }
    }
  },
);

it('H43: honours the level, and every level writes size and checksum', async () => {
  const words = ['insert', 'update', 'delete', 'commit', 'vacuum', 'select', 'heap', 'btree'];
  const noise = contents.noise?.(8_000) ?? Buffer.alloc(0);
  const content = Buffer.from(Array.from(noise, (byte) => words[byte % words.length]).join(' '));
  const lengths: number[] = [];
  for (let level = 1; level <= 19; level += 1) {
    const frame = Buffer.from(await encodeFrame(content, level));
    const descriptor = frame.readUInt8(4);
    expect(descriptor & 0b1111).toBe(0b0100); // a checksum, no dictionary, nothing reserved
    expect(sizeIn(frame)).toBe(content.length);
    expect((await unzip(bytesOf(frame))).equals(content)).toBe(true);
    lengths.push(frame.length);
  }
  expect(lengths.at(-1)).toBeLessThan((lengths[0] ?? 0) * 0.95);
});

withZstd.each([1, 3, 19])("H43: Debian's zstd reads level %i, and finds its size and checksum", async (level) => {
  const content = Buffer.concat([contents.text?.(700_000) ?? '', contents.noise?.(500_000) ?? ''] as Buffer[]);
  const frames = await framesOf(content, level);
  const path = joinPath(temporaryFolder(), 'frames.zst');
  const zstd = (...words: string[]) => spawnSync('zstd', [...words, path], { maxBuffer: 2 ** 24 });
  writeFileSync(path, Buffer.concat(frames));
  expect(zstd('-dcq').stdout.equals(content)).toBe(true);
  expect(zstd('-tq').status).toBe(0);
  expect(zstd('-l').stdout.toString()).toMatch(/^ +2 +0 .* XXH64 /m);
  expect(zstd('-lv').stdout.toString()).toContain(`(${content.length} B)`);

  for (const [index, frame] of frames.entries()) {
    const changed = Buffer.from(frame);
    changed.writeUInt8(changed.readUInt8(changed.length - 1) ^ 1, changed.length - 1);
    writeFileSync(path, Buffer.concat(frames.with(index, changed)));
    const { status, stderr } = zstd('-tq');
    expect(status).not.toBe(0);
    expect(stderr.toString()).toMatch(/checksum/i);
  }
});

withZstd("reads what Debian's zstd writes, where it says size and checksum", async () => {
  const content = contents.text?.(mebibyte) ?? Buffer.alloc(0);
  const path = joinPath(temporaryFolder(), 'content');
  writeFileSync(path, content);
  const foreign = (input: Buffer | undefined, ...words: string[]) =>
    spawnSync('zstd', ['-cq', ...words], { input, maxBuffer: 2 ** 24 }).stdout;
  expect((await unzip(bytesOf(foreign(undefined, path)))).equals(content)).toBe(true);
  await expect(unzip(bytesOf(foreign(undefined, '--no-check', path)))).rejects.toThrow('no checksum');
  await expect(unzip(bytesOf(foreign(content)))).rejects.toThrow('no size');
});

it('H43: refuses every truncation and every one-bit change of a frame, or gives the same content', async () => {
  const content = Buffer.from('START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n'.repeat(9));
  const frame = Buffer.from(await encodeFrame(content, 3));
  for (let length = 1; length < frame.length; length += 1) {
    await expect(unzip(bytesOf(frame.subarray(0, length)))).rejects.toThrow(CorruptError);
  }
  const harmless: number[] = [];
  for (let bit = 0; bit < frame.length * 8; bit += 1) {
    const changed = Buffer.from(frame);
    changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    const outcome = await unzip(bytesOf(changed)).catch((error: unknown) => error);
    if (outcome instanceof Buffer) {
      harmless.push(bit >> 3);
      expect(outcome.equals(content)).toBe(true);
    } else {
      expect(outcome).toBeInstanceOf(CorruptError);
    }
  }
  expect(harmless.length).toBeLessThan(frame.length); // a few: an unused bit, a window of another width
});

it('passes on the error of its source, and closes it when nobody reads on', async () => {
  let closed = 0;
  async function* source(fail: boolean): AsyncGenerator<Uint8Array> {
    try {
      for (let count = 0; ; count += 1) {
        if (fail && count === 3) throw new Error('the disk is gone');
        yield Buffer.alloc(mebibyte);
      }
    } finally {
      closed += 1;
    }
  }
  await expect(join(compress(source(true), 1))).rejects.toThrow('the disk is gone');
  expect(closed).toBe(1);
  for await (const frame of compress(source(false), 1)) {
    expect(frame.length).toBeGreaterThan(0);
    break;
  }
  expect(closed).toBe(2);
});

it('gives the memory of a content back, where Node.js has zstd, and of none that others may use, too', async () => {
  const decoded = async (raw: Buffer) => {
    const [stored = Buffer.alloc(0)] = await framesOf(raw);
    return decodeFrame({ stored, rawBytes: raw.length });
  };
  const [large, small] = [await decoded(Buffer.alloc(mebibyte, 'page')), await decoded(Buffer.from('PG_VERSION'))];
  await discard(large);
  await discard(small);
  expect(large.length).toBe(ownZstd() === undefined ? mebibyte : 0);
  expect(Buffer.from(small).toString()).toBe('PG_VERSION');
});
