/** Increments verified: what they use of others as well, each part read once however many use it; and what they leave when one of them is deleted. */
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import { objectKey, partName } from '../../src/archive/keys.ts';
import { storeManifest } from '../../src/archive/manifest.ts';
import { backupList } from '../../src/commands/backup-list.ts';
import { deleteBackups } from '../../src/commands/delete.ts';
import { isSound, type VerifyResult, verify } from '../../src/commands/verify.ts';
import { limits } from '../../src/limits.ts';
import { makeChecksum } from '../../src/postgres/file-checksum.ts';
import { around } from '../support/around-storage.ts';
import { CheckedArchive } from '../support/checked-archive.ts';
import { makeContext } from '../support/context.ts';
import {
  changing,
  contentOf,
  type MadeBackup,
  type MadeFile,
  type MadePart,
  madeId,
  makePage,
  storeChain,
  storeMade,
  storePart,
} from '../support/made-increment.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const chain = { pages: 400, changed: 8 };
const keyOf = (minute: number, part = 1) => objectKey(testSystemIdentifier, partName(madeId(minute), part));

async function makeArchive(): Promise<CheckedArchive> {
  const checked = await CheckedArchive.make();
  onTestFinished(() => checked.remove());
  await checked.wal(['000000010000000000000002']);
  return checked;
}

async function makeChain(increments: number): Promise<CheckedArchive> {
  const checked = await makeArchive();
  await storeChain(checked.archive, { ...chain, increments });
  return checked;
}

function contextOf({ storage }: Archive) {
  const reads = new Map<string, number>();
  const watched = around(storage, {
    get: (key, options) => {
      reads.set(key, (reads.get(key) ?? 0) + 1);
      return storage.get(key, options);
    },
  });
  const context = makeContext({ WALT_REPO: storage.url }, { workingDirectory: '/', openStorage: () => watched });
  return { context, reads };
}

async function look(
  archive: Archive,
  deep: boolean,
  name?: string,
): Promise<VerifyResult & { reads: ReadonlyMap<string, number> }> {
  const { context, reads } = contextOf(archive);
  return { ...(await verify(context, { deep, name })), reads };
}

const unsound = ({ verdicts }: VerifyResult) =>
  verdicts.filter(({ isRestorable }) => !isRestorable).map(({ id }) => id);

function remove({ archive }: CheckedArchive, minute: number) {
  const { context } = contextOf(archive);
  return deleteBackups(context, { backup: madeId(minute), sweep: false, confirm: true });
}

it('reads each stored part once, however many backups use it', async () => {
  const { archive } = await makeChain(12);
  const result = await look(archive, true);
  expect(isSound(result), JSON.stringify(result.verdicts)).toBe(true);
  expect(result.verdicts).toHaveLength(13);
  const parts = [...result.reads].filter(([key]) => key.includes('/part/'));
  expect(parts).toHaveLength(26);
  expect(parts.filter(([, count]) => count !== 1)).toEqual([]);
});

it('finds damage for each backup that uses the part, and for no other', async () => {
  const { archive, root } = await makeChain(4);
  const file = join(root, keyOf(2));
  const content = readFileSync(file);
  content.writeUInt8((content[content.length >> 1] ?? 0) ^ 1, content.length >> 1);
  writeFileSync(file, content);
  expect(unsound(await look(archive, false))).toEqual([]);
  const deep = await look(archive, true);
  expect(unsound(deep)).toEqual([2, 3, 4].map((minute) => madeId(minute)));
  expect(deep.verdicts[3]?.reasons.join()).toContain(`part 1 of backup ${madeId(2)}`);
  expect(unsound(await look(archive, true, madeId(4)))).toEqual([madeId(4)]);
  truncateSync(file, content.length - 1);
  expect(unsound(await look(archive, false))).toEqual([2, 3, 4].map((minute) => madeId(minute)));
  rmSync(file);
  const gone = await look(archive, false);
  expect(unsound(gone)).toEqual([2, 3, 4].map((minute) => madeId(minute)));
  expect(gone.verdicts[4]?.reasons).toEqual([`part 1 of backup ${madeId(2)} is missing`]);
});

it('H42: finds a page among those of an increment that is not of the block that its list says', async () => {
  const checked = await makeChain(0);
  const id = madeId(1);
  const pages = [makePage(Buffer.from('a'), 3), makePage(Buffer.from('b'), 6)];
  const own = await storePart(checked.archive, id, 1, Buffer.concat([Buffer.alloc(512), ...pages]));
  const files = [
    {
      path: changing,
      pieces: [
        { lengthBytes: 3 * 8192, part: -1, offset: 0 },
        { lengthBytes: 2 * 8192, part: 0, offset: 512 }, // the second one as block 4
      ],
    },
  ];
  await storeMade(checked.archive, { id, parts: [own], files, manifest: { checksums: true } });
  expect(unsound(await look(checked.archive, false))).toEqual([]);
  const deep = await look(checked.archive, true);
  expect(deep.verdicts[1]?.reasons.join()).toContain(`block 4 of "${changing}"`);
  expect(unsound(deep)).toEqual([id]);
});

