/** What `wal-t check` says of an archive: each thing that is wrong changes its own check, and no other; nothing stays behind. */
import { expect, it, onTestFinished } from 'vitest';
import { manifestName, objectKey } from '../../src/archive/keys.ts';
import { listVerifications, storeVerification, type Verification } from '../../src/archive/verifications.ts';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import type { CheckArguments } from '../../src/commands/check.ts';
import { verify } from '../../src/commands/verify.ts';
import { deepVerifyMaxAgeMs } from '../../src/limits.ts';
import { archiveChecks, CheckedArchive, notOk, said, segmentName } from '../support/checked-archive.ts';
import { makeContext } from '../support/context.ts';
import { flipByte } from '../support/recovery.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const dayMs = 86_400_000;
const names = (...numbers: readonly number[]) => numbers.map((number) => segmentName(number));

function keyPair() {
  const text = generateIdentity();
  const identity = parseIdentity(text);
  return { text, identity, recipient: formatRecipient(identity) };
}
const [alice, bob, carol] = [keyPair(), keyPair(), keyPair()];
const aliceKeys: Keys = { ...noKeys, recipients: [alice.identity, bob.identity], identities: [alice.identity] };
const sealed = { WALT_AGE_RECIPIENTS: `${alice.recipient} ${bob.recipient}` };
const opened = { ...sealed, WALT_AGE_IDENTITY: alice.text };

type Settings = Readonly<Record<string, string>>;

interface Case {
  readonly what: string;
  /** Beside what is sound: WAL 2 to 6, a backup in 2, verified to the last byte. */
  readonly make?: (archive: CheckedArchive) => Promise<unknown>;
  readonly keys?: Keys;
  readonly settings?: Settings;
  readonly args?: Partial<CheckArguments> | ((archive: CheckedArchive) => Partial<CheckArguments>);
  /** The checks that are not ok. */
  readonly expected: Readonly<Record<string, string>>;
  /** What the first of them says. */
  readonly says?: string | RegExp;
}

async function sound(keys: Keys = noKeys): Promise<CheckedArchive> {
  const archive = await CheckedArchive.make({ keys });
  onTestFinished(() => archive.remove());
  await archive.wal(names(2, 3, 4, 5, 6));
  const id = await archive.backup({ first: 2, last: 3 });
  await verified(archive, { backups: [{ id, isRestorable: true }] });
  return archive;
}

function verified({ archive }: CheckedArchive, found: Verification, { agoMs = 1000, deep = true } = {}) {
  const at = new Date(Date.now() - agoMs);
  return storeVerification(archive, { at, deep, found }, { host: 'test-host' });
}

const plain = { 'key-copies': 'skipped' };
const shut = { checksums: 'skipped' };

