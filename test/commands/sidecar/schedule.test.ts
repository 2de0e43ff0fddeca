/** Schedules: each due time comes once, on every day of the year and in every zone, jitter or not. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseSchedule, type ScheduleOptions } from '../../../src/commands/sidecar/schedule.ts';
import { ConfigurationError } from '../../../src/errors.ts';

const hour = 3_600_000;
const at = (time: string) => Date.parse(time);
const scheduleOf = (text: string, options: Partial<ScheduleOptions> = {}) =>
  parseSchedule(text, { name: 'WALT_SIDECAR_BACKUP_SCHEDULE', timeZone: 'UTC', ...options });

/** All due times within a span, as whoever looks every `stepMs` notices them. */
function noticed(text: string, options: Partial<ScheduleOptions>, span: { from: number; to: number; stepMs: number }) {
  const schedule = scheduleOf(text, options);
  const found: number[] = [];
  let last = schedule.latest(span.from);
  for (let now = span.from; now <= span.to; now += span.stepMs) {
    const latest = schedule.latest(now);
    if (latest !== last && latest !== undefined) found.push(latest);
    last = latest;
  }
  return found;
}

it('knows the last time that has come and the next one, to the second', () => {
  const schedule = scheduleOf('0 1 * * *');
  const due = at('2026-11-21T01:00:00Z');
  expect(schedule.latest(due - 1)).toBe(due - 24 * hour);
  expect(schedule.latest(due)).toBe(due);
  expect(schedule.latest(due + 1)).toBe(due);
  expect(schedule.next(due - 1)).toBe(due);
  expect(schedule.next(due)).toBe(due + 24 * hour);
});

it.each([
  ['set forward', 'Europe/Berlin', '30 2 * * *', '2026-03-28T12:00Z', ['2026-03-29T01:00Z', '2026-03-30T00:30Z']],
  ['set back', 'Europe/Berlin', '30 2 * * *', '2026-10-24T12:00Z', ['2026-10-25T00:30Z', '2026-10-26T01:30Z']],
  [
    'set forward at midnight',
    'America/Santiago',
    '0 0 * * *',
    '2026-09-05T12:00Z',
    ['2026-09-06T04:00Z', '2026-09-07T03:00Z'],
  ],
  [
    'set by half an hour',
    'Australia/Lord_Howe',
    '45 1 * * *',
    '2026-04-04T03:00Z',
    ['2026-04-04T14:45Z', '2026-04-05T15:15Z'],
  ],
])('comes once on a day whose clock is %s (%s)', (_, timeZone, text, from, expected) => {
  const schedule = scheduleOf(text, { timeZone });
  const first = schedule.next(at(from)) ?? 0;
  expect([first, schedule.next(first)].map((time) => new Date(time ?? 0).toISOString())).toEqual(
    expected.map((time) => new Date(time).toISOString()),
  );
});

const zones = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'America/Sao_Paulo',
  'Asia/Kathmandu',
  'Australia/Lord_Howe',
];
const dailies = fc.record({
  hour: fc.integer({ min: 0, max: 23 }),
  minute: fc.integer({ min: 0, max: 59 }),
  timeZone: fc.constantFrom(...zones),
  start: fc.integer({ min: at('2026-01-01T00:00Z'), max: at('2028-01-01T00:00Z') }),
  maxJitterMs: fc.constantFrom(0, 1000, hour / 2),
});

it('comes once on each day of any zone, whatever the jitter', () => {
  fc.assert(
    fc.property(dailies, ({ hour: hours, minute, timeZone, start, maxJitterMs }) => {
      const schedule = scheduleOf(`${minute} ${hours} * * *`, { timeZone, maxJitterMs, seed: 'host' });
      const day = new Intl.DateTimeFormat('en-CA', { timeZone });
      const days: string[] = [];
      let now = start;
      for (let count = 0; count < 40; count += 1) {
        now = schedule.next(now) ?? Number.NaN;
        const due = schedule.latest(now) ?? Number.NaN;
        expect(now - due).toBeGreaterThanOrEqual(0);
        expect(now - due).toBeLessThanOrEqual(maxJitterMs);
        days.push(day.format(due));
      }
      expect(new Set(days).size).toBe(40);
      expect(Date.parse(days.at(-1) ?? '') - Date.parse(days[0] ?? '')).toBe(39 * 24 * hour);
    }),
    { numRuns: 20 },
  );
});

it('is noticed once by whoever looks now and then', () => {
  const span = { from: at('2026-10-20T00:00Z'), to: at('2026-10-30T00:00Z'), stepMs: 20 * 60_000 };
  const found = noticed('30 2 * * *', { timeZone: 'Europe/Berlin', maxJitterMs: hour, seed: 'a' }, span);
  expect(found).toHaveLength(10);
  expect(new Set(found).size).toBe(10);
});

it('is put off always the same on one host, and otherwise on another', () => {
  const nexts = ['a', 'b', 'a'].map((seed) =>
    scheduleOf('0 1 * * *', { maxJitterMs: hour, seed }).next(at('2026-11-21T12:00Z')),
  );
  expect(nexts[0]).toBe(nexts[2]);
  expect(nexts[0]).not.toBe(nexts[1]);
});

it('is never put off beyond the next time', () => {
  const span = { from: at('2026-10-20T00:00Z'), to: at('2026-10-20T03:00Z'), stepMs: 30_000 };
  expect(noticed('*/10 * * * *', { maxJitterMs: 24 * hour, seed: 'a' }, span).length).toBeGreaterThanOrEqual(17);
});

describe('what cannot be is refused', () => {
  it.each(['', 'x', '60 * * * *', '0 1 * *', '0 0 1 * * *', '0 0 30 2 *', 'daily'])('the expression %j', (text) => {
    expect(() => scheduleOf(text)).toThrow(`WALT_SIDECAR_BACKUP_SCHEDULE cannot be "${text}"`);
  });

  it('a zone that does not exist', () => {
    const parse = () => scheduleOf('0 1 * * *', { timeZone: 'Mars/Olympus' });
    expect(parse).toThrow(ConfigurationError);
    expect(parse).toThrow('WALT_SIDECAR_TIME_ZONE cannot be "Mars/Olympus"');
  });
});
