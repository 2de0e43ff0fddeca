/** The parent of an increment: which earlier backup its unchanged pages are taken from. Where none is fit the backup is a full one, and says why. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type BackupManifest, readManifest } from '../../archive/manifest.ts';
import { openWalFile } from '../../archive/wal-archive.ts';
import { isOnWay, type Leg, wayOf } from '../../archive/window.ts';
import { collect } from '../../bytes.ts';
import {
  CheckError,
  ConfigurationError,
  CorruptError,
  ObjectNotFound,
  systemErrorCode,
  WrongKeyError,
} from '../../errors.ts';
import { limits } from '../../limits.ts';
import { formatLsn, type Lsn } from '../../postgres/lsn.ts';
import { parseTimelineHistory } from '../../postgres/timeline-history.ts';
import { formatHistoryName, parseWalFileName } from '../../postgres/wal-file-name.ts';
import { formatDuration } from '../../quantities.ts';
import { chooseBackup, type ListedBackup, readCatalogue } from '../backups.ts';
import type { Push } from './push.ts';

export interface Parent {
  readonly manifest: BackupManifest;
  /** Of the server's timeline, the oldest timeline first. */
  readonly way: readonly Leg[];
}

/** Why a full backup is taken; `isDue`: it was to be. */
export interface NoParent {
  readonly reason: string;
  readonly isDue?: true;
}

/** The newest fit one, or the one that was asked for; else in words why there is none. @throws CheckError when the one that was asked for is not fit. */
export async function chooseParent(push: Push): Promise<Parent | NoParent> {
  const { archive, args } = push;
  const backups = (await readCatalogue(push, archive)).filter(({ state }) => state === 'confirmed');
  const tooOld = args.parent === undefined ? fullIsDue(backups, push) : undefined;
  if (tooOld !== undefined) return { reason: tooOld, isDue: true };
  const way = await readWay(push);
  if (way === undefined) {
    return {
      reason: `"${formatHistoryName(push.server.facts.timeline)}", the history of its timeline, is nowhere to be found`,
    };
  }
  if (args.parent !== undefined) {
    const { id } = chooseBackup(await readCatalogue(push, archive), args.parent);
    const manifest = await readManifest(archive, id, push);
    const reason = whyUnfit(manifest, push, way);
    if (reason === undefined) return { manifest, way };
    throw unfit(id, reason);
  }
  let reason = 'there is no confirmed backup to compare with';
  for (const [tried, { id }] of backups.reverse().slice(0, triedAtMost).entries()) {
    const manifest = await readManifest(archive, id, push).catch(unlessUnreadable);
    const why = typeof manifest === 'string' ? manifest : whyUnfit(manifest, push, way);
    if (typeof manifest !== 'string' && why === undefined) return { manifest, way };
    if (tried === 0) reason = `${id}: ${why}`;
  }
  return { reason };
}

/** The error for one that was asked for by its name. */
export function unfit(id: string, reason: string): CheckError {
  return new CheckError(`backup ${id} cannot be the parent of an increment`, {
    detail: reason,
    hint: 'Leave --parent away: the newest fit one is taken then, or a full backup.',
  });
}

/** One after the other, the newest first: where these are not fit, older ones hardly are. */
const triedAtMost = 20;

function fullIsDue(backups: readonly ListedBackup[], { args, startedAt }: Push): string | undefined {
  if (args.fullEveryMs === undefined) return undefined;
  const full = backups.findLast(({ type }) => type === 'full');
  if (full === undefined) return 'there is no full backup yet';
  const ageMs = startedAt.getTime() - full.startedAt.getTime();
  return ageMs < args.fullEveryMs ? undefined : `the last full backup is ${formatDuration(ageMs)} old`;
}

/** That this host cannot read it is a reason; that the storage cannot be reached is an error. */
function unlessUnreadable(error: unknown): string {
  const isReason = [CorruptError, WrongKeyError, ConfigurationError, ObjectNotFound].some(
    (kind) => error instanceof kind,
  );
  if (!isReason) throw error;
  return (error as Error).message;
}

/** Of the server's history, as pg_wal has it, or else the archive. Undefined when neither does. */
async function readWay({ archive, dataDirectory, server, signal }: Push): Promise<readonly Leg[] | undefined> {
  const { timeline } = server.facts;
  if (timeline === 1) return wayOf({ timeline, ancestors: [] });
  const name = formatHistoryName(timeline);
  const text = await readFile(join(dataDirectory, 'pg_wal', name), 'utf8').catch((error: unknown) => {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
    return undefined;
  });
  const told = text ?? (await readStored());
  return told === undefined ? undefined : wayOf(parseTimelineHistory(timeline, told));

  async function readStored(): Promise<string | undefined> {
    const file = parseWalFileName(name);
    if (file === undefined) return undefined;
    try {
      const { content } = await openWalFile(archive, file, { signal });
      return (await collect(content, limits.smallFileBytes)).toString('utf8');
    } catch (error) {
      if (error instanceof ObjectNotFound) return undefined;
      throw error;
    }
  }
}

/** Undefined when it is fit, for all that can be known before the backup has begun. */
function whyUnfit(manifest: BackupManifest, { server }: Push, way: readonly Leg[]): string | undefined {
  const { facts } = server;
  const { checksums, pageBytes, postgres, timeline, consistentLsn, badPages } = manifest;
  if (checksums !== facts.checksums) {
    return `page checksums were ${checksums ? 'on' : 'off'}, and are ${facts.checksums ? 'on' : 'off'} now`; // H39
  }
  if (pageBytes !== facts.pageSizeBytes) return 'its pages have another size';
  if (Math.floor(postgres.versionNumber / 10_000) !== facts.major) return 'it is of another major version';
  if (badPages.count > badPages.pages.length) return 'it holds more broken pages than it names';
  if (!isOnWay(way, timeline, consistentLsn)) {
    return `it ends at ${formatLsn(consistentLsn)} on timeline ${timeline}, which is not in this server's history`; // H38
  }
  return undefined;
}

/** H38: what the parent holds must not be later than what this backup begins with. Known when `pg_backup_start` has said where it begins. */
export function whyTooLate({ manifest }: Parent, startLsn: Lsn): string | undefined {
  if (manifest.consistentLsn <= startLsn) return undefined;
  return `${manifest.id} ends at ${formatLsn(manifest.consistentLsn)}, and this backup begins at ${formatLsn(startLsn)}, before that`;
}
