/** Which backup an increment is taken over, and in which words a full one is taken instead: as far as no server is needed to tell. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BackupManifest } from '../../../src/archive/manifest.ts';
import { chooseParent, type NoParent, type Parent, whyTooLate } from '../../../src/commands/basebackup-push/parent.ts';
import type { BasebackupPushArguments, Push } from '../../../src/commands/basebackup-push/push.ts';
import { CheckError } from '../../../src/errors.ts';
import { makeArchive } from '../../support/backups.ts';
import { makeContext } from '../../support/context.ts';
import { temporaryFolder } from '../../support/folders.ts';
import { plainManifest } from '../../support/forged-backup.ts';
import { madeId, storeMade } from '../../support/made-increment.ts';

type Facts = Partial<Push['server']['facts']>;

interface Asked {
  /** One confirmed backup a minute from the first on, with these members in its manifest. */
  readonly backups: readonly Partial<BackupManifest>[];
  readonly args?: Partial<BasebackupPushArguments>;
  readonly facts?: Facts;
  /** Text of the server's history. */
  readonly history?: string;
}

const lsn = 0x1000n;

async function choose({ backups, args = {}, facts = {}, history }: Asked): Promise<Parent | NoParent> {
  const archive = makeArchive();
  for (const [minute, manifest] of backups.entries()) {
    const startedAt = `2026-11-20T08:${String(minute).padStart(2, '0')}:00.000Z`;
    const id = madeId(minute, manifest.type === 'full' || minute === 0 ? 'full' : 'incr');
    await storeMade(archive, { id, parts: [], files: [], manifest: { startedAt, consistentLsn: lsn, ...manifest } });
  }
  const dataDirectory = temporaryFolder();
  mkdirSync(join(dataDirectory, 'pg_wal'));
  if (history !== undefined) writeFileSync(join(dataDirectory, 'pg_wal/00000002.history'), history);
  const { checksums, pageBytes: pageSizeBytes, postgres, timeline } = plainManifest;
  const major = Math.floor(postgres.versionNumber / 10_000);
  const server = { facts: { checksums, pageSizeBytes, major, timeline, ...facts } };
  const push = {
    ...makeContext({}, { workingDirectory: dataDirectory }),
    ...{ archive, server, dataDirectory, args: { incremental: true, ...args } },
    startedAt: new Date('2026-11-20T12:00:00Z'),
  };
  return chooseParent(push as unknown as Push);
}

const idOf = (found: Parent | NoParent) => ('manifest' in found ? found.manifest.id : found.reason);

describe('the parent of an increment', () => {
  it('is the newest that is confirmed', async () => {
    expect(idOf(await choose({ backups: [{}, {}] }))).toBe(madeId(1));
    expect(idOf(await choose({ backups: [] }))).toMatch(/no confirmed backup/);
  });

  it.each<[string, Partial<BackupManifest>, Facts, RegExp]>([
    ['H39: page checksums were switched', { checksums: !plainManifest.checksums }, {}, /page checksums were/],
    ['it is of another major version', {}, { major: 99 }, /another major version/],
    ['its pages have another size', { pageBytes: 16_384 }, {}, /another size/],
    ['it holds broken pages that nobody knows', { badPages: { count: 2, pages: [] } }, {}, /broken pages/],
    ['H38: it is of a timeline that the server never was on', { timeline: 7 }, {}, /not in this server's history/],
  ])('is none of which %s: the reason is said', async (_what, manifest, facts, says) => {
    expect(idOf(await choose({ backups: [manifest], facts }))).toMatch(says);
  });

  it('H38: is the newest from before the fork, and none that went on behind it', async () => {
    const history = `1\t0/2000\tno recovery target specified\n`;
    const backups = [{ consistentLsn: 0x1000n }, { consistentLsn: 0x2000n }, { consistentLsn: 0x2001n }];
    expect(idOf(await choose({ backups, facts: { timeline: 2 }, history }))).toBe(madeId(1));
    expect(idOf(await choose({ backups, facts: { timeline: 2 } }))).toMatch(/"00000002.history".* nowhere to be found/);
  });

  it('H38: must not end behind where the increment begins: a standby may begin at an older restartpoint', async () => {
    const found = await choose({ backups: [{}] });
    if (!('manifest' in found)) throw new Error(found.reason);
    expect(whyTooLate(found, lsn)).toBeUndefined();
    expect(whyTooLate(found, lsn - 1n)).toMatch(/ends at 0\/1000, and this backup begins at 0\/FFF, before that/);
  });

  it('is none when a full backup is due, by the age of the last full one', async () => {
    const backups = [{}, {}, {}];
    const hour = 3_600_000;
    expect(await choose({ backups, args: { fullEveryMs: 3 * hour } })).toMatchObject({
      reason: expect.stringMatching(/the last full backup is .* old/),
      isDue: true,
    });
    expect(idOf(await choose({ backups, args: { fullEveryMs: 5 * hour } }))).toBe(madeId(2));
    expect(idOf(await choose({ backups: [], args: { fullEveryMs: hour } }))).toBe('there is no full backup yet');
    // who asks for a parent gets it
    expect(idOf(await choose({ backups, args: { fullEveryMs: hour, parent: madeId(1) } }))).toBe(madeId(1));
  });

  it('that is asked for by its name is taken, or refused', async () => {
    expect(idOf(await choose({ backups: [{}, {}], args: { parent: madeId(0) } }))).toBe(madeId(0));
    const unfit = choose({ backups: [{ timeline: 7 }, {}], args: { parent: madeId(0) } });
    await expect(unfit).rejects.toBeInstanceOf(CheckError);
    await expect(choose({ backups: [{}], args: { parent: 'nobody' } })).rejects.toThrow(/no backup "nobody"/);
  });
});
