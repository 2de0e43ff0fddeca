/** Which segments one wal-fetch fetches ahead of PostgreSQL, and which it must not: without a server, which e2e/prefetch has. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { planAhead } from '../../src/commands/wal-fetch/ahead-plan.ts';
import type { SegmentFetch } from '../../src/commands/wal-fetch/fetch.ts';
import type { WalFetchArguments } from '../../src/commands/wal-fetch/prepare.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { CorruptError, HoleError } from '../../src/errors.ts';
import { temporarySuffix } from '../../src/left-overs.ts';
import { parseWalFileName, type SegmentName } from '../../src/postgres/wal-file-name.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { GatedStorage } from '../support/gated-storage.ts';
import { at, PrefetchingCluster } from '../support/prefetching.ts';
import { flipByte } from '../support/recovery.ts';
import { makeSegment } from '../support/segment.ts';

const range = (timeline: number, first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, index) => at(timeline, first + index));

/** Timeline 2 left the first one within segment 6, timeline 3 left it at the end of segment 3. */
const histories = {
  '00000002.history': '1\t0/680000\tno recovery target specified\n',
  '00000003.history': '1\t0/400000\tno recovery target specified\n',
};

describe('a batch', () => {
  it('has the next segments, and twice as many as the one before', async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 20));
    expect(await cluster.fetch(at(1, 1))).toBe('delivered');
    expect(cluster.prefetched).toEqual(range(1, 2, 5));
    rmSync(cluster.prefetch(), { recursive: true });
    expect(await cluster.fetch(at(1, 6))).toBe('delivered');
    expect(cluster.prefetched).toEqual(range(1, 7, 10));
    for (const name of range(1, 7, 10)) rmSync(cluster.prefetch(name));
    expect(await cluster.fetch(at(1, 11))).toBe('delivered');
    expect(cluster.prefetched).toEqual(range(1, 12, 19));
  });

  it.each([0, 1, 3])('has no more than WALT_WAL_FETCH_AHEAD=%s', async (most) => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 6));
    await cluster.fetch(at(1, 1), {}, cluster.context({ WALT_WAL_FETCH_AHEAD: String(most) }));
    expect(cluster.prefetched).toEqual(range(1, 2, 1 + most));
  });

  it('ends where a segment is not stored, and asks for none of these', async () => {
    const cluster = await PrefetchingCluster.create([...range(1, 1, 3), ...range(1, 5, 6)]);
    const storage = new GatedStorage(storageOf(cluster), Number.POSITIVE_INFINITY);
    await cluster.fetch(at(1, 1), {}, cluster.context({}, { openStorage: () => storage }));
    expect(cluster.prefetched).toEqual(range(1, 2, 3));
    expect(storage.passed.filter((key) => key.endsWith(at(1, 4)))).toEqual([]);
    await expect(cluster.fetch(at(1, 4))).rejects.toBeInstanceOf(HoleError);
  });

  interface Bound {
    readonly what: string;
    readonly flags?: Partial<WalFetchArguments>;
    readonly histories?: Readonly<Record<string, string>>;
    readonly from?: string;
    readonly expected: readonly string[];
  }
  it.each<Bound>([
    { what: 'has no segment at which --end-at ends', flags: { endAt: at(7, 4) }, expected: range(1, 2, 3) },
    { what: 'H2: ends with the last segment that no later timeline left', histories, expected: range(1, 2, 3) },
    {
      what: 'H2: has nothing behind a place where any timeline left',
      histories,
      from: at(1, 4),
      expected: [],
    },
    {
      what: 'H2: ends where the chosen timeline left, within a segment',
      histories,
      flags: { timeline: '2' },
      from: at(1, 3),
      expected: range(1, 4, 5),
    },
    {
      what: 'H2: ends where the chosen timeline left, at an edge',
      histories,
      flags: { timeline: '3' },
      expected: range(1, 2, 3),
    },
    {
      what: 'goes on along the timeline that was chosen itself',
      histories,
      flags: { timeline: '1' },
      from: at(1, 4),
      expected: range(1, 5, 8),
    },
    { what: 'is of the same timeline', from: at(2, 7), expected: [at(2, 8)] },
  ])('$what', async ({ flags = {}, from = at(1, 1), expected, ...given }) => {
    const cluster = await PrefetchingCluster.create([...range(1, 1, 9), ...range(2, 7, 8), at(3, 4)], given.histories);
    expect(await cluster.fetch(from, flags)).toBe('delivered');
    expect(cluster.prefetched).toEqual(expected);
  });

  it.each([
    ['the timeline that is followed left', ['recovery.signal'], { timeline: '2' }],
    ['a later timeline left, and a standby is given no more', ['standby.signal'], {}],
  ])('H2: is none behind a segment within which %s', async (_, [signal = ''], flags) => {
    const cluster = await PrefetchingCluster.create(range(1, 5, 9), {
      '00000002.history': histories['00000002.history'],
    });
    writeFileSync(join(cluster.data, signal), '');
    expect(await cluster.fetch(at(1, 6), flags)).toBe('delivered');
    expect(cluster.delivered?.equals(makeSegment(at(1, 6)))).toBe(false);
    expect(existsSync(cluster.prefetch())).toBe(false);
  });

  it('H2: is none where a history cannot be read, and says so', async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 6), histories);
    flipByte(cluster.repository.object('00000003.history'));
    const context = cluster.context();
    expect(await cluster.fetch(at(1, 1), {}, context)).toBe('delivered');
    expect(cluster.prefetched).toEqual([]);
    expect(context.lines.join('')).toMatch(
      /^test: info: what comes next could not be fetched ahead: .*00000003.history/m,
    );
  });

  it('H2: ends before the first segment of a timeline whose history cannot be read', async () => {
    const cluster = await PrefetchingCluster.create([...range(1, 1, 6), at(3, 4)], histories);
    flipByte(cluster.repository.object('00000003.history'));
    expect(await cluster.fetch(at(1, 1))).toBe('delivered');
    expect(cluster.prefetched).toEqual(range(1, 2, 3));
  });

  it('leaves out a damaged segment, which is told of when it is asked for', async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 6));
    flipByte(cluster.repository.object(at(1, 3)));
    const context = cluster.context();
    expect(await cluster.fetch(at(1, 1), {}, context)).toBe('delivered');
    expect(cluster.prefetched).toEqual([at(1, 2), at(1, 4), at(1, 5)]);
    expect(context.lines.join('')).toMatch(
      new RegExp(`^test: info: "${at(1, 3)}" could not be fetched ahead: .*damaged`, 'm'),
    );
    await expect(cluster.fetch(at(1, 3))).rejects.toBeInstanceOf(CorruptError);
  });

  it('fetches nothing again that is there', async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 9));
    await cluster.fetch(at(1, 1));
    const storage = new GatedStorage(storageOf(cluster), Number.POSITIVE_INFINITY);
    await cluster.fetch(at(1, 1), {}, cluster.context({}, { openStorage: () => storage }));
    expect(cluster.prefetched).toEqual(range(1, 2, 9));
    expect(storage.passed.filter((key) => range(1, 2, 5).some((name) => key.endsWith(name)))).toEqual([]);
  });

  it('is none for a person, for pg_rewind, elsewhere, or without a server', async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 6));
    rmSync(join(cluster.data, 'pg_wal/.wal-t'), { recursive: true });
    const absolute = join(cluster.data, 'pg_wal/RECOVERYXLOG');
    for (const path of ['pg_wal/by-hand', `pg_wal/${at(1, 1)}`]) await cluster.fetch(at(1, 1), { path });
    await cluster.fetch(at(1, 1), { wordsBefore: undefined });
    const elsewhere = cluster.context({}, { workingDirectory: '/' });
    await cluster.fetch(at(1, 1), { path: absolute.slice(1) }, elsewhere).catch(() => undefined);
    rmSync(join(cluster.data, 'postmaster.pid'));
    expect(await cluster.fetch(at(1, 1))).toBe('delivered');
    expect(existsSync(join(cluster.data, 'pg_wal/.wal-t'))).toBe(false);
  });
});