const cases: readonly Case[] = [
  { what: 'all is well', expected: plain },
  { what: 'all is well, encrypted', keys: aliceKeys, settings: opened, expected: {} },
  { what: 'this host may only encrypt', keys: aliceKeys, settings: sealed, expected: shut },

  // archive
  {
    what: 'nothing of this cluster is archived',
    settings: { WALT_SYSTEM_IDENTIFIER: '7000000000000000000' },
    expected: without('archive', 'settings', 'storage', 'clock', 'encryption'),
    says: /nothing of this cluster is archived.*7000000000000000000.*pg_switch_wal.*correct WALT_REPO/,
  },
  {
    what: 'the cluster was archived elsewhere before',
    args: (archive) => ({ dataDirectory: archive.dataDirectory('00000000-0000-4000-8000-000000000000') }),
    expected: { ...plain, archive: 'failed' },
    says: /is another repository than the one this cluster was archived into.*init --adopt/,
  },

  // encryption and key-copies
  {
    what: 'what is archived is plain, though recipients are set',
    settings: sealed,
    expected: { encryption: 'failed' },
    says: /newest archived WAL is not encrypted.*archive_command runs with other settings/,
  },
  {
    what: 'what is archived is encrypted, though no recipients are set',
    keys: aliceKeys,
    expected: { ...plain, ...shut, encryption: 'warning' },
    says: /newest archived WAL is encrypted, though no recipients are set here/,
  },
  {
    what: 'the identity is none of the recipients',
    keys: aliceKeys,
    settings: { ...sealed, WALT_AGE_IDENTITY: carol.text },
    expected: { ...shut, encryption: 'failed' },
    says: /fits none of the recipients.*age-keygen -y/,
  },
  {
    what: 'the identity is one of the recipients and does not open what is stored',
    keys: { ...noKeys, recipients: [bob.identity] },
    settings: { WALT_AGE_RECIPIENTS: `${alice.recipient} ${bob.recipient}`, WALT_AGE_IDENTITY: alice.text },
    expected: { ...shut, encryption: 'failed' },
    says: /cannot be opened/,
  },
  {
    what: 'the identity opens manifests alone',
    keys: { ...aliceKeys, manifestRecipients: [carol.identity] },
    settings: { ...sealed, WALT_AGE_MANIFEST_RECIPIENTS: carol.recipient, WALT_AGE_IDENTITY: carol.text },
    expected: {},
  },
  {
    what: 'an identity, and nobody to encrypt to',
    keys: aliceKeys,
    settings: { WALT_AGE_IDENTITY: alice.text },
    expected: { ...plain, encryption: 'failed' },
    says: /no recipient: nothing would be encrypted/,
  },
  {
    what: 'a key that is none',
    settings: { WALT_AGE_RECIPIENTS: 'age1nonsense' },
    expected: { ...shut, 'key-copies': 'skipped', encryption: 'failed', holes: 'skipped' },
    says: /WALT_AGE_RECIPIENTS/,
  },
  {
    what: 'this host alone holds what opens the archive',
    keys: { ...aliceKeys, recipients: [alice.identity] },
    settings: { WALT_AGE_RECIPIENTS: alice.recipient, WALT_AGE_IDENTITY: alice.text },
    expected: { 'key-copies': 'warning' },
    says: /is lost with it.*--skip key-copies/,
  },

  // wal
  {
    what: 'the newest WAL is old, and no server can be asked',
    make: async (archive) => archive.ageWal(dayMs),
    expected: { ...plain, wal: 'warning' },
    says: /came 1 d ago.*000000010000000000000006; it may be 15 min.*no server could be asked/,
  },

  // holes
  {
    what: 'a segment behind the newest backup is missing',
    make: async (archive) => lose(archive, 4),
    expected: { ...plain, holes: 'failed' },
    says: /behind the newest backup: "000000010000000000000004" is missing.*wal-push pg_wal\/000000010000000000000004/,
  },
  {
    what: 'the same, seen by a host that has no identity',
    keys: aliceKeys,
    settings: sealed,
    make: async (archive) => lose(archive, 4),
    expected: { ...shut, holes: 'failed' },
    says: /"000000010000000000000004" is missing.*seen by names alone/,
  },
  {
    what: 'a segment that the newest backup itself needs is missing, and nothing is behind it',
    make: async (archive) => lose(archive, 3, 4, 5, 6),
    expected: { ...plain, holes: 'failed' },
    says: /"000000010000000000000003" is missing/,
  },
  {
    what: 'a segment behind an older backup is missing',
    make: async (archive) => {
      await archive.backup({ first: 5, last: 5, ageMs: 1000 });
      lose(archive, 4);
      await archive.wal([]);
    },
    // the backup in 2 is consistent in 3, and the next begins in 5: so a policy would leave it
    expected: plain,
  },
  {
    what: 'a segment in the middle of the WAL of an older backup is missing',
    make: async (archive) => {
      await archive.wal(names(7, 8));
      await archive.backup({ first: 7, last: 7, ageMs: 1000 });
      lose(archive, 5);
    },
    expected: { ...plain, holes: 'warning' },
    says: /behind an older backup: "000000010000000000000005" is missing.*Newer backups are not concerned/,
  },
  {
    what: 'WAL of a timeline, and not its history',
    make: async (archive) => archive.wal([segmentName(7, 2)]),
    expected: { ...plain, holes: 'failed' },
    says: /"00000002\.history" is missing, and WAL of timeline 2 is there.*wal-push pg_wal\/00000002\.history/,
  },
  {
    what: 'a history that is damaged',
    make: async (archive) => {
      await archive.wal(['00000002.history'], '1\t0/700000\tno recovery target specified\n');
      await archive.wal([segmentName(7, 2)]);
      flipByte(`${archive.root}/${testSystemIdentifier}/wal/history/00000002.history`);
    },
    expected: { ...plain, holes: 'failed' },
    says: /00000002\.history.*is damaged/,
  },
  {
    what: 'a timeline that the newest backup leads to',
    make: async (archive) => {
      await archive.wal(['00000002.history'], '1\t0/700000\tno recovery target specified\n');
      await archive.wal([segmentName(7, 2)]);
    },
    expected: plain,
  },
  {
    what: 'a timeline to which no backup leads',
    make: async (archive) => {
      await archive.wal(['00000002.history'], '1\t0/200000\tno recovery target specified\n');
      await archive.wal([segmentName(2, 2), segmentName(3, 2)]);
    },
    expected: { ...plain, holes: 'failed' },
    says: /no confirmed backup leads to timeline 2.*Take a backup now/,
  },

  // backups
  {
    what: 'the newest backup is too old',
    args: { maxBackupAgeMs: 60_000 },
    expected: { ...plain, backups: 'failed' },
    says: /was begun 1 h ago.*it may be 1 min \(--max-backup-age\).*basebackup-push/,
  },
  {
    what: 'a backup failed since',
    make: async (archive) => archive.backup({ first: 4, ageMs: 1000, state: 'failed' }),
    expected: { ...plain, backups: 'warning' },
    says: /-full-[0-9a-f]{8} failed \| the disk was full/,
  },
  {
    what: 'the same, seen by a host that has no identity',
    keys: aliceKeys,
    settings: sealed,
    make: async (archive) => archive.backup({ first: 4, ageMs: 1000, state: 'failed' }),
    expected: { ...shut, backups: 'warning' },
    says: /failed \| why cannot be read on this host/,
  },
  {
    what: 'a backup died since, and one before it',
    make: async (archive) => {
      await archive.backup({ first: 4, ageMs: 2000, state: 'failed' });
      await archive.backup({ first: 4, ageMs: 1000, state: 'dead' });
    },
    expected: { ...plain, backups: 'warning' },
    says: /failed, and 1 more since the newest confirmed one \| it gave no sign of life any more/,
  },
  {
    what: 'a backup was not confirmed since',
    make: async (archive) => archive.backup({ first: 4, ageMs: 1000, state: 'unconfirmed' }),
    expected: { ...plain, backups: 'warning' },
    says: /was never confirmed.*nobody saw all of its parts/,
  },
  {
    what: 'a backup failed before',
    make: async (archive) => archive.backup({ first: 2, ageMs: 2 * dayMs, state: 'failed' }),
    expected: plain,
  },
  {
    what: 'a backup is being taken',
    make: async (archive) => archive.backup({ first: 4, ageMs: 1000, state: 'running' }),
    expected: plain,
  },

  // checksums
  {
    what: 'pages were damaged when the newest backup was taken',
    make: async (archive) => {
      const pages = [
        { path: 'base/5/16384', block: 7 },
        { pathHex: '636166e9', block: 0 },
      ] as const;
      await archive.backup({ first: 4, ageMs: 1000, manifest: { badPages: { count: 9, pages } } });
    },
    expected: { ...plain, checksums: 'failed' },
    says: /^9 pages.*block 7 of "base\/5\/16384", block 0 of "\\x636166e9", and 4 more.*Keep the older backups/,
  },
  {
    what: 'the cluster has no page checksums',
    make: async (archive) => archive.backup({ first: 4, ageMs: 1000, manifest: { checksums: false } }),
    expected: { ...plain, checksums: 'skipped' },
    says: /no page checksums/,
  },
  {
    what: 'the manifest of the newest backup is damaged',
    make: async (archive) => {
      const id = await archive.backup({ first: 4, ageMs: 1000 });
      flipByte(`${archive.root}/${objectKey(testSystemIdentifier, manifestName(id))}`);
    },
    expected: { ...plain, checksums: 'failed', holes: 'warning' },
    says: /manifest\/.* is damaged/,
  },

  // verified
  {
    what: 'a backup cannot be restored',
    make: async (archive) => {
      const id = await archive.backup({ first: 4, ageMs: 1000 });
      const backups = [{ id, isRestorable: false, reason: 'part 1 is missing' }];
      await verified(archive, { backups }, { deep: false, agoMs: 0 });
    },
    expected: { ...plain, verified: 'failed' },
    says: /cannot be restored \| part 1 is missing; found by "wal-t verify" of/,
  },
  {
    what: 'what was read to the last byte was damaged, and a later look did not read it',
    make: async (archive) => {
      await verified(archive, { backups: [], wal: { objects: 5, damaged: 1, named: ['wal/x'] } }, { agoMs: 500 });
      await verified(archive, { backups: [] }, { deep: false, agoMs: 0 });
    },
    expected: { ...plain, verified: 'failed' },
    says: /a WAL file is damaged \| wal\/x; found by "wal-t verify --deep"/,
  },
  {
    what: 'a backup could not be restored, and is gone',
    make: async (archive) => {
      const backups = [{ id: '20260101T000000Z-000000010000000000000002-full-0badcafe', isRestorable: false }];
      await verified(archive, { backups }, { agoMs: 0 });
    },
    expected: plain,
  },
  {
    what: 'a backup could not be restored, and can be now',
    make: async (archive) => {
      const id = await archive.backup({ first: 4, ageMs: 1000 });
      await verified(archive, { backups: [{ id, isRestorable: false }] }, { agoMs: 500 });
      await verified(archive, { backups: [{ id, isRestorable: true }] }, { agoMs: 0 });
    },
    expected: plain,
  },
];

