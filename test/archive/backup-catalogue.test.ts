/** Which backups there are, told by keys alone. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CatalogueEntry, listBackups, stateOf } from '../../src/archive/backup-catalogue.ts';
import { parseBackupId } from '../../src/archive/backup-id.ts';
import type { Storage, StoredObject } from '../../src/storage/storage.ts';
import { makeArchive } from '../support/backups.ts';
import { testBackupId } from '../support/streamed.ts';

const expiryMs = 30 * 60_000;
const now = new Date('2026-11-20T09:00:00Z');
const minutesAgo = (minutes: number) => new Date(now.getTime() - minutes * 60_000);
const keyOf = (name: string) => `7312345678901234567/${name}`;

/** A folder with these objects in it; when the storage received them is told anew, since nobody can wait for half an hour. */
async function archiveOf(objects: Readonly<Record<string, Date>>) {
  const archive = makeArchive();
  for (const key of Object.keys(objects)) await archive.storage.put(key, Buffer.from('x'));
  const storage: Storage = {
    url: archive.storage.url,
    put: archive.storage.put.bind(archive.storage),
    get: archive.storage.get.bind(archive.storage),
    delete: archive.storage.delete.bind(archive.storage),
    list: async function* (prefix, options): AsyncGenerator<StoredObject> {
      for await (const found of archive.storage.list(prefix, options)) {
        yield { ...found, modifiedAt: objects[found.key] ?? found.modifiedAt };
      }
    },
  };
  return { ...archive, storage };
}

const listed = async (names: Readonly<Record<string, number>>): Promise<CatalogueEntry[]> => {
  const objects = Object.entries(names).map(([name, minutes]) => [keyOf(name), minutesAgo(minutes)]);
  return listBackups(await archiveOf(Object.fromEntries(objects)));
};

describe('the state of a backup', () => {
  it.each<readonly [names: string, alive: string, dead: string]>([
    ['1', 'running', 'failed'],
    ['1 manifest', 'running', 'unconfirmed'],
    ['1 manifest closed', 'confirmed', 'confirmed'],
    ['manifest closed', 'confirmed', 'confirmed'],
    ['manifest', 'unconfirmed', 'unconfirmed'],
    ['1 failed', 'failed', 'failed'],
    ['failed', 'failed', 'failed'],
    ['1 manifest failed', 'unconfirmed', 'unconfirmed'],
    ['1 manifest closed failed', 'confirmed', 'confirmed'],
    ['1 closed', 'failed', 'failed'],
    ['closed', 'failed', 'failed'],
    ['1 closed failed', 'failed', 'failed'],
  ])('with %s is %s, and %s when its last sign is too old', async (names, alive, dead) => {
    for (const [minutes, state] of [
      [29, alive],
      [30, dead],
    ] as const) {
      const keys = names.split(' ').map((name) => {
        if (name === 'manifest') return `manifest/${testBackupId}`;
        return `lease/${testBackupId}/${name === '1' ? '000001' : name}`;
      });
      const entries = await listed(Object.fromEntries(keys.map((key) => [key, minutes])));
      expect(entries.map((entry) => stateOf(entry, { now, expiryMs }))).toEqual([state]);
    }
  });

  it.each([
    [[50, 31, 1], 'running'],
    [[1, 31, 50], 'running'],
    [[50, 40, 31], 'failed'],
  ])('goes by the youngest sign of life: %j minutes ago', async (minutes, state) => {
    const entries = await listed(
      Object.fromEntries(minutes.map((ago, index) => [`lease/${testBackupId}/00000${index + 1}`, ago])),
    );
    expect(entries.map((entry) => stateOf(entry, { now, expiryMs }))).toEqual([state]);
  });

  it('never counts without both its manifest and its confirmation', () => {
    const anyEntry = fc.record({
      hasManifest: fc.boolean(),
      isClosed: fc.boolean(),
      isFailed: fc.boolean(),
      lastSignAt: fc.option(fc.date({ noInvalidDate: true }), { nil: undefined }),
    });
    const backup = parseBackupId(testBackupId);
    if (backup === undefined) throw new Error(testBackupId);
    fc.assert(
      fc.property(anyEntry, (entry) => {
        const isConfirmed = stateOf({ ...backup, lastRecord: 0, ...entry }, { now, expiryMs }) === 'confirmed';
        expect(isConfirmed).toBe(entry.hasManifest && entry.isClosed);
      }),
    );
  });
});

it('lists each backup once, the oldest first, with what its name says', async () => {
  const ids = [
    testBackupId.replace('20261120T083000Z', '20261121T000000Z'),
    testBackupId,
    testBackupId.replace('full', 'incr'),
    testBackupId.replace('20261120', '20251231'),
  ];
  const [newest = '', , increment = '', oldest = ''] = ids;
  const entries = await listed({
    [`manifest/${newest}`]: 1,
    [`lease/${newest}/000001`]: 5,
    [`lease/${newest}/closed`]: 1,
    [`lease/${oldest}/000001`]: 99,
    [`manifest/${testBackupId}`]: 1,
    [`manifest/${increment}`]: 1,
  });
  expect(entries.map(({ id }) => id)).toEqual([oldest, testBackupId, increment, newest]);
  expect(entries.map(({ type }) => type)).toEqual(['full', 'full', 'incremental', 'full']);
  expect(entries[3]).toEqual({
    ...parseBackupId(newest),
    hasManifest: true,
    isClosed: true,
    isFailed: false,
    lastSignAt: minutesAgo(5),
    lastRecord: 1,
  });
});

it('ignores keys that it does not know, and other clusters', async () => {
  const archive = await archiveOf({});
  const id = testBackupId;
  const keys = [
    ...['manifest/notes.txt', `manifest/${id}.bak`, `manifest/${id}/below`, `manifest/old/${id}`],
    ...['lease/notes.txt', 'lease/LATEST/000001', `lease/x${id}/closed`],
    ...[`files/${id}`, `part/${id}/0000001`, `pin/${id}/x`, `drill/${id}`, `manifests/${id}`, `leases/${id}/closed`],
  ].map(keyOf);
  for (const key of [...keys, `7312345678901234568/manifest/${id}`]) await archive.storage.put(key, Buffer.from('x'));
  expect(await listBackups(archive)).toEqual([]);
});
