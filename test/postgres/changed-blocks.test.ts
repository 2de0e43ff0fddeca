/** Changed blocks of relations: beside a plain set of numbers, by path, and how much memory they take. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChangedBlocks } from '../../src/postgres/changed-blocks.ts';

const relation = { tablespaceOid: 1663, databaseOid: 5, relfilenode: 16384 };
const path = 'base/5/16384';

/** The changes of the one relation. */
function changesOf(changes: ChangedBlocks) {
  const found = changes.of(path);
  if (found === undefined || found === 'whole') throw new Error(`${found}`);
  return found;
}

describe('is a set of blocks', () => {
  /** Near the bounds of chunks, and in one chunk so many that it becomes a bitmap. */
  const block = fc.oneof(
    fc.nat(70_000),
    fc.integer({ min: 65_530, max: 65_545 }),
    fc.integer({ min: 131_060, max: 131_080 }),
    fc.nat(0xffff_fffe),
  );
  const run = fc
    .tuple(fc.nat(140_000), fc.nat(9000), fc.integer({ min: 1, max: 20 }))
    .map(([first, count, step]) => Array.from({ length: count }, (_, index) => first + index * step));
  const summary = fc.record({
    blocks: fc.oneof(fc.array(block, { maxLength: 50 }), run),
    limit: fc.option(fc.oneof(block, fc.nat(140_000)), { nil: undefined, freq: 4 }),
  });

  it('with the least of all limits, whatever the order', () => {
    const span = fc.tuple(fc.oneof(fc.nat(140_000), block), fc.nat(70_000));
    fc.assert(
      fc.property(fc.array(summary, { maxLength: 6 }), fc.array(block), fc.array(span), (summaries, asked, spans) => {
        const changes = new ChangedBlocks();
        const model = new Set<number>();
        let limit = Infinity;
        for (const { blocks, limit: cutTo } of summaries) {
          changes.add(relation, blocks);
          for (const one of blocks) model.add(one);
          if (cutTo !== undefined) changes.setLimit(relation, cutTo);
          limit = Math.min(limit, cutTo ?? Infinity);
        }
        if (summaries.length === 0) return changes.of(path) === undefined;
        const found = changesOf(changes);
        expect(found.limitBlock ?? Infinity).toBe(limit);
        const numbers = [...asked, ...model, limit - 1, limit, limit + 1].filter(
          (one) => Number.isFinite(one) && one >= 0,
        );
        expect(numbers.filter((one) => found.has(one) !== (one >= limit || model.has(one)))).toEqual([]);
        for (const [first, count] of spans) {
          const inModel = [...model].filter((one) => one >= first && one < Math.min(first + count, limit)).length;
          const beyond = first + count - Math.min(first + count, Math.max(first, limit));
          expect(found.countIn(first, count), `${first} ${count}`).toBe(inModel + beyond);
        }
        return true;
      }),
    );
  });

  it('of up to the last number that a block can have', () => {
    const changes = new ChangedBlocks();
    changes.add(relation, [0xffff_fffe, 0]);
    expect(changesOf(changes).countIn(0, 0xffff_ffff)).toBe(2);
    for (const wrong of [-1, 0.5, 0xffff_ffff, Number.NaN]) {
      expect(() => changes.add(relation, [wrong])).toThrow();
      expect(() => changes.setLimit(relation, wrong)).toThrow();
    }
  });
});

describe('by the path of a file', () => {
  const tablespace = 'pg_tblspc/16400/PG_17_202406281';

  it.each([
    ['base/5/1259', 1663, 5, 1259],
    ['base/5/1259.3', 1663, 5, 1259],
    ['global/1262', 1664, 0, 1262],
    [`${tablespace}/5/1259`, 16400, 5, 1259],
    [`${tablespace}/5/1259.12`, 16400, 5, 1259],
  ])('finds %s', (file, tablespaceOid, databaseOid, relfilenode) => {
    const changes = new ChangedBlocks();
    changes.add({ tablespaceOid, databaseOid, relfilenode }, [7]);
    expect(changes.of(file)).toMatchObject({ limitBlock: undefined });
    for (const other of ['base/5/1260', 'base/6/1259', 'global/1259', `${tablespace}/6/1259`, `${tablespace}/5/125`]) {
      expect(changes.of(other)).toBeUndefined();
    }
  });

  it('H37: takes every relation whole whose database and tablespace have a row with relfilenode 0', () => {
    const changes = new ChangedBlocks();
    changes.add({ ...relation, tablespaceOid: 16400 }, [7]);
    changes.setLimit({ tablespaceOid: 16400, databaseOid: 5, relfilenode: 0 }, 0);
    expect(changes.of(`${tablespace}/5/16384`)).toBe('whole');
    expect(changes.of(`${tablespace}/5/99999.1`)).toBe('whole');
    expect(changes.of(`${tablespace}/6/16384`)).toBeUndefined();
    expect(changes.of('base/5/16384')).toBeUndefined();
  });

  it.each(['base/5/1259_vm', 'base/5/1259_fsm', 'base/5/1259_init', 'base/5/PG_VERSION', 'pg_xact/0000'])(
    'H37: says nothing of %s: "unchanged" would be a lie',
    (other) => expect(() => new ChangedBlocks().of(other)).toThrow('main fork'),
  );
});

it('takes about two bytes a block while they are few, and never more than a bitmap', () => {
  const changes = new ChangedBlocks();
  const blocks = 2_000_000;
  const step = 16; // 4096 in a chunk
  // as from several summaries, each of them sorted
  for (let start = 0; start < 4; start += 1) {
    changes.add(
      relation,
      (function* () {
        for (let index = start; index < blocks; index += 4) yield index * step;
      })(),
    );
  }
  expect(changesOf(changes).countIn(0, 0xffff_ffff)).toBe(blocks);
  expect(changes.sizeBytes).toBeLessThanOrEqual(2 * blocks);
  changes.add(
    relation,
    (function* () {
      for (let block = 0; block < blocks * step; block += 7) yield block;
    })(),
  );
  expect(changes.sizeBytes).toBeLessThanOrEqual((blocks * step) / 8 + 8192);
});