describe('a standby', () => {
  const standby = async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 20));
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    return cluster;
  };

  it('H2: is fetched as much as it replays in some seconds', async () => {
    const cluster = await standby();
    await cluster.fetch(at(1, 1));
    expect(cluster.prefetched).toEqual(range(1, 2, 5));
    // ten segments in forty seconds: two in ten
    for (const name of range(1, 2, 5)) rmSync(cluster.prefetch(name));
    writeFileSync(cluster.prefetch('pace'), `8 9 ${Date.now() - 40_000}\n`);
    await cluster.fetch(at(1, 6));
    expect(cluster.prefetched).toEqual(range(1, 7, 8));
    rmSync(join(cluster.data, 'standby.signal'));
    writeFileSync(cluster.prefetch('pace'), `8 9 ${Date.now() - 40_000}\n`);
    await cluster.fetch(at(1, 6));
    expect(cluster.prefetched).toEqual(range(1, 7, 14));
  });

  it('H7: is fetched nothing ahead while it is being promoted', async () => {
    const cluster = await standby();
    writeFileSync(join(cluster.data, 'promote'), '');
    expect(await cluster.fetch(at(1, 1))).toBe('delivered');
    expect(cluster.prefetched).toEqual([]);
  });

  it.each([
    ['a segment', at(1, 21), 'pg_wal/RECOVERYXLOG'],
    ['a history', '00000002.history', 'pg_wal/RECOVERYHISTORY'],
  ])('that finds no more WAL costs three requests when it asks for %s', async (_, name, path) => {
    const cluster = await standby();
    const storage = new GatedStorage(storageOf(cluster), Number.POSITIVE_INFINITY);
    expect(await cluster.fetch(name, { path }, cluster.context({}, { openStorage: () => storage }))).toBe('absent');
    expect(storage.passed.map((key) => key.split('/').at(-1)).sort()).toEqual(['', name, 'cluster.json'].sort());
  });
});

