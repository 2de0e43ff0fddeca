/** Recovery targets as people give them, and as PostgreSQL's settings name them. */
import { UsageError } from '../../errors.ts';
import { formatLsn, type Lsn, parseLsn } from '../../postgres/lsn.ts';

/** Microseconds since 1970, UTC: finer than a Date, as PostgreSQL's own times are. */
export type Microseconds = bigint;

export type RecoveryTarget =
  | { readonly kind: 'end' }
  | { readonly kind: 'immediate' }
  | { readonly kind: 'time'; readonly time: Microseconds }
  | { readonly kind: 'lsn'; readonly lsn: Lsn }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'xid'; readonly xid: string };

export interface GivenTarget {
  readonly time?: string | undefined;
  readonly lsn?: string | undefined;
  readonly name?: string | undefined;
  readonly xid?: string | undefined;
  readonly immediate: boolean;
}

/** @throws UsageError when there are two, or one is none. */
export function parseTarget({ time, lsn, name, xid, immediate }: GivenTarget): RecoveryTarget {
  const given = Object.entries({ time, lsn, name, xid, immediate: immediate || undefined }).filter(
    ([, value]) => value !== undefined,
  );
  if (given.length > 1) {
    throw new UsageError(
      `there can be one target only, and there are ${given.map(([flag]) => `--target-${flag}`).join(' and ')}`,
    );
  }
  if (immediate) return { kind: 'immediate' };
  if (time !== undefined) return { kind: 'time', time: parseTime(time).time };
  if (lsn !== undefined) {
    const parsed = parseLsn(lsn);
    if (parsed === undefined)
      throw new UsageError(`"${lsn}" is no LSN`, { hint: 'Write it as PostgreSQL does: 16/B374D848.' });
    return { kind: 'lsn', lsn: parsed };
  }
  if (name !== undefined) {
    if (name === '') throw new UsageError('a restore point has a name'); // empty, it would be no target at all
    if (Buffer.byteLength(name) >= 64) throw new UsageError("a restore point's name has less than 64 bytes");
    return { kind: 'name', name };
  }
  if (xid !== undefined) {
    if (!/^[1-9]\d{0,19}$/.test(xid) || BigInt(xid) >= 2n ** 64n) throw new UsageError(`"${xid}" is no transaction id`);
    return { kind: 'xid', xid };
  }
  return { kind: 'end' };
}

const timePattern =
  /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?\s*(Z|UTC|[+-]\d\d(?::?\d\d)?)?$/i;

/**
 * `2026-11-20 08:30:00.5+01`, `2026-11-20T07:30:00Z` … Without a zone this host's is taken, and told.
 * @throws UsageError
 */
export function parseTime(text: string): { readonly time: Microseconds; readonly zoneTaken: string | undefined } {
  const match = timePattern.exec(text.trim());
  if (match === null) {
    throw new UsageError(`"${text}" is no time`, {
      hint: 'Write it as 2026-11-20 08:30:00+01: date, time, and the zone as an offset or Z.',
    });
  }
  const [, year, month, day, hour, minute, second = '00', fraction = ''] = match;
  const zone = match[8]?.toUpperCase();
  const [y, mo, d, h, mi, s] = [year, month, day, hour, minute, second].map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const local = new Date(y, mo - 1, d, h, mi, s);
  const utc = Date.UTC(y, mo - 1, d, h, mi, s);
  const check = new Date(utc);
  if (check.getUTCMonth() !== mo - 1 || check.getUTCDate() !== d || h > 23 || mi > 59 || s > 59) {
    throw new UsageError(`there is no such moment as "${text}"`);
  }
  const offsetMinutes = zone === undefined ? -local.getTimezoneOffset() : offsetOf(zone);
  if (Math.abs(offsetMinutes) >= 16 * 60) throw new UsageError(`there is no such zone as "${zone}"`); // as PostgreSQL has it
  const milliseconds = utc - offsetMinutes * 60_000;
  return {
    time: BigInt(milliseconds) * 1000n + BigInt(fraction.padEnd(6, '0')),
    zoneTaken: zone === undefined ? formatOffset(offsetMinutes) : undefined,
  };
}

function offsetOf(zone: string): number {
  if (zone === 'Z' || zone === 'UTC') return 0;
  const rest = Number(zone.slice(3).replace(':', '') || 0);
  if (rest > 59) throw new UsageError(`there is no such zone as "${zone}"`);
  const minutes = Number(zone.slice(1, 3)) * 60 + rest;
  return zone.startsWith('-') ? -minutes : minutes;
}

function formatOffset(minutes: number): string {
  const absolute = Math.abs(minutes);
  const [hours, rest] = [Math.floor(absolute / 60), absolute % 60].map((part) => String(part).padStart(2, '0'));
  return `${minutes < 0 ? '-' : '+'}${hours}:${rest}`;
}

/** `2026-11-20 07:30:00.000001+00`, as PostgreSQL reads it whatever its settings are. */
export function formatTime(time: Microseconds): string {
  const seconds = new Date(Number(time / 1000n)).toISOString().slice(0, 19).replace('T', ' ');
  const fraction = time % 1_000_000n;
  return `${seconds}${fraction === 0n ? '' : `.${String(fraction).padStart(6, '0')}`}+00`;
}

/** For people. */
export function describeTarget(target: RecoveryTarget): string {
  switch (target.kind) {
    case 'end':
      return 'the end of the archived WAL';
    case 'immediate':
      return 'the end of the backup';
    case 'time':
      return formatTime(target.time);
    case 'lsn':
      return `LSN ${formatLsn(target.lsn)}`;
    case 'name':
      return `restore point "${target.name}"`;
    case 'xid':
      return `transaction ${target.xid}`;
  }
}
