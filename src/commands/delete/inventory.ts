/** Everything of a cluster that retention must know: each manifest, pin, lease and history, read and understood, or nothing is removed (H28). */
import type { Archive } from '../../archive/archive.ts';
import { type CatalogueEntry, listBackups, stateOf } from '../../archive/backup-catalogue.ts';
import { parseBackupId } from '../../archive/backup-id.ts';
import {
  filesName,
  kindPrefix,
  manifestName,
  objectKey,
  partName,
  partNumberOf,
  walObjectName,
} from '../../archive/keys.ts';
import { type LeaseRecord, readLease } from '../../archive/lease.ts';
import { readManifest } from '../../archive/manifest.ts';
import { readPins } from '../../archive/pins.ts';
import type { RetainedBackup, RetentionState } from '../../archive/retention-state.ts';
import { nameAt, readStoredWal, type StoredWal } from '../../archive/stored-wal.ts';
import { newestOfEach, parseVerificationName, type VerificationName } from '../../archive/verifications.ts';
import { wayTo } from '../../archive/window.ts';
import { leaseExpiryMs } from '../../limits.ts';
import type { Lsn } from '../../postgres/lsn.ts';
import { parseLsn } from '../../postgres/lsn.ts';
import { parseWalFileName, segmentStart } from '../../postgres/wal-file-name.ts';
import type { RequestOptions } from '../../storage/storage.ts';
import type { Context } from '../context.ts';

export interface StoredKey {
  readonly key: string;
  readonly sizeBytes: number;
}

export interface Inventory {
  readonly state: RetentionState;
  readonly wal: StoredWal | undefined;
  /** Keys of each backup's own objects, by kind. */
  readonly keys: ReadonlyMap<string, readonly (StoredKey & { readonly kind: BackupKind })[]>;
  readonly entries: ReadonlyMap<string, CatalogueEntry>;
  /** Everything below `wal/` but histories, and the names of the full segments among them, in their order. */
  readonly walKeys: readonly StoredKey[];
  readonly segmentNames: readonly string[];
  /** Records of verifications that nobody asks for any more. */
  readonly oldVerifications: readonly StoredKey[];
  /** Is the backup as it was in another inventory? */
  isSame(other: Inventory, id: string): boolean;
  /** The WAL that a backup needs, should it need all from there on: names of segments. */
  walFrom(timeline: number, lsn: Lsn): { readonly first: string; readonly last: string };
}

type BackupKind = 'manifest' | 'files' | 'part' | 'lease' | 'pin';

/** @throws CorruptError when anything cannot be read: its key is named. */
export async function readInventory(context: Context, archive: Archive, now: Date): Promise<Inventory> {
  const options = { signal: context.signal };
  const keys = new Map<string, (StoredKey & { kind: BackupKind })[]>();
  const storedParts = new Map<string, number[]>();
  const listKeys = async (...kinds: readonly BackupKind[]) => {
    for (const kind of kinds) {
      const prefix = kindPrefix(archive.systemIdentifier, kind);
      for await (const { key, sizeBytes } of archive.storage.list(prefix, options)) {
        const id = key.slice(prefix.length).split('/')[0] ?? '';
        if (!isOwn(archive, kind, { id, key })) continue; // not ours, whatever it is: it stays
        keys.set(id, [...(keys.get(id) ?? []), { key, sizeBytes, kind }]);
        const number = kind === 'part' ? partNumberOf(key) : undefined;
        if (number !== undefined) storedParts.set(id, [...(storedParts.get(id) ?? []), number]);
      }
    }
  };
  // parts first, then leases and manifests: whoever stores a part has a lease by then
  await listKeys('part', 'files', 'pin');
  const ids = [...keys.keys()];
  const entries = new Map((await listBackups(archive, options)).map((entry) => [entry.id, entry]));
  // afterwards: of what is judged as confirmed the manifest must be seen, or its WAL would go without it
  await listKeys('lease', 'manifest');
  const backups: RetainedBackup[] = [];
  let segmentSizeBytes: number | undefined;
  for (const entry of entries.values()) {
    const { backup, sizeBytes } = await readBackup(context, archive, entry, { now, storedParts });
    segmentSizeBytes ??= sizeBytes;
    backups.push({ ...backup, storedBytes: bytesOf(keys.get(entry.id)) });
  }
  // what has neither lease nor manifest is nobody's, and was a backup once
  for (const id of ids) if (!entries.has(id)) backups.push(leftOver(id, storedParts));
  const wal = await readStoredWal(archive, { ...options, segmentSizeBytes });
  const [unreadable] = wal?.unreadable.values() ?? [];
  if (unreadable !== undefined) throw unreadable;
  const state: RetentionState = {
    backups,
    pins: await readPins(archive, options),
    forks: forksOf(wal),
    timelines: [...(wal?.timelines.keys() ?? [])],
    lastWalAt: new Map(
      [...(wal?.timelines ?? [])].flatMap(([timeline, { lastStoredAt }]) =>
        lastStoredAt === undefined ? [] : [[timeline, lastStoredAt]],
      ),
    ),
    storedParts,
  };
  return inventoryOf({
    state,
    wal,
    keys,
    entries,
    ...(await readWalKeys(archive, options)),
    oldVerifications: await readOldVerifications(archive, options),
  });
}

