/**
 * restore DIR: brings a cluster back to a moment. Chooses backup and timeline, refuses what cannot be reached before anything is fetched,
 * fetches the files, and tells PostgreSQL how to recover; PostgreSQL does it when it is started.
 *
 * Unless it is the new production (`takeOver`) the copy stands beside: it archives nothing, subscribes to nothing, has its tablespaces
 * below itself, and stops before it would create one in a place that exists here (H29, H30).
 */
import { readdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import { configFolder } from '../archive/files-list.ts';
import { readManifest } from '../archive/manifest.ts';
import { readStoredWal } from '../archive/stored-wal.ts';
import { WalSearch } from '../archive/wal-search.ts';
import { parsePath, showPath } from '../byte-path.ts';
import { type ForeignSetting, findForeignSettings } from '../cluster/foreign-settings.ts';
import { writeRecoverySettings } from '../cluster/recovery-settings.ts';
import type { RestoredFolder } from '../cluster/restored-folder.ts';
import { CorruptError, NotFoundError, UsageError } from '../errors.ts';
import { formatLsn } from '../postgres/lsn.ts';
import { openArchive, readCatalogue } from './backups.ts';
import { type BasebackupFetchResult, fetchBackup } from './basebackup-fetch.ts';
import type { Context } from './context.ts';
import { type Choice, planRestore, type RestorePlan } from './restore/plan.ts';
import {
  describeTarget,
  formatTime,
  type GivenTarget,
  parseTarget,
  parseTime,
  type RecoveryTarget,
} from './restore/target.ts';

export interface RestoreArguments {
  readonly dir: string;
  readonly target: GivenTarget;
  /** Stop behind the target, not before it. */
  readonly inclusive: boolean;
  readonly action: 'promote' | 'pause' | 'shutdown';
  /** Undefined: the one that was written to last. */
  readonly timeline?: number | undefined;
  /** A backup's name; undefined: the newest that leads to the target. */
  readonly backup?: string | undefined;
  readonly standby: boolean;
  readonly primaryConninfo?: string | undefined;
  readonly tablespaceMapping: ReadonlyMap<string, string>;
  readonly untilHole: boolean;
  readonly takeOver: boolean;
  readonly dryRun: boolean;
  readonly scan: boolean;
  readonly resume: boolean;
  /** The shell command of our own wal-fetch with these flags, `%f` and `%p` in place, as PostgreSQL must call it. */
  readonly walFetch: (flags: readonly string[]) => string;
  /** The command line that goes on with the restore of this backup when it is interrupted. */
  readonly again: (backup: string) => string;
}

export interface RestoreResult {
  readonly plan: RestorePlan;
  readonly folder: string;
  readonly signal: 'recovery.signal' | 'standby.signal';
  readonly settings: Readonly<Record<string, string>>;
  /** It is no new production: see above. */
  readonly beside: boolean;
  readonly walBytes: number;
  /** Undefined when nothing was done. */
  readonly restored: BasebackupFetchResult | undefined;
  readonly foreignSettings: readonly ForeignSetting[];
  /** Its configuration lay outside the data directory, and is here, relative to the folder. */
  readonly configFile: string | undefined;
}

export async function restore(context: Context, args: RestoreArguments): Promise<RestoreResult> {
  checkArguments(args);
  const folder = resolve(context.workingDirectory, args.dir);
  const archive = await openArchive(context);
  const choice = await choiceIn(context, archive);
  const target = readTarget(context, args);
  const plan = await planRestore(choice, { ...args, target });
  for (const note of plan.notes) context.log.info(note);
  const beside = !args.takeOver && !args.standby;
  const settings = settingsFor(args, { plan, beside, target: await stoppable(choice, plan, args) });
  const signal = args.standby ? 'standby.signal' : 'recovery.signal';
  const { segmentSizeBytes } = choice.wal;
  const result = { plan, folder, signal, settings, beside, walBytes: plan.segments * segmentSizeBytes } as const;
  if (args.dryRun) return { ...result, restored: undefined, foreignSettings: [], configFile: undefined };
  const restored = await fetchBackup(context, {
    archive,
    manifest: plan.backup,
    dir: folder,
    tablespaceMapping: beside ? withinFolder(plan, folder, args.tablespaceMapping) : args.tablespaceMapping,
    resume: args.resume,
    again: args.again(plan.backup.id),
    settle: (made: RestoredFolder) =>
      writeRecoverySettings(folder, { signal, settings, comment: commentFor(plan, beside) }, (path) =>
        made.giveFile(path),
      ),
  });
  const configFile = await outsideConfig(folder);
  const files = [configFile ?? 'postgresql.conf', 'postgresql.auto.conf'];
  return { ...result, restored, foreignSettings: await findForeignSettings(folder, files, args), configFile };
}

function checkArguments({ standby, target, action, primaryConninfo, untilHole }: RestoreArguments): void {
  const hasTarget = target.immediate || Object.values(target).some((value) => typeof value === 'string');
  if (standby && (hasTarget || untilHole)) {
    throw new UsageError('a standby has no target: it follows for ever', {
      hint: 'Leave --standby or the target away.',
    });
  }
  if (standby && action !== 'promote') throw new UsageError('--target-action has no effect on a standby');
  if (!standby && primaryConninfo !== undefined) {
    throw new UsageError('--primary-conninfo has an effect on a standby alone', { hint: 'Add --standby.' });
  }
}

function readTarget({ log }: Context, { target }: RestoreArguments): RecoveryTarget {
  const parsed = parseTarget(target);
  const zone = target.time === undefined ? undefined : parseTime(target.time).zoneTaken;
  if (zone !== undefined)
    log.info(`"${target.time}" has no zone: this host's ${zone} was taken, so it is ${describeTarget(parsed)}`);
  return parsed;
}

/** Everything that can be restored from. @throws NotFoundError when there is nothing. */
export async function choiceIn(context: Context, archive: Archive): Promise<Choice> {
  const { signal } = context;
  const catalogue = await readCatalogue(context, archive);
  const backups = [];
  for (const { id, state } of catalogue) {
    if (state !== 'confirmed') continue;
    try {
      backups.push(await readManifest(archive, id, { signal }));
    } catch (error) {
      if (!(error instanceof CorruptError)) throw error;
      context.log.warning(error.message, error); // others may do
    }
  }
  const segmentSizeBytes = backups.at(-1)?.walSegmentBytes;
  const wal = await readStoredWal(archive, { signal, segmentSizeBytes });
  if (wal === undefined) {
    throw new NotFoundError('no WAL of this cluster is archived', {
      hint: 'Correct WALT_REPO, or --cluster: wal-t config shows what is in force.',
    });
  }
  return { wal, backups, search: new WalSearch(archive, wal, { signal }) };
}

/** At the end of the WAL PostgreSQL promotes, whatever it was told: it stops there only for a target, the last record. */
async function stoppable(
  { search }: Choice,
  { target, chain }: RestorePlan,
  { action, standby }: RestoreArguments,
): Promise<RecoveryTarget> {
  if (target.kind !== 'end' || action === 'promote' || standby) return target;
  const lsn = await search.lastRecord(chain);
  return lsn === undefined ? target : { kind: 'lsn', lsn };
}

function settingsFor(
  args: RestoreArguments,
  { plan, beside, target }: { readonly plan: RestorePlan; readonly beside: boolean; readonly target: RecoveryTarget },
): Readonly<Record<string, string>> {
  const flags = [
    ...(beside ? ['--beside'] : []),
    ...(args.standby ? [] : ['--timeline', String(plan.timeline)]),
    ...(plan.endAt === undefined ? [] : ['--end-at', plan.endAt]),
  ];
  return {
    restore_command: args.walFetch(flags),
    ...targetSettings(target),
    // the last record, which stands for the end, is wanted
    recovery_target_inclusive: args.inclusive || plan.target.kind === 'end' ? 'on' : 'off',
    // a number: `latest` would follow any history that lies in the archive
    recovery_target_timeline: args.standby ? 'latest' : String(plan.timeline),
    recovery_target_action: args.action,
    primary_conninfo: args.primaryConninfo ?? '',
    primary_slot_name: '',
    archive_cleanup_command: '',
    recovery_end_command: '',
    ...(beside ? { archive_mode: 'off', max_logical_replication_workers: '0', synchronous_standby_names: '' } : {}),
  };
}

/** The one that is set stands last: PostgreSQL takes them in their order, and an empty one behind it for a second target. */
function targetSettings(target: RecoveryTarget): Readonly<Record<string, string>> {
  const empty = {
    recovery_target: '',
    recovery_target_time: '',
    recovery_target_lsn: '',
    recovery_target_name: '',
    recovery_target_xid: '',
  };
  const [name, value] = targetSetting(target);
  if (name === undefined) return empty;
  const { [name]: _, ...others } = empty;
  return { ...others, [name]: value };
}

function targetSetting(target: RecoveryTarget) {
  switch (target.kind) {
    case 'immediate':
      return ['recovery_target', 'immediate'] as const;
    case 'time':
      return ['recovery_target_time', formatTime(target.time)] as const;
    case 'lsn':
      return ['recovery_target_lsn', formatLsn(target.lsn)] as const;
    case 'name':
      return ['recovery_target_name', target.name] as const;
    case 'xid':
      return ['recovery_target_xid', target.xid] as const;
    case 'end':
      return [undefined, ''] as const;
  }
}

function commentFor({ backup, timeline, target }: RestorePlan, beside: boolean): string[] {
  const what = `written by wal-t restore: backup ${backup.id}, timeline ${timeline}, to ${describeTarget(target)}`;
  return beside
    ? [what, 'a copy beside: to make it the production server remove archive_mode and what follows it']
    : [what];
}

/** Every tablespace below the folder, unless it was sent elsewhere: its old place may be a live server's (H29). */
function withinFolder(
  { backup }: RestorePlan,
  folder: string,
  given: ReadonlyMap<string, string>,
): ReadonlyMap<string, string> {
  const mapping = new Map(given);
  for (const { oid, ...place } of backup.tablespaces) {
    const from = showPath(parsePath(place) ?? '');
    if (!mapping.has(from)) mapping.set(from, `${folder}/wal-t-tablespaces/${oid}`);
  }
  return mapping;
}

/** Where the configuration is that lay outside the data directory: the folder has none of its own then. */
async function outsideConfig(folder: string): Promise<string | undefined> {
  const own = await readdir(folder);
  if (own.includes('postgresql.conf') || !own.includes(configFolder)) return undefined;
  const names = await readdir(`${folder}/${configFolder}`, { recursive: true });
  const found = names.find((name) => name.endsWith('postgresql.conf'));
  return found === undefined ? undefined : `${configFolder}/${found}`;
}