describe('a list that contradicts what stands in the part of another backup', () => {
  const page = (block: number) => makePage(Buffer.from(`block ${block}`), block);
  const checksumOf = (content: Buffer) => {
    const checksum = makeChecksum('CRC32C');
    checksum.update(content);
    return checksum.end();
  };
  const lies: Record<string, Partial<MadeFile>> = {
    'by the checksum of a file': { members: { checksum: '00000000' } },
    'by the place of a file': {
      pieces: [{ lengthBytes: 2 * 8192, part: 0, offset: 512 + 2 * 8192 }],
      members: { checksum: checksumOf(Buffer.concat([page(0), page(1)])) },
    },
    'by the order of pages': {
      pieces: [
        { lengthBytes: 8192, part: -1, offset: 0 },
        { lengthBytes: 8192, part: 0, offset: 512 },
      ],
      isRead: false,
    },
  };

  async function makeTwo(lie: Partial<MadeFile>) {
    const checked = await makeChain(0);
    const id = madeId(1);
    const content = Buffer.concat([Buffer.alloc(512), page(0), page(1), page(0), page(2)]);
    const parts = [await storePart(checked.archive, madeId(0), 3, content)];
    const file: MadeFile = { path: changing, pieces: [{ lengthBytes: 2 * 8192, part: 0, offset: 512 }], isRead: true };
    const other: MadeFile = { ...file, path: 'base/5/16390' };
    const store = (minute: number, files: readonly MadeFile[]) =>
      storeMade(checked.archive, {
        id: madeId(minute),
        parts,
        files,
        manifest: { checksums: true, startLsn: 0x200_028n },
      });
    await store(1, [{ ...file, ...lie }, other]);
    await store(2, [file, other]);
    return { ...checked, id };
  }

  it.each(Object.entries(lies))('%s', async (_, lie) => {
    const { archive, id } = await makeTwo(lie);
    expect(unsound(await look(archive, false))).toEqual([]);
    for (const name of [undefined, id]) {
      const deep = await look(archive, true, name);
      expect(unsound(deep)).toEqual([id]);
      expect(deep.verdicts.find((one) => one.id === id)?.reasons.join()).toContain(`part 3 of backup ${madeId(0)}`);
    }
    expect(unsound(await look(archive, true, madeId(2)))).toEqual([]);
  });
});

it('holds what a list says of a part against what its own backup said', async () => {
  const { archive } = await makeArchive();
  const [, { parts, files }] = (await storeChain(archive, { ...chain, increments: 1 })) as [MadeBackup, MadeBackup];
  const [changes, still] = files as [MadeFile, MadeFile];
  const manifest = { checksums: true, startLsn: 0x200_028n };
  await storeMade(archive, {
    id: madeId(2),
    parts,
    files: [changes, { ...still, members: { checksum: '00000000' } }],
    manifest,
  });
  await storeMade(archive, { id: madeId(3), parts, files, manifest });
  const deep = await look(archive, true);
  expect(unsound(deep)).toEqual([madeId(2)]);
  expect(deep.reads.get(keyOf(0))).toBe(2); // once more for the lie
  expect(deep.reads.get(keyOf(1))).toBe(1);
});

describe('pages that were right for the backup that stored them, and are not for the one that took them over', () => {
  const torn = makePage(Buffer.from('torn'), 1, 0x250_000n);
  torn.writeUInt8(torn.readUInt8(5000) ^ 1, 5000);
  const pieces = [{ lengthBytes: 2 * 8192, part: 0, offset: 512 }];

  it.each([
    { what: 'excused there since replay writes them anew', page: torn, path: changing },
    { what: 'of another file of the relation', page: makePage(Buffer.from('b'), 1), path: `${changing}.1` },
    { what: 'known to be broken there', page: torn, path: changing, startLsn: 0x260_000n, block: 1 },
  ])('$what', async ({ page, path, startLsn = 0x200_028n, block }) => {
    const { archive } = await makeArchive();
    const parts = [await storePart(archive, madeId(0), 1, Buffer.concat([Buffer.alloc(512), makePage(page, 0), page]))];
    const known = block === undefined ? [] : [{ path: changing, block }];
    const manifest = { checksums: true, stopLsn: 0x290_000n, consistentLsn: 0x290_000n };
    const badPages = { count: known.length, pages: known };
    const files = [{ path: changing, pieces }];
    await storeMade(archive, { id: madeId(0), parts, files, manifest: { ...manifest, startLsn, badPages } });
    const increment = { id: madeId(1), parts, files: [{ path, pieces }] };
    await storeMade(archive, { ...increment, manifest: { ...manifest, startLsn: 0x280_028n } });
    for (const name of [undefined, madeId(1)]) {
      expect(unsound(await look(archive, true, name))).toEqual([madeId(1)]);
    }
  });
});

