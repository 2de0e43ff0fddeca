/** The last steps of a backup: that nothing it needs is missing or about to be deleted. Only then it counts. */
import type { Archive } from '../../archive/archive.ts';
import { concerns, readPlans } from '../../archive/deletion-plan.ts';
import { kindPrefix, manifestName, objectKey, partNumberOf } from '../../archive/keys.ts';
import type { BackupManifest } from '../../archive/manifest.ts';
import { usedParts } from '../../archive/part-uses.ts';
import { firstMissingSegment, segmentsOf, type WalRange } from '../../archive/wal-range.ts';
import { CheckError, ConfigurationError } from '../../errors.ts';
import type { RequestOptions } from '../../storage/storage.ts';

/**
 * Looks for plans of deletion, then for the parts, then for the WAL. In this order: a delete that has not published its plan yet lists the
 * manifests afterwards, and finds this one; one that has is found here, unless it is over, and then what it took is missing (H27).
 * @throws CheckError when the backup must not be confirmed.
 */
export async function expectNothingMissing(
  archive: Archive,
  manifest: Pick<BackupManifest, 'id' | 'uses'>,
  wal: WalRange,
  options: RequestOptions,
): Promise<void> {
  await expectNoPlan(archive, manifest, wal, options);
  await expectParts(archive, manifest, options);
  const missing = await firstMissingSegment(archive, wal, options);
  if (missing === undefined) return;
  throw new CheckError(`segment "${missing}", which the backup needs, has gone from the archive`, {
    detail: 'it was there a moment ago; the backup is stored, but not confirmed, and never restored by itself',
    hint: 'Find out who deletes WAL from the repository: a life-cycle rule of the bucket perhaps. Then take the backup again.',
  });
}

/**
 * A backup that gave no sign for so long that it was taken for dead may have lost its manifest to a deletion just before it was confirmed.
 * @throws CheckError when it has.
 */
export async function expectStillThere(
  { storage, systemIdentifier }: Archive,
  { id }: Pick<BackupManifest, 'id'>,
  options: RequestOptions,
): Promise<void> {
  const key = objectKey(systemIdentifier, manifestName(id));
  for await (const found of storage.list(key, options)) if (found.key === key) return;
  throw new CheckError(`a deletion has removed backup ${id}: it took it for dead`, {
    detail: 'no sign of life of this backup reached the storage for half an hour',
    hint: 'Look at the connection to the storage and at this host, which may have been suspended. Then take the backup again.',
  });
}

async function expectNoPlan(
  archive: Archive,
  { uses }: Pick<BackupManifest, 'uses'>,
  wal: WalRange,
  options: RequestOptions,
): Promise<void> {
  const [first = '', ...others] = segmentsOf(wal);
  const needed = { uses, wal: { first, last: others.at(-1) ?? first } };
  for (const plan of await plansOf(archive, options)) {
    if (typeof plan !== 'string' && !concerns(plan, needed)) continue;
    const name = typeof plan === 'string' ? plan : plan.name;
    throw new CheckError('a deletion is running, or was broken off, and may take what the backup needs', {
      detail: `its plan is "${name}"; the backup is stored, but not confirmed, and never restored by itself`,
      hint: 'Wait for the deletion to end, or run it again if it was broken off. Then take the backup again.',
    });
  }
}

/** A host that cannot decrypt sees that there is a plan, and nothing of it. */
async function plansOf(archive: Archive, options: RequestOptions) {
  try {
    return await readPlans(archive, options);
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
  }
  const names: string[] = [];
  for await (const { key } of archive.storage.list(kindPrefix(archive.systemIdentifier, 'plan'), options))
    names.push(key);
  return names;
}

async function expectParts(
  { storage, systemIdentifier }: Archive,
  manifest: Pick<BackupManifest, 'id' | 'uses'>,
  options: RequestOptions,
): Promise<void> {
  for (const backup of Object.keys(manifest.uses)) {
    const stored = new Set<number>();
    for await (const { key } of storage.list(`${kindPrefix(systemIdentifier, 'part')}${backup}/`, options)) {
      stored.add(partNumberOf(key) ?? 0);
    }
    for (const part of usedParts(manifest)) {
      if (part.backup !== backup || stored.has(part.number)) continue;
      throw new CheckError(`part ${part.number} of backup ${backup}, which the backup needs, is missing`, {
        detail: 'the backup is stored, but not confirmed, and never restored by itself',
        hint: 'Find out who deletes from the repository. Then take the backup again.',
      });
    }
  }
}
