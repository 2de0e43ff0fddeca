/** Recovery targets as people write them: times with every zone, and what is none. */
import { afterEach, describe, expect, it } from 'vitest';
import { formatTime, type GivenTarget, parseTarget, parseTime } from '../../src/commands/restore/target.ts';
import { UsageError } from '../../src/errors.ts';

describe('a time', () => {
  it.each([
    ['2026-11-20 08:30:00Z', '2026-11-20 08:30:00+00'],
    ['2026-11-20T08:30:00z', '2026-11-20 08:30:00+00'],
    ['  2026-11-20 08:30 UTC ', '2026-11-20 08:30:00+00'],
    ['2026-11-20 08:30:00+00', '2026-11-20 08:30:00+00'],
    ['2026-11-20 08:30:00+01', '2026-11-20 07:30:00+00'],
    ['2026-11-20 08:30:00-0330', '2026-11-20 12:00:00+00'],
    ['2026-11-20 00:15:00+05:45', '2026-11-19 18:30:00+00'],
    ['2026-12-31 23:59:59.999999-01', '2027-01-01 00:59:59.999999+00'],
    ['2026-11-20 08:30:00.5+00', '2026-11-20 08:30:00.500000+00'],
    ['2026-11-20 08:30:00.000001 +00', '2026-11-20 08:30:00.000001+00'],
    ['2028-02-29 00:00:00Z', '2028-02-29 00:00:00+00'],
  ])('reads %j as %s', (text, utc) => {
    const { time, zoneTaken } = parseTime(text);
    expect(formatTime(time)).toBe(utc);
    expect(zoneTaken).toBeUndefined();
    expect(parseTime(formatTime(time)).time).toBe(time);
  });

  describe('without a zone', () => {
    const before = process.env.TZ;
    afterEach(() => {
      if (before === undefined) delete process.env.TZ;
      else process.env.TZ = before;
    });

    it.each([
      { zone: 'UTC', text: '2026-11-20 08:30:00', utc: '2026-11-20 08:30:00+00', taken: '+00:00' },
      { zone: 'Europe/Berlin', text: '2026-11-20 08:30:00', utc: '2026-11-20 07:30:00+00', taken: '+01:00' },
      { zone: 'Europe/Berlin', text: '2026-07-20 08:30:00', utc: '2026-07-20 06:30:00+00', taken: '+02:00' },
      { zone: 'America/St_Johns', text: '2026-11-20 08:30', utc: '2026-11-20 12:00:00+00', taken: '-03:30' },
      { zone: 'Asia/Kathmandu', text: '2026-11-20T00:15:00.25', utc: '2026-11-19 18:30:00.250000+00', taken: '+05:45' },
    ])("takes this host's, and tells which: $text in $zone", ({ zone, text, utc, taken }) => {
      process.env.TZ = zone;
      const { time, zoneTaken } = parseTime(text);
      expect(formatTime(time)).toBe(utc);
      expect(zoneTaken).toBe(taken);
    });
  });

  it.each([
    'yesterday',
    '',
    '2026-11-20',
    '20.11.2026 08:30:00Z',
    '2026-11-20 08:30:00 CET',
    '2026-11-20 08:30:00.1234567Z',
    '2026-11-20 8:30:00Z',
    '2026-02-29 00:00:00Z',
    '2026-13-01 00:00:00Z',
    '2026-11-31 00:00:00Z',
    '2026-11-20 24:00:00Z',
    '2026-11-20 08:60:00Z',
    '2026-11-20 08:30:61Z',
    '2026-11-20 08:30:00+16',
    '2026-11-20 08:30:00+99:99',
    '2026-11-20 08:30:00+01:60',
  ])('is not %j', (text) => {
    expect(() => parseTime(text)).toThrow(UsageError);
  });
});

describe('a target', () => {
  it.each<[given: Partial<GivenTarget>, target: object]>([
    [{}, { kind: 'end' }],
    [{ immediate: true }, { kind: 'immediate' }],
    [{ lsn: '16/B374D848' }, { kind: 'lsn', lsn: 0x16_b374_d848n }],
    [{ name: "before 'it'" }, { kind: 'name', name: "before 'it'" }],
    [{ xid: '4294967296' }, { kind: 'xid', xid: '4294967296' }],
    [{ time: '1970-01-01 00:00:01Z' }, { kind: 'time', time: 1_000_000n }],
  ])('is read of %j', (given, target) => {
    expect(parseTarget({ immediate: false, ...given })).toEqual(target);
  });

  it.each<[given: Partial<GivenTarget>, message: string]>([
    [{ lsn: '0/1', xid: '7' }, 'there can be one target only, and there are --target-lsn and --target-xid'],
    [
      { name: 'a', immediate: true },
      'there can be one target only, and there are --target-name and --target-immediate',
    ],
    [{ lsn: '16' }, '"16" is no LSN'],
    [{ lsn: 'g/0' }, '"g/0" is no LSN'],
    [{ xid: '0' }, '"0" is no transaction id'],
    [{ xid: '-1' }, '"-1" is no transaction id'],
    [{ xid: '0x10' }, '"0x10" is no transaction id'],
    [{ xid: '18446744073709551616' }, '"18446744073709551616" is no transaction id'],
    [{ name: '' }, 'a restore point has a name'],
    [{ name: 'x'.repeat(64) }, "a restore point's name has less than 64 bytes"],
  ])('is not %j', (given, message) => {
    expect(() => parseTarget({ immediate: false, ...given })).toThrow(message);
  });
});
