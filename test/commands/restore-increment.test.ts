/** Increments that were made by hand, restored: from parts of many backups, in pieces of any size, whatever order they have. */
import { randomFillSync } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import type { Piece } from '../../src/archive/extents.ts';
import type { FileLine } from '../../src/archive/files-line.ts';
import { objectKey, partName } from '../../src/archive/keys.ts';
import { readManifest } from '../../src/archive/manifest.ts';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { fetchBackup } from '../../src/commands/basebackup-fetch.ts';
import { CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { around } from '../support/around-storage.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { makeArchive } from '../support/forged-backup.ts';
import {
  contentOf,
  type MadeBackup,
  type MadePart,
  madeId,
  makePage,
  storeChain,
  storeMade,
  storePart,
} from '../support/made-increment.ts';
import { seededRandom } from '../support/random.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { testSystemIdentifier } from '../support/segment.ts';
import { waitFor } from '../support/wait.ts';

const identity = parseIdentity(generateIdentity());
if (identity === undefined) throw new Error('no identity');
const encrypted: Keys = { ...noKeys, recipients: [identity], identities: [identity] };
const id = madeId(40);
const frame = 2 ** 20;

/** Half of it does not compress, so that frames have sizes of their own. */
function noise(seed: number, sizeBytes: number): Buffer {
  const random = seededRandom(seed);
  const content = Buffer.alloc(sizeBytes, `part ${seed} `);
  for (let at = 0; at + 4 <= sizeBytes; at += 8) content.writeUInt32LE(random(2 ** 32), at);
  return content;
}

interface Restored {
  readonly dir: string;
  readonly fetchedBytes: number;
}

/** By a process that knows of no part yet: see `known` in part-ranges.ts. */
async function restore(
  archive: Archive,
  {
    backup = id,
    dir = join(temporaryFolder(), 'data'),
    resume = false,
    storage = counting(archive.storage).counted,
  } = {},
): Promise<Restored> {
  const context = makeContext(
    { WALT_REPO: archive.storage.url, WALT_WORKERS: '2' },
    { workingDirectory: '/', openStorage: () => storage },
  );
  const manifest = await readManifest(archive, backup);
  const options = { dir, tablespaceMapping: new Map(), resume, again: 'again' };
  const { fetchedBytes } = await fetchBackup(context, { archive, manifest, ...options });
  return { dir, fetchedBytes };
}

async function expectRestored(archive: Archive, made: MadeBackup, dir?: string): Promise<Restored> {
  const restored = await restore(archive, { backup: made.id, ...(dir === undefined ? {} : { dir }) });
  for (const file of made.files) {
    const found = readFileSync(join(restored.dir, file.path));
    if (!found.equals(contentOf(file, made.parts))) throw new Error(`"${file.path}" has other content`);
  }
  // the one file that was not made with care
  expect(await verifyBackup(restored.dir)).toEqual(['global/pg_control: CRC is incorrect']);
  return restored;
}

/** Of a part: whole frames and a rest, one byte, nothing, or a few pages. */
const anyPart = fc.oneof(
  fc.constantFrom(1, 512, 8192, frame - 1, frame, frame + 1, 3 * frame, 5 * frame + 12_345),
  fc.integer({ min: 1, max: 4 * frame }),
);
const anyCut = fc.record({
  part: fc.nat(7),
  isZeros: fc.boolean(),
  from: fc.double({ min: 0, max: 1, noNaN: true }),
  /** Pages mostly, unaligned ones too, and long runs. */
  lengthBytes: fc.oneof(fc.constant(8192), fc.integer({ min: 1, max: 20_000 }), fc.integer({ min: 1, max: 2 * frame })),
});
const anyFile = fc.record({ cuts: fc.array(anyCut, { maxLength: 40 }), isRead: fc.boolean() });
const anyIncrement = fc.record({
  parts: fc.array(anyPart, { minLength: 1, maxLength: 8 }),
  files: fc.array(anyFile, { minLength: 1, maxLength: 12 }),
});

/** Within a file the pieces of one part ascend. */
function piecesOf(
  cuts: readonly (typeof anyCut extends fc.Arbitrary<infer Cut> ? Cut : never)[],
  parts: readonly MadePart[],
) {
  const reached = new Map<number, number>();
  return cuts.flatMap(({ part, isZeros, from, lengthBytes }): Piece[] => {
    if (isZeros) return [{ lengthBytes, part: -1, offset: 0 }];
    const index = part % parts.length;
    const sizeBytes = parts[index]?.content.length ?? 0;
    const start = reached.get(index) ?? 0;
    const offset = start + Math.floor((sizeBytes - start) * from * from);
    const length = Math.min(lengthBytes, sizeBytes - offset);
    reached.set(index, offset + length);
    return length > 0 ? [{ lengthBytes: length, part: index, offset }] : [];
  });
}

async function storeRandom(
  archive: Archive,
  { parts: sizes, files }: typeof anyIncrement extends fc.Arbitrary<infer One> ? One : never,
) {
  const owner = (index: number) => (index % 3 === 2 ? id : madeId(index % 3));
  const count = new Map<string, number>();
  const parts: MadePart[] = [];
  for (const [index, sizeBytes] of sizes.entries()) {
    const backup = owner(index);
    count.set(backup, (count.get(backup) ?? 0) + 1);
    parts.push(await storePart(archive, backup, count.get(backup) ?? 0, noise(index, sizeBytes)));
  }
  const made: MadeBackup = {
    id,
    parts,
    files: files.map(({ cuts, isRead }, index) => ({
      path: index % 2 === 0 ? `base/5/${16384 + index}` : `base/5/${16383 + index}_vm`,
      pieces: piecesOf(cuts, parts),
      isRead,
    })),
  };
  await storeMade(archive, made);
  return made;
}

async function inFolder<Result>(work: (folder: string) => Promise<Result>): Promise<Result> {
  const folder = makeFolder('increment');
  try {
    return await work(folder);
  } finally {
    removeFolder(folder);
  }
}

/** For 500 restores. */
const tortureTime = { timeout: 900_000 };

describe.each([
  ['plain', noKeys],
  ['encrypted', encrypted],
])('%s', (_, keys) => {
  it('restores every list of extents to the right bytes, and a true backup_manifest', tortureTime, async () => {
    await fc.assert(
      fc.asyncProperty(anyIncrement, (increment) =>
        inFolder(async (folder) => {
          mkdirSync(join(folder, 'repo'));
          const archive = await makeArchive(join(folder, 'repo'), keys);
          await expectRestored(archive, await storeRandom(archive, increment), join(folder, 'data'));
        }),
      ),
      { numRuns: process.env.TORTURE === '1' ? 500 : 6, endOnFailure: true },
    );
  });
});

async function makeRepository(keys: Keys = noKeys): Promise<Archive> {
  const root = join(temporaryFolder(), 'repo');
  mkdirSync(root);
  return makeArchive(root, keys);
}

const keyOf = (backup: string, part: number) => objectKey(testSystemIdentifier, partName(backup, part));

/** The same storage, and what was asked of its parts. */
function counting(storage: Storage) {
  const ranges: { readonly key: string; readonly offset: number; readonly length: number }[] = [];
  const counted = around(storage, {
    get: (key, options = {}) => {
      if (key.includes('/part/')) ranges.push({ key, ...(options.range ?? { offset: 0, length: Number.NaN }) });
      return storage.get(key, options);
    },
  });
  return { counted, ranges };
}

it('reads each frame that is needed once, nothing twice, and of what is not needed little', async () => {
  const archive = await makeRepository();
  const parts = [
    await storePart(archive, madeId(0), 1, noise(1, 30 * frame)),
    await storePart(archive, id, 1, noise(2, 3 * frame)),
  ];
  const at = (part: number, offset: number, lengthBytes = 8192): Piece => ({ lengthBytes, part, offset });
  const pieces = [
    at(0, 0),
    at(1, 5),
    at(0, 20_000),
    at(0, 3 * frame),
    at(1, frame),
    at(0, 20 * frame - 100),
    at(-1, 0),
    at(0, 29 * frame),
  ];
  const made: MadeBackup = {
    id,
    parts,
    files: [
      { path: 'base/5/1', pieces },
      { path: 'base/5/2', pieces: [at(0, 12_000)] },
    ],
  };
  await storeMade(archive, made);
  const { counted, ranges } = counting(archive.storage);
  const { fetchedBytes } = await restore(archive, { storage: counted });
  const ofParts = ranges.filter(({ key }) => key !== keyOf(id, 2));
  const [table = 0, ...others] = ofParts.filter(({ key }) => key === keyOf(madeId(0), 1)).map(({ length }) => length);
  expect(table).toBe(8 + 9 + 12 * 31);
  expect(others).toHaveLength(4); // the frames 0, 3, 19 and 20, 29
  expect(ofParts.filter(({ key }) => key === keyOf(id, 1))).toHaveLength(2);
  expect(fetchedBytes).toBeLessThan(0.3 * (parts[0]?.line.objectBytes ?? 0));
});

it('fetches little more than is stored of what it needs, however long the chain', async () => {
  const archive = await makeRepository();
  const chain = await storeChain(archive, { increments: 30, pages: 2560, changed: 26 });
  const [full, last] = [chain[0], chain.at(-1)] as [MadeBackup, MadeBackup];
  const before = await expectRestored(archive, full);
  const after = await expectRestored(archive, last);
  expect((await readManifest(archive, last.id)).uses).toHaveProperty(madeId(0));
  expect(after.fetchedBytes / before.fetchedBytes).toBeLessThan(1.4);
});

describe('what is not what was backed up', () => {
  type Spoil = (content: Buffer, archive: Archive) => Buffer | undefined;
  const flipped =
    (at: (sizeBytes: number) => number): Spoil =>
    (content) => {
      const index = at(content.length);
      content.writeUInt8((content[index] ?? 0) ^ 4, index);
      return content;
    };
  const spoilt: readonly (readonly [string, Spoil])[] = [
    ['a bit of a frame', flipped((size) => Math.floor(size / 2))],
    ['a bit of the seek table', flipped((size) => size - 40)],
    ['cut short', (content) => content.subarray(0, -1)],
    ['longer', (content) => Buffer.concat([content, Buffer.alloc(1)])],
    ['empty', () => Buffer.alloc(0)],
    ['gone', () => undefined],
  ];
  it.each([
    ['plain', noKeys],
    ['encrypted', encrypted],
  ])('H45: is found in a part that is read in pieces, and makes no cluster: %s', async (_, keys) => {
    const archive = await makeRepository(keys);
    const chain = await storeChain(archive, { increments: 3, pages: 300, changed: 30 });
    const key = keyOf(madeId(0), 1);
    const file = join(archive.storage.url.slice('file://'.length), key);
    const sound = readFileSync(file);
    const swapped = readFileSync(file.replace(madeId(0), madeId(1)));
    for (const [what, spoil] of [...spoilt, ['another part', () => swapped] as const]) {
      const content = spoil(Buffer.from(sound), archive);
      rmSync(file, { force: true });
      if (content !== undefined) writeFileSync(file, content);
      const dir = join(temporaryFolder(), 'data');
      const outcome = await restore(archive, { backup: chain.at(-1)?.id ?? '', dir }).catch((error: unknown) => error);
      expect(outcome, what).toBeInstanceOf(CorruptError);
      expect((outcome as CorruptError).message).toContain(key);
      expect(existsSync(join(dir, 'global/pg_control'))).toBe(false);
    }
    writeFileSync(file, sound);
    await expectRestored(archive, chain.at(-1) as MadeBackup);
  });

  /** A relation of three pages of which the second one was written for another block. */
  async function storeMisplaced(manifest: MadeBackup['manifest']): Promise<Archive> {
    const archive = await makeRepository();
    const pages = [makePage(noise(1, 8000), 131_072), makePage(noise(2, 8000), 7), makePage(noise(3, 8000), 131_074)];
    const parts = [
      await storePart(archive, madeId(0), 1, Buffer.concat(pages.slice(0, 2))),
      await storePart(archive, id, 1, Buffer.concat(pages.slice(2))),
    ];
    const pieces = [0, 1].map((index): Piece => ({ lengthBytes: 8192, part: 0, offset: 8192 * index }));
    pieces.push({ lengthBytes: 8192, part: 1, offset: 0 });
    await storeMade(archive, {
      id,
      parts,
      files: [{ path: 'base/5/16384.1', pieces }],
      manifest: { checksums: true, ...manifest },
    });
    return archive;
  }

  it('H42: is a page of another block, told with its file, its block and its part', async () => {
    const outcome = await restore(await storeMisplaced({})).catch((error: unknown) => error);
    expect(outcome).toBeInstanceOf(CorruptError);
    expect(outcome).toMatchObject({
      message: expect.stringMatching(/block 131073 of "base\/5\/16384\.1"/),
      detail: expect.stringContaining(`part 1 of backup ${madeId(0)}`),
    });
  });

  it.each<[string, MadeBackup['manifest']]>([
    ['was wrong when it was copied', { badPages: { count: 1, pages: [{ path: 'base/5/16384.1', block: 131_073 }] } }],
    ['is written anew by replay', { startLsn: 0x100_000n }],
    ['belongs to a cluster without checksums', { checksums: false }],
  ])('H42: is no page that %s', async (_, manifest) => {
    await restore(await storeMisplaced(manifest));
  });
});

/** Fewer files make a task until the running test ends, so that a few hundred make several. */
function takeFilesTogether(count: number): void {
  const changed = limits as { partFiles: number };
  const { partFiles } = changed;
  changed.partFiles = count;
  onTestFinished(() => {
    changed.partFiles = partFiles;
  });
}

describe('an interrupted restore', () => {
  it('goes on: keeps what its notes prove, makes the rest anew, and tells true checksums of both', async () => {
    const archive = await makeRepository();
    const parts = [
      await storePart(archive, madeId(0), 1, noise(1, 8 * frame)),
      await storePart(archive, id, 1, noise(2, frame)),
    ];
    const piece = (part: number, offset: number, lengthBytes: number): Piece => ({ lengthBytes, part, offset });
    takeFilesTogether(200);
    const files = Array.from({ length: 500 }, (_, index) => ({
      path: `base/5/${100_000 + index}`,
      pieces: [piece(0, index * 10_000, 900), piece(1, index * 1000, 70)],
    }));
    const made: MadeBackup = { id, parts, files };
    await storeMade(archive, made);
    const whole = await expectRestored(archive, made);
    const dir = join(temporaryFolder(), 'data');
    const { counted, ranges } = counting(archive.storage);
    const breaking: Storage = {
      ...counted,
      get: (key, options) => {
        if (ranges.length >= 8) throw new CorruptError('it breaks off');
        return counted.get(key, options);
      },
    };
    await expect(restore(archive, { dir, storage: breaking })).rejects.toThrow(/breaks off/);
    const notes = readFileSync(join(dir, '.wal-t-restore.parts'), 'utf8').trim().split('\n');
    expect(notes.length).toBeGreaterThan(0);
    const kept = statSync(join(dir, 'base/5/100000'), { bigint: true }).ino;
    const spoilt = join(dir, 'base/5/100499');
    writeFileSync(spoilt, Buffer.alloc(970, 'not what was backed up')); // its task is not in the notes
    const again = await restore(archive, { dir, resume: true });
    expect(again.fetchedBytes).toBeLessThan(whole.fetchedBytes);
    expect(statSync(join(dir, 'base/5/100000'), { bigint: true }).ino).toBe(kept);
    for (const file of files) {
      expect(readFileSync(join(dir, file.path)).equals(contentOf(file, parts)), file.path).toBe(true);
    }
    expect(await verifyBackup(dir)).toEqual(['global/pg_control: CRC is incorrect']);
  });
});

describe('H32: a hostile list', () => {
  it.each<[string, Partial<FileLine>]>([
    [
      'more pieces than a file may have',
      {
        extents: Array.from({ length: limits.extentsOfFile + 1 }, () => [1, -1, 0] as const),
        sizeBytes: limits.extentsOfFile + 1,
      },
    ],
    ['pieces behind the end of their part', { extents: [[100, 0, frame - 99]] }],
    ['pieces of a part that is not listed', { extents: [[100, 7, 0]] }],
    ['pieces longer than the file', { extents: [[101, 0, 0]] }],
  ])('with %s is refused', async (_, members) => {
    const archive = await makeRepository();
    const parts = [await storePart(archive, madeId(0), 1, noise(1, frame))];
    const pieces: Piece[] = [{ lengthBytes: 100, part: 0, offset: 0 }];
    await storeMade(archive, { id, parts, files: [{ path: 'base/5/1', pieces, members }] });
    await expect(restore(archive)).rejects.toMatchObject({ message: 'the list of files is not sound' });
  });

  it('with more zeros than its manifest has bytes is refused before they are made', async () => {
    const archive = await makeRepository();
    const pieces: Piece[] = [{ lengthBytes: 2 ** 31, part: -1, offset: 0 }];
    const members: Partial<FileLine> = { extents: [[2 ** 31, -1, 0]], sizeBytes: 2 ** 31 };
    const files = [{ path: 'base/5/1', pieces: pieces.slice(1), members }];
    await storeMade(archive, { id, parts: [], files, manifest: { statistics: noStatistics } });
    await expect(restore(archive)).rejects.toMatchObject({
      detail: 'its files are longer than the manifest says',
    });
  });
});

const noStatistics = { parts: 1, files: 3, folders: 3, tablespaces: 0, rawBytes: 10_000, storedBytes: 0 };

describe('from a bucket', () => {
  let server: S3Server;
  beforeAll(async () => {
    server = await S3Server.start();
  });
  afterAll(() => server.stop());

  it('restores an increment of a chain', async () => {
    const storage = await openS3Storage(server.s3);
    const archive: Archive = { storage, systemIdentifier: testSystemIdentifier, keys: encrypted };
    const chain = await storeChain(archive, { increments: 4, pages: 600, changed: 60 });
    await expectRestored(archive, chain.at(-1) as MadeBackup);
  });
});

describe('what is another, and looks sound by itself', () => {
  /** Does not compress: all frames of a length have one length when they are stored. */
  const random = (sizeBytes: number) => randomFillSync(Buffer.alloc(sizeBytes));

  async function storeTwo(keys: Keys) {
    const archive = await makeRepository(keys);
    const parts = [
      await storePart(archive, id, 1, random(3 * frame)),
      await storePart(archive, id, 2, random(3 * frame)),
    ];
    const pieces = [0, 1].map((part): Piece => ({ lengthBytes: 8192, part, offset: 0 }));
    await storeMade(archive, { id, parts, files: [{ path: 'base/5/1', pieces }] });
    const fileOf = (part: number) => join(archive.storage.url.slice('file://'.length), keyOf(id, part));
    return { archive, fileOf };
  }

  it.each([
    ['plain', noKeys],
    ['encrypted', encrypted],
  ])('H45: another part of the same lengths is refused, %s', async (_, keys) => {
    const { archive, fileOf } = await storeTwo(keys);
    const other = readFileSync(fileOf(2));
    expect(other.length).toBe(readFileSync(fileOf(1)).length);
    writeFileSync(fileOf(1), other);
    await expect(restore(archive)).rejects.toThrow(CorruptError);
  });

  it('H45: another frame of the same part is refused', async () => {
    const { archive, fileOf } = await storeTwo(noKeys);
    const content = readFileSync(fileOf(1));
    const starts = [content.indexOf('28b52ffd', 0, 'hex')];
    starts.push(content.indexOf('28b52ffd', (starts[0] ?? 0) + frame, 'hex'));
    starts.push(content.indexOf('28b52ffd', (starts[1] ?? 0) + frame, 'hex'));
    const [first = 0, second = 0, third = 0] = starts;
    expect(third - second).toBe(second - first);
    content.copy(content, first, second, third);
    writeFileSync(fileOf(1), content);
    await expect(restore(archive)).rejects.toThrow(/frame 0 is not the one/);
  });

  it('a file in pieces with another checksum than its line says is refused', async () => {
    const archive = await makeRepository();
    const parts = [await storePart(archive, madeId(0), 1, random(20_000))];
    const pieces = [100, 9000].map((offset): Piece => ({ lengthBytes: 5000, part: 0, offset }));
    await storeMade(archive, { id, parts, files: [{ path: 'base/5/1', pieces, members: { checksum: '0badcafe' } }] });
    await expect(restore(archive)).rejects.toThrow(/"base\/5\/1" is not what was backed up: its checksum differs/);
  });
});

it('tells each file its own checksum, whichever task ends first', async () => {
  const archive = await makeRepository();
  const parts = [
    await storePart(archive, madeId(0), 1, noise(1, 2 * frame)),
    await storePart(archive, id, 1, noise(2, frame)),
  ];
  takeFilesTogether(200);
  const files = Array.from({ length: 420 }, (_, index) => ({
    path: `base/5/${100_000 + index}`,
    pieces: [
      { lengthBytes: 90, part: 0, offset: index * 1000 },
      { lengthBytes: 70, part: 1, offset: index * 1000 },
    ],
  }));
  await storeMade(archive, { id, parts, files });
  const dir = join(temporaryFolder(), 'data');
  const { counted } = counting(archive.storage);
  let frames = 0;
  const storage: Storage = {
    ...counted,
    get: async (key, options) => {
      // the first of all frames comes when another task is done
      if (key === keyOf(madeId(0), 1) && (options?.range?.length ?? 0) > 1000) {
        frames += 1;
        if (frames === 1) await waitFor('another task', () => existsSync(join(dir, '.wal-t-restore.parts')));
      }
      return counted.get(key, options);
    },
  };
  await restore(archive, { dir, storage });
  expect(await verifyBackup(dir)).toEqual(['global/pg_control: CRC is incorrect']);
});
