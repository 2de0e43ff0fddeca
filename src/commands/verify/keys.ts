/** Which keys of a cluster belong to nothing: left by backups that failed, or not WAL-T's at all. */
import type { Archive } from '../../archive/archive.ts';
import { parseBackupId } from '../../archive/backup-id.ts';
import { clusterKey, objectKey, partNumberOf, walObjectName } from '../../archive/keys.ts';
import { readLease } from '../../archive/lease.ts';
import { readManifest } from '../../archive/manifest.ts';
import type { PartUses } from '../../archive/part-uses.ts';
import { parseVerificationName } from '../../archive/verifications.ts';
import { CorruptError, ObjectNotFound } from '../../errors.ts';
import { parseWalFileName } from '../../postgres/wal-file-name.ts';
import type { ListedBackup } from '../backups.ts';
import type { Context } from '../context.ts';

/** Keys of one sort: all are counted, the first ones named. */
export interface KeyGroup {
  readonly count: number;
  readonly bytes: number;
  readonly named: readonly string[];
}

export interface KeyFindings {
  /** Parts and lists of files that no manifest needs, of backups that are not being taken. */
  readonly unreferenced: KeyGroup;
  /** Nobody knows what they are. They are never touched. */
  readonly unknown: KeyGroup;
}

const namedAtMost = 100;

export async function lookAtKeys(
  context: Context,
  archive: Archive,
  catalogue: readonly ListedBackup[],
): Promise<KeyFindings> {
  const { storage, systemIdentifier } = archive;
  const alive = new Set(
    catalogue.filter(({ hasManifest, state }) => hasManifest || state === 'running').map(({ id }) => id),
  );
  const unreferenced = { count: 0, bytes: 0, named: [] as string[] };
  const unknown = { count: 0, bytes: 0, named: [] as string[] };
  let isUsed: ((part: UsedPart) => boolean) | undefined;
  for await (const { key, sizeBytes } of storage.list(objectKey(systemIdentifier, ''), context)) {
    const kind = kindOf(key, systemIdentifier);
    if (kind !== undefined && (kind.backup === undefined || alive.has(kind.backup))) continue;
    const number = kind === undefined ? undefined : partNumberOf(key);
    if (kind?.backup !== undefined && number !== undefined) {
      isUsed ??= await readUses(context, archive, catalogue); // a part outlives its backup as long as an increment needs it
      if (isUsed({ backup: kind.backup, number })) continue;
    }
    const group = kind === undefined ? unknown : unreferenced;
    group.count += 1;
    group.bytes += sizeBytes;
    if (group.named.length < namedAtMost) group.named.push(key);
  }
  return { unreferenced, unknown };
}

interface UsedPart {
  readonly backup: string;
  readonly number: number;
}

/** Which parts somebody may need. Of a manifest that cannot be read nobody knows: then it may be any. */
async function readUses(
  context: Context,
  archive: Archive,
  catalogue: readonly ListedBackup[],
): Promise<(part: UsedPart) => boolean> {
  const all: PartUses[] = [];
  for (const { id, hasManifest, state, lastRecord } of catalogue) {
    try {
      if (hasManifest) all.push((await readManifest(archive, id, context)).uses);
      else if (state === 'running') all.push((await readLease(archive, id, { ...context, record: lastRecord })).uses);
    } catch (error) {
      if (error instanceof ObjectNotFound) continue; // deleted, or ended, since it was listed
      if (!(error instanceof CorruptError)) throw error;
      return () => true;
    }
  }
  return ({ backup, number }) =>
    all.some((uses) => uses[backup]?.some(([first, last]) => first <= number && number <= last) === true);
}

/** Reserved for what later versions store. */
const reserved: readonly string[] = ['pin', 'plan', 'partial', 'drill', 'set-aside', 'dump'];

/** What a key is, and of which backup; undefined when it is nothing that is known. */
function kindOf(key: string, systemIdentifier: string): { readonly backup?: string } | undefined {
  if (key === clusterKey(systemIdentifier)) return {};
  const name = key.slice(systemIdentifier.length + 1);
  const [kind = '', id = '', ...rest] = name.split('/');
  if (reserved.includes(kind)) return {};
  if (kind === 'wal') {
    const file = parseWalFileName(name.slice(name.lastIndexOf('/') + 1));
    return file !== undefined && walObjectName(file) === name ? {} : undefined;
  }
  if (kind === 'verification') return parseVerificationName(name) === undefined ? undefined : {};
  if (parseBackupId(id) === undefined) return undefined;
  if (kind === 'manifest') return rest.length === 0 ? {} : undefined;
  if (kind === 'files') return rest.length === 0 ? { backup: id } : undefined;
  if (kind === 'part') return rest.length === 1 && partNumberOf(key) !== undefined ? { backup: id } : undefined;
  if (kind === 'lease') return rest.length === 1 && /^(?:\d{6,}|closed|failed)$/.test(rest[0] ?? '') ? {} : undefined;
  return undefined;
}
