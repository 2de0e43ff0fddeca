/** What a base backup looks at before it begins: that its WAL can arrive, in this very archive, and that the host can do it. */
import { join } from 'node:path';
import { checkSameRepository, noRepository, readCluster, readRepository } from '../../archive/repository.ts';
import { surveyDataDirectory } from '../../cluster/backup-survey.ts';
import { readKnownRepository } from '../../cluster/known-repository.ts';
import { CheckError, ConfigurationError, ObjectNotFound } from '../../errors.ts';
import { describeArchiver, waitForWal } from './archived-wal.ts';
import { lookAtLimits, lookForRoom, readableConfigFiles } from './host.ts';
import { type Push, versionsOf, workersFor } from './push.ts';

/** All that can be known to fail, before it does. @returns about how many bytes there are to copy, and which configuration files can be kept. */
export async function lookBefore(push: Push): Promise<Survey> {
  const isEntered = await expectRepository(push);
  const { rawBytes } = await surveyDataDirectory({ ...push, ...versionsOf(push), warn: () => undefined });
  // where an increment is wanted, when it has turned out that it will be a full backup
  if (push.args.incremental !== true) await lookForRoom(push, rawBytes);
  await lookAtLimits(push, workersFor(push));
  await expectArchiving(push);
  if (!isEntered && !(await expectRepository(push))) throw neverArchived(push);
  return { expectedBytes: rawBytes, configFiles: await readableConfigFiles(push, push.server.facts.configFiles) };
}

export interface Survey {
  readonly expectedBytes: number;
  /** Absolute paths. */
  readonly configFiles: readonly string[];
}

/**
 * The repository that this cluster's WAL goes to, and no other (H16).
 * @returns whether any WAL of the cluster ever came there: of a new one that was just set up the first segment is still to come.
 */
async function expectRepository({ archive, dataDirectory, signal, settings, server }: Push): Promise<boolean> {
  const { storage, systemIdentifier } = archive;
  const known = await readKnownRepository(join(dataDirectory, 'pg_wal'));
  const absent = (error: unknown): undefined => {
    if (!(error instanceof ObjectNotFound)) throw error;
  };
  const cluster = await readCluster(storage, systemIdentifier, { signal }).catch(absent);
  if (cluster !== undefined) {
    checkSameRepository(known ?? cluster.repository, cluster.repository, storage);
    return true;
  }
  const repository = await readRepository(storage, { signal }).catch(absent);
  if (repository === undefined && (settings.init !== 'auto' || known !== undefined)) throw noRepository(storage, known);
  if (repository !== undefined && known !== undefined) checkSameRepository(known, repository.repository, storage);
  if (server.facts.inRecovery && server.facts.archiveMode !== 'always') throw neverArchived({ archive });
  return false;
}

function neverArchived({ archive }: Pick<Push, 'archive'>): ConfigurationError {
  const { storage, systemIdentifier } = archive;
  return new ConfigurationError(`no WAL of this cluster was ever archived in ${storage.url}`, {
    detail: `system identifier ${systemIdentifier}; a base backup is worth nothing without its WAL`,
    hint: "Set archive_mode = on and archive_command = '… wal-push %p %f' with the same settings, restart, and look at PostgreSQL's log.",
  });
}

/** A backup without its WAL is found out now, not after hours: archiving must work, and into this very archive. */
async function expectArchiving(push: Push): Promise<void> {
  const { server, archive, settings } = push;
  const { facts } = server;
  if (facts.inRecovery && facts.archiveMode !== 'always') return; // the primary does it: only the end can tell
  if (facts.archiveMode === 'off') {
    throw new ConfigurationError('archive_mode is off', {
      hint: "Set archive_mode = on and archive_command = '… wal-push %p %f', and restart PostgreSQL.",
    });
  }
  const status = await server.archiverStatus();
  if (status.isFailing) {
    throw new CheckError(`archiving is failing: segment "${status.lastFailed}" is not archived`, {
      detail: describeArchiver(status),
      hint: "Look at PostgreSQL's log for what archive_command says, mend it, and take the backup again.",
    });
  }
  const endLsn = await server.switchWal();
  if (endLsn === undefined) return;
  const { timeline, segmentSizeBytes } = facts;
  const wal = { timeline, startLsn: endLsn - 1n, endLsn, segmentSizeBytes };
  const limitMs = settings.times.backupWalMs;
  await waitForWal(push, archive, wal, { server, limitMs, consequence: 'nothing was copied' });
}
