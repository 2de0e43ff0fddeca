/** Waits until the archive holds the WAL that a backup needs, and says what it waits for. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Archive } from '../../archive/archive.ts';
import { firstMissingSegment, type WalRange } from '../../archive/wal-range.ts';
import type { ArchiverStatus, BackupServer } from '../../cluster/server.ts';
import { CheckError } from '../../errors.ts';
import { reminderMs } from '../../limits.ts';
import type { Context } from '../context.ts';

/** Between two looks. */
const pollMs = { first: 200, longest: 5000 } as const;

export interface WaitOptions {
  readonly server: BackupServer;
  readonly limitMs: number;
  /** What is lost without it, for the message. */
  readonly consequence: string;
}

/** @throws CheckError when a segment of the range does not arrive in time; it is named. */
export async function waitForWal(
  { signal, log }: Context,
  archive: Archive,
  range: WalRange,
  { server, limitMs, consequence }: WaitOptions,
): Promise<void> {
  const startedMs = performance.now();
  let remindedMs = startedMs;
  let pause: number = pollMs.first;
  for (;;) {
    const missing = await firstMissingSegment(archive, range, { signal });
    if (missing === undefined) return;
    const nowMs = performance.now();
    const waited = `for ${Math.round((nowMs - startedMs) / 1000)} s`;
    if (nowMs - startedMs >= limitMs) {
      const archiver = await archiverOf(server);
      throw new CheckError(`segment "${missing}" did not arrive in the archive`, {
        detail: `waited ${waited}; ${consequence}; ${archiver.words}`,
        hint: hintFor(server, missing, archiver.lastArchived),
      });
    }
    if (nowMs - remindedMs >= reminderMs) {
      remindedMs = nowMs;
      log.info(`waiting for segment "${missing}" to arrive in the archive, ${waited} so far`, {
        detail: (await archiverOf(server)).words,
        hint: server.facts.inRecovery ? hintFor(server, missing) : undefined,
      });
    }
    await sleep(Math.min(pause, limitMs), undefined, { signal });
    pause = Math.min(pause * 1.5, pollMs.longest);
  }
}

function hintFor({ facts }: BackupServer, segment: string, lastArchived = ''): string {
  if (facts.inRecovery && facts.archiveMode !== 'always') {
    return `The primary archives "${segment}" when it is full: on an idle one run "select pg_switch_wal()" there. Then take the backup again.`;
  }
  if (lastArchived.length === segment.length && lastArchived >= segment) {
    return 'PostgreSQL was told that it was archived, but not into this repository: archive_command must run wal-push with the same settings (WALT_REPO) as this backup.';
  }
  return `Find out in PostgreSQL's log why its archive_command does not archive "${segment}", and take the backup again.`;
}

async function archiverOf(server: BackupServer): Promise<{ words: string; lastArchived?: string | undefined }> {
  if (server.facts.inRecovery && server.facts.archiveMode !== 'always') {
    return { words: 'this standby does not archive: the primary does' };
  }
  const status = await server.archiverStatus().catch(() => undefined);
  if (status === undefined) return { words: 'the server does not answer any more' };
  return { words: describeArchiver(status), lastArchived: status.lastArchived };
}

/** What a person wants to know of the archiver. */
export function describeArchiver({
  isFailing,
  lastFailed,
  lastFailedAt,
  failedCount,
  lastArchived,
  lastArchivedAt,
}: ArchiverStatus): string {
  const last =
    lastArchived === undefined
      ? 'nothing was archived yet'
      : `last archived: "${lastArchived}" at ${time(lastArchivedAt)}`;
  if (!isFailing) return last;
  return `archive_command fails for "${lastFailed}", last at ${time(lastFailedAt)}, ${failedCount} failures so far; ${last}`;
}

function time(date: Date | undefined): string {
  return date?.toISOString().replace(/\.\d+Z$/, 'Z') ?? 'an unknown time';
}
