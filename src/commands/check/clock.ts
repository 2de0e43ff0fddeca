/** Do this host's clock and the storage's agree? The age of a lease is judged by the storage's, times for a restore by the hosts'. */
import { randomBytes } from 'node:crypto';
import { formatDuration } from '../../quantities.ts';
import { type Check, failed, NotLookedAt, ok, warning } from './finding.ts';

const second = 1000;
/** Times of objects are told in whole seconds by some. */
const blurMs = 2 * second;
const warnMs = 60 * second;
/** S3 refuses requests that are further off. */
const refusedMs = 15 * 60 * second;

export const clock: Check = {
  name: 'clock',
  about: "this host's clock and the storage's agree",
  async look({ storage: shared, mayDelete, context: { signal } }) {
    const { storage } = await shared.get();
    if (!(await mayDelete.get())) {
      throw new NotLookedAt('these credentials may not delete, so nothing is written to see its time');
    }
    const key = `probe/${randomBytes(8).toString('hex')}/clock`;
    const beforeMs = Date.now();
    let writtenMs: number | undefined;
    try {
      await storage.put(key, Buffer.from('wal-t check\n'), { signal });
      for await (const { modifiedAt } of storage.list(key, { signal })) writtenMs = modifiedAt.getTime();
    } finally {
      await storage.delete([key]).catch(() => undefined); // whether deleting works is told elsewhere
    }
    const afterMs = Date.now();
    if (writtenMs === undefined) return failed(`an object that was just stored in ${storage.url} is not listed`);
    const ahead = Math.max(0, beforeMs - blurMs - writtenMs); // ours is later
    const behind = Math.max(0, writtenMs - blurMs - afterMs);
    const skewMs = Math.max(ahead, behind);
    const figures = { clock_skew_seconds: (ahead - behind) / second };
    if (skewMs <= warnMs) return ok('this host and the storage agree on the time', { figures });
    const message = `this host's clock is ${formatDuration(skewMs)} ${ahead > 0 ? 'ahead of' : 'behind'} the storage's`;
    const hint =
      'Set it by a time service (chrony, systemd-timesyncd); restores to a time go by the clock of the database host.';
    return (skewMs > refusedMs ? failed : warning)(message, { hint, figures });
  },
};
