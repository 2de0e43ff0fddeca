/**
 * verify [NAME|--all] [--deep]: can these backups be restored? One verdict for each.
 *
 * shallow  the manifest and the list of files are whole, every part is there with its size, and the WAL from start to consistent end is
 * deep     besides, every part and every WAL object is read and compared with what was committed to, and every page with its checksum
 */
import { availableParallelism } from 'node:os';
import type { Archive } from '../archive/archive.ts';
import { parseBackupId } from '../archive/backup-id.ts';
import { kindPrefix } from '../archive/keys.ts';
import type { BadPage } from '../archive/manifest.ts';
import { readManifest } from '../archive/manifest.ts';
import { usedParts } from '../archive/part-uses.ts';
import { CorruptError, ObjectNotFound } from '../errors.ts';
import { chooseNamed, type ListedBackup, openArchive, readCatalogue } from './backups.ts';
import type { Context } from './context.ts';
import { judgeBackup } from './verify/backup.ts';
import { type KeyFindings, lookAtKeys } from './verify/keys.ts';
import { nameOfPart } from './verify/part-reading.ts';
import { ReadParts } from './verify/read-parts.ts';
import { recordVerification } from './verify/record.ts';
import { hashWal, type WalFindings } from './verify/wal.ts';

export interface VerifyArguments {
  /** A backup's name, or LATEST; without it, all of them. */
  readonly name?: string | undefined;
  readonly deep: boolean;
}

export interface Verdict {
  readonly id: string;
  readonly isRestorable: boolean;
  /** Why it is not. */
  readonly reasons: readonly string[];
  /** Pages that were wrong already when they were copied: the backup is as good as its cluster was. */
  readonly badPages: { readonly count: number; readonly pages: readonly BadPage[] };
}

export interface VerifyResult {
  readonly systemIdentifier: string;
  readonly deep: boolean;
  /** Oldest first. Backups that are being taken have none yet. */
  readonly verdicts: readonly Verdict[];
  readonly running: readonly string[];
  /** A deletion is running, or was broken off. */
  readonly isDeleting: boolean;
  /** Undefined unless deep. */
  readonly wal: WalFindings | undefined;
  readonly keys: KeyFindings;
}

/** Can something be restored, and is nothing wrong that somebody must look after? Left-overs are not. */
export function isSound({ verdicts, wal }: VerifyResult): boolean {
  return verdicts.length > 0 && verdicts.every(({ isRestorable }) => isRestorable) && (wal?.damaged.length ?? 0) === 0;
}

export async function verify(context: Context, { name, deep }: VerifyArguments): Promise<VerifyResult> {
  const archive = await openArchive(context);
  const catalogue = await readCatalogue(context, archive);
  const chosen = name === undefined ? catalogue : [chooseNamed(catalogue, name)];
  const isDeleting = await hasPlan(context, archive);
  const crew = deep ? context.crew(context.settings.workers ?? Math.min(16, availableParallelism())) : undefined;
  try {
    const verdicts: Verdict[] = [];
    // one that was confirmed and has no manifest has lost it, unless a deletion took it; and whoever names one wants a verdict
    const ended = chosen.filter(({ hasManifest, isClosed, state }) => {
      return name !== undefined || ((hasManifest || (isClosed && !isDeleting)) && state !== 'running');
    });
    const read = new ReadParts(deep ? await lastUsers(context, archive, ended) : new Map());
    for (const backup of ended) {
      verdicts.push(await judgeBackup(context, archive, backup, { crew, read }));
      read.forget(backup.id);
    }
    const result: VerifyResult = {
      systemIdentifier: archive.systemIdentifier,
      deep,
      verdicts,
      isDeleting,
      running: catalogue.filter(({ state }) => state === 'running').map(({ id }) => id),
      wal: deep && name === undefined ? await hashWal(context, archive) : undefined,
      keys: await lookAtKeys(context, archive, catalogue),
    };
    if (name === undefined) await recordVerification(context, archive, result);
    return result;
  } finally {
    await crew?.close();
  }
}

/** Of each part that increments use, by `<backup>/<number>`: the last of the backups that does. */
async function lastUsers(context: Context, archive: Archive, backups: readonly ListedBackup[]) {
  const found = new Map<string, string>();
  for (const { id, hasManifest } of backups) {
    if (!hasManifest || parseBackupId(id)?.type !== 'incremental') continue;
    try {
      for (const part of usedParts(await readManifest(archive, id, context))) found.set(nameOfPart(part), id);
    } catch (error) {
      if (!(error instanceof CorruptError || error instanceof ObjectNotFound)) throw error;
      // what is wrong with it is told when it is judged
    }
  }
  return found;
}

async function hasPlan(context: Context, { storage, systemIdentifier }: Archive): Promise<boolean> {
  for await (const _ of storage.list(kindPrefix(systemIdentifier, 'plan'), context)) return true;
  return false;
}