/** Is it one of the keys that WAL-T makes? */
function isOwn({ systemIdentifier }: Archive, kind: BackupKind, { id, key }: { id: string; key: string }): boolean {
  if (parseBackupId(id) === undefined) return false;
  const name = key.slice(systemIdentifier.length + 1);
  switch (kind) {
    case 'manifest':
      return name === manifestName(id);
    case 'files':
      return name === filesName(id);
    case 'part':
      return name === partName(id, partNumberOf(key) ?? 0);
    case 'lease':
      return /^lease\/[^/]+\/(?:\d{6,9}|closed|failed)$/.test(name);
    case 'pin':
      return /^pin\/[^/]+\/\d{8}T\d{9}Z$/.test(name);
  }
}

async function readWalKeys({ storage, systemIdentifier }: Archive, options: RequestOptions) {
  const walKeys: StoredKey[] = [];
  const segmentNames: string[] = [];
  for await (const { key, sizeBytes } of storage.list(objectKey(systemIdentifier, 'wal/'), options)) {
    const file = parseWalFileName(key.slice(key.lastIndexOf('/') + 1));
    if (file === undefined || file.kind === 'history' || key !== objectKey(systemIdentifier, walObjectName(file)))
      continue;
    walKeys.push({ key, sizeBytes });
    if (file.kind === 'segment') segmentNames.push(file.name);
  }
  return { walKeys, segmentNames };
}

/** All but the newest of each depth. */
async function readOldVerifications({ storage, systemIdentifier }: Archive, options: RequestOptions) {
  const found: { readonly name: VerificationName; readonly key: string; readonly sizeBytes: number }[] = [];
  for await (const { key, sizeBytes } of storage.list(kindPrefix(systemIdentifier, 'verification'), options)) {
    const name = parseVerificationName(key.slice(systemIdentifier.length + 1));
    if (name !== undefined) found.push({ name, key, sizeBytes });
  }
  const kept = newestOfEach(found.map(({ name }) => name));
  return found.filter(({ name }) => !kept.includes(name)).map(({ key, sizeBytes }) => ({ key, sizeBytes }));
}

interface Seen {
  readonly now: Date;
  readonly storedParts: ReadonlyMap<string, readonly number[]>;
}

