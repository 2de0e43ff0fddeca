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
import { configFolder } from '../archive/files-paths.ts';
import { readManifest } from '../archive/manifest.ts';
import { parsePath, showPath } from '../byte-path.ts';
import { type ForeignSetting, findForeignSettings } from '../cluster/foreign-settings.ts';
import { writeRecoverySettings } from '../cluster/recovery-settings.ts';
import type { RestoredFolder } from '../cluster/restored-folder.ts';
import { UsageError } from '../errors.ts';
import { parseWalFileName } from '../postgres/wal-file-name.ts';
import { chooseBackup, openArchive, readCatalogue } from './backups.ts';
import { type BasebackupFetchResult, fetchBackup } from './basebackup-fetch.ts';
import type { Context } from './context.ts';
import { statementsFor } from './restore/arming.ts';
import { type Choice, choiceIn, withReadable } from './restore/choice.ts';
import { followedTimeline } from './restore/followed-timeline.ts';
import { offerWal } from './restore/offered-wal.ts';
import { planRestore, type RestorePlan } from './restore/plan.ts';
import { recoveryValues } from './restore/recovery-values.ts';
import { describeTarget, type GivenTarget, parseTarget, parseTime, type RecoveryTarget } from './restore/target.ts';

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
  /** Over a stopped cluster, of which all that fits is kept. */
  readonly delta?: boolean;
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
  /** Segments of the old pg_wal that were never archived, and that recovery goes on into. */
  readonly offeredWal: readonly string[];
  readonly foreignSettings: readonly ForeignSetting[];
  /** SQL for when it is open: makes a copy beside the production server; takes back what was set for the recovery. */
  readonly statements: { readonly arming: readonly string[]; readonly recovery: readonly string[] };
  /** Its configuration lay outside the data directory, and is here, relative to the folder. */
  readonly configFile: string | undefined;
}

export async function restore(context: Context, args: RestoreArguments): Promise<RestoreResult> {
  checkArguments(args);
  const folder = resolve(context.workingDirectory, args.dir);
  const archive = await openArchive(context);
  const target = readTarget(context, args);
  const request = { ...args, target, backup: await backupIn(context, archive, args) };
  const choice = await choiceIn(context, archive);
  const { plan, stop } = await withReadable(context, choice, async (readable) => {
    const plan = await planRestore(readable, request);
    return { plan, stop: await stoppable(readable, plan, args) };
  });
  const followed = followedTimeline(choice, plan, args);
  for (const note of [...plan.notes, ...followed.notes]) context.log.info(note);
  const beside = !args.takeOver && !args.standby;
  const settings = recoveryValues({
    restoreCommand: args.walFetch(walFetchFlags(plan, beside, followed.timeline)),
    target: stop,
    // the last record, which stands for the end, is wanted
    inclusive: args.inclusive || plan.target.kind === 'end',
    timeline: followed.timeline,
    action: args.action,
    primaryConninfo: args.primaryConninfo,
    beside,
  });
  const signal = args.standby ? 'standby.signal' : 'recovery.signal';
  const { segmentSizeBytes } = choice.wal;
  const result = { plan, folder, signal, settings, beside, walBytes: plan.segments * segmentSizeBytes } as const;
  if (args.dryRun) return { ...result, ...nothingDone };
  let offeredWal: readonly string[] = [];
  const isToTheEnd = stop.kind === 'end' && !args.standby && plan.endAt === undefined;
  const restored = await fetchBackup(context, {
    archive,
    manifest: plan.backup,
    dir: folder,
    tablespaceMapping: beside ? withinFolder(plan, folder, args.tablespaceMapping) : args.tablespaceMapping,
    resume: args.resume,
    delta: args.delta === true,
    again: args.again(plan.backup.id),
    settle: async (made: RestoredFolder, oldWal) => {
      if (oldWal !== undefined && isToTheEnd) {
        offeredWal = await offerWal(context, archive, { plan, target: made, oldWal, folder });
      }
      await writeRecoverySettings(folder, { signal, settings, comment: commentFor(plan, beside) }, (path) =>
        made.giveFile(path),
      );
    },
  });
  warnOfOthers(context, plan, restored);
  const configFile = await outsideConfig(folder);
  const files = [configFile ?? 'postgresql.conf', 'postgresql.auto.conf'];
  const foreignSettings = await findForeignSettings(folder, files, args);
  return {
    ...result,
    restored,
    offeredWal,
    foreignSettings,
    statements: await statementsFor(folder, settings),
    configFile,
  };
}

/** The old server's own timeline may have been unknown to the archive when the plan was made. */
function warnOfOthers({ log }: Context, { way, timeline }: RestorePlan, { oldWal }: BasebackupFetchResult): void {
  const numbers = oldWal?.pushed.map((name) => parseWalFileName(name)?.timeline ?? timeline) ?? [];
  for (const other of new Set(numbers)) {
    if (way.some((leg) => leg.timeline === other)) continue;
    log.warning(
      `the old pg_wal had unarchived WAL of timeline ${other}, and this restore follows timeline ${timeline}`,
      {
        detail: 'it is archived now',
        hint: `If that is what is wanted, restore again with --target-timeline ${other}.`,
      },
    );
  }
}

const nothingDone = {
  restored: undefined,
  offeredWal: [],
  foreignSettings: [],
  statements: { arming: [], recovery: [] },
  configFile: undefined,
} as const;

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

/** The name of the backup that is asked for. @throws NotFoundError, CheckError or CorruptError when it cannot be had. */
async function backupIn(
  context: Context,
  archive: Archive,
  { backup }: Pick<RestoreArguments, 'backup'>,
): Promise<string | undefined> {
  if (backup === undefined) return undefined;
  const { id } = chooseBackup(await readCatalogue(context, archive), backup);
  await readManifest(archive, id, { signal: context.signal });
  return id;
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

function walFetchFlags({ endAt }: RestorePlan, beside: boolean, timeline: number | 'latest'): string[] {
  return [
    ...(beside ? ['--beside'] : []),
    ...(timeline === 'latest' ? [] : ['--timeline', String(timeline)]),
    ...(endAt === undefined ? [] : ['--end-at', endAt]),
  ];
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
