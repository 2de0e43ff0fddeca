/** Which segments a range of WAL needs, and the first one that a real folder does not hold. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { objectKey, walObjectName } from '../../src/archive/keys.ts';
import { firstMissingSegment, segmentsOf, type WalRange } from '../../src/archive/wal-range.ts';
import { parseLsn } from '../../src/postgres/lsn.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';
import { makeArchive } from '../support/backups.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const mebibyte = 2 ** 20;
const sizes = { '1 MiB': mebibyte, '16 MiB': 16 * mebibyte, '1 GiB': 1024 * mebibyte } as const;

const lsn = (text: string) => {
  const parsed = parseLsn(text);
  if (parsed === undefined) throw new Error(text);
  return parsed;
};
const rangeOf = (start: string, end: string, segmentSizeBytes: number, timeline = 1): WalRange => ({
  timeline,
  startLsn: lsn(start),
  endLsn: lsn(end),
  segmentSizeBytes,
});

describe('the segments of a range', () => {
  it.each<[start: string, end: string, size: keyof typeof sizes, ...names: string[]]>([
    ['0/2000028', '0/2000100', '16 MiB', '000000010000000000000002'],
    ['0/2000000', '0/3000000', '16 MiB', '000000010000000000000002'],
    ['0/2000000', '0/3000001', '16 MiB', '000000010000000000000002', '000000010000000000000003'],
    ['0/2FFFFFF', '0/3000000', '16 MiB', '000000010000000000000002'],
    ['0/2000028', '0/2000028', '16 MiB', '000000010000000000000002'],
    ['0/2000000', '0/2000000', '16 MiB'],
    ['0/3000000', '0/2000000', '16 MiB'],
    ['0/FF000000', '1/0', '16 MiB', '0000000100000000000000FF'],
    ['0/FF000000', '1/1', '16 MiB', '0000000100000000000000FF', '000000010000000100000000'],
    ['0/FFF00000', '1/0', '1 MiB', '000000010000000000000FFF'],
    ['0/FFFFFFFF', '1/100000', '1 MiB', '000000010000000000000FFF', '000000010000000100000000'],
    ['0/C0000000', '1/0', '1 GiB', '000000010000000000000003'],
    ['0/BFFFFFFF', '1/1', '1 GiB', '000000010000000000000002', '000000010000000000000003', '000000010000000100000000'],
    ['FFFFFFFF/FF000000', 'FFFFFFFF/FFFFFFFF', '16 MiB', '00000001FFFFFFFF000000FF'],
  ])('H21: from %s to before %s at %s', (start, end, size, ...names) => {
    expect([...segmentsOf(rangeOf(start, end, sizes[size]))]).toEqual(names);
  });

  it('H21: are those of its first byte, of its last, and all between, each once and in order', () => {
    const anyPlace = fc.bigInt({ min: 0n, max: 2n ** 63n });
    fc.assert(
      fc.property(
        anyPlace,
        fc.integer({ min: 1, max: 200 * mebibyte }),
        fc.constantFrom(20, 24, 30),
        (start, length, bits) => {
          const segmentSizeBytes = 2 ** bits;
          const range = { timeline: 0xab, startLsn: start, endLsn: start + BigInt(length), segmentSizeBytes };
          const numbers = [...segmentsOf(range)].map((name) => {
            expect(name.slice(0, 8)).toBe('000000AB');
            const perLog = 0x1_0000_0000n >> BigInt(bits);
            return BigInt(`0x${name.slice(8, 16)}`) * perLog + BigInt(`0x${name.slice(16)}`);
          });
          const last = (range.endLsn - 1n) >> BigInt(bits);
          const first = start >> BigInt(bits);
          expect(numbers).toEqual(
            Array.from({ length: Number(last - first) + 1 }, (_, index) => first + BigInt(index)),
          );
        },
      ),
    );
  });
});

describe('the first missing segment', () => {
  /** Over the border between two logs: 0/FE000000 … 1/2FFFFFF. */
  const range = rangeOf('0/FE000028', '1/2000001', sizes['16 MiB'], 2);
  const wanted = [...segmentsOf(range)];
  const [first = '', second = '', third = '', fourth = '', fifth = ''] = wanted;

  async function archiveOf(names: readonly string[], emptyName = '') {
    const archive = makeArchive();
    for (const name of names) {
      const file = parseWalFileName(name);
      if (file === undefined) throw new Error(name);
      const content = Buffer.from(name === emptyName ? '' : 'x');
      await archive.storage.put(objectKey(testSystemIdentifier, walObjectName(file)), content);
    }
    return archive;
  }
  const around = ['0000000200000000000000FD', '000000020000000100000003', '00000002000000FF00000000'];
  const otherTimelines = wanted.flatMap((name) => [
    name.replace(/^00000002/, '00000001'),
    name.replace(/^00000002/, '00000003'),
  ]);
  const beside = wanted.flatMap((name) => [`${name}.partial`, `${name}.partial.0badcafe`, `${name}.00000028.backup`]);

  it('is told of: the range is over the border between two logs', () => {
    expect(wanted).toEqual([
      '0000000200000000000000FE',
      '0000000200000000000000FF',
      '000000020000000100000000',
      '000000020000000100000001',
      '000000020000000100000002',
    ]);
  });

  it.each<readonly [string, readonly string[], string | undefined]>([
    ['all are there', wanted, undefined],
    ['all are there, and others around them', [...around, ...wanted], undefined],
    ['all are there, and .partial and .backup beside each', [...wanted, ...beside], undefined],
    ['nothing is there', [], first],
    ['all but the first are there', wanted.slice(1), first],
    ['all but the second are there', wanted.filter((name) => name !== second), second],
    ['all but the first of a log are there', wanted.filter((name) => name !== third), third],
    ['two in the middle are missing', [first, second, fifth], third],
    ['the first and one in the middle are missing', [second, fourth, fifth], first],
    ['the last is missing', wanted.slice(0, -1), fifth],
    ['the last is missing and later ones are there', [...around, ...wanted.slice(0, -1)], fifth],
    ['only the last is there', [fifth], first],
    ['only earlier and later ones are there', around, first],
    [
      'the one in the middle is only a .partial',
      [...wanted.filter((name) => name !== third), `${third}.partial`],
      third,
    ],
    [
      'the one in the middle has only a .backup',
      [...wanted.filter((name) => name !== third), `${third}.00000028.backup`],
      third,
    ],
    ['the last is only a .partial', [...wanted.slice(0, -1), `${fifth}.partial`], fifth],
    ['the first is only a .partial', [...wanted.slice(1), `${first}.partial`], first],
    ['all are there, but of other timelines', otherTimelines, first],
    ['histories alone are there', ['00000002.history', '00000003.history'], first],
  ])('when %s', async (_, names, missing) => {
    expect(await firstMissingSegment(await archiveOf(names), range)).toBe(missing);
  });

  it('H15: is one that is stored with no bytes at all', async () => {
    for (const name of [first, third, fifth]) {
      expect(await firstMissingSegment(await archiveOf(wanted, name), range)).toBe(name);
    }
  });

  it('is none in a range of no bytes', async () => {
    const empty = { ...range, startLsn: lsn('1/0'), endLsn: lsn('1/0') };
    expect(await firstMissingSegment(makeArchive(), empty)).toBeUndefined();
  });

  it.each(Object.entries(sizes))(
    'is found over a border between logs with segments of %s',
    async (_, segmentSizeBytes) => {
      const start = 0x1_0000_0000n - BigInt(2 * segmentSizeBytes);
      const wide = { timeline: 1, startLsn: start, endLsn: start + BigInt(4 * segmentSizeBytes), segmentSizeBytes };
      const names = [...segmentsOf(wide)];
      expect(names).toHaveLength(4);
      expect(await firstMissingSegment(await archiveOf(names), wide)).toBeUndefined();
      for (const name of names) {
        const others = names.filter((one) => one !== name);
        expect(await firstMissingSegment(await archiveOf(others), wide)).toBe(name);
      }
    },
  );
});
