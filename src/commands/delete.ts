/**
 * wal-t delete: removes what a retention policy no longer needs.
 *
 * The order of the steps keeps it from harming a backup that is taken meanwhile, without relying on any clock (H27):
 *   manifests that go → a plan of all else that goes → everything read again, and what is needed by now struck out → removal → the plan
 * Nothing is removed unless every manifest, pin, lease and history was read and understood (H28). Histories are never removed (H14).
 */
import type { Archive } from '../archive/archive.ts';
import { concerns, publishPlan } from '../archive/deletion-plan.ts';
import { planRetention } from '../archive/retention.ts';
import type { Policy, RetentionPlan } from '../archive/retention-state.ts';
import { CheckError, UnsupportedError, UsageError, WalTError } from '../errors.ts';
import { uploadExpiryMs } from '../limits.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';
import { type Inventory, readInventory } from './delete/inventory.ts';
import { deadPlans, expectNoOther, withdraw } from './delete/own-plans.ts';
import { type Gone, goneOf, type Removable, removableOf, removalOf } from './delete/removable.ts';
import { parseTime } from './restore/target.ts';

export interface DeleteArguments {
  readonly retain?: number | undefined;
  readonly keepDays?: number | undefined;
  readonly keepDaily?: number | undefined;
  readonly keepWeekly?: number | undefined;
  readonly keepMonthly?: number | undefined;
  readonly keepYearly?: number | undefined;
  /** A time, or a backup's name. */
  readonly before?: string | undefined;
  readonly backup?: string | undefined;
  readonly sweep: boolean;
  /** Without it nothing is removed. */
  readonly confirm: boolean;
}

export interface DeleteResult {
  readonly plan: RetentionPlan;
  readonly removable: Removable;
  /** Undefined when nothing was removed, as asked. */
  readonly removed: Gone | undefined;
  /** Each key that could not be removed. */
  readonly failed: readonly { readonly key: string; readonly error: WalTError }[];
}

export async function deleteBackups(context: Context, args: DeleteArguments): Promise<DeleteResult> {
  const policy = policyOf(args);
  const archive = await openArchive(context);
  const progress: Progress = { removed: 'nothing' };
  try {
    return args.confirm
      ? await removeBackups(context, archive, policy, progress)
      : await planAlone(context, archive, policy);
  } catch (error) {
    // what the reader wants to know first
    if (error instanceof WalTError) context.log.info(whatWasRemoved[progress.removed]);
    throw error;
  }
}

/** How far a deletion has come. */
interface Progress {
  removed: keyof typeof whatWasRemoved;
}

const whatWasRemoved = {
  nothing: 'nothing was removed',
  manifests: 'manifests were removed, and nothing else: the next deletion removes what belonged to them',
  some: 'the removal was broken off: the next deletion goes on',
} as const;

async function planAlone(context: Context, archive: Archive, policy: Policy): Promise<DeleteResult> {
  const now = new Date();
  const inventory = await readInventory(context, archive, now);
  const plan = planRetention(inventory.state, policy, now);
  return { plan, removable: removableOf(inventory, plan), removed: undefined, failed: [] };
}

/** Asserts what the parser cannot. @throws UsageError */
function policyOf(args: DeleteArguments): Policy {
  // what is parsed has more members than these
  const { before, sweep, retain, keepDays, keepDaily, keepWeekly, keepMonthly, keepYearly, backup } = args;
  const counts = { retain, keepDays, keepDaily, keepWeekly, keepMonthly, keepYearly, backup };
  const given = Object.entries({ ...counts, before }).filter(([, value]) => value !== undefined);
  if (given.length === 0 && !sweep) {
    throw new UsageError('it is not said what is to be kept', {
      hint: 'Give --retain N, --keep-days D, --keep-daily/-weekly/-monthly/-yearly N, --before, --backup or --sweep.',
    });
  }
  for (const [name, value] of given) {
    if (typeof value === 'number' && !(Number.isSafeInteger(value) && value > 0)) {
      throw new UsageError(`${name} must be a whole number of at least 1`, {
        hint: "To remove a whole archive remove its folder or its prefix with the storage's own tools.",
      });
    }
  }
  const isTime = before !== undefined && /^\d{4}-/.test(before);
  const until =
    before === undefined ? {} : { before: isTime ? new Date(Number(parseTime(before).time / 1000n)) : before };
  return { ...Object.fromEntries(given.filter(([name]) => name !== 'before')), ...until, sweep };
}

