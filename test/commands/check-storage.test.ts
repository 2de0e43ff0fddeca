/** What `wal-t check` says of a storage that refuses, hangs, or is not what it was: a real S3 server behind a fault proxy, and a folder behind FUSE. */
import { renameSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { noRepository } from '../../src/archive/repository.ts';
import type { CheckResult } from '../../src/commands/check.ts';
import type { StorageFindings } from '../../src/storage/probe.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { archiveChecks, CheckedArchive, notOk, said, segmentName } from '../support/checked-archive.ts';
import type { When } from '../support/fault-proxy.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { stall } from '../support/network-faults.ts';
import { openProxy } from '../support/proxied.ts';
import { type Fault, fault, wholeOf, withText } from '../support/s3-exchange.ts';
import { S3Server } from '../support/s3-server.ts';
import { openS3Storage } from '../support/s3-storage.ts';
import { accessDenied, ignoreIfNoneMatch, refuse, refuseIfNoneMatch } from '../support/store-faults.ts';

vi.mock('../../src/limits.ts', async (original) =>
  (await import('../support/short-pauses.ts')).withShortPauses(await original()),
);

/** Nothing has been verified or is encrypted here, and that is told in other places. */
const done = archiveChecks.filter((name) => !['verified', 'key-copies', 'checksums'].includes(name));
const impatient = { idleMs: 1000, requestMs: 5000, connectMs: 1000 };

/** All that rests on a check that has failed. */
function resting(on: string): Record<string, string> {
  const others = done.slice(done.indexOf(on) + 1).filter((name) => name !== 'encryption');
  return { [on]: 'failed', ...Object.fromEntries(others.map((name) => [name, 'skipped'])) };
}

let server: S3Server;
beforeAll(async () => {
  server = await S3Server.start();
});
afterAll(() => server.stop());

const honest: StorageFindings = { conditionalPut: 'honoured', delete: 'allowed' };

async function inBucket(findings: StorageFindings = honest) {
  const proxy = await openProxy(server.s3);
  const storage = await openS3Storage(proxy.s3, { times: impatient });
  const archive = await CheckedArchive.make({ storage, findings });
  onTestFinished(() => archive.remove());
  await archive.wal([2, 3].map((number) => segmentName(number)));
  await archive.backup({ first: 2 });
  const look = (): Promise<CheckResult> => archive.look({ only: done }, {}, { openStorage: () => storage });
  return { proxy, storage, look };
}

async function probes(storage: Storage): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of storage.list('probe/')) keys.push(key);
  return keys;
}

/** As if the storage's clock were another: what it says of its objects' times. */
function shiftedTimes(byMs: number): Fault {
  return fault('shifted times', async (request, next) => {
    const answer = await next(request);
    const text = `${await wholeOf(answer)}`;
    const shifted = text.replace(/<LastModified>(.*?)<\/LastModified>/g, (_, time: string) => {
      return `<LastModified>${new Date(Date.parse(time) + byMs).toISOString()}</LastModified>`;
    });
    return withText(answer, shifted);
  });
}

const minuteMs = 60_000;
const clockOnly: When = { kind: 'ListObjects', also: ({ path }) => path.includes('probe') };

interface BucketCase {
  readonly what: string;
  readonly fault: Fault;
  readonly when?: When;
  readonly findings?: StorageFindings;
  readonly expected: Readonly<Record<string, string>>;
  readonly says: RegExp;
  /** What stays behind. */
  readonly left?: readonly string[];
}

const deletes: When = { kind: ['DeleteObject', 'DeleteObjects'] };

const bucketCases: readonly BucketCase[] = [
  { what: 'denies everything', fault: accessDenied, expected: resting('storage'), says: /access denied.*s3:GetObject/ },
  {
    what: 'does not know the key',
    fault: refuse(403, 'InvalidAccessKeyId'),
    expected: resting('storage'),
    says: /access key is not known/,
  },
  {
    what: 'has no such bucket',
    fault: refuse(404, 'NoSuchBucket'),
    expected: resting('storage'),
    says: /bucket "wal-t-test" does not exist/,
  },
  {
    what: 'may not be listed',
    fault: accessDenied,
    when: { kind: 'ListObjects' },
    expected: { ...resting('storage'), archive: 'ok' },
    says: /could not list .*access denied.*s3:ListBucket/,
  },
  {
    what: 'may not be written to',
    fault: accessDenied,
    when: { kind: 'PutObject' },
    expected: { storage: 'failed', clock: 'skipped' },
    says: /could not put .*access denied.*s3:PutObject/,
  },
  {
    what: 'is full',
    fault: refuse(403, 'QuotaExceeded'),
    when: { kind: 'PutObject' },
    expected: { storage: 'failed', clock: 'skipped' },
    says: /quota is used up/,
  },
  {
    what: 'may not be deleted from any more',
    fault: accessDenied,
    when: deletes,
    expected: { storage: 'warning', clock: 'skipped' },
    says: /may not delete any more.*wal-t delete/,
    left: ['probe/check'],
  },
  {
    what: 'could never be deleted from',
    fault: accessDenied,
    when: deletes,
    findings: { conditionalPut: 'honoured', delete: 'denied' },
    expected: { clock: 'skipped' },
    says: /but not deleted from, as when the repository was made/,
    left: ['probe/check'],
  },
  {
    what: 'ignores conditions that it honoured before',
    fault: ignoreIfNoneMatch,
    expected: { storage: 'failed' },
    says: /no longer refuses to overwrite: conditional writes are ignored/,
  },
  {
    what: 'refuses conditions that it honoured before',
    fault: refuseIfNoneMatch,
    expected: { storage: 'failed' },
    says: /conditional writes are refused/,
  },
  {
    what: 'ignores conditions as ever',
    fault: ignoreIfNoneMatch,
    findings: { conditionalPut: 'ignored', delete: 'allowed' },
    expected: {},
    says: /read, written, listed and deleted from/,
  },
  {
    what: 'has a clock that is 5 minutes late',
    fault: shiftedTimes(-5 * minuteMs),
    when: clockOnly,
    expected: { clock: 'warning' },
    says: /this host's clock is (4|5) min( \d+ s)? ahead of the storage's.*chrony/,
  },
  {
    what: 'has a clock that is 20 minutes early',
    fault: shiftedTimes(20 * minuteMs),
    when: clockOnly,
    expected: { clock: 'failed' },
    says: /this host's clock is (19|20) min( \d+ s)? behind the storage's/,
  },
  {
    what: 'has a clock that is some seconds late',
    fault: shiftedTimes(-20_000),
    when: clockOnly,
    expected: {},
    says: /agree on the time/,
  },
];

