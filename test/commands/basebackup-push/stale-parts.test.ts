/** Which parts an increment leaves behind: so that none lives for the sake of a few pages, or beyond its lock, and no increment has to store much for it. */
import { describe, expect, it } from 'vitest';
import { chooseStale, type KnownPart } from '../../../src/commands/basebackup-push/stale-parts.ts';
import { testBackupId } from '../../support/streamed.ts';

const mebibyte = 1024 * 1024;
const commitment = { objectBytes: 1, storedBytes: 1, sha256: '0'.repeat(64), tableSha256: '0'.repeat(64) };

/** Parts of these lengths in MiB, and what is needed of each. */
function partsOf(...sizes: readonly (readonly [raw: number, live: number, startedAt?: string])[]) {
  return new Map<number, KnownPart>(
    sizes.map(([raw, live, startedAt = '2026-11-20'], index) => [
      index + 70, // in the parent's list
      {
        line: { type: 'part', index, backup: testBackupId, number: index + 1, ...commitment, rawBytes: raw * mebibyte },
        startedAt: new Date(startedAt),
        liveBytes: live * mebibyte,
      },
    ]),
  );
}

/** The indexes that go, of a cluster of so many MiB. */
function stale(parts: ReadonlyMap<number, KnownPart>, cluster: number, partsSince?: string): number[] {
  const since = partsSince === undefined ? undefined : new Date(partsSince);
  return [...chooseStale({ parts, scattered: [], rawBytes: cluster * mebibyte }, since).parts].sort((a, b) => a - b);
}

describe('a part goes', () => {
  it('when less than a quarter of it is needed', () => {
    expect(stale(partsOf([100, 24], [100, 26], [1000, 950]), 1000)).toEqual([0]);
  });

  it('when all that are needed hold far more than the cluster: those first of which the least is needed', () => {
    expect(stale(partsOf([100, 60], [100, 50], [100, 90]), 200)).toEqual([1]);
    expect(stale(partsOf([100, 60], [100, 50], [100, 90]), 240)).toEqual([]);
  });

  it('only as far as the budget goes: 5 % of the cluster, and 64 MiB at least', () => {
    expect(stale(partsOf([300, 40], [300, 41], [300, 20]), 100)).toEqual([0, 2]);
    expect(stale(partsOf([900, 70], [900, 80]), 1000)).toEqual([]);
    expect(stale(partsOf([900, 70], [900, 80]), 2000)).toEqual([0]);
    expect(stale(partsOf([900, 70], [900, 80]), 3000)).toEqual([0, 1]);
  });

  it('H48: when it is older than it may become, whatever that takes', () => {
    const parts = partsOf([900, 900, '2026-10-01'], [900, 900, '2026-10-02'], [100, 100]);
    expect(stale(parts, 1900, '2026-10-02')).toEqual([0]);
    expect(stale(parts, 1900, '2026-10-03')).toEqual([0, 1]);
    expect(stale(parts, 1900)).toEqual([]);
  });
});

it('a file in many pieces is stored whole: the worst first, out of the same budget', () => {
  const scattered = [
    { path: 'base/5/1', sizeBytes: 30 * mebibyte, extents: 40_000 },
    { path: 'base/5/2', sizeBytes: 30 * mebibyte, extents: 60_000 },
    { path: 'base/5/3', sizeBytes: 30 * mebibyte, extents: 50_000 },
    { path: 'base/5/4', sizeBytes: 4 * mebibyte, extents: 33_000 },
  ];
  const { paths, parts } = chooseStale({ parts: partsOf([100, 1]), scattered, rawBytes: 100 * mebibyte }, undefined);
  expect([...paths].sort()).toEqual(['base/5/2', 'base/5/3', 'base/5/4']);
  expect([...parts]).toEqual([]);
});
