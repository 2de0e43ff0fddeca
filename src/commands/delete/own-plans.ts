/** One command at a time takes anything away: its plans are published before, and whoever finds another's gives way. */
import type { Archive } from '../../archive/archive.ts';
import { type DeletionPlan, isAlive, readPlans } from '../../archive/deletion-plan.ts';
import { objectKey } from '../../archive/keys.ts';
import { CheckError } from '../../errors.ts';
import type { Context } from '../context.ts';

/** @returns the storage's own time. @throws CheckError when another one is at it. */
export async function expectNoOther(context: Context, archive: Archive, own: readonly string[]): Promise<Date> {
  const plans = await readPlans(archive, context);
  const now = plans.find(({ name }) => own.includes(name))?.storedAt;
  if (now === undefined)
    throw new CheckError("the deletion's own plan is gone: another one runs, or the storage loses objects");
  const other = plans.find((plan) => !own.includes(plan.name) && isAlive(plan, now));
  if (other === undefined) return now;
  throw new CheckError('another deletion is running, or a wal-set-aside', {
    detail: `its plan is "${other.name}", stored ${other.storedAt.toISOString()}`,
    hint: 'Wait until it has ended. If it was broken off on another host, this works again after an hour.',
  });
}

/** Of whom nobody is at work any more. `now` by the storage's clock. */
export async function deadPlans(context: Context, archive: Archive, now: Date): Promise<DeletionPlan[]> {
  return (await readPlans(archive, context)).filter((plan) => !isAlive(plan, now));
}

/** Never throws: why plans are withdrawn is told elsewhere. */
export async function withdraw(context: Context, archive: Archive, plans: readonly string[]): Promise<void> {
  const keys = [...new Set(plans)].map((name) => objectKey(archive.systemIdentifier, name));
  if (keys.length === 0) return;
  try {
    const { failed } = await archive.storage.delete(keys, { signal: context.signal });
    for (const { key, error } of failed) warnOfPlan(context, key, error);
  } catch (error) {
    for (const key of keys) warnOfPlan(context, key, error as Error);
  }
}

function warnOfPlan({ log }: Context, key: string, error: Error): void {
  log.warning(`the plan "${key}" could not be removed: ${error.message}`, {
    hint: 'Backups that need what it names are not confirmed while it is there: the next deletion removes it.',
  });
}
