/** Names of backups: what is made is understood, in the order of time, and nothing else is a name. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { makeBackupId, parseBackupId } from '../../src/archive/backup-id.ts';

const anySecond = fc
  .integer({ min: Date.UTC(1970, 0) / 1000, max: Date.UTC(9999, 11, 31) / 1000 })
  .map((seconds) => new Date(seconds * 1000));
const digits = (value: number) => value.toString(16).toUpperCase().padStart(8, '0');
const anyWord = fc.nat({ max: 2 ** 32 - 1 });
const anyParts = fc.record({
  startedAt: anySecond,
  timeline: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
  place: fc.tuple(anyWord, anyWord).map(([log, seg]) => `${digits(log)}${digits(seg)}`),
  type: fc.constantFrom('full' as const, 'incremental' as const),
});

it('brings back what it was made of', () => {
  fc.assert(
    fc.property(anyParts, ({ startedAt, timeline, place, type }) => {
      const segment = `${digits(timeline)}${place}`;
      const id = makeBackupId({ startedAt, segment, type });
      expect(parseBackupId(id)).toEqual({ id, startedAt, segment, timeline, type });
    }),
  );
});

it('is in its own order in the order of time', () => {
  const segment = '000000010000000100000023';
  fc.assert(
    fc.property(anySecond, anySecond, (a, b) => {
      const [first, second] = [a, b].map((startedAt) => makeBackupId({ startedAt, segment, type: 'full' }));
      if (a.getTime() !== b.getTime()) expect((first ?? '') < (second ?? '')).toBe(a < b);
    }),
  );
});

it('H26: tells two backups of the same second, timeline and segment apart', () => {
  const startedAt = new Date('2026-11-20T02:00:00.987Z');
  const make = () => makeBackupId({ startedAt, segment: '000000010000000100000023', type: 'incremental' });
  const ids = Array.from({ length: 100 }, make);
  expect(new Set(ids).size).toBe(100);
  for (const id of ids) expect(id).toMatch(/^20261120T020000Z-000000010000000100000023-incr-[0-9a-f]{8}$/);
});

const id = '20261120T083000Z-000000010000000100000023-full-0badcafe';

it.each([
  ['', ''],
  ['LATEST', 'LATEST'],
  ['a line feed behind it', `${id}\n`],
  ['something before it', `x${id}`],
  ['something below it', `${id}/1`],
  ['lower case digits of the segment', id.replace('000000010000000100000023', '00000001000000010000002a')],
  ['capitals in the random digits', id.replace('cafe', 'CAFE')],
  ['no timeline', id.replace('-00000001', '-00000000')],
  ['another type', id.replace('full', 'diff')],
  ['a type in full', id.replace('full', 'incremental')],
  ['a month that is none', id.replace('20261120', '20261320')],
  ['a day that is none', id.replace('20261120', '20260230')],
  ['an hour that is none', id.replace('T083000', 'T240000')],
  ['seven random digits', id.slice(0, -1)],
])('is no name: %s', (_, text) => expect(parseBackupId(text)).toBeUndefined());
