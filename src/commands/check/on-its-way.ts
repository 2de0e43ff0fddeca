/** A hole among the newest WAL may close by itself: it is looked at again. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Hole } from '../../archive/window.ts';
import type { Subject } from './subject.ts';
import type { NewestWal } from './wal-names.ts';

/** Several segments are pushed at the same time, and the later one may be there first: so long a hole is waited for, and so often. */
const wayMs = 3000;
const looks = 4;
/** So young is WAL that others of it may still be on their way. */
const youngMs = 2 * 60 * 1000;

/** What `find` finds in what is stored, and, when that is a hole that may be on its way, in what is stored a little later. */
export async function settled<T extends { readonly hole: Hole | undefined }>(
  subject: Subject,
  { storedAt }: NewestWal,
  find: (again: boolean) => Promise<T>,
): Promise<T> {
  for (let look = 1; ; look += 1) {
    const found = await find(look > 1);
    const mayCome = found.hole !== undefined && Date.now() - storedAt.getTime() < youngMs;
    if (!mayCome || look === looks) return found;
    await pause(wayMs, undefined, { signal: subject.context.signal }).catch(() =>
      subject.context.signal.throwIfAborted(),
    );
  }
}