/** Where one check has failed on which the others rest. */
function without(broken: string, ...fine: readonly string[]): Record<string, string> {
  const before = ['encryption', ...fine];
  const others = archiveChecks.filter((name) => !before.includes(name)).map((name) => [name, 'skipped']);
  return { ...Object.fromEntries(others), [broken]: 'failed' };
}

/** WAL that did not come just now: a hole in it is one, and not on its way. */
function lose(archive: CheckedArchive, ...numbers: readonly number[]): void {
  for (const number of numbers) archive.lose(segmentName(number));
  archive.ageWal(10 * 60_000);
}

it.each(cases.map((one) => [one.what, one] as const))('says so when %s', async (_, one) => {
  const archive = await sound(one.keys);
  await one.make?.(archive);
  const args = typeof one.args === 'function' ? one.args(archive) : one.args;
  const before = archive.files();
  const result = await archive.look(args, one.settings);
  expect({ what: one.what, found: notOk(result), ...(one.says === undefined ? {} : { result }) }).toMatchObject({
    found: one.expected,
  });
  expect(Object.keys(notOk(result)).sort()).toEqual(Object.keys(one.expected).sort());
  if (one.says !== undefined) {
    const order = ['failed', 'warning', 'skipped'];
    const told = Object.keys(one.expected).filter((name) => said(result, name).match(one.says ?? '') !== null);
    const worst = Object.values(one.expected).sort((a, b) => order.indexOf(a) - order.indexOf(b))[0];
    expect(told.map((name) => one.expected[name])).toContain(worst);
  }
  expect(archive.files()).toEqual(before);
  const text = JSON.stringify(result);
  for (const { text: secret } of [alice, carol]) expect(text).not.toContain(secret);
});