async function removeBackups(
  context: Context,
  archive: Archive,
  policy: Policy,
  progress: Progress,
): Promise<DeleteResult> {
  const writer = { host: context.host, signal: context.signal };
  // names nothing: it tells others that a deletion is running, and this one what time it is for the storage
  const opening = await publishPlan(archive, { parts: new Map(), wal: [] }, writer);
  const ownPlans = [opening];
  try {
    const now = await expectNoOther(context, archive, ownPlans);
    const inventory = await readInventory(context, archive, now);
    const plan = planRetention(inventory.state, policy, now);
    const removable = removableOf(inventory, plan);
    if (plan.refusal !== undefined) {
      await withdraw(context, archive, ownPlans);
      return { plan, removable, removed: { objects: 0, bytes: 0 }, failed: [] };
    }
    if (removable.manifests.length > 0) progress.removed = 'manifests';
    const manifests = await removeKeys(context, archive, removable.manifests);
    if (manifests.length > 0) {
      await withdraw(context, archive, ownPlans);
      return { plan, removable, removed: goneOf(removable, removable.manifests, manifests), failed: manifests };
    }
    const removal = removalOf(removable);
    ownPlans.push(await publishPlan(archive, removal, writer));
    const after = await expectStillUnneeded(context, archive, { policy, now, before: inventory, removable });
    progress.removed = 'some';
    const left = await removeKeys(context, archive, removable.others);
    const failed = [...left, ...(await sweepUploads(context, archive, after, now))];
    if (left.length === 0) {
      const dead = await deadPlans(context, archive, now);
      await withdraw(context, archive, [...ownPlans, ...dead.map(({ name }) => name)]);
    }
    const removed = goneOf(removable, [...removable.manifests, ...removable.others], left);
    return { plan, removable, removed, failed };
  } catch (error) {
    // what was published may have been seen: it stays only when something was removed by it
    if (progress.removed !== 'some') await withdraw(context, archive, ownPlans);
    throw error;
  }
}

/** Whatever came into the archive since it was read: a backup that was begun or confirmed meanwhile, a pin. */
async function expectStillUnneeded(
  context: Context,
  archive: Archive,
  { policy, now, before, removable }: { policy: Policy; now: Date; before: Inventory; removable: Removable },
): Promise<Inventory> {
  const after = await readInventory(context, archive, now);
  const again = removableOf(after, planRetention(after.state, policy, now));
  const removal = removalOf(removable);
  const isNew = (id: string) => !before.state.backups.some((one) => one.id === id);
  // those that have just lost their manifest need nothing any more
  const needed = after.state.backups.filter(
    ({ id, state }) => state !== 'failed' && (isNew(id) || !before.isSame(after, id)),
  );
  const hit = needed.find(({ uses, timeline, startLsn }) =>
    concerns(removal, { uses: Object.fromEntries(uses), wal: after.walFrom(timeline, startLsn) }),
  );
  const struck = firstKept(after, again, removable.others);
  if (hit === undefined && struck === undefined) return after;
  throw new CheckError('the archive changed while it was looked at: nothing more is removed', {
    detail:
      hit === undefined
        ? `"${struck}" was to go, and is needed by now`
        : `backup ${hit.id} was begun or confirmed meanwhile, and needs what was to go`,
    hint: 'Run the deletion again.',
  });
}

/** The first key that was to go, is still there, and would not go any more. */
function firstKept({ keys, walKeys }: Inventory, again: Removable, going: readonly string[]): string | undefined {
  const kept = new Set([...[...keys.values()].flat(), ...walKeys].map(({ key }) => key));
  for (const key of [...again.manifests, ...again.others]) kept.delete(key);
  return going.find((key) => kept.has(key));
}

/** Uploads of backups that are not being taken, and of anything else a day after it was begun: no push takes as long. */
async function sweepUploads(context: Context, { storage, systemIdentifier }: Archive, { state }: Inventory, now: Date) {
  const running = new Set(state.backups.filter((one) => one.state === 'running').map(({ id }) => id));
  const isOrphan = (key: string, begunAt: Date): boolean => {
    const [cluster, kind, id = ''] = key.split('/');
    const isOld = now.getTime() - begunAt.getTime() > uploadExpiryMs;
    return cluster === systemIdentifier && isOld && !((kind === 'part' || kind === 'files') && running.has(id));
  };
  try {
    const report = await storage.sweep?.(isOrphan, { signal: context.signal });
    if (report !== undefined && report.removed > 0)
      context.log.info(`${report.removed} uploads that were broken off have been taken back`);
    return (report?.failed ?? []).map(({ what, error }) => ({ key: what, error }));
  } catch (error) {
    // all that was to go has gone: what no listing shows is worth no failure
    if (!(error instanceof WalTError)) throw error;
    const isKnown = error instanceof UnsupportedError;
    if (!isKnown) context.log.warning(`uploads that were broken off stay where they are: ${error.message}`, error);
    else context.log.info('this storage cannot list uploads that were broken off', { hint: lifeCycleHint });
    return [];
  }
}

const lifeCycleHint = 'Let a life-cycle rule of the bucket end them.';

async function removeKeys({ signal }: Context, { storage }: Archive, keys: readonly string[]) {
  return keys.length === 0 ? [] : (await storage.delete(keys, { signal })).failed;
}