describe('what was fetched ahead', () => {
  const filled = async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 9));
    await cluster.fetch(at(1, 1));
    expect(cluster.prefetched).toEqual(range(1, 2, 5));
    return cluster;
  };
  const history = { path: 'pg_wal/RECOVERYHISTORY' };

  it.each([
    ['another start of the server', (cluster: PrefetchingCluster) => cluster.restart(2), {}],
    ['other words', () => undefined, { wordsBefore: '--timeline 1', timeline: '1' }],
  ])('H4: goes when it is of %s', async (_, change, flags) => {
    const cluster = await filled();
    change(cluster);
    writeFileSync(cluster.prefetch(at(1, 3)), 'zeros');
    await cluster.fetch(at(1, 1), flags);
    expect(cluster.prefetched).toEqual(range(1, 2, 5));
  });

  it('goes with all others when PostgreSQL asks for one of it here: the launcher did not believe it', async () => {
    const cluster = await filled();
    writeFileSync(cluster.prefetch(at(1, 4)), 'zeros');
    await cluster.fetch(at(1, 2));
    expect(cluster.prefetched).toEqual([at(1, 3)]);
    await cluster.fetch(at(1, 2));
    expect(cluster.prefetched).toEqual(range(1, 3, 4));
  });

  it('goes where PostgreSQL has gone past it, and where a killed process left it', async () => {
    const cluster = await filled();
    const parts = temporarySuffix().split('-');
    const left = `${at(1, 5)}.wal-t-${['999999999', ...parts.slice(1)].join('-')}`;
    const own = `${at(1, 5)}.wal-t-${parts.join('-')}`;
    for (const name of [left, own]) writeFileSync(cluster.prefetch(name), 'half');
    rmSync(cluster.prefetch(at(1, 4)));
    await cluster.fetch(at(1, 4));
    expect(cluster.prefetched).toEqual(range(1, 5, 9));
    const others = readdirSync(cluster.prefetch()).filter((name) => name.length !== 24);
    expect(others.sort()).toEqual([own, 'bound', 'pace', 'until'].sort());
  });

  it('H2: goes where it is known meanwhile that a timeline left before', async () => {
    const cluster = await filled();
    await cluster.archive('00000002.history', Buffer.from('1\t0/480000\tno recovery target specified\n'));
    await cluster.fetch(at(1, 1));
    expect(cluster.prefetched).toEqual(range(1, 2, 3));
  });

  it('H2: goes when a segment is refused', async () => {
    const cluster = await filled();
    expect(await cluster.fetch(at(2, 4))).toBe('absent');
    expect(existsSync(cluster.prefetch())).toBe(false);
  });

  it('goes when a recovery begins or ends, and not while a standby looks for histories', async () => {
    const cluster = await filled();
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    expect(await cluster.fetch('00000002.history', history)).toBe('absent');
    expect(cluster.prefetched).toEqual(range(1, 2, 5));
    rmSync(join(cluster.data, 'standby.signal'));
    expect(await cluster.fetch('00000002.history', history)).toBe('absent');
    expect(existsSync(cluster.prefetch())).toBe(false);
  });

  it('goes when a server archives that is not in recovery', async () => {
    const cluster = await filled();
    const name = at(1, 10);
    const path = join('pg_wal', name);
    const signal = join(cluster.data, 'recovery.signal');
    for (const isRecovering of [true, false]) {
      if (isRecovering) writeFileSync(signal, '');
      else rmSync(signal);
      writeFileSync(join(cluster.data, path), makeSegment(name));
      await walPush(cluster.context(), { path, name, mayLookAhead: true });
      expect(existsSync(cluster.prefetch())).toBe(isRecovering);
    }
  });

  it("H4: is never a file that was begun before the folder became another call's", async () => {
    const cluster = await PrefetchingCluster.create(range(1, 1, 5));
    const storage = new GatedStorage(storageOf(cluster), 4); // the segment, what is behind, histories: then the first ahead
    const first = cluster.fetch(at(1, 1), {}, cluster.context({}, { openStorage: () => storage }));
    await storage.reached;
    cluster.restart(2);
    renameSync(cluster.prefetch(), `${cluster.prefetch()}.old`);
    mkdirSync(cluster.prefetch());
    writeFileSync(cluster.prefetch('bound'), 'of another start');
    storage.letOn();
    await first;
    expect(cluster.prefetched).toEqual([]);
  });
});