describe('a bucket', () => {
  it('is left as it was found', async () => {
    const { proxy, storage, look } = await inBucket();
    expect(notOk(await look())).toEqual({});
    expect(await probes(storage)).toEqual([]);
    const { host } = new URL(proxy.s3.endpoint);
    expect(JSON.stringify(await look())).not.toMatch(new RegExp(`${proxy.s3.secretAccessKey}|${host}@`));
  });

  it.each(bucketCases.map((one) => [one.what, one] as const))('that %s is told of', async (_, one) => {
    const { proxy, storage, look } = await inBucket(one.findings);
    proxy.inject(one.fault, one.when);
    const result = await look();
    expect({ archive: 'ok', ...notOk(result) }).toEqual({ archive: 'ok', ...one.expected });
    expect(['storage', 'clock'].map((name) => said(result, name)).join('\n')).toMatch(one.says);
    expect(JSON.stringify(result)).not.toContain(proxy.s3.secretAccessKey);
    if (one.left !== undefined) await look(); // what stays behind is one object, however often it is looked at
    proxy.heal();
    expect(await probes(storage)).toEqual([...(one.left ?? [])]);
  });

  it('whose endpoint is dead is told of', async () => {
    const { proxy, look } = await inBucket();
    await proxy.down();
    const result = await look();
    expect(notOk(result)).toEqual(resting('storage'));
    expect(said(result, 'storage')).toMatch(/connection refused \| .*Is the endpoint http:\/\/127\.0\.0\.1:\d+/s);
  });

  it('that hangs is told of in time, by its name', async () => {
    const { proxy, storage, look } = await inBucket();
    proxy.inject(stall);
    const result = await look();
    expect(notOk(result)).toEqual(resting('storage'));
    expect(said(result, 'storage')).toContain(storage.url);
    expect(said(result, 'storage')).toMatch(/no answer for 1 s/);
  });

  it('that hangs over one thing does not keep the others from being told', async () => {
    const { proxy, look } = await inBucket();
    proxy.inject(stall, { kind: 'ListObjects', also: ({ path }) => /lease|manifest/.test(path) });
    const result = await look();
    expect(notOk(result)).toMatchObject({ backups: 'failed' });
    expect(notOk(result)).not.toHaveProperty('storage');
    expect(said(result, 'backups')).toMatch(/no answer for 1 s/);
  });
});

describe.runIf(hasFaultyFs)('a folder', () => {
  async function inFolder() {
    const archive = await CheckedArchive.make();
    onTestFinished(() => archive.remove());
    await archive.wal([2, 3].map((number) => segmentName(number)));
    await archive.backup({ first: 2 });
    const mounted = await FaultyFs.mount(archive.root);
    const settings = { WALT_REPO: `file://${mounted.path}`, WALT_IDLE_TIMEOUT: '1s' };
    return { archive, mounted, look: () => archive.look({ only: done }, settings) };
  }

  it('that is not mounted is told of', async () => {
    const { archive, mounted, look } = await inFolder();
    expect(notOk(await look())).toEqual({});
    renameSync(`${archive.root}/repository.json`, `${archive.folder}/repository.json`);
    const result = await look();
    expect(notOk(result)).toEqual(resting('storage'));
    const { message } = noRepository({ url: `file://${mounted.path}` } as Storage);
    expect(said(result, 'storage')).toContain(message);
    expect(said(result, 'storage')).toContain('its folder is not mounted');
  });

  it.each([
    ['is full', { spaceBytes: 0 }, /no space left on device/],
    ['may only be read', { fail: { create: 'EROFS', mkdir: 'EROFS' } }, /read-only file system/],
    ['may not be written to', { fail: { create: 'EACCES', mkdir: 'EACCES' } }, /permission denied/],
  ] as const)('that %s is told of', async (_, behaviour, says) => {
    const { archive, mounted, look } = await inFolder();
    const before = archive.files();
    await mounted.set(behaviour);
    const result = await look();
    expect(notOk(result)).toEqual({ storage: 'failed', clock: 'skipped' });
    expect(said(result, 'storage')).toMatch(says);
    await mounted.set({});
    expect(notOk(await look())).toEqual({});
    expect(archive.files()).toEqual(before);
  });

  it('that hangs is told of in time, by its name', async () => {
    const { mounted, look } = await inFolder();
    await mounted.set({ hang: ['*'] });
    const result = await look();
    await mounted.set({});
    expect(notOk(result)).toEqual(resting('storage'));
    expect(said(result, 'storage')).toContain(mounted.path);
  });
});
