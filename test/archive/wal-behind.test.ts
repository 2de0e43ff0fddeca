/** Where later timelines left one: which histories are read for it, and what a damaged one leaves open. */
import { describe, expect, it } from 'vitest';
import type { Archive } from '../../src/archive/archive.ts';
import { findSwitches, firstSwitch, historiesAfter } from '../../src/archive/wal-behind.ts';
import { findSegmentEnd } from '../../src/archive/wal-end.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { CorruptError } from '../../src/errors.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { formatHistoryName, parseWalFileName, type SegmentName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { GetOptions, ListOptions, Storage } from '../../src/storage/storage.ts';
import { at, PrefetchingCluster } from '../support/prefetching.ts';
import { flipByte } from '../support/recovery.ts';
import { testSystemIdentifier } from '../support/segment.ts';

const segmentSizeBytes = 1024 * 1024;

/** Knows what was read, and how much of it at the same time. */
class Watched implements Pick<Storage, 'url' | 'get' | 'list'> {
  readonly url = 'watched';
  readonly read: string[] = [];
  mostAtOnce = 0;
  #now = 0;
  readonly #inner: Storage;

  constructor(inner: Storage) {
    this.#inner = inner;
  }

  async get(key: string, options?: GetOptions) {
    this.read.push(key.slice(key.lastIndexOf('/') + 1));
    this.#now += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.#now);
    await new Promise(setImmediate); // until all that are begun together have begun
    this.#now -= 1;
    return this.#inner.get(key, options);
  }

  list(prefix: string, options?: ListOptions) {
    return this.#inner.list(prefix, options);
  }
}

/** Timelines by their number, each with the number of its parent; each left it as many MiB from the beginning as its own number is. */
async function archived(parents: Readonly<Record<number, number>>, segments: readonly string[] = []) {
  const lines = (timeline: number): string => {
    const parent = parents[timeline];
    if (parent === undefined) return '';
    return `${lines(parent)}${parent}\t${formatLsn(BigInt(timeline * segmentSizeBytes))}\tno recovery target specified\n`;
  };
  const histories = Object.keys(parents).map((timeline) => [
    formatHistoryName(Number(timeline)),
    lines(Number(timeline)),
  ]);
  const cluster = await PrefetchingCluster.create(segments, Object.fromEntries(histories));
  const storage = new Watched(new FileStorage(cluster.repository.root, { idleMs: 10_000, requestMs: 10_000 }));
  const archive: Archive = {
    storage: storage as unknown as Storage,
    systemIdentifier: testSystemIdentifier,
    keys: noKeys,
  };
  return { cluster, storage, archive };
}

type Archived = Awaited<ReturnType<typeof archived>>;

const damage = ({ cluster }: Archived, timeline: number) =>
  flipByte(cluster.repository.object(formatHistoryName(timeline)));

async function switchesOf({ archive }: Archived, timeline = 1) {
  const { switches, unreadable } = await findSwitches(archive, timeline, {
    histories: await historiesAfter(archive, timeline),
  });
  return {
    left: switches.map(({ child, end }) => [child.timeline, formatLsn(end)]),
    unreadable: unreadable.map(({ child }) => child.timeline),
  };
}

describe('where a timeline was left', () => {
  it('is told by the latest history alone, where all others are its ancestors', async () => {
    const all = await archived({ 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6 });
    expect(await switchesOf(all)).toEqual({ left: [[7, '0/200000']], unreadable: [] });
    expect(all.storage.read).toEqual(['00000007.history']);
  });

  it('is told by every one that branched off, eight of them at a time', async () => {
    const timelines = Array.from({ length: 20 }, (_, index) => index + 2);
    const all = await archived(Object.fromEntries(timelines.map((timeline) => [timeline, 1])));
    const left = timelines.map((timeline) => [timeline, formatLsn(BigInt(timeline * segmentSizeBytes))]);
    expect(await switchesOf(all)).toEqual({ left, unreadable: [] });
    expect(all.storage.mostAtOnce).toBe(8);
  });

  it('is also told by a parent of which its child does not know where it came from', async () => {
    const all = await archived({ 2: 1 });
    await all.cluster.archive('00000003.history', Buffer.from('2\t0/900000\tno recovery target specified\n'));
    expect(await switchesOf(all)).toEqual({ left: [[2, '0/200000']], unreadable: [] });
  });

  it('is known though a history is damaged, where its child tells the same', async () => {
    const all = await archived({ 2: 1, 3: 2 });
    damage(all, 2);
    expect(await switchesOf(all)).toEqual({ left: [[3, '0/200000']], unreadable: [] });
    const end = findSegmentEnd(all.archive, parseWalFileName(at(1, 9)) as SegmentName, { segmentSizeBytes });
    expect((await end).kind).toBe('end');
  });

  it('H1: is not known where no other tells it: then no end is proved', async () => {
    const all = await archived({ 2: 1, 3: 1 });
    damage(all, 2);
    expect(await switchesOf(all)).toEqual({ left: [[3, '0/300000']], unreadable: [2] });
    const end = findSegmentEnd(all.archive, parseWalFileName(at(1, 9)) as SegmentName, { segmentSizeBytes });
    await expect(end).rejects.toBeInstanceOf(CorruptError);
  });
});

describe('H2: the first place at which a timeline was left', () => {
  const firstOf = async ({ archive }: Archived, timeline = 1) => {
    const histories = await historiesAfter(archive, timeline);
    const first = await firstSwitch(archive, timeline, { histories, segmentSizeBytes });
    return first === undefined ? undefined : formatLsn(first);
  };

  it('is the least of all', async () => {
    expect(await firstOf(await archived({}))).toBeUndefined();
    expect(await firstOf(await archived({ 2: 1, 3: 2 }), 2)).toBe('0/300000');
    const all = await archived({ 3: 1, 5: 1 });
    await all.cluster.archive('00000006.history', Buffer.from('1\t0/280000\tno recovery target specified\n'));
    expect(await firstOf(all)).toBe('0/280000');
  });

  it('is not before the first segment of a timeline whose history is damaged', async () => {
    const all = await archived({ 2: 1, 3: 1 }, [at(2, 7), at(2, 8), at(3, 4)]);
    damage(all, 2);
    expect(await firstOf(all)).toBe('0/300000');
    damage(all, 3);
    expect(await firstOf(all)).toBe('0/400000');
  });

  it.each<[string, Readonly<Record<number, number>>, readonly string[]]>([
    ['of its timeline nothing is stored', { 2: 1, 3: 1 }, [at(2, 3)]],
    ['it may have another parent, whose history is not stored', { 3: 1 }, [at(3, 4)]],
  ])('is not known where a history is damaged, and %s', async (_, parents, segments) => {
    const all = await archived(parents, segments);
    damage(all, 3);
    await expect(firstOf(all)).rejects.toBeInstanceOf(CorruptError);
  });
});
