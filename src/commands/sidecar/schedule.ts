/** When something is due: a cron expression in a time zone, and by how much each of its times is put off. Pure; nothing waits here. */
import { createHash } from 'node:crypto';
import { Cron } from 'croner';
import { ConfigurationError } from '../../errors.ts';

/** All times in milliseconds since 1970. */
export interface Schedule {
  /** The last due time that has come by `now`, as the expression has it, without jitter. Undefined: none ever has. */
  latest(now: number): number | undefined;
  /** The next time after `now`, jitter included, at which `latest` changes. */
  next(now: number): number | undefined;
}

export interface ScheduleOptions {
  /** The setting that the expression is from, for messages. */
  readonly name: string;
  /** An IANA name. */
  readonly timeZone: string;
  /** Each time is put off by less than that; and by less than the time to the next one. */
  readonly maxJitterMs?: number | undefined;
  /** What makes the jitter of one host differ from another's. */
  readonly seed?: string;
}

/** @throws ConfigurationError when the text is no cron expression, never comes, or the zone does not exist. */
export function parseSchedule(text: string, options: ScheduleOptions): Schedule {
  const cron = parseCron(text, options);
  const { maxJitterMs = 0, seed = '' } = options;
  const after = (time: number): number | undefined => cron.nextRun(new Date(time))?.getTime();
  const shifted = (time: number): number => {
    const gapMs = (after(time) ?? Number.POSITIVE_INFINITY) - time;
    return time + Math.floor(fractionOf(`${seed}\n${options.name}\n${time}`) * Math.min(maxJitterMs, gapMs));
  };
  // whoever is before a time by its whole second has not reached it
  const before = (now: number): readonly number[] =>
    cron.previousRuns(2, new Date(Math.floor(now / 1000) * 1000 + 1000)).map((date) => date.getTime());
  const look = (now: number): Between => {
    const [pending, ...earlier] = before(now);
    const isPending = pending !== undefined && shifted(pending) > now;
    const following = isPending ? pending : after(now);
    return {
      from: now,
      latest: isPending ? earlier[0] : pending,
      next: following === undefined ? undefined : shifted(following),
    };
  };
  // each look takes milliseconds, and one is taken every minute
  let known: Between | undefined;
  const between = (now: number): Between => {
    if (known === undefined || now < known.from || now >= (known.next ?? Number.POSITIVE_INFINITY)) known = look(now);
    return known;
  };
  return { latest: (now) => between(now).latest, next: (now) => between(now).next };
}

/** What holds from a moment until the next due time. */
interface Between {
  readonly from: number;
  readonly latest: number | undefined;
  readonly next: number | undefined;
}

function parseCron(text: string, { name, timeZone }: ScheduleOptions): Cron {
  expectTimeZone(timeZone);
  let cron: Cron | undefined;
  try {
    cron = new Cron(text, { timezone: timeZone, paused: true, mode: '5-part' });
  } catch {
    // the message is about the library's own forms
  }
  if (cron !== undefined && cron.nextRun(new Date(0)) !== null) return cron;
  throw new ConfigurationError(`${name} cannot be "${text}"`, {
    detail: cron === undefined ? 'it is no cron expression' : 'that time never comes',
    hint: 'Write five fields as in a crontab, such as "0 1 * * *" for one o\'clock each night, or @daily, or off.',
  });
}

function expectTimeZone(timeZone: string): void {
  try {
    new Intl.DateTimeFormat('en', { timeZone });
  } catch {
    throw new ConfigurationError(`WALT_SIDECAR_TIME_ZONE cannot be "${timeZone}"`, {
      hint: 'It must be a name such as UTC or Europe/Berlin.',
    });
  }
}

/** From 0 to less than 1, evenly, and always the same for the same text. */
function fractionOf(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE() / 2 ** 32;
}
