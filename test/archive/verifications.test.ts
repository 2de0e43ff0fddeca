/** Records of verifications: what they say comes back, hostile ones are refused, and a deletion leaves the newest of each depth. */
import { expect, it, onTestFinished } from 'vitest';
import { verificationName } from '../../src/archive/keys.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import {
  listVerifications,
  newestOfEach,
  parseVerificationName,
  readVerification,
  storeVerification,
  type Verification,
} from '../../src/archive/verifications.ts';
import { deleteBackups } from '../../src/commands/delete.ts';
import { makeArchive } from '../support/backups.ts';
import { CheckedArchive, segmentName } from '../support/checked-archive.ts';
import { makeContext } from '../support/context.ts';

const writer = { host: 'test-host' };
const at = (hour: number) => new Date(Date.UTC(2026, 10, 20, hour));

it('says what was found, and by its name when, and how deep', async () => {
  const archive = makeArchive();
  const shallow: Verification = { backups: [{ id: 'a', isRestorable: true }], wal: undefined };
  const reason = 'x'.repeat(1000);
  const named = Array.from({ length: 30 }, (_, index) => `wal/${index}`);
  await storeVerification(archive, { at: at(8), deep: false, found: shallow }, writer);
  await storeVerification(
    archive,
    {
      at: at(9),
      deep: true,
      found: { backups: [{ id: 'b', isRestorable: false, reason }], wal: { objects: 40, damaged: 30, named } },
    },
    writer,
  );
  const names = await listVerifications(archive);
  expect(names).toMatchObject([
    { at: at(8), deep: false, name: expect.stringMatching(/^verification\/20261120T080000000Z-shallow-[0-9a-f]{8}$/) },
    { at: at(9), deep: true, name: expect.stringMatching(/^verification\/20261120T090000000Z-deep-[0-9a-f]{8}$/) },
  ]);
  const found = await Promise.all(names.map((name) => readVerification(archive, name)));
  expect(found).toEqual([
    shallow,
    {
      backups: [{ id: 'b', isRestorable: false, reason: 'x'.repeat(500) }],
      wal: { objects: 40, damaged: 30, named: named.slice(0, 20) },
    },
  ]);
});

it.each([
  '',
  'verification/',
  'verification/20261120T080000000Z-deep-0badcaf',
  'verification/20261399T080000000Z-deep-0badcafe',
  'pin/20261120T080000000Z-deep-0badcafe',
  'verification/20261120T080000000Z-deep-0badcafe/x',
])('takes %j for none', (name) => expect(parseVerificationName(name)).toBeUndefined());

it.each<readonly [what: string, document: object]>([
  ['no backups', {}],
  ['a backup that is none', { backups: [null] }],
  ['a verdict that is none', { backups: [{ id: 'a', restorable: 'yes' }] }],
  ['a reason that is none', { backups: [{ id: 'a', restorable: false, reason: 1 }] }],
  ['WAL that is none', { backups: [], wal: { objects: 1, damaged: '0', named: [] } }],
])('refuses a record with %s', async (_, document) => {
  const archive = makeArchive();
  const name = verificationName(at(8), true, '0badcafe');
  await putDocument(archive, { kind: 'verification', name }, document, writer);
  await expect(readVerification(archive, { name })).rejects.toThrow('does not say what was found');
});

it('of each depth the newest is left by a deletion, and by one that is only asked for all are', async () => {
  const archive = await CheckedArchive.make();
  onTestFinished(() => archive.remove());
  await archive.wal([segmentName(2)]);
  await archive.backup({ first: 2 });
  const depths = [true, false, true, false, false];
  for (const [hour, deep] of depths.entries()) {
    await storeVerification(archive.archive, { at: at(hour), deep, found: { backups: [] } }, writer);
  }
  const names = await listVerifications(archive.archive);
  const kept = newestOfEach(names);
  expect(kept.map((one) => one.at)).toEqual([at(2), at(4)]);
  const context = makeContext({ WALT_REPO: `file://${archive.root}` }, { workingDirectory: archive.root });
  const planned = await deleteBackups(context, { sweep: true, confirm: false });
  expect(planned.removable.others).toHaveLength(3);
  expect(await listVerifications(archive.archive)).toEqual(names);
  const done = await deleteBackups(context, { sweep: true, confirm: true });
  expect(done.failed).toEqual([]);
  expect(await listVerifications(archive.archive)).toEqual(kept);
});
