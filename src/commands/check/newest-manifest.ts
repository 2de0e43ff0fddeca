/** The manifest of the newest confirmed backup, where this host may read it. */
import { type BackupManifest, readManifest } from '../../archive/manifest.ts';
import { ConfigurationError, WrongKeyError } from '../../errors.ts';
import { NotLookedAt } from './finding.ts';
import type { Subject } from './subject.ts';

/** @throws NotLookedAt where there is none, or no key to it. */
export async function readNewestManifest(subject: Subject): Promise<BackupManifest> {
  const newest = (await subject.backups.get()).findLast(({ state }) => state === 'confirmed');
  if (newest === undefined) throw new NotLookedAt('there is no confirmed backup');
  try {
    return await readManifest(await subject.archive.get(), newest.id, { signal: subject.context.signal });
  } catch (error) {
    throw withoutKey(error);
  }
}

/** Whether the keys of this host are right is the matter of `encryption`: what they do not open is not looked at. */
export function withoutKey(error: unknown): unknown {
  if (error instanceof ConfigurationError || error instanceof WrongKeyError) return new NotLookedAt(error.message);
  return error;
}
