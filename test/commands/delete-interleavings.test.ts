/** A deletion beside a backup, beside another deletion, and after its own death: each stopped before each of its requests while the other runs through. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import { listBackups, stateOf } from '../../src/archive/backup-catalogue.ts';
import { filesName, leaseName, objectKey, partName, walObjectName } from '../../src/archive/keys.ts';
import { takeLease } from '../../src/archive/lease.ts';
import { type BackupManifest, readManifest, storeManifest } from '../../src/archive/manifest.ts';
import { usedParts } from '../../src/archive/part-uses.ts';
import { setPin } from '../../src/archive/pins.ts';
import { getDocument, putDocument } from '../../src/archive/sealed-document.ts';
import { firstMissingSegment } from '../../src/archive/wal-range.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { expectNothingMissing } from '../../src/commands/basebackup-push/confirm.ts';
import { type DeleteResult, deleteBackups } from '../../src/commands/delete.ts';
import { pin } from '../../src/commands/pin.ts';
import { CheckError, NotFoundError, ObjectNotFound } from '../../src/errors.ts';
import { leaseExpiryMs } from '../../src/limits.ts';
import { parseWalFileName, segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { testManifest } from '../support/backups.ts';
import { makeContext } from '../support/context.ts';
import { removeFolder } from '../support/folders.ts';
import { makeArchive } from '../support/forged-backup.ts';
import { GatedStorage } from '../support/gated-storage.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const segmentBytes = 2 ** 20;
const host = 'test-host';
/** Nothing here is about disks. */
const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const { log } = makeContext({}, { workingDirectory: '/' });

const idOf = (segment: number, random: string) =>
  `20261120T0${segment}0000Z-${segmentNameAt(1, BigInt(segment * segmentBytes), segmentBytes)}-full-${random}`;
const [old, kept, given] = [idOf(2, '0000000a'), idOf(5, '0000000b'), idOf(4, '0000000f')];

/** Needs WAL of the segment that its name tells and of the next one. */
function manifestOf(id: string, segment: number): BackupManifest {
  const startLsn = BigInt(segment * segmentBytes) + 0x28n;
  const consistentLsn = startLsn + BigInt(segmentBytes);
  const finishedAt = `2026-11-20T0${segment}:30:00.000Z`;
  const lsns = { startLsn, stopLsn: consistentLsn, consistentLsn };
  const sizes = { walSegmentBytes: segmentBytes, systemIdentifier: testSystemIdentifier };
  return { ...testManifest, ...lsns, ...sizes, id, startedAt: finishedAt, finishedAt, uses: { [id]: [[1, 2]] } };
}

const walRangeOf = ({ timeline, startLsn, consistentLsn }: BackupManifest) => ({
  timeline,
  startLsn,
  endLsn: consistentLsn,
  segmentSizeBytes: segmentBytes,
});

async function putWal({ storage }: Archive, segment: number): Promise<void> {
  const file = parseWalFileName(segmentNameAt(1, BigInt(segment * segmentBytes), segmentBytes));
  if (file === undefined) throw new Error('no segment');
  await storage.put(objectKey(testSystemIdentifier, walObjectName(file)), Buffer.from('WAL')).catch(() => undefined);
}

interface Backup {
  readonly id: string;
  /** Its WAL begins there. */
  readonly segment: number;
  /** Its lease is there already, and said nothing for so long that it is taken for dead. */
  readonly isStale?: boolean;
  /** It is an increment of this one, whose parts it goes on to use; should that be gone already, it is taken in full. */
  readonly parent?: string;
}

/** What basebackup-push does from its lease on, in its order. */
async function push(archive: Archive, { id, segment, isStale = false, parent }: Backup): Promise<void> {
  const walFloor = BigInt(segment * segmentBytes);
  const nameNobody = () => Promise.resolve();
  const lease = isStale
    ? { close: () => end('closed'), fail: () => end('failed'), nameParent: nameNobody }
    : await takeLease(archive, { id, walFloor, timeline: 1, host, log });
  const end = (record: 'closed' | 'failed') =>
    putDocument(archive, { kind: 'lease', name: leaseName(id, record) }, { id }, { host });
  try {
    const inherited = parent === undefined ? {} : await usesOfParent(archive, parent);
    if (parent !== undefined) await lease.nameParent({ parent, uses: inherited });
    for (const name of isStale ? [] : [partName(id, 1), partName(id, 2), filesName(id)]) {
      await archive.storage.put(objectKey(testSystemIdentifier, name), Buffer.from('content'));
    }
    const own = manifestOf(id, segment);
    const kind = parent === undefined ? {} : ({ type: 'incremental', parent } as const);
    const manifest = { ...own, ...kind, uses: { ...inherited, ...own.uses } };
    const wal = walRangeOf(manifest);
    const missing = await firstMissingSegment(archive, wal);
    if (missing !== undefined) throw new CheckError(`segment "${missing}" did not arrive in the archive`);
    await storeManifest(archive, manifest, { host });
    await expectNothingMissing(archive, manifest, wal, {});
    await lease.close();
  } catch (error) {
    await lease.fail('it failed');
    throw error;
  }
}

