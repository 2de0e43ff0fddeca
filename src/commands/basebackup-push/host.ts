/** A look at the host before the backup begins: what would end it after hours is told now. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { freeBytes, openFilesLimit } from '../../cluster/host-limits.ts';
import { StorageError, systemErrorReason } from '../../errors.ts';
import { formatBytes } from '../../quantities.ts';
import type { Context } from '../context.ts';

/** A cluster that shrinks to less than this is not known. */
const smallestRatio = 1 / 20;
const usualRatio = 1 / 2;
/** For each worker: files, connections, and what Node.js itself has open. */
const openFilesForWorker = 32;

/** @throws StorageError when the repository's file system can certainly not hold a full backup. How long an increment becomes nobody knows. */
export async function lookForRoom({ settings, log }: Context, rawBytes: number): Promise<void> {
  const { repository = '' } = settings;
  const free = repository.startsWith('file:') ? await freeBytes(fileURLToPath(repository)) : undefined;
  if (free !== undefined && free < rawBytes * usualRatio) {
    const message = `the repository has ${formatBytes(free)} left, and the cluster has ${formatBytes(rawBytes)}`;
    const hint = 'Free space in the repository, or enlarge it.';
    if (free < rawBytes * smallestRatio) throw new StorageError(message, { hint });
    log.warning(message, { detail: 'what is stored is compressed, usually to a third', hint });
  }
}

/** Warns of what this host's limits may not allow. */
export async function lookAtLimits({ settings: { connections }, log }: Context, workers: number): Promise<void> {
  const openFiles = await openFilesLimit();
  const needed = workers * (openFilesForWorker + connections) + openFilesForWorker;
  if (openFiles !== undefined && openFiles < needed) {
    log.warning(`only ${openFiles} files may be open at the same time, and ${needed} may be needed`, {
      hint: 'Raise the limit (ulimit -n, LimitNOFILE=), or set WALT_CONNECTIONS lower.',
    });
  }
}

/**
 * Of the configuration files outside the data directory those that can be kept beside. In a container the server may call them otherwise than
 * this process does; the backup can be restored without them.
 */
export async function readableConfigFiles({ log }: Context, files: readonly string[]): Promise<string[]> {
  const readable: string[] = [];
  for (const file of files) {
    try {
      await access(file, constants.R_OK);
      readable.push(file);
    } catch (error) {
      log.warning(`the configuration file "${file}" is not kept with the backup: ${systemErrorReason(error)}`, {
        hint: 'Keep a copy of it elsewhere, or let the user that runs the backup read it.',
      });
    }
  }
  return readable;
}
