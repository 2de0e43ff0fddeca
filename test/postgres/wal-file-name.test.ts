/** The names of WAL files: what each means for every segment size, and that no foreign name is taken for one. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatHistoryName,
  formatTimeline,
  isSegmentSize,
  parseWalFileName,
  segmentNameAt,
  segmentStart,
  type WalFileName,
} from '../../src/postgres/wal-file-name.ts';

const mebibyte = 2 ** 20;
const segmentSizes = Array.from({ length: 11 }, (_, power) => mebibyte * 2 ** power);
const anyTimeline = fc.integer({ min: 1, max: 2 ** 32 - 1 });
const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

function startOf(name: string, sizeBytes: number): bigint | undefined {
  const file = parseWalFileName(name);
  return file === undefined || file.kind === 'history' ? undefined : segmentStart(file, sizeBytes);
}

describe.each(segmentSizes)('segments of %i bytes', (sizeBytes) => {
  it('bear the name of the LSN that they begin at', () => {
    fc.assert(
      fc.property(anyTimeline, anyLsn, (timeline, lsn) => {
        const name = segmentNameAt(timeline, lsn, sizeBytes);
        expect(parseWalFileName(name)).toMatchObject({ kind: 'segment', name, timeline });
        const start = lsn - (lsn % BigInt(sizeBytes));
        expect(startOf(name, sizeBytes)).toBe(start);
        expect(segmentNameAt(timeline, start, sizeBytes)).toBe(name);
      }),
    );
  });

  it('stand in the order of their LSNs, within a timeline', () => {
    fc.assert(
      fc.property(anyTimeline, anyLsn, anyLsn, (timeline, a, b) => {
        const [segmentA, segmentB] = [a / BigInt(sizeBytes), b / BigInt(sizeBytes)];
        const [nameA, nameB] = [segmentNameAt(timeline, a, sizeBytes), segmentNameAt(timeline, b, sizeBytes)];
        expect(nameA < nameB).toBe(segmentA < segmentB);
        expect(nameA === nameB).toBe(segmentA === segmentB);
      }),
    );
  });

  it('follow each other without a gap, also from one log to the next', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 2n ** 32n - 1n }), (log) => {
        const first = log << 32n;
        const last = segmentNameAt(1, first - 1n, sizeBytes);
        expect(startOf(last, sizeBytes)).toBe(first - BigInt(sizeBytes));
        expect(segmentNameAt(1, first, sizeBytes).endsWith('00000000')).toBe(true);
      }),
    );
  });

  it('have no name beyond the last of a log', () => {
    const perLog = 2 ** 32 / sizeBytes;
    expect(segmentStart({ log: 7, seg: perLog - 1 }, sizeBytes)).toBe((8n << 32n) - BigInt(sizeBytes));
    expect(segmentStart({ log: 7, seg: perLog }, sizeBytes)).toBeUndefined();
    expect(segmentStart({ log: 7, seg: 0xffffffff }, sizeBytes)).toBeUndefined();
  });
});

const segment = '0000000A000000160000B374';
const known: readonly WalFileName[] = [
  { kind: 'segment', name: segment, timeline: 10, log: 0x16, seg: 0xb374 },
  { kind: 'segment', name: 'FFFFFFFFFFFFFFFFFFFFFFFF', timeline: 2 ** 32 - 1, log: 2 ** 32 - 1, seg: 2 ** 32 - 1 },
  { kind: 'partial', name: `${segment}.partial`, segment, timeline: 10, log: 0x16, seg: 0xb374 },
  { kind: 'partial', name: `${segment}.partial.0badcafe`, segment, timeline: 10, log: 0x16, seg: 0xb374 },
  { kind: 'backup', name: `${segment}.00000028.backup`, segment, timeline: 10, log: 0x16, seg: 0xb374 },
  { kind: 'history', name: '0000000B.history', timeline: 11 },
  { kind: 'history', name: 'FFFFFFFF.history', timeline: 2 ** 32 - 1 },
];

it.each(known.map((file) => [file.name, file] as const))('knows %s', (name, file) => {
  expect(parseWalFileName(name)).toEqual(file);
});

it.each([
  '',
  segment.toLowerCase(),
  segment.slice(1),
  `${segment}0`,
  `${segment}\n`,
  ` ${segment}`,
  `pg_wal/${segment}`,
  `../${segment}`,
  `${segment}.ready`,
  `${segment}.partial.0BADCAFE`,
  `${segment}.partial.0badcaf`,
  `${segment}.partial/..`,
  `${segment}.backup`,
  `${segment}.28.backup`,
  `${segment}.00000028.backup.gz`,
  `${segment}.zst`,
  '0000000b.history',
  '0000000B.history.tmp',
  'B.history',
  '000000000000000000000001',
  '00000000.history',
  '000000000000000000000001.partial',
  'archive_status',
  'summaries',
  'RECOVERYXLOG',
  'RECOVERYHISTORY',
  'xlogtemp.4711',
])('refuses %j', (name) => expect(parseWalFileName(name)).toBeUndefined());

it('takes no name for one but those that it can print', () => {
  const pieces = fc.constantFrom(
    ...'0123456789ABCDEFabcdefG./',
    '.partial',
    '.backup',
    '.history',
    segment,
    '0000000A',
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 40 }), (parts) => {
      const name = parts.join('');
      const file = parseWalFileName(name);
      if (file === undefined) return;
      expect(file.name).toBe(name);
      const digits =
        file.kind === 'history' ? formatHistoryName(file.timeline).slice(0, 8) : formatTimeline(file.timeline);
      expect(name.startsWith(digits)).toBe(true);
      expect(name).toMatch(/^[0-9A-F]{8}([0-9A-F]{16}(\.partial(\.[0-9a-f]{8})?|\.[0-9A-F]{8}\.backup)?|\.history)$/);
    }),
    { numRuns: 2000 },
  );
});

it('prints a history name that it reads', () => {
  fc.assert(
    fc.property(anyTimeline, (timeline) => {
      const name = formatHistoryName(timeline);
      expect(parseWalFileName(name)).toEqual({ kind: 'history', name, timeline });
    }),
  );
});

it('allows the segment sizes that initdb allows, and no other', () => {
  for (const sizeBytes of segmentSizes) {
    expect([sizeBytes, isSegmentSize(sizeBytes)]).toEqual([sizeBytes, true]);
    for (const other of [sizeBytes - 1, sizeBytes + 1, sizeBytes * 1.5]) {
      expect([other, isSegmentSize(other)]).toEqual([other, false]);
    }
  }
  for (const other of [0, -1, Number.NaN, mebibyte / 2, mebibyte * 2048]) expect(isSegmentSize(other)).toBe(false);
});
