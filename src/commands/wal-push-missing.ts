/**
 * wal-push --missing [PGDATA]: after a failover the new primary's pg_wal may hold segments that PostgreSQL calls archived, since the old
 * primary was to do it, and that never arrived. They are found and pushed, while they are still there.
 */
import { join, resolve } from 'node:path';
import { readControlFile } from '../cluster/data-directory.ts';
import { HostError, StorageError, UsageError, WalTError } from '../errors.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';
import { findMissingWal } from './missing-wal.ts';
import { walPush } from './wal-push.ts';

export interface MissingResult {
  readonly looked: number;
  readonly pushed: readonly string[];
  readonly failed: readonly { readonly name: string; readonly error: WalTError }[];
}

export async function walPushMissing(
  context: Context,
  { pgdata }: { readonly pgdata?: string | undefined },
): Promise<MissingResult> {
  const given = pgdata ?? context.settings.dataDirectory ?? context.libpq.PGDATA;
  if (given === undefined)
    throw new UsageError('it is not clear which cluster is meant', {
      hint: 'Give its data directory: wal-push --missing PGDATA.',
    });
  const dataDirectory = resolve(context.workingDirectory, given);
  const own = { ...context, settings: { ...context.settings, dataDirectory } };
  const segmentSizeBytes = (await readControlFile(dataDirectory))?.segmentSizeBytes;
  if (segmentSizeBytes === undefined) {
    throw new HostError(`"${dataDirectory}" is not a data directory that can be read`, {
      hint: 'Give that of a server of the cluster, and run it as the user that PostgreSQL runs as.',
    });
  }
  const archive = await openArchive(own);
  const { signal } = context;
  const { looked, missing } = await findMissingWal(archive, { dataDirectory, segmentSizeBytes, signal });
  const pushed: string[] = [];
  const failed: { name: string; error: WalTError }[] = [];
  for (const { name } of missing) {
    try {
      await walPush(own, { path: join(dataDirectory, 'pg_wal', name), mayBeRecycled: true });
      pushed.push(name);
    } catch (error) {
      if (!(error instanceof WalTError)) throw error;
      failed.push({ name, error });
      if (error instanceof StorageError) break; // else the others may do
    }
  }
  return { looked, pushed, failed };
}
