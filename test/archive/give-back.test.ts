/**
 * Memory that is given back is not used any more: here it is filled with junk then, as if somebody else had it already. So it is found with
 * every version of Node.js, also with those that could not give it back at all.
 */
import { pbkdf2, randomBytes } from 'node:crypto';
import { expect, it, vi } from 'vitest';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import type { GetOptions, Storage } from '../../src/storage/storage.ts';
import { around } from '../support/around-storage.ts';
import { makeArchive } from '../support/backups.ts';
import { testBackupId } from '../support/streamed.ts';

const given = vi.hoisted(() => {
  const spoiled: { bytes: number } = { bytes: 0 };
  const spoil = function (this: ArrayBuffer): ArrayBuffer {
    new Uint8Array(this).fill(0xdb);
    spoiled.bytes += this.byteLength;
    return new ArrayBuffer(0);
  };
  Object.defineProperty(ArrayBuffer.prototype, 'transfer', { value: spoil, configurable: true, writable: true });
  return spoiled;
});

// loaded when memory is known to be given back
const { readStream, storeStream } = await import('../../src/archive/part.ts');
const { readFrames } = await import('../../src/archive/part-ranges.ts');
const { openWalFile, storeWalFile, walIdentity } = await import('../../src/archive/wal-archive.ts');
const { decodeFrame, discarded } = await import('../../src/codec/zstd.ts');
const { bytesOf, giveBack, spent } = await import('../../src/bytes.ts');
const { openObject, sealObject } = await import('../../src/codec/object.ts');
const { encodeFrame } = await import('../support/encode-frame.ts');
const { bytesOfSealed, identity: sealedIdentity, join, sealOptions } = await import('../support/objects.ts');

const identity = parseIdentity(generateIdentity());
if (identity === undefined) throw new Error('no identity');
const encrypted = { ...noKeys, recipients: [identity], identities: [identity] };
const part = { backup: testBackupId, part: 1 };

/** What compresses well beside what does not: frames of a few bytes, of some kilobytes and of more than a mebibyte, 20 MiB of them when stored. */
function someContent(): Buffer {
  const pieces = Array.from({ length: 48 }, (_, index) => {
    if (index % 5 === 0) return Buffer.alloc(1_000_003, index);
    if (index % 7 === 0) return Buffer.from(randomBytes(3000).toString('hex').repeat(170));
    return randomBytes(500_000 + 1234 * index);
  });
  return Buffer.concat(pieces);
}

/** Gives what is stored in pieces as they come from a socket: several in one memory, each in its own, or with something else behind it. */
function inPieces(storage: Storage): Storage {
  const get = async (key: string, options: GetOptions = {}) => {
    const { body, ...about } = await storage.get(key, options);
    return { ...about, body: cut(body) };
  };
  return around(storage, { get });
}

async function* cut(body: AsyncIterable<Uint8Array>) {
  let next = 0;
  for await (const chunk of body) {
    for (let at = 0; at < chunk.length; ) {
      const length = [65_536, 16_384, 1, 400_000, 8192][next++ % 5] ?? 1;
      const piece = chunk.subarray(at, at + length);
      at += length;
      if (next % 3 === 0) yield piece;
      else if (next % 3 === 1) yield new Uint8Array(piece);
      else
        yield new Uint8Array([...new Uint8Array(8), ...piece.subarray(0, 100)]).subarray(
          8,
          8 + Math.min(100, piece.length),
        );
      if (next % 3 === 2 && piece.length > 100) yield new Uint8Array(piece.subarray(100));
    }
  }
}

/** Gives it without a thread, while all threads are busy: what was read long ago is not decompressed yet. */
function atOnce(storage: Storage): Storage {
  const get = async (key: string, options: GetOptions = {}) => {
    const { body, ...about } = await storage.get(key, options);
    const stored = await join(body);
    for (let thread = 0; thread < 8; thread += 1) pbkdf2('', '', 200_000, 64, 'sha256', () => undefined);
    const chunks = Array.from(
      { length: Math.ceil(stored.length / 2 ** 20) },
      (_, index) => new Uint8Array(stored.subarray(index * 2 ** 20, (index + 1) * 2 ** 20)),
    );
    return { ...about, body: bytesOf(...chunks) };
  };
  return around(storage, { get });
}

const asItIs = (storage: Storage): Storage => storage;

const everyWay = [
  ['plain, from a folder', noKeys, asItIs],
  ['encrypted, from a folder', encrypted, asItIs],
  ['plain, in pieces', noKeys, inPieces],
  ['encrypted, in pieces', encrypted, inPieces],
] as const;

