/** How long wal-fetch keeps trying, what it says meanwhile, and what it says when a promotion does not wait for it. */
import { isPromoting } from '../../cluster/data-directory.ts';
import { isRecoveryTarget } from '../../cluster/last-refused.ts';
import { reminderMs } from '../../limits.ts';
import type { Fetch, Place } from './fetch.ts';

/** How long it is still worth trying, and a line in the log every 30 s for as long as it is. */
export class Trying {
  readonly #place: Place;
  readonly #started = performance.now(); // a clock that nobody sets
  #remindedAt: number | undefined;

  constructor(place: Place) {
    this.#place = place;
  }

  /** After a failure. */
  async leftMs(failure: Error): Promise<number> {
    const leftMs = (await patienceMs(this.#place)) - (performance.now() - this.#started);
    const silentMs = performance.now() - (this.#remindedAt ?? Number.NEGATIVE_INFINITY);
    if (leftMs > 0 && silentMs >= reminderMs) this.#remind(failure);
    return leftMs;
  }

  /** After one that the storage may mend by repeating a request: it is told when it lasts. */
  leftInsideMs(failure: Error): Promise<number> {
    this.#remindedAt ??= this.#started;
    return this.leftMs(failure);
  }

  #remind({ message }: Error): void {
    this.#remindedAt = performance.now();
    const seconds = Math.round((this.#remindedAt - this.#started) / 1000);
    this.#place.log.info(`${message}; trying again`, { detail: `for ${seconds} s so far` });
  }
}

/** How long it is worth trying: in archive recovery an error stops the server, a standby asks again by itself. */
async function patienceMs({ settings, target, standby, dataDirectory }: Place): Promise<number> {
  const { walFetchRecoveryMs, walFetchStandbyMs, walFetchPromoteMs } = settings.times;
  if (!standby) return isRecoveryTarget(target) ? walFetchRecoveryMs : walFetchStandbyMs;
  const promoting = dataDirectory !== undefined && (await isPromoting(dataDirectory));
  return promoting ? walFetchPromoteMs : walFetchStandbyMs;
}

/** Cannot be prevented without forbidding failover: PostgreSQL opens without what the archive may still hold (H7). */
export async function warnOfPromotion({ standby, dataDirectory, file, log }: Fetch): Promise<void> {
  if (!standby || dataDirectory === undefined || !(await isPromoting(dataDirectory))) return;
  log.warning(`this standby is being promoted WITHOUT "${file.name}", which may be in the archive`, {
    detail: 'whatever was committed in it and after it will be missing, and its timeline number may be in use already',
    hint: 'If this is not meant, stop the server before it takes writes, mend the storage, and build the standby anew.',
  });
}