async function usesOfParent(archive: Archive, parent: string): Promise<BackupManifest['uses']> {
  try {
    return (await readManifest(archive, parent)).uses;
  } catch (error) {
    if (error instanceof ObjectNotFound) return {};
    throw error;
  }
}

/** An archive in a folder of its own, as a copy of another. */
class Place {
  readonly root: string;
  readonly storage: FileStorage;

  constructor(root: string, original?: string) {
    this.root = root;
    if (original !== undefined) cpSync(original, root, { recursive: true, preserveTimestamps: true });
    this.storage = new FileStorage(root, { idleMs: 10_000, requestMs: 10_000 });
  }

  archive(storage: Storage = this.storage): Archive {
    return { storage, systemIdentifier: testSystemIdentifier, keys: noKeys };
  }

  context(storage: Storage) {
    const settings = { WALT_REPO: `file://${this.root}` };
    return makeContext(settings, { workingDirectory: this.root, openStorage: () => storage });
  }

  delete(storage: Storage = this.storage): Promise<DeleteResult> {
    return deleteBackups(this.context(storage), { retain: 1, sweep: false, confirm: true });
  }

  async keys(prefix = ''): Promise<string[]> {
    const keys: string[] = [];
    for await (const { key } of this.storage.list(`${testSystemIdentifier}/${prefix}`)) keys.push(key);
    return keys;
  }

  /** Whatever counts is whole. @returns what counts. */
  async confirmed(): Promise<string[]> {
    const now = new Date();
    const entries = await listBackups(this.archive());
    const ids = entries.filter((one) => stateOf(one, { now, expiryMs: leaseExpiryMs }) === 'confirmed');
    const keys = new Set(await this.keys());
    for (const { id } of ids) {
      const manifest = await readManifest(this.archive(), id, {});
      const names = [...usedParts(manifest)].map(({ backup, number }) => partName(backup, number));
      for (const name of [...names, filesName(id)]) expect(keys).toContain(objectKey(testSystemIdentifier, name));
      expect(await firstMissingSegment(this.archive(), walRangeOf(manifest))).toBeUndefined();
    }
    return ids.map(({ id }) => id);
  }

  /** An undisturbed deletion finds its way, and leaves no plan and no left-overs. */
  async expectMended(): Promise<void> {
    expect((await this.delete()).failed).toEqual([]);
    const confirmed = await this.confirmed();
    expect(await this.keys('plan/')).toEqual([]);
    const manifests = await Promise.all(confirmed.map((id) => readManifest(this.archive(), id)));
    const used = manifests.flatMap((one) => [...usedParts(one)].map(({ backup, number }) => partName(backup, number)));
    const left = (await this.keys('part/')).map((key) => key.slice(testSystemIdentifier.length + 1));
    expect(left.sort()).toEqual([...new Set(used)].sort());
  }

  /** As if the process that published these plans had ended. */
  async buryPlans(): Promise<void> {
    for (const key of await this.keys('plan/')) {
      const name = key.slice(testSystemIdentifier.length + 1);
      const document = await getDocument(this.archive(), { kind: 'plan', name });
      await this.storage.delete([key]);
      const owner = String(document.owner).replace(/^\d+/, '4194305'); // no process has this id
      await putDocument(this.archive(), { kind: 'plan', name }, { ...document, owner }, { host });
    }
  }
}