it('says so when there is nothing to restore from', async () => {
  const archive = await CheckedArchive.make();
  onTestFinished(() => archive.remove());
  const fresh = {
    ...plain,
    wal: 'failed',
    holes: 'skipped',
    backups: 'failed',
    checksums: 'skipped',
    verified: 'warning',
  };
  expect(notOk(await archive.look())).toEqual(fresh);
  await archive.wal(names(2));
  expect(notOk(await archive.look())).toEqual({ ...fresh, wal: undefined });
  const running = await archive.backup({ first: 2, state: 'running' });
  const result = await archive.look();
  expect(said(result, 'backups')).toContain(`${running} is being taken | Wait`);
  expect(said(result, 'verified')).toContain('wal-t verify --deep');
});

it('waits for WAL that is on its way', async () => {
  const archive = await sound();
  archive.lose(segmentName(4));
  const looking = archive.look({ only: ['holes'] });
  await archive.wal(names(4));
  expect(notOk(await looking)).toEqual({});
});

it('tells figures', async () => {
  const archive = await sound();
  const { findings } = await archive.look();
  const figures = Object.assign({}, ...findings.map((finding) => finding.figures)) as Record<string, number>;
  expect(figures).toMatchObject({
    clock_skew_seconds: 0,
    wal_segments: 5,
    backups_confirmed: 1,
    backups_failed: 0,
    backups_unconfirmed: 0,
    backups_running: 0,
    newest_backup_bytes: 0,
    checksum_failures: 0,
  });
  for (const name of ['storage_probe_seconds', 'wal_age_seconds', 'backup_age_seconds', 'verified_deep_age_seconds']) {
    expect(figures[name]).toBeGreaterThanOrEqual(0);
  }
  expect(figures.restorable_from_timestamp_seconds).toBeLessThan(Date.now() / 1000);
});

