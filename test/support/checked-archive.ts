/** An archive made without a server, for tests of `wal-t check`: WAL, histories and backups in whichever state, and the checks on it. */
import { mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Archive } from '../../src/archive/archive.ts';
import { makeBackupId } from '../../src/archive/backup-id.ts';
import { leaseName, objectKey, walObjectName } from '../../src/archive/keys.ts';
import { type BackupManifest, storeManifest } from '../../src/archive/manifest.ts';
import { enterCluster, makeRepository } from '../../src/archive/repository.ts';
import { putDocument } from '../../src/archive/sealed-document.ts';
import { storeWalFile, walIdentity } from '../../src/archive/wal-archive.ts';
import { bytesOf } from '../../src/bytes.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { sealObject } from '../../src/codec/object.ts';
import { type CheckArguments, type CheckResult, check } from '../../src/commands/check.ts';
import type { Context } from '../../src/commands/context.ts';
import type { Lsn } from '../../src/postgres/lsn.ts';
import { parseWalFileName, segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { StorageFindings } from '../../src/storage/probe.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { testManifest } from './backups.ts';
import { makeContext } from './context.ts';
import { filesBelow, makeFolder, removeFolder } from './folders.ts';
import { makeSegment, testSystemIdentifier } from './segment.ts';

const host = 'test-host';
const segmentBytes = 2 ** 20;
const hourMs = 3_600_000;
/** The checks of the archive's side; those of the server's have none here. */
export const archiveChecks = [
  'settings',
  'storage',
  'clock',
  'encryption',
  'key-copies',
  'archive',
  'wal',
  'holes',
  'backups',
  'checksums',
  'verified',
];

export const segmentName = (number: number, timeline = 1): string =>
  segmentNameAt(timeline, lsnOf(number), segmentBytes);
const lsnOf = (number: number): Lsn => BigInt(number * segmentBytes);

export interface CheckedOptions {
  /** Else a folder of its own. */
  readonly storage?: Storage;
  readonly keys?: Keys;
  readonly findings?: StorageFindings;
}

export interface BackupOptions {
  /** Begun so long ago. */
  readonly ageMs?: number;
  readonly timeline?: number;
  /** The segments in which it begins, and in which it is consistent. */
  readonly first: number;
  readonly last?: number;
  readonly state?: 'confirmed' | 'unconfirmed' | 'running' | 'failed' | 'dead';
  readonly manifest?: Partial<BackupManifest>;
}

export class CheckedArchive {
  /** Holds the repository, when that is a folder. */
  readonly folder: string;
  readonly root: string;
  readonly archive: Archive;

  private constructor(folder: string, archive: Archive) {
    [this.folder, this.root, this.archive] = [folder, join(folder, 'repo'), archive];
  }

  static async make(options: CheckedOptions = {}): Promise<CheckedArchive> {
    const { keys = noKeys, findings = { conditionalPut: 'honoured', delete: 'allowed' } } = options;
    const folder = makeFolder('checked');
    mkdirSync(join(folder, 'repo'));
    const storage = options.storage ?? new FileStorage(join(folder, 'repo'), { idleMs: 60_000, requestMs: 60_000 });
    const repository = await makeRepository(storage, findings);
    await enterCluster(storage, { repository, systemIdentifier: testSystemIdentifier, host });
    return new CheckedArchive(folder, { storage, systemIdentifier: testSystemIdentifier, keys });
  }

  remove(): void {
    removeFolder(this.folder);
  }

  /** Stores files of pg_wal: whole segments unless the content is given. */
  async wal(names: readonly string[], content?: string): Promise<void> {
    for (const name of names) {
      const file = parseWalFileName(name);
      if (file === undefined) throw new Error(`no WAL is called ${name}`);
      const bytes = content === undefined ? makeSegment(name, { fill: 'zeros' }) : Buffer.from(content);
      const identity = walIdentity(this.archive, file);
      const options = { ...identity, host, keys: this.archive.keys, level: 3, pushedAt: new Date() };
      const sealed = await sealObject(() => bytesOf(bytes), options);
      await storeWalFile(this.archive, file, sealed, { conditionalPut: true });
    }
  }

  /** @returns its id. */
  async backup(options: BackupOptions): Promise<string> {
    const { ageMs = hourMs, timeline = 1, first, last = first, state = 'confirmed', manifest = {} } = options;
    const { archive } = this;
    const startedAt = new Date(Date.now() - ageMs);
    const id = makeBackupId({ startedAt, segment: segmentName(first, timeline), type: 'full' });
    const lease = (record: number | 'closed' | 'failed', members: object = {}) =>
      putDocument(archive, { kind: 'lease', name: leaseName(id, record) }, { id, host, ...members }, { host });
    await lease(1, { record: 1, walFloor: '0/0', timeline, writtenAt: startedAt.toISOString() });
    if (state === 'dead') this.age(leaseName(id, 1), hourMs);
    if (state === 'failed') await lease('failed', { reason: 'the disk was full', failedAt: startedAt.toISOString() });
    if (state === 'unconfirmed') this.age(leaseName(id, 1), hourMs);
    if (state === 'confirmed' || state === 'unconfirmed') {
      const lsns = {
        startLsn: lsnOf(first) + 40n,
        stopLsn: lsnOf(last) + 80n,
        consistentLsn: lsnOf(last) + 80n,
      };
      const times = { startedAt: startedAt.toISOString(), finishedAt: new Date(startedAt.getTime() + 1).toISOString() };
      const own = { id, timeline, walSegmentBytes: segmentBytes, badPages: { count: 0, pages: [] }, uses: {} };
      await storeManifest(archive, { ...testManifest, ...own, ...lsns, ...times, ...manifest }, { host });
    }
    if (state === 'confirmed') await lease('closed', { closedAt: new Date().toISOString() });
    return id;
  }

  /** Makes an object of a folder older than it is. */
  age(name: string, byMs: number): void {
    const at = new Date(Date.now() - byMs);
    utimesSync(join(this.root, objectKey(testSystemIdentifier, name)), at, at);
  }

  /** Makes all WAL older. */
  ageWal(byMs: number): void {
    for (const name of readdirSync(join(this.root, testSystemIdentifier, 'wal'), { recursive: true }) as string[]) {
      this.age(`wal/${name}`, byMs);
    }
  }

  /** Takes a WAL file away. */
  lose(name: string): void {
    const file = parseWalFileName(name);
    if (file === undefined) throw new Error(`no WAL is called ${name}`);
    rmSync(join(this.root, objectKey(testSystemIdentifier, walObjectName(file))));
  }

  /** Below the repository, without folders. */
  files(): string[] {
    return filesBelow(this.root);
  }

  /** A data directory that remembers a repository. @returns its path. */
  dataDirectory(repository: string): string {
    const folder = join(this.folder, 'data');
    mkdirSync(join(folder, 'pg_wal/.wal-t'), { recursive: true });
    writeFileSync(join(folder, 'pg_wal/.wal-t/repository'), `${repository}\n`);
    return folder;
  }

  /** What the checks of the archive say; the server is not to be found. */
  look(
    args: Partial<CheckArguments> = {},
    settings: Readonly<Record<string, string>> = {},
    members: Partial<Context> = {},
  ): Promise<CheckResult> {
    const context = makeContext(
      { WALT_REPO: `file://${this.root}`, WALT_SYSTEM_IDENTIFIER: testSystemIdentifier, ...settings },
      { workingDirectory: this.folder, libpq: { PGHOST: this.folder }, ...members },
    );
    const limits = { maxBackupAgeMs: 26 * hourMs, maxWalAgeMs: hourMs / 4 };
    return check(context, { ...limits, only: archiveChecks, skip: [], ...args });
  }
}

/** `check level`, the worst of each check, for all that are not ok. */
export function notOk({ findings }: CheckResult): Record<string, string> {
  const order = ['skipped', 'ok', 'warning', 'failed'];
  const worst: Record<string, string> = {};
  for (const { check: name, level } of findings) {
    if (order.indexOf(level) > order.indexOf(worst[name] ?? 'skipped')) worst[name] = level;
    worst[name] ??= level;
  }
  return Object.fromEntries(Object.entries(worst).filter(([, level]) => level !== 'ok'));
}

/** All that a check has said, in one text. */
export function said({ findings }: CheckResult, name: string): string {
  const own = findings.filter((finding) => finding.check === name);
  return own.map(({ message, detail, hint }) => [message, detail, hint].join(' | ')).join('\n');
}
