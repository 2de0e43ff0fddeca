/** `pg_wal/.wal-t/prefetch`: segments that one wal-fetch has fetched ahead of PostgreSQL (see prefetch-folder.ts). Here: when it goes. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, systemErrorReason } from '../errors.ts';
import { removeBoundFolder } from './ahead.ts';

export function prefetchPath(dataDirectory: string): string {
  return join(dataDirectory, 'pg_wal', '.wal-t', 'prefetch');
}

/** Nothing of it is to be delivered any more. @throws HostError when it cannot be removed. */
export async function removePrefetched(dataDirectory: string): Promise<void> {
  const folder = prefetchPath(dataDirectory);
  try {
    await removeBoundFolder(folder);
  } catch (error) {
    throw new HostError(`could not remove "${folder}": ${systemErrorReason(error)}`, {
      hint: 'It must belong to the user that PostgreSQL runs as, as pg_wal does.',
      cause: error,
    });
  }
}

/** For a server that writes WAL: after its recovery nobody else would remove it. */
export async function removePrefetchedAfterRecovery(dataDirectory: string): Promise<void> {
  const signals = ['standby.signal', 'recovery.signal'].map((name) => access(join(dataDirectory, name)));
  const isRecovering = (await Promise.allSettled(signals)).some(({ status }) => status === 'fulfilled');
  if (!isRecovering) await removePrefetched(dataDirectory);
}