it('finds a checksum that an empty file cannot have, and files that are longer than was told', async () => {
  const { archive } = await makeArchive();
  const [{ parts, files }] = (await storeChain(archive, { ...chain, increments: 0 })) as [MadeBackup];
  const empty = (checksum: string) => ({ path: 'base/5/17000', pieces: [], members: { checksum } });
  const store = (minute: number, last: MadeFile, rawBytes?: number) => {
    const id = madeId(minute);
    return storeMade(archive, { id, parts, files: [...files, last], manifest: { checksums: true } }).then(
      async (made) => {
        if (rawBytes === undefined) return;
        const statistics = { ...made.statistics, rawBytes };
        await archive.storage.delete([objectKey(testSystemIdentifier, `manifest/${id}`)]);
        await storeManifest(archive, { ...made, statistics }, { host: 'test-host' });
      },
    );
  };
  await store(1, empty('00000000'));
  await store(2, empty('00000001'));
  await store(3, empty('00000000'), 1000);
  const { verdicts } = await look(archive, false);
  expect(unsound({ verdicts } as VerifyResult)).toEqual([madeId(2), madeId(3)]);
  expect(verdicts[2]?.reasons.join()).toContain('is empty, and has another checksum');
  expect(verdicts[3]?.reasons.join()).toContain('its files are longer than its manifest says');
});

it('finds that a list commits to other bytes of a part than are stored', async () => {
  const { archive } = await makeArchive();
  const [, { parts, files }] = (await storeChain(archive, { ...chain, increments: 1 })) as [MadeBackup, MadeBackup];
  const manifest = { checksums: true, startLsn: 0x200_028n };
  const [first, ...others] = parts as [MadePart, ...MadePart[]];
  const lie = { ...first, line: { ...first.line, sha256: '0'.repeat(64) } };
  await storeMade(archive, { id: madeId(2), parts: [lie, ...others], files, manifest });
  expect(unsound(await look(archive, true))).toEqual([madeId(2)]);
});

it('reads a part of which more is said than memory should hold once more, and judges alike', async () => {
  const { archive } = await makeChain(6);
  const changed = limits as { verifyPieces: number };
  const { verifyPieces } = changed;
  changed.verifyPieces = 3;
  onTestFinished(() => void Object.assign(limits, { verifyPieces }));
  const result = await look(archive, true, madeId(6));
  expect(unsound(result)).toEqual([]);
  expect(Math.max(...result.reads.values())).toBeGreaterThan(1);
});

it('lets any backup go alone: what others use stays, and is no left-over; the rest of it goes, and in the end all', async () => {
  const checked = await makeChain(3);
  const { archive } = checked;
  const partsLeft = async () => {
    const keys: string[] = [];
    for await (const { key } of archive.storage.list(`${testSystemIdentifier}/part/`)) keys.push(key);
    return keys;
  };
  await remove(checked, 0);
  expect(await partsLeft()).not.toContain(keyOf(0, 2)); // what it had for itself
  expect(await partsLeft()).toContain(keyOf(0));
  const after = await look(archive, true);
  expect(isSound(after), JSON.stringify(after.verdicts)).toBe(true);
  expect(after.keys.unreferenced).toMatchObject({ count: 0 });
  expect(after.reads.get(keyOf(0))).toBe(1);
  await remove(checked, 1);
  await remove(checked, 2);
  expect(isSound(await look(archive, true))).toBe(true);
  expect((await partsLeft()).length).toBeGreaterThan(3);
  // the last one that refers to any of them is replaced by a full backup
  const id = madeId(50, 'full');
  const part = await storePart(archive, id, 1, Buffer.alloc(8192));
  const file = { path: 'base/5/1', pieces: [{ lengthBytes: 8192, part: 0, offset: 0 }], isRead: true };
  const times = { startedAt: '2026-11-20T09:30:00.000Z', finishedAt: '2026-11-20T09:31:00.000Z' };
  await storeMade(archive, { id, parts: [part], files: [file], manifest: times });
  expect(contentOf(file, [part])).toHaveLength(8192);
  await remove(checked, 3);
  expect((await partsLeft()).every((key) => key.includes(id))).toBe(true);
});

it('tells left-overs of a deleted backup that nobody uses', async () => {
  const checked = await makeChain(2);
  await checked.archive.storage.delete([objectKey(testSystemIdentifier, `manifest/${madeId(0)}`)]);
  const { keys } = await look(checked.archive, false, madeId(2));
  expect(keys.unreferenced.named).toContain(keyOf(0, 2));
  expect(keys.unreferenced.named).not.toContain(keyOf(0));
});

it('is listed with its parent, what it added and what it uses', async () => {
  const { archive } = await makeChain(2);
  const { backups } = await backupList(contextOf(archive).context, { window: false });
  const [full, , last] = backups;
  expect(full).not.toHaveProperty('parent');
  expect(last).toMatchObject({ type: 'incremental', parent: madeId(1), uses: [madeId(0), madeId(1)] });
  expect(last?.used_bytes).toBeGreaterThan(5 * (last?.stored_bytes ?? 0));
});
