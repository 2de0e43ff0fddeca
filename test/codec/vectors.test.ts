/** Objects of each released format stay readable, and are written today as they were. They are added to, never changed. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { bytesOf } from '../../src/bytes.ts';
import { parseIdentity } from '../../src/codec/age-text.ts';
import type { ObjectIdentity } from '../../src/codec/header.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { describeObject, openObject, sealObject } from '../../src/codec/object.ts';
import { ownZstd } from '../../src/codec/zstd-own.ts';
import { bytesOfSealed, join } from '../support/objects.ts';
import { hasTool } from '../support/tools.ts';

const folder = fileURLToPath(new URL('../vectors/format-1', import.meta.url));
const read = (name: string): Buffer => readFileSync(joinPath(folder, name));
const systemIdentifier = '7312345678901234567';

interface Vector extends ObjectIdentity {
  readonly file: string;
  /** SHA-256 of the stored object: a changed vector is found here. */
  readonly sha256: string;
  readonly content: Buffer;
}

const vectors: readonly Vector[] = [
  {
    file: 'segment.wal',
    sha256: '397bb639d5b1d21ddd59f86d298c88a9170357e2ccc3bfbf367aba662d9266b8',
    kind: 'segment',
    name: 'wal/00000001/0000000100000001/000000010000000100000023',
    systemIdentifier,
    content: segment(),
  },
  {
    file: 'history.wal',
    sha256: 'b7bcd997ff5ea24e64f974122c803f8805d0f881a07fb05fab65788e746d2641',
    kind: 'history',
    name: 'wal/history/00000003.history',
    systemIdentifier,
    content: read('history.content'),
  },
  {
    file: 'backup.wal',
    sha256: '6ae48ed64f73cbd921c2f9ccaa62a3c68af6694d1152ae49fd5bd59d2a57b0f3',
    kind: 'backup',
    name: 'wal/00000001/0000000100000001/000000010000000100000023.00000028.backup',
    systemIdentifier,
    content: read('backup.content'),
  },
];

const lastLine = (name: string): string => read(name).toString('utf8').trim().split('\n').at(-1) ?? '';
const identities = [parseIdentity(lastLine('identity'))];

/** Sealed with a file key of their own: they open for ever, and cannot be made again. */
const encrypted: readonly (Vector & { readonly keys: Keys; readonly told: object })[] = [
  {
    file: 'history.age.wal',
    sha256: '047fab7cf8ca5a00cfab0c31992458f909f52389c1d3db309161d6d74d45f3a7',
    kind: 'history',
    name: 'wal/history/00000003.history',
    systemIdentifier,
    content: read('history.content'),
    keys: { ...noKeys, identities },
    told: { sha256: '33250ab8790ec26448780d0f5d95fd15bc2c8c366567f08274e31bd9d8859d63', stored: 366 },
  },
  {
    file: 'history.age.mac.wal',
    sha256: '416f3ab9f4b633d374805db40e47003e6bf01effcc56b4bc86e6a0ce0192bdc1',
    kind: 'history',
    name: 'wal/history/00000003.history',
    systemIdentifier,
    content: read('history.content'),
    keys: { ...noKeys, identities, authKey: Buffer.from(lastLine('auth-key'), 'hex') },
    told: { mac: 'b519adadb8b3cbdf2b8b5b175463068700e771f8ea8a3251e6a6e4dc56067686', stored: 439 },
  },
];

/** As README.md beside the vectors tells it: 128 pages of 8 KiB with their headers, each else full of its own number. */
function segment(): Buffer {
  const [start, pageBytes] = [0x1_0230_0000n, 8192];
  const content = Buffer.alloc(2 ** 20);
  for (let page = 0; page < content.length / pageBytes; page += 1) {
    const at = page * pageBytes;
    content.fill(page, at, at + pageBytes);
    content.writeUInt16LE(0xd116, at);
    content.writeUInt16LE(page === 0 ? 2 : 0, at + 2);
    content.writeUInt32LE(1, at + 4);
    content.writeBigUInt64LE(start + BigInt(at), at + 8);
    content.writeBigUInt64LE(0n, at + 16);
  }
  content.writeBigUInt64LE(BigInt(systemIdentifier), 24);
  content.writeUInt32LE(content.length, 32);
  content.writeUInt32LE(pageBytes, 36);
  return content;
}

it('holds every vector there is', () => {
  const files = readdirSync(folder).filter((name) => name.endsWith('.wal'));
  expect(files.sort()).toEqual([...vectors, ...encrypted].map(({ file }) => file).sort());
});

it.each(vectors)('opens $file as it was stored', async ({ file, sha256, content, ...identity }) => {
  const object = read(file);
  expect(createHash('sha256').update(object).digest('hex')).toBe(sha256);
  const opened = await openObject(bytesOf(object), object.length, identity, noKeys);
  expect((await join(opened.content)).equals(content)).toBe(true);
  expect(opened.header).toMatchObject({ format: 1, pushedAt: '2026-11-20T08:30:00.000Z', host: 'vector' });
});

// frames of another zstd are other bytes of the same content: no part of the format
it.skipIf(ownZstd() !== undefined).each(vectors)('seals the content of $file byte for byte', async (vector) => {
  const { file, content, kind, name } = vector;
  const pushedAt = new Date('2026-11-20T08:30:00.000Z');
  const options = { kind, name, systemIdentifier, pushedAt, host: 'vector', level: 3, keys: noKeys };
  const sealed = await sealObject(() => bytesOf(content), options);
  expect((await bytesOfSealed(sealed)).equals(read(file))).toBe(true);
});

it.skipIf(!hasTool('zstd')).each(vectors)('gives the content of $file with zstd alone', ({ file, content }) => {
  const { stdout, status } = spawnSync('zstd', ['-dcq', joinPath(folder, file)], { maxBuffer: 2 ** 24 });
  expect(status).toBe(0);
  expect(stdout.equals(content)).toBe(true);
});

it.each(encrypted)('opens $file as it was stored, and tells what it holds without the identity', async (vector) => {
  const { file, sha256, content, keys, told, kind, name } = vector;
  const object = read(file);
  expect(createHash('sha256').update(object).digest('hex')).toBe(sha256);
  const opened = await openObject(bytesOf(object), object.length, { kind, name, systemIdentifier }, keys);
  expect((await join(opened.content)).equals(content)).toBe(true);
  expect(opened.header).toMatchObject({ format: 1, pushedAt: '2026-11-20T08:30:00.000Z', host: 'vector' });
  expect(await describeObject(object, object.length, { kind, name, systemIdentifier })).toEqual(told);
});

it.skipIf(!hasTool('age') || !hasTool('zstd')).each(encrypted)(
  'gives the content of $file with age and zstd alone',
  ({ file, content }) => {
    const words = [joinPath(folder, 'identity'), joinPath(folder, file)];
    const { stdout } = spawnSync('sh', ['-c', 'age -d -i "$1" "$2" | zstd -dcq', 'sh', ...words]);
    expect(stdout.equals(content)).toBe(true);
  },
);