async function readBackup(context: Context, archive: Archive, entry: CatalogueEntry, { now, storedParts }: Seen) {
  const { id, startedAt, timeline, hasManifest } = entry;
  const state = stateOf(entry, { now, expiryMs: leaseExpiryMs });
  const lease =
    state === 'running' ? await readLease(archive, id, { ...context, record: entry.lastRecord }) : undefined;
  if (!hasManifest)
    return {
      backup: withLease({ ...leftOver(id, storedParts), timeline, startedAt, finishedAt: startedAt, state }, lease),
      sizeBytes: undefined,
    };
  const manifest = await readManifest(archive, id, context);
  const backup: RetainedBackup = {
    id,
    timeline: manifest.timeline,
    startLsn: manifest.startLsn,
    consistentLsn: manifest.consistentLsn,
    startedAt: new Date(manifest.startedAt),
    finishedAt: new Date(manifest.finishedAt),
    state,
    storedBytes: 0,
    uses: new Map(Object.entries(manifest.uses)),
  };
  return { backup: withLease(backup, lease), sizeBytes: manifest.walSegmentBytes };
}

function withLease(backup: RetainedBackup, lease: LeaseRecord | undefined): RetainedBackup {
  if (lease === undefined) return backup;
  const walFloor = parseLsn(lease.walFloor) ?? 0n;
  return {
    ...backup,
    timeline: lease.timeline,
    startLsn: backup.startLsn === 0n ? walFloor : backup.startLsn,
    walFloor,
    uses: new Map([...backup.uses, ...Object.entries(lease.uses)]), // its own parts are in none of them
  };
}

/** Nothing is known of it but the parts that it stored. */
function leftOver(id: string, storedParts: Seen['storedParts']): RetainedBackup {
  const numbers = storedParts.get(id) ?? [];
  const uses = new Map(numbers.length === 0 ? [] : [[id, numbers.map((number) => [number, number] as const)]]);
  const longAgo = new Date(0);
  return {
    id,
    timeline: 1,
    startLsn: 0n,
    consistentLsn: 0n,
    startedAt: longAgo,
    finishedAt: longAgo,
    state: 'failed',
    storedBytes: 0,
    uses,
  };
}

/** As every history tells them: two that contradict each other are for retention to refuse. */
function forksOf(wal: StoredWal | undefined): RetentionState['forks'] {
  const forks = new Map<string, RetentionState['forks'][number]>();
  for (const child of wal?.histories.keys() ?? []) {
    const way = wal === undefined ? [] : (wayTo(wal, child) ?? []);
    for (const [index, { timeline }] of way.entries()) {
      const before = way[index - 1];
      if (before?.endLsn === undefined) continue;
      const fork = { timeline, parent: before.timeline, switchLsn: before.endLsn };
      forks.set(`${timeline} ${fork.parent} ${fork.switchLsn}`, fork);
    }
  }
  return [...forks.values()];
}

function bytesOf(keys: readonly StoredKey[] | undefined): number {
  return (keys ?? []).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function inventoryOf(found: Omit<Inventory, 'isSame' | 'walFrom'>): Inventory {
  const { entries, wal } = found;
  return {
    ...found,
    isSame: (other, id) => {
      const [mine, theirs] = [entries.get(id), other.entries.get(id)];
      return mine?.hasManifest === theirs?.hasManifest && mine?.isClosed === theirs?.isClosed;
    },
    walFrom: (timeline, lsn) => {
      if (wal === undefined) return { first: '', last: '' };
      const last = wal.timelines.get(timeline)?.ranges.at(-1)?.endLsn ?? lsn + 1n;
      return { first: nameAt(wal, timeline, lsn), last: nameAt(wal, timeline, last > lsn ? last - 1n : lsn) };
    },
  };
}

/** The segment that a WAL file is of: its timeline and where it begins and ends. Undefined for histories. */
export function placeOf(wal: StoredWal, name: string) {
  const file = parseWalFileName(name);
  if (file === undefined || file.kind === 'history') return undefined;
  const startLsn = segmentStart(file, wal.segmentSizeBytes);
  if (startLsn === undefined) return undefined;
  return { timeline: file.timeline, startLsn, endLsn: startLsn + BigInt(wal.segmentSizeBytes) };
}
