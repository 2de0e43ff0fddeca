/** Manifests: one that was stored comes back, and one that lacks anything it must say is refused. */
import { describe, expect, it } from 'vitest';
import { objectKey } from '../../src/archive/keys.ts';
import { type BackupManifest, readManifest, storeManifest } from '../../src/archive/manifest.ts';
import { usedParts } from '../../src/archive/part-uses.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { CorruptError, ObjectNotFound } from '../../src/errors.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { makeArchive, testManifest } from '../support/backups.ts';
import { seal } from '../support/objects.ts';
import { testBackupId } from '../support/streamed.ts';

const writer = { host: 'db1' };
const name = `manifest/${testBackupId}`;

/** As it stands in the object. */
const document: Record<string, unknown> = {
  ...testManifest,
  startLsn: formatLsn(testManifest.startLsn),
  stopLsn: formatLsn(testManifest.stopLsn),
  consistentLsn: formatLsn(testManifest.consistentLsn),
};

async function readStored(members: object): Promise<BackupManifest> {
  const archive = makeArchive();
  await putDocument(archive, { kind: 'manifest', name }, members, writer);
  return readManifest(archive, testBackupId);
}

/** A copy in which the member at a path such as `source.host` is `value`; undefined takes it out. */
function changed(path: string, value: unknown): object {
  const copy = structuredClone(document);
  const names = path.split('.');
  const last = names.pop() ?? '';
  let place = copy;
  for (const step of names) place = place[step] as Record<string, unknown>;
  if (value === undefined) delete place[last];
  else place[last] = value;
  return copy;
}

it('brings back a manifest, also of a standby’s increment whose WAL and ids are beyond 2^53', async () => {
  const id = testBackupId.replace('full', 'incr');
  const increment: BackupManifest = {
    ...testManifest,
    id,
    type: 'incremental',
    startLsn: 2n ** 64n - 2n ** 30n,
    stopLsn: 2n ** 64n - 2n,
    consistentLsn: 2n ** 64n - 1n,
    source: { ...testManifest.source, standby: true },
    files: { ...testManifest.files, keyCommitment: 'c'.repeat(64) },
    uses: {
      [testBackupId]: [
        [1, 3],
        [7, 7],
      ],
      [id]: [[1, 1]],
    },
    tablespaces: [],
    annotations: {},
    badPages: { count: 0, pages: [] },
  };
  const archive = makeArchive();
  for (const manifest of [testManifest, increment]) {
    await storeManifest(archive, manifest, writer);
    expect(await readManifest(archive, manifest.id)).toEqual(manifest);
  }
});

it('is absent when there is none', async () => {
  await expect(readManifest(makeArchive(), testBackupId)).rejects.toBeInstanceOf(ObjectNotFound);
});

it('ignores members that it does not know', async () => {
  expect(await readStored({ ...document, later: { deep: [1] } })).toMatchObject(testManifest);
});