/** Two confirmed backups of which the older one goes, one that was given up, and WAL of the segments 1 to 8. */
async function makeOriginal(root: string, stale?: Backup): Promise<void> {
  const archive = await makeArchive(root);
  for (let segment = 1; segment <= 8; segment += 1) await putWal(archive, segment);
  for (const [id, segment] of [
    [old, 2],
    [kept, 5],
  ] as const)
    await push(archive, { id, segment });
  await push(archive, { id: given, segment: 7 }).catch(() => undefined);
  await archive.storage.delete(
    [leaseName(given, 'closed'), `manifest/${given}`].map((name) => objectKey(testSystemIdentifier, name)),
  );
  await putDocument(archive, { kind: 'lease', name: leaseName(given, 'failed') }, { id: given }, { host });
  if (stale === undefined) return;
  const { id, segment } = stale;
  await takeLease(archive, { id, walFloor: BigInt(segment * segmentBytes), timeline: 1, host, log });
  for (const name of [partName(id, 1), partName(id, 2), filesName(id)]) {
    await archive.storage.put(objectKey(testSystemIdentifier, name), Buffer.from('content'));
  }
  const longAgo = new Date(Date.now() - 2 * leaseExpiryMs);
  utimesSync(join(root, testSystemIdentifier, leaseName(id, 1)), longAgo, longAgo);
}

type Work = (place: Place, storage: Storage) => Promise<unknown>;

/** Stops `work` before its request 1, 2, 3 …, or each `stride`th, while `meanwhile` runs through. @returns how many requests it had, at least. */
async function atEveryRequest(
  original: string,
  work: Work,
  /** Each of them; else, where the whole takes minutes, some of them. */
  stride: number,
  then: (place: Place, stopped: { readonly end: () => Promise<unknown> }) => Promise<void>,
): Promise<number> {
  for (let stop = 1; ; stop += process.env.TORTURE === '1' ? 1 : stride) {
    const folder = mkdtempSync(join(memory, 'interleaved-'));
    try {
      const place = new Place(join(folder, 'repo'), original);
      const gated = new GatedStorage(place.storage, stop);
      const ended = work(place, gated).catch((error: unknown) => error);
      await Promise.race([gated.reached, ended]);
      const { hasStopped } = gated;
      const end = () => {
        gated.letOn();
        return ended;
      };
      await then(place, { end });
      if (!hasStopped) return stop - 1;
    } finally {
      removeFolder(folder);
    }
  }
}

async function original(stale?: Backup): Promise<string> {
  const folder = mkdtempSync(join(memory, 'interleaved-'));
  onTestFinished(() => removeFolder(folder));
  const root = join(folder, 'repo');
  mkdirSync(root);
  await makeOriginal(root, stale);
  return root;
}

const isExpected = (outcome: unknown) =>
  outcome === undefined || outcome instanceof CheckError || 'plan' in (outcome as object);

const newer = idOf(7, '0000000c');
const increment = idOf(7, '0000000e').replace('-full-', '-incr-');
const deletes: Work = (place, storage) => place.delete(storage);

// an increment is stopped before each of its requests below
describe.each<[string, Backup, { readonly pushing: number; readonly deleting: number }]>([
  ['of a primary', { id: newer, segment: 7 }, { pushing: 1, deleting: 7 }],
  [
    'of a standby, whose WAL begins before that of the newest',
    { id: idOf(3, '0000000d'), segment: 3 },
    { pushing: 2, deleting: 5 },
  ],
  [
    'that was silent for so long that its lease is dead',
    { id: newer, segment: 7, isStale: true },
    { pushing: 1, deleting: 11 },
  ],
  [
    'that is an increment of the one that goes',
    { id: increment, segment: 7, parent: old },
    { pushing: 3, deleting: 11 },
  ],
])('H27: a backup %s', (_what, backup, strides) => {
  const pushes: Work = (place, storage) => push(place.archive(storage), backup);
  const pairs: [string, Work, Work, number][] = [
    ['is stopped and a deletion runs through', pushes, deletes, 5],
    ['runs through while a deletion is stopped', deletes, pushes, 40],
  ];
  it.each(pairs)('counts only when all that it needs is there: %s', async (_how, stopped, meanwhile, requests) => {
    const root = await original(backup.isStale === true ? backup : undefined);
    const stride = stopped === pushes ? strides.pushing : strides.deleting;
    const count = await atEveryRequest(root, stopped, stride, async (place, { end }) => {
      const first = await meanwhile(place, place.storage).catch((error: unknown) => error);
      await place.confirmed();
      const second = await end();
      for (const outcome of [first, second]) expect(outcome).toSatisfy(isExpected);
      expect((await place.confirmed()).filter((id) => [kept, backup.id].includes(id))).not.toEqual([]);
      await place.expectMended();
    });
    expect(count).toBeGreaterThanOrEqual(requests);
  });
});