describe('the plan', () => {
  const plan = (from: string, stored: readonly string[], segmentSizeBytes: number) => {
    const file = parseWalFileName(from) as SegmentName;
    const segments = stored.map((name) => parseWalFileName(name) as SegmentName);
    const options = { behind: { segments, histories: [] }, most: 32, segmentSizeBytes };
    return planAhead({ file, timeline: undefined, endAt: undefined } as SegmentFetch, options).then((found) =>
      found.map(({ name }) => name),
    );
  };
  const gibibyte = 1024 ** 3;

  it.each([
    [gibibyte, '000000010000000000000002', ['000000010000000000000003', '000000010000000100000000']],
    [gibibyte / 64, '0000000100000001000000FE', ['0000000100000001000000FF', '000000010000000200000000']],
    [gibibyte, '00000001FFFFFFFF00000002', ['00000001FFFFFFFF00000003']],
  ])('follows the names of segments of %s bytes behind %s', async (sizeBytes, from, names) => {
    expect(await plan(from, [...names, '000000020000000000000000'], sizeBytes)).toEqual(names);
  });

  it('has nothing behind a name that no segment of this size has', async () => {
    expect(await plan('0000000100000000000000FF', ['000000010000000100000000'], gibibyte)).toEqual([]);
  });
});

function storageOf({ repository }: PrefetchingCluster): FileStorage {
  return new FileStorage(repository.root, { idleMs: 10_000, requestMs: 10_000 });
}
