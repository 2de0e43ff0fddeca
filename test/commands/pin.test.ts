/** Pins: what is pinned until when, told by records that are never changed; and which backups can be pinned. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { leaseName } from '../../src/archive/keys.ts';
import { readPins, setPin } from '../../src/archive/pins.ts';
import type { Pin } from '../../src/archive/retention-state.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { pin, unpin } from '../../src/commands/pin.ts';
import { makeArchive as emptyArchive } from '../support/backups.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { forgedId, makeArchive, storeForged } from '../support/forged-backup.ts';

const failedId = '20261120T090000Z-000000010000000000000003-full-0badcafe';

async function place() {
  const root = join(temporaryFolder(), 'repo');
  mkdirSync(root);
  const archive = await makeArchive(root);
  await storeForged(archive, { parts: [Buffer.from('x')], list: (parts) => parts.map((part) => ({ ...part })) });
  await putDocument(archive, { kind: 'lease', name: leaseName(failedId, 'failed') }, {}, { host: 'test-host' });
  const context = makeContext({ WALT_REPO: `file://${root}` }, { workingDirectory: root });
  return { context, pins: () => readPins(archive) };
}

it('keeps a backup for ever, or until a time, or no longer', async () => {
  const { context, pins } = await place();
  expect(await pin(context, { name: forgedId })).toEqual({ backup: forgedId, until: 'for ever' });
  expect(await pins()).toEqual([{ backup: forgedId, until: 'for ever' }]);
  const until = new Date('2999-12-30T23:00:00Z');
  expect(await pin(context, { name: 'LATEST', until: '2999-12-31 00:00+01' })).toEqual({ backup: forgedId, until });
  expect(await pins()).toEqual([{ backup: forgedId, until }]);
  expect(await unpin(context, { name: forgedId })).toEqual({ backup: forgedId, until: 'no longer' });
  expect(await pins()).toEqual([]);
  await pin(context, { name: forgedId, until: '2999-12-31' });
  expect(await pins()).toEqual([{ backup: forgedId, until: new Date(2999, 11, 31) }]); // of this host's zone
});

it.each<readonly [what: string, name: string, until: string | undefined, exitCode: number]>([
  ['an unknown backup', failedId.replace('09', '10'), undefined, 1],
  ['a failed backup', failedId, undefined, 8],
  ['a time in the past', forgedId, '2020-01-01 00:00Z', 2],
  ['a date in the past', forgedId, '2020-01-01', 2],
  ['a date that does not exist', forgedId, '2999-02-30', 2],
  ['no date', forgedId, 'tomorrow', 2],
])('refuses %s', async (_, name, until, exitCode) => {
  const { context, pins } = await place();
  await expect(pin(context, { name, until })).rejects.toMatchObject({ exitCode });
  expect(await pins()).toEqual([]);
});

it('believes the record that was set last, whatever the clocks of those say who set it', async () => {
  const ids = [forgedId, failedId];
  const until = fc.oneof(
    fc.constantFrom('for ever' as const, 'no longer' as const),
    fc.date({ min: new Date(0), max: new Date('9000-01-01'), noInvalidDate: true }),
  );
  const clock = fc.integer({ min: -3, max: 3 }).map((offsetMs) => new Date(Date.UTC(2026, 10, 20) + offsetMs));
  const record = fc.record({ backup: fc.constantFrom(...ids), until, setAt: clock });
  await fc.assert(
    fc.asyncProperty(fc.array(record, { maxLength: 8 }), async (records) => {
      const archive = emptyArchive();
      for (const one of records) await setPin(archive, one, { host: 'test-host' });
      const expected = ids.flatMap((backup): Pin[] => {
        const last = records.findLast((one) => one.backup === backup)?.until ?? 'no longer';
        return last === 'no longer' ? [] : [{ backup, until: last }];
      });
      expect(await readPins(archive)).toEqual(expected);
      const stored: string[] = [];
      for await (const { key } of archive.storage.list(`${archive.systemIdentifier}/pin/`)) stored.push(key);
      expect(stored).toHaveLength(records.length);
    }),
    { numRuns: 40 },
  );
});