it('says so when every byte was read long ago, or never', async () => {
  const archive = await CheckedArchive.make();
  onTestFinished(() => archive.remove());
  await verified(archive, { backups: [] }, { deep: false });
  const never = await archive.look({ only: ['verified'] });
  expect(never).toMatchObject({ level: 'warning' });
  expect(said(never, 'verified')).toContain('never read to the last byte');
  await verified(archive, { backups: [] }, { agoMs: deepVerifyMaxAgeMs + dayMs });
  const old = await archive.look({ only: ['verified'] });
  expect(said(old, 'verified')).toContain('every stored byte was last read 36 d ago');
  await verified(archive, { backups: [] }, { agoMs: deepVerifyMaxAgeMs - dayMs });
  expect(notOk(await archive.look({ only: ['verified'] }))).toEqual({});
});

it('finds what verify has left, sealed like a manifest, and only when it looked at all backups', async () => {
  const archive = await CheckedArchive.make({ keys: aliceKeys });
  onTestFinished(() => archive.remove());
  await archive.wal(names(2, 3));
  const id = await archive.backup({ first: 2 }); // its list of files is missing
  const run = (settings: Settings, name?: string) => {
    const context = makeContext(
      { WALT_REPO: `file://${archive.root}`, ...settings },
      { workingDirectory: archive.root },
    );
    return verify(context, { name, deep: false }).then(() => context.lines);
  };
  await run(opened, 'LATEST');
  expect(await listVerifications(archive.archive)).toEqual([]);
  expect((await run({ WALT_AGE_IDENTITY: alice.text })).join('')).toContain('is not recorded');
  expect(await listVerifications(archive.archive)).toEqual([]);
  expect(await run(opened)).toEqual([]);
  expect(await listVerifications(archive.archive)).toMatchObject([{ deep: false }]);
  const result = await archive.look({}, opened);
  expect(notOk(result)).toEqual({ verified: 'failed' });
  expect(said(result, 'verified')).toContain(`backup ${id} cannot be restored`);
  const shutResult = await archive.look({}, sealed);
  expect(notOk(shutResult)).toEqual({ ...shut, verified: 'warning' }); // it was never deep
  expect(said(shutResult, 'verified')).toContain('cannot be read on this host');
  const { keys } = await verify(
    makeContext({ WALT_REPO: `file://${archive.root}`, ...opened }, { workingDirectory: archive.root }),
    { deep: false },
  );
  expect(keys.unknown.count).toBe(0);
});

it('never changes its level by what it was not asked for', async () => {
  const archive = await sound();
  lose(archive, 4);
  expect(await archive.look({ only: ['wal', 'backups'] })).toMatchObject({ level: 'ok' });
  expect(await archive.look({ skip: ['holes'] })).toMatchObject({ level: 'ok' });
  expect(notOk(await archive.look({ skip: ['archive'] }))).toMatchObject({ wal: 'skipped', holes: 'skipped' });
  await expect(archive.look({ only: ['hole'] })).rejects.toThrow('there is no check "hole"');
});
