/** A backup that a recovery may begin with, and what is known of its end. */
import type { BackupManifest } from '../../archive/manifest.ts';
import type { Chain } from '../../archive/window.ts';
import type { Choice } from './choice.ts';

/** A backup on the way, and how far one gets from it. */
export interface Start {
  readonly backup: BackupManifest;
  /** From the backup's start. */
  readonly chain: Chain;
}

/** Is the WAL there that it needs to become consistent? */
export function isComplete({ backup, chain }: Start): boolean {
  return chain.endLsn >= backup.consistentLsn;
}

/**
 * Whatever ended later is not in the backup. Where no transaction's end is in the WAL that it needs, the last one was before: when is not
 * known, and from the backup's beginning to its end others may have ended in WAL that it does not need.
 */
export async function earliestTime({ search }: Pick<Choice, 'search'>, { backup, chain }: Start): Promise<bigint> {
  const within = await search.lastBefore(chain, backup.consistentLsn);
  if (within !== undefined) return within.time;
  const finished = BigInt(Date.parse(backup.finishedAt) + 1) * 1000n; // it was cut to milliseconds
  const last = await search.lastBefore(chain, chain.endLsn);
  return last === undefined || last.time > finished ? finished : last.time;
}
