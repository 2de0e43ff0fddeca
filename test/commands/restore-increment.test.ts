/** Increments that were made by hand, restored: from parts of many backups, in pieces of any size, whatever order they have. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import type { Piece } from '../../src/archive/extents.ts';
import { readManifest } from '../../src/archive/manifest.ts';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { fetchBackup } from '../../src/commands/basebackup-fetch.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { makeArchive } from '../support/forged-backup.ts';
import { contentOf, type MadeBackup, type MadePart, madeId, storeMade, storePart } from '../support/made-increment.ts';
import { seededRandom } from '../support/random.ts';

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

async function restore(
  archive: Archive,
  { backup = id, dir = join(temporaryFolder(), 'data'), resume = false, storage = archive.storage } = {},
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

describe.each([
  ['plain', noKeys],
  ['encrypted', encrypted],
])('%s', (_, keys) => {
  it('restores every list of extents to the right bytes, and a true backup_manifest', async () => {
    await fc.assert(
      fc.asyncProperty(anyIncrement, (increment) =>
        inFolder(async (folder) => {
          mkdirSync(join(folder, 'repo'));
          const archive = await makeArchive(join(folder, 'repo'), keys);
          await expectRestored(archive, await storeRandom(archive, increment), join(folder, 'data'));
        }),
      ),
      { numRuns: process.env.TORTURE === '1' ? 500 : 15, endOnFailure: true },
    );
  });
});
