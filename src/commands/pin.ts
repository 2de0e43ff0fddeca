/** pin NAME, unpin NAME: a backup stays, whatever the policy says, until a time, for ever, or no longer. */
import type { Archive } from '../archive/archive.ts';
import { isAlive, readPlans } from '../archive/deletion-plan.ts';
import { setPin } from '../archive/pins.ts';
import { CheckError, UsageError } from '../errors.ts';
import { chooseNamed, openArchive, readCatalogue } from './backups.ts';
import type { Context } from './context.ts';
import { parseTime } from './restore/target.ts';

export interface PinResult {
  readonly backup: string;
  readonly until: Date | 'for ever' | 'no longer';
}

/** @throws NotFoundError when there is no such backup, CheckError when nothing could be restored from it. */
export async function pin(
  context: Context,
  { name, until }: { readonly name: string; readonly until?: string | undefined },
): Promise<PinResult> {
  const date =
    until === undefined
      ? 'for ever'
      : new Date(Number(parseTime(/^\d{4}-\d\d-\d\d$/.test(until) ? `${until} 00:00` : until).time / 1000n));
  if (date instanceof Date && date <= new Date()) throw new UsageError(`"${until}" is in the past`);
  return record(context, name, date);
}

export async function unpin(context: Context, { name }: { readonly name: string }): Promise<PinResult> {
  return record(context, name, 'no longer');
}

async function record(context: Context, name: string, until: PinResult['until']): Promise<PinResult> {
  const archive = await openArchive(context);
  const { id, state } = chooseNamed(await readCatalogue(context, archive), name);
  if (state !== 'confirmed' && until !== 'no longer') {
    throw new CheckError(`backup "${id}" is ${state}: nothing could be restored from it`, {
      hint: 'backup-list shows the confirmed ones.',
    });
  }
  await setPin(archive, { backup: id, until, setAt: new Date() }, { host: context.host, signal: context.signal });
  if (until !== 'no longer') await expectSeen(context, archive, id);
  return { backup: id, until };
}

/** A deletion that read the pins just before may take the backup: its plan is there, or it is over, and then the backup is gone. */
async function expectSeen(context: Context, archive: Archive, id: string): Promise<void> {
  const plan = (await readPlans(archive, context)).find((one) => isAlive(one, new Date()));
  if (plan !== undefined) {
    throw new CheckError('a deletion is running, and may not have seen the pin', {
      detail: `its plan is "${plan.name}"; the pin is stored`,
      hint: 'Pin it again when the deletion has ended.',
    });
  }
  const { state } = chooseNamed(await readCatalogue(context, archive), id);
  if (state !== 'confirmed') throw new CheckError(`backup "${id}" was deleted while it was pinned`);
}
