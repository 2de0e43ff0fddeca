/** `pg_wal/.wal-t/prefetch`: segments that one wal-fetch has fetched ahead of PostgreSQL (see prefetch-folder.ts). Here: when it goes. */
import { access, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { removeBoundFolder } from './ahead.ts';

/** The names of segments, which the folder's other files do not have. */
export const segmentPattern = /^[0-9A-F]{24}$/;

export function prefetchPath(dataDirectory: string): string {
  return join(dataDirectory, 'pg_wal', '.wal-t', 'prefetch');
}

/** Out of the way first: where the reader still puts files into it, it could not be removed. */
export async function removePrefetchFolder(folder: string): Promise<void> {
  const gone = `${folder}.gone`;
  await removeBoundFolder(gone); // of a call that was killed
  await rename(folder, gone).catch((error: unknown) => {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
  });
  await removeBoundFolder(gone);
}

/** Nothing of it is to be delivered any more. @throws HostError when it cannot be removed. */
export async function removePrefetched(dataDirectory: string): Promise<void> {
  const folder = prefetchPath(dataDirectory);
  try {
    await removePrefetchFolder(folder);
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
