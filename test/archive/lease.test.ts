/** Leases: the signs of life that a running backup gives, and how it ends, as new objects each. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, it, onTestFinished, vi } from 'vitest';
import { type LeaseOptions, takeLease } from '../../src/archive/lease.ts';
import { getDocument } from '../../src/archive/sealed-document.ts';
import { StorageError } from '../../src/errors.ts';
import { leaseRenewalMs } from '../../src/limits.ts';
import { openLog } from '../../src/log.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { makeArchive } from '../support/backups.ts';
import { temporaryFolder } from '../support/folders.ts';
import { testSystemIdentifier } from '../support/segment.ts';
import { testBackupId } from '../support/streamed.ts';
import { waitFor } from '../support/wait.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  onTestFinished(() => void vi.useRealTimers());
});

function place(members: Partial<LeaseOptions> = {}) {
  const root = temporaryFolder();
  const archive = makeArchive(undefined, new FileStorage(root, { idleMs: 60_000, requestMs: 60_000 }));
  const lines: string[] = [];
  const log = openLog({ program: 'test', level: 'debug', format: 'text', write: (line) => lines.push(line) });
  const options = { id: testBackupId, walFloor: 0x1_2300_0028n, timeline: 3, host: 'db1', log, ...members };
  const folder = join(root, testSystemIdentifier, 'lease', testBackupId);
  const records = (): string[] => readdirSync(folder).sort();
  const read = (record: string) => getDocument(archive, { kind: 'lease', name: `lease/${testBackupId}/${record}` });
  return { root, archive, options, lines, folder, records, read };
}

const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);

it('H27: is there before the backup goes on, and says from where on WAL must stay', async () => {
  const { archive, options, records, read } = place();
  await takeLease(archive, options);
  expect(records()).toEqual(['000001']);
  expect(await read('000001')).toEqual({
    id: testBackupId,
    host: 'db1',
    record: 1,
    walFloor: '1/23000028',
    timeline: 3,
    writtenAt: time,
  });
});

it('is renewed while the backup goes on, and no more when it is confirmed', async () => {
  const { archive, options, records, read } = place();
  const lease = await takeLease(archive, options);
  for (const last of ['000002', '000003']) {
    await vi.advanceTimersByTimeAsync(leaseRenewalMs);
    await waitFor(last, () => records().includes(last));
  }
  expect(await read('000003')).toMatchObject({ record: 3, walFloor: '1/23000028', timeline: 3 });
  await lease.close();
  expect(vi.getTimerCount()).toBe(0);
  expect(records()).toEqual(['000001', '000002', '000003', 'closed']);
  expect(await read('closed')).toEqual({ id: testBackupId, host: 'db1', closedAt: time });
});

it('tells why the backup was given up, also when its own signal ended it', async () => {
  const controller = new AbortController();
  const { archive, options, records, read } = place({ signal: controller.signal });
  const lease = await takeLease(archive, options);
  controller.abort(new Error('interrupted'));
  await lease.fail('interrupted');
  expect(vi.getTimerCount()).toBe(0);
  expect(records()).toEqual(['000001', 'failed']);
  expect(await read('failed')).toEqual({ id: testBackupId, host: 'db1', failedAt: time, reason: 'interrupted' });
  await expect(lease.close()).rejects.toThrow('interrupted');
  expect(records()).toEqual(['000001', 'failed']);
});

it('warns when a sign of life cannot be stored, and goes on giving them', async () => {
  const { root, archive, options, lines, folder, records } = place();
  await takeLease(archive, options);
  rmSync(join(root, testSystemIdentifier), { recursive: true });
  const { put } = archive.storage;
  archive.storage.put = () => Promise.reject(new StorageError('the storage is down'));
  await vi.advanceTimersByTimeAsync(leaseRenewalMs);
  await waitFor('the warning', () => lines.length > 0);
  expect(lines.join('')).toContain("could not renew the backup's lease: the storage is down");
  archive.storage.put = put;
  await vi.advanceTimersByTimeAsync(leaseRenewalMs);
  await waitFor('the next sign', () => existsSync(join(folder, '000003')));
  expect(records()).toEqual(['000003']);
});

it('is not taken where it cannot be stored, and giving it up never throws', async () => {
  const { root, archive, options } = place();
  const lease = await takeLease(archive, options);
  rmSync(root, { recursive: true });
  await expect(lease.fail('the folder is gone')).resolves.toBeUndefined();
  await expect(lease.close()).rejects.toBeInstanceOf(StorageError);
  await expect(takeLease(archive, options)).rejects.toBeInstanceOf(StorageError);
  expect(vi.getTimerCount()).toBe(0);
});