describe('H27: a backup of a primary', () => {
  it('is never hindered by a deletion that takes nothing of it', async () => {
    await atEveryRequest(
      await original(),
      (place, storage) => push(place.archive(storage), { id: newer, segment: 7 }),
      3,
      async (place, { end }) => {
        await place.delete();
        expect(await end()).toBeUndefined();
        expect(await place.confirmed()).toContain(newer);
      },
    );
  });
});

describe('H27: an increment', () => {
  it('keeps all that it may need from when its lease names the parent on, though the parent itself goes', async () => {
    const named = objectKey(testSystemIdentifier, leaseName(increment, 2));
    let times = 0;
    await atEveryRequest(
      await original(),
      (place, storage) => push(place.archive(storage), { id: increment, segment: 7, parent: old }),
      1,
      async (place, { end }) => {
        const isNamed = (await place.keys('lease/')).includes(named);
        await place.delete();
        const outcome = await end();
        if (!isNamed) {
          expect(outcome).toSatisfy(isExpected);
          return;
        }
        times += 1;
        expect(outcome).toBeUndefined();
        expect(await place.confirmed()).toContain(increment);
        expect(await place.keys('manifest/')).not.toContain(objectKey(testSystemIdentifier, `manifest/${old}`));
        await place.expectMended();
      },
    );
    expect(times).toBeGreaterThan(5);
  });
});

it('is gone on with by the next deletion, wherever one has died', async () => {
  const count = await atEveryRequest(await original(), deletes, 11, async (place) => {
    expect(await place.confirmed()).toContain(kept);
    await place.buryPlans();
    await place.expectMended();
    expect(await place.confirmed()).toEqual([kept]);
    expect(await place.keys('wal/')).toHaveLength(4);
  });
  expect(count).toBeGreaterThan(40);
});

it('leaves the work to one of two deletions, and never harms', async () => {
  await atEveryRequest(await original(), deletes, 11, async (place, { end }) => {
    const outcomes = [await place.delete().catch((error: unknown) => error), await end()];
    for (const outcome of outcomes) expect(outcome).toSatisfy(isExpected);
    expect(await place.confirmed()).toContain(kept);
    await place.expectMended();
    expect(await place.confirmed()).toEqual([kept]);
  });
});

it('takes no backup that was pinned with success meanwhile', async () => {
  const pins: Work = (place, storage) => pin(place.context(storage), { name: old });
  for (const [stopped, meanwhile] of [
    [deletes, pins],
    [pins, deletes],
  ] as const) {
    await atEveryRequest(await original(), stopped, stopped === pins ? 2 : 13, async (place, { end }) => {
      const outcomes = [await meanwhile(place, place.storage).catch((error: unknown) => error), await end()];
      const pinning = outcomes[stopped === pins ? 1 : 0];
      if (pinning instanceof Error)
        expect([CheckError, NotFoundError].some((one) => pinning instanceof one)).toBe(true);
      else expect(await place.confirmed()).toContain(old);
      await place.confirmed();
    });
  }
});

it('touches nothing that it has not made itself', async () => {
  const place = new Place(await original());
  const foreign = [
    'foreign.txt',
    'drill/1',
    'part/notes/0000001',
    `part/${old}/0000001x`,
    `part/${old}/deeper/0000001`,
    `lease/${old}/note`,
    `pin/${given}/note`,
    'wal/00000001/0000000100000000/note',
    'wal/00000001/00000001000000000000000A',
    'wal/00000001/0000000100000000/deeper/000000010000000000000001',
  ].map((name) => objectKey(testSystemIdentifier, name));
  for (const key of [...foreign, 'another/file', '42/wal/00000001/0000000100000000/000000010000000000000001']) {
    await place.storage.put(key, Buffer.from('foreign'));
  }
  await setPin(place.archive(), { backup: given, until: 'no longer', setAt: new Date() }, { host });
  await place.storage.delete([`pin/${given}/note`].map((name) => objectKey(testSystemIdentifier, name)));
  await place.delete();
  const left = await place.keys();
  for (const key of foreign.filter((key) => !key.includes('/pin/'))) expect(left).toContain(key);
  expect(left.filter((key) => key.includes(given))).toEqual([]);
});