// what a socket gives at once is no larger than Node.js's own pool in newer versions
it.each([1, 4096, Buffer.poolSize, 65_536, 100_000])('of %d bytes goes back what one array fills', (lengthBytes) => {
  given.bytes = 0;
  giveBack(new Uint8Array(lengthBytes));
  expect(given.bytes).toBe(lengthBytes);
});

it('what others may use stays', () => {
  given.bytes = 0;
  const shared = new Uint8Array(4096);
  for (const part of [shared.subarray(0, 4095), shared.subarray(1), shared.subarray(0, 0), Buffer.from('a')])
    giveBack(part);
  expect(given.bytes).toBe(0);
});

it.each(everyWay)('a streamed object comes back as it was stored, %s', async (_, keys, as) => {
  const archive = makeArchive(keys);
  const content = someContent();
  async function* raw() {
    for (let at = 0; at < content.length; at += 700_001) yield Buffer.from(content.subarray(at, at + 700_001));
  }
  given.bytes = 0;
  const commitment = await storeStream(archive, part, raw(), { level: 1, sizeHint: content.length });
  expect(given.bytes).toBeGreaterThan(commitment.storedBytes / 2);
  given.bytes = 0;
  let offset = 0;
  for await (const chunk of readStream({ ...archive, storage: as(archive.storage) }, part, commitment, {})) {
    expect(content.subarray(offset, offset + chunk.length).equals(chunk)).toBe(true);
    offset += chunk.length;
  }
  expect(offset).toBe(content.length);
  expect(given.bytes).toBeGreaterThan(commitment.storedBytes / 2);

  const line = { ...commitment, type: 'part' as const, index: 0, backup: testBackupId, number: 1 };
  const ranges = { length: 30, at: (index: number) => ({ offset: index * 1_000_000 + 77, lengthBytes: 1500 }) };
  for await (const { offset: at, content: frame } of readFrames(
    { ...archive, storage: as(archive.storage) },
    [{ part: line, ranges }],
    {
      onFetched: () => undefined,
    },
  )) {
    expect(content.subarray(at, at + frame.length).equals(frame)).toBe(true);
  }
});

it.each([...everyWay, ['plain, at once', noKeys, atOnce] as const])(
  'a WAL file comes back as it was pushed, %s, whatever was given back',
  async (_, keys, as) => {
    const archive = makeArchive(keys);
    const file = parseWalFileName('000000010000000000000001');
    if (file === undefined) throw new Error('no name');
    const content = someContent();
    const options = { ...sealOptions, keys, ...walIdentity(archive, file) };
    const sealed = await sealObject(() => bytesOf(content), options);
    await storeWalFile(archive, file, sealed, { conditionalPut: true });
    given.bytes = 0;
    const opened = await openWalFile({ ...archive, storage: as(archive.storage) }, file);
    let offset = 0;
    for await (const chunk of discarded(opened.content)) {
      expect(content.subarray(offset, offset + chunk.length).equals(chunk)).toBe(true);
      offset += chunk.length;
    }
    expect(offset).toBe(content.length);
    expect(given.bytes).toBeGreaterThan(sealed.sizeHint); // what it was read in, and what frames were put together in
  },
);

it('a frame is what was compressed, whatever is compressed beside it', async () => {
  const blocks = [randomBytes(1 << 20), Buffer.alloc(1 << 20), randomBytes(5000), Buffer.from('x')];
  const frames = await Promise.all([...blocks, ...blocks].map((block) => encodeFrame(block, 3)));
  const contents = await Promise.all(
    frames.map((stored, index) => decodeFrame({ stored, rawBytes: blocks[index % blocks.length]?.length ?? 0 })),
  );
  for (const [index, content] of contents.entries()) expect(blocks[index % blocks.length]?.equals(content)).toBe(true);
});

it.each([
  ['plain', noKeys],
  ['encrypted', encrypted],
])(
  'a sealed object, %s, is what was read, whatever is given back, and the same when it is sent again',
  async (_, keys) => {
    const content = someContent();
    const read = () => {
      const chunks = [];
      for (let at = 0; at < content.length; at += 1 << 20)
        chunks.push(new Uint8Array(content.subarray(at, at + (1 << 20))));
      return spent(bytesOf(...chunks));
    };
    const before = given.bytes;
    const sealed = await sealObject(read, { ...sealOptions, keys });
    expect(given.bytes - before).toBeGreaterThan(content.length);
    const stored = await bytesOfSealed(sealed);
    expect((await bytesOfSealed(sealed)).equals(stored)).toBe(true);
    const opened = await openObject(bytesOf(stored), stored.length, sealedIdentity, keys);
    expect((await join(opened.content)).equals(content)).toBe(true);
  },
);