describe('a manifest is refused', () => {
  it('that the table below would change: the document itself is sound', async () => {
    expect(await readStored(document)).toEqual(testManifest);
  });

  const required = [
    ...Object.keys(document),
    ...['postgres.version', 'postgres.versionNumber', 'source.host', 'source.dataDirectory', 'source.standby'],
    ...['badPages.count', 'badPages.pages', 'badPages.pages.0.block', 'badPages.pages.0.path'],
    ...['tablespaces.0.oid', 'tablespaces.0.path', 'tablespaces.1.pathHex'],
    ...['parts', 'files', 'folders', 'tablespaces', 'rawBytes', 'storedBytes'].map((one) => `statistics.${one}`),
    ...['objectBytes', 'storedBytes', 'rawBytes', 'sha256', 'tableSha256'].map((one) => `files.${one}`),
  ];

  it.each(required)('without %s', async (path) => {
    await expect(readStored(changed(path, undefined))).rejects.toBeInstanceOf(CorruptError);
  });

  it.each(required)('with %s of a type that no member has', async (path) => {
    for (const value of [null, [[]], { a: [] }, -1.5]) {
      await expect(readStored(changed(path, value)), JSON.stringify(value)).rejects.toBeInstanceOf(CorruptError);
    }
  });

  it.each<readonly [string, unknown]>([
    ['id', testBackupId.replace('cafe', 'beef')],
    ['type', 'incremental'],
    ['systemIdentifier', '7312345678901234568'],
    ['systemIdentifier', 7312345678901234],
    ['postgres.versionNumber', '170010'],
    ['timeline', '1'],
    ['timeline', -1],
    ['startLsn', '1/2/3'],
    ['stopLsn', 5],
    ['consistentLsn', ''],
    ['startedAt', 'yesterday'],
    ['finishedAt', 1_700_000_000],
    ['walSegmentBytes', 0],
    ['walSegmentBytes', 3_000_000],
    ['walSegmentBytes', 2 ** 31],
    ['walSegmentBytes', '16777216'],
    ['pageBytes', 8192.5],
    ['checksums', 'on'],
    ['source.standby', 0],
    ['manifestChecksums', 'MD5'],
    ['manifestChecksums', 'crc32c'],
    ['annotations', ['a']],
    ['annotations', { a: 1 }],
    ['tablespaces', {}],
    ['tablespaces.0.oid', 16400],
    ['tablespaces.0.oid', '0'],
    ['tablespaces.0.oid', '../1'],
    ['tablespaces.0.pathHex', 'ff'],
    ['badPages.count', 2 ** 53],
    ['badPages.pages', {}],
    ['badPages.pages.0.block', '7'],
    ['statistics', []],
    ['files.sha256', 'A'.repeat(64)],
    ['files.tableSha256', 'b'.repeat(63)],
    ['files.keyCommitment', ''],
    ['files.keyCommitment', null],
    ['uses', []],
    ['uses', { LATEST: [[1, 1]] }],
    ['uses', { [testBackupId]: [1, 1] }],
    ['uses', { [testBackupId]: { 0: [1, 1] } }],
    ['uses', { [testBackupId]: [[0, 1]] }],
    ['uses', { [testBackupId]: [[2, 1]] }],
    ['uses', { [testBackupId]: [[1]] }],
    ['uses', { [testBackupId]: [['1', '2']] }],
    ['uses', { [testBackupId]: [[1, 1.5]] }],
  ])('whose %s is %j', async (path, value) => {
    await expect(readStored(changed(path, value))).rejects.toMatchObject({
      constructor: CorruptError,
      message: expect.stringContaining(`/${name}" in file://`),
      hint: expect.any(String),
    });
  });

  it('H32: that names parts without end, in one range or in many', async () => {
    const many = Array.from({ length: 11 }, () => [1, 1_000_000]);
    for (const ranges of [[[1, Number.MAX_SAFE_INTEGER]], [[1, 10_000_001]], many]) {
      await expect(readStored(changed('uses', { [testBackupId]: ranges }))).rejects.toBeInstanceOf(CorruptError);
    }
    expect(await readStored(changed('uses', { [testBackupId]: [[1, 10_000_000]] }))).toBeDefined();
  });

  it.each(['', '[]', 'null', '1', '{'])('whose content is %j', async (text) => {
    const archive = makeArchive();
    const object = await seal(Buffer.from(text), { kind: 'manifest', name });
    await archive.storage.put(objectKey(archive.systemIdentifier, name), object);
    await expect(readManifest(archive, testBackupId)).rejects.toBeInstanceOf(CorruptError);
  });

  it('that is stored under another backup’s name', async () => {
    const archive = makeArchive();
    const other = testBackupId.replace('cafe', 'beef');
    await putDocument(archive, { kind: 'manifest', name: `manifest/${other}` }, document, writer);
    await expect(readManifest(archive, other)).rejects.toBeInstanceOf(CorruptError);
  });
});

it('names the parts that it needs, one by one', () => {
  const other = testBackupId.replace('full', 'incr');
  const uses = {
    [testBackupId]: [
      [2, 3],
      [5, 5],
    ] as const,
    [other]: [[1, 1]] as const,
  };
  expect([...usedParts({ uses })]).toEqual([
    { backup: testBackupId, number: 2 },
    { backup: testBackupId, number: 3 },
    { backup: testBackupId, number: 5 },
    { backup: other, number: 1 },
  ]);
});

it('is read by whoever may read data and by whoever may only see what there is, and by nobody else', async () => {
  const [owner, auditor, stranger] = [generateIdentity(), generateIdentity(), generateIdentity()].map(parseIdentity);
  const recipientOf = (one = owner) => ({ publicKey: one?.publicKey ?? new Uint8Array() });
  const seals: Keys = { ...noKeys, recipients: [recipientOf(owner)], manifestRecipients: [recipientOf(auditor)] };
  const { storage } = makeArchive();
  await storeManifest(makeArchive(seals, storage), testManifest, writer);
  const readBy = (identities: Keys['identities']) =>
    readManifest(makeArchive({ ...noKeys, identities }, storage), testBackupId);
  for (const one of [owner, auditor]) expect(await readBy(one === undefined ? [] : [one])).toEqual(testManifest);
  await expect(readBy(stranger === undefined ? [] : [stranger])).rejects.toBeInstanceOf(Error);
  await expect(readBy([])).rejects.toBeInstanceOf(Error);
});
