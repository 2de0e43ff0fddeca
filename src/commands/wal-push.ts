/**
 * wal-push %p [%f]: PostgreSQL's archive_command.
 *
 * PostgreSQL calls it for one finished file at a time and recycles that file once the answer was 0. So the contract is:
 *   0          the file is durable in the archive under its name, now or already before, with this very content
 *   1 … 125    it is not; PostgreSQL keeps it and calls again, three times at once and then every minute
 *   above 125  never: the archiver process itself would die of it, and nothing would be counted (bin/wal-push sees to that)
 *
 * @see https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-ARCHIVING-WAL
 */

import { basename, resolve } from 'node:path';
import { findDataDirectory, readControlFile } from '../cluster/data-directory.ts';
import { walFolderOf } from '../cluster/known-repository.ts';
import { inspectWalFile, type WalFile } from '../cluster/wal-file.ts';
import { ConfigurationError, CorruptError, StorageError, UsageError } from '../errors.ts';
import { parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { Patience } from '../storage/open.ts';
import { type Context, storageOf, withDeadline } from './context.ts';
import { keysToSeal } from './keys.ts';
import { type LookAhead, lookAhead } from './wal-push/ahead.ts';
import { findCluster, remember } from './wal-push/cluster.ts';
import { type Push, seal, store } from './wal-push/push.ts';

export interface WalPushArguments {
  /** `%p`: the file, relative to the data directory or absolute. */
  readonly path: string;
  /** `%f`: its name; PostgreSQL always gives the last part of `%p`. */
  readonly name?: string | undefined;
  /** PostgreSQL does not wait for this push, and may overwrite the file meanwhile. */
  readonly mayBeRecycled?: boolean;
  /** PostgreSQL asks, and asks for each waiting file in turn: those behind this one are archived in the same call (see wal-push/ahead.ts). */
  readonly mayLookAhead?: boolean;
}

/** Returns when the file is durable in the archive: `hanging` when something that was done ahead does not end. */
export async function walPush(context: Context, words: WalPushArguments): Promise<'done' | 'hanging'> {
  const { path, name, mayBeRecycled = false, mayLookAhead = false } = words;
  const file = archivedName(path, name);
  const limitMs = context.settings.times.walPushMs;
  let failure: Error | undefined;
  const signal = withDeadline(context.signal, limitMs, () => tooLate(file, limitMs, failure));
  const patience: Patience = (last) => {
    failure = last;
    return limitMs;
  };
  const push: Push = {
    ...context,
    signal,
    storage: await storageOf(context, patience),
    path: resolve(context.workingDirectory, path),
  };

  const source = await inspectWalFile(push.path, file);
  const systemIdentifier = await identify(push, path, source);
  const archive = { storage: push.storage, systemIdentifier, keys: await keysToSeal(context) };
  const finding = findCluster(push, archive, file);
  const ahead = mayLookAhead && isAskedFor(push, path) ? lookAhead(push, { archive, file, finding }) : nothingAhead;
  try {
    const [cluster, sealed] = await Promise.all([finding, seal(push, archive, { file, source })]);
    if (mayBeRecycled) await inspectWalFile(push.path, file); // was it this segment to the end?
    await store(push, archive, { file, source, sealed, findings: cluster.storage });
    await remember(push, cluster);
  } catch (error) {
    ahead.leave();
    throw error;
  }
  return ahead.finish();
}

const nothingAhead: LookAhead = { finish: async () => 'done', leave: () => undefined };

/** As the archiver gives it, and as bin/wal-push knows it again: relative to the data directory, in which it runs. */
function isAskedFor({ path, workingDirectory }: Push, givenPath: string): boolean {
  return givenPath === `pg_wal/${basename(path)}` && walFolderOf(path) === resolve(workingDirectory, 'pg_wal');
}

function archivedName(path: string, name: string | undefined): WalFileName {
  const usage = "Set archive_command = '… wal-push %p %f'.";
  if (name?.includes('/')) {
    throw new UsageError(`"${name}" is a path, not a file name`, { hint: `The path stands first. ${usage}` });
  }
  const file = parseWalFileName(name ?? basename(path));
  if (file === undefined) {
    throw new UsageError(`"${name ?? basename(path)}" is not the name of a file that PostgreSQL archives`, {
      hint: usage,
    });
  }
  if (basename(path) !== file.name) {
    throw new UsageError(`"${path}" is not a file named "${file.name}"`, { hint: usage });
  }
  return file;
}

/** Which cluster's archive the file belongs to. Segments say it themselves; what the data directory and the settings say must agree (H17). */
async function identify(push: Push, givenPath: string, source: WalFile): Promise<string> {
  const { settings, workingDirectory } = push;
  const configured = settings.dataDirectory;
  const dataDirectory = await findDataDirectory(givenPath, { workingDirectory, configured });
  const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
  const own = source.systemIdentifier ?? control?.systemIdentifier ?? settings.systemIdentifier;
  if (own === undefined) {
    throw new ConfigurationError(`"${givenPath}" does not say which cluster it belongs to`, {
      hint: 'Run it in the data directory, or set WALT_PGDATA or WALT_SYSTEM_IDENTIFIER.',
    });
  }
  if (control !== undefined && control.systemIdentifier !== own) {
    throw new CorruptError(`"${givenPath}" belongs to another cluster`, {
      detail: `it was written by system ${own}, the data directory "${dataDirectory}" is of system ${control.systemIdentifier}`,
      hint: 'Nothing was archived. Find out how the file came into this pg_wal.',
    });
  }
  if (settings.systemIdentifier !== undefined && settings.systemIdentifier !== own) {
    throw new ConfigurationError(`"${givenPath}" belongs to another cluster than WALT_SYSTEM_IDENTIFIER`, {
      detail: `it was written by system ${own}, the setting is ${settings.systemIdentifier}`,
      hint: 'Correct WALT_SYSTEM_IDENTIFIER, or remove it: every segment says itself which cluster wrote it.',
    });
  }
  return own;
}

function tooLate({ name }: WalFileName, limitMs: number, failure: Error | undefined): StorageError {
  return new StorageError(`"${name}" was not archived within ${limitMs / 1000} s`, {
    detail: failure?.message,
    hint: 'The storage is too slow or hangs. PostgreSQL keeps the file and tries again; WALT_WAL_PUSH_TIMEOUT sets the limit.',
  });
}
