/** What wal-fetch remembers of what it refused, and what its flags decide (H2, H1): without a server, which e2e/timelines-h2 has. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeRepository } from '../../src/archive/repository.ts';
import type { WalFetchArguments } from '../../src/commands/wal-fetch/prepare.ts';
import { walFetch } from '../../src/commands/wal-fetch.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { WalTError } from '../../src/errors.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { giveAway } from '../support/account.ts';
import { makeContext } from '../support/context.ts';
import { temporaryFolder } from '../support/folders.ts';
import { walT } from '../support/run.ts';
import { makeControlFile, makeDataDirectory, makeSegment, testSystemIdentifier } from '../support/segment.ts';

const at = (timeline: number, place: number) =>
  `${String(timeline).padStart(8, '0')}00000000${String(place).padStart(8, '0')}`;

/** Timeline 2 left the first one within segment 3, the third left the second at the very end of segment 4, which 5 begins. */
const histories: Readonly<Record<string, string>> = {
  '00000002.history': '1\t0/380000\tno recovery target specified\n',
  '00000003.history': '1\t0/380000\tno recovery target specified\n2\t0/500000\tno recovery target specified\n',
};
/** The first timeline went on. */
const two = [at(1, 2), at(1, 3), at(1, 4), at(1, 5), '00000002.history'];
const three = [...two, at(2, 4), at(2, 5), '00000003.history'];

const running = (pid: number, started = 1_790_000_000) => `${pid}\n/data\n${started}\n5432\n/tmp\n\n  1 2\nready   \n`;

class Cluster {
  readonly folder = temporaryFolder();
  readonly data = join(this.folder, 'data');
  readonly #context = makeContext({ WALT_REPO: `file://${this.folder}/repo` }, { workingDirectory: this.data });

  static async create(files = two): Promise<Cluster> {
    const cluster = new Cluster();
    mkdirSync(join(cluster.folder, 'repo'));
    const write = makeDataDirectory(cluster.data);
    const storage = new FileStorage(join(cluster.folder, 'repo'), { idleMs: 10_000, requestMs: 10_000 });
    await makeRepository(storage, { conditionalPut: 'honoured', delete: 'allowed' });
    for (const name of files) {
      const history = histories[name];
      const path = write(name, history === undefined ? makeSegment(name) : Buffer.from(history));
      await walPush(cluster.#context, { path, name });
      rmSync(join(cluster.data, path)); // none is decided by what lies in pg_wal
    }
    cluster.restart(1);
    return cluster;
  }

  restart(pid: number, started?: number): void {
    writeFileSync(join(this.data, 'postmaster.pid'), running(pid, started));
  }

  get remembered(): string {
    const path = join(this.data, 'pg_wal/.wal-t/last-refused');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  /** "all", or so many bytes and then zeros, or "absent", or the exit code of the error. */
  async fetch(name: string, flags: Partial<WalFetchArguments> = {}): Promise<string | number> {
    const path = flags.path ?? 'pg_wal/RECOVERYXLOG';
    rmSync(join(this.data, path), { force: true });
    try {
      const result = await walFetch(this.#context, { name, ...flags, path });
      if (result === 'absent') return result;
    } catch (error) {
      if (error instanceof WalTError) return `error ${error.exitCode}`;
      throw error;
    }
    const content = readFileSync(join(this.data, path));
    const whole = makeSegment(name);
    if (content.equals(whole)) return 'all';
    const end = content.findLastIndex((byte) => byte !== 0) + 1;
    expect(content.length).toBe(whole.length);
    expect(content.subarray(0, end).equals(whole.subarray(0, end))).toBe(true);
    expect(whole.subarray(end, 0x80000).every((byte) => byte === 0)).toBe(true);
    return 0x80000 - end < 100 ? 'to the switch point' : `to ${end}`;
  }
}

interface Asked {
  readonly what: string;
  /** The segments in the order they are asked for, and what each is answered. */
  readonly calls: readonly (readonly [timeline: number, place: number, answer: string])[];
  readonly timeline?: string;
  readonly files?: readonly string[];
}

const asked: readonly Asked[] = [
  {
    what: 'an old timeline that nobody left',
    calls: [
      [1, 3, 'all'],
      [1, 4, 'all'],
      [1, 5, 'all'],
    ],
  },
  {
    what: 'a timeline up to where it was left',
    calls: [
      [2, 3, 'absent'],
      [1, 3, 'to the switch point'],
    ],
  },
  {
    what: 'no timeline behind where it was left',
    files: three,
    calls: [
      [3, 6, 'absent'],
      [2, 6, 'absent'],
      [1, 6, 'absent'],
    ],
  },
  {
    what: 'no timeline from the edge at which it was left',
    files: three,
    calls: [
      [3, 5, 'absent'],
      [2, 5, 'absent'],
      [1, 5, 'absent'],
    ],
  },
  {
    what: 'all of a timeline that was left behind the segment',
    files: three,
    calls: [
      [3, 4, 'absent'],
      [2, 4, 'all'],
    ],
  },
  {
    what: 'a timeline that another place was refused of',
    calls: [
      [2, 3, 'absent'],
      [1, 4, 'all'],
      [1, 2, 'all'],
    ],
  },
  {
    what: 'a timeline by --timeline alone',
    files: three,
    timeline: '3',
    calls: [
      [1, 2, 'all'],
      [1, 3, 'to the switch point'],
      [1, 4, 'absent'],
      [2, 4, 'all'],
      [2, 5, 'absent'],
    ],
  },
  {
    what: 'its own timeline by --timeline',
    timeline: '1',
    calls: [
      [1, 3, 'all'],
      [1, 5, 'all'],
    ],
  },
  {
    what: 'nothing of a timeline that --timeline does not descend from',
    timeline: '2',
    calls: [
      [1, 3, 'to the switch point'],
      [3, 3, 'absent'],
    ],
  },
  {
    what: 'nothing while the history is not stored',
    files: two.slice(0, 4),
    calls: [
      [2, 3, 'absent'],
      [1, 3, 'error 6'],
      [1, 3, 'error 6'],
    ],
  },
];

describe('wal-fetch', () => {
  it.each(asked)('H2: delivers $what', async ({ calls, timeline, files = two }) => {
    const cluster = await Cluster.create([...files]);
    const found: unknown[] = [];
    for (const [line, place] of calls) found.push([line, place, await cluster.fetch(at(line, place), { timeline })]);
    expect(found).toEqual(calls);
  });
});

describe('what was refused', () => {
  it('H2: counts for the start of the server that was refused it, and for its recovery alone', async () => {
    const cluster = await Cluster.create();
    expect(await cluster.fetch(at(2, 3))).toBe('absent');
    expect(cluster.remembered).toBe(`${at(2, 3)} 1 1 1790000000\n`);
    expect(await cluster.fetch(at(1, 3), { path: 'pg_wal/by-hand' })).toBe('all');
    cluster.restart(2);
    expect(await cluster.fetch(at(1, 3))).toBe('all');
    cluster.restart(1, 1_790_000_001);
    expect(await cluster.fetch(at(1, 3))).toBe('all');
    cluster.restart(1);
    expect(await cluster.fetch(at(1, 3))).toBe('to the switch point');
    expect(await cluster.fetch(at(2, 6), { path: 'pg_wal/by-hand' })).toBe('absent');
    expect(cluster.remembered).toContain(at(2, 3));
  });

  it('H2: is not called absent where it cannot be remembered', async () => {
    const cluster = await Cluster.create();
    mkdirSync(join(cluster.data, 'pg_wal/.wal-t/last-refused'), { recursive: true });
    expect(await cluster.fetch(at(2, 3))).toBe('error 9');
  });

  it.each([
    [3, {}],
    [4, { WALT_REPO: 'file:///nowhere' }],
    [3, { WALT_NODE: '/nowhere/node' }],
  ])('H2: with exit code %s is remembered by the launcher, and nothing older is delivered: %o', async (code, env) => {
    const cluster = await Cluster.create();
    for (const name of ['', 'pg_wal', 'pg_wal/archive_status']) giveAway(join(cluster.data, name));
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    rmSync(join(cluster.data, 'pg_wal/.wal-t'), { recursive: true, force: true });
    const words = ['--timeline', '2', at(2, 3), 'pg_wal/RECOVERYXLOG'];
    const options = { cwd: cluster.data, env: { WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms', ...env } };
    expect(await walT('wal-fetch', words, options)).toMatchObject({ code });
    expect(cluster.remembered).toBe(`${at(2, 3)} ${code} 1 1790000000\n`);
    expect(await cluster.fetch(at(1, 3))).toBe(`error ${code}`);
    expect(await cluster.fetch(at(1, 4))).toBe('all');
  });
});

describe('--end-at', () => {
  it('H1: ends every timeline before that place, without a look at the archive, and leaves histories alone', async () => {
    const cluster = await Cluster.create();
    const flags = { endAt: at(2, 4) };
    expect(await cluster.fetch(at(1, 3), flags)).toBe('all');
    for (const name of [at(1, 4), at(1, 5), at(2, 4), at(3, 9)])
      expect(await cluster.fetch(name, flags)).toBe('absent');
    expect(cluster.remembered).toContain(at(3, 9));
    const path = 'pg_wal/RECOVERYHISTORY';
    await expect(cluster.fetch('00000002.history', { ...flags, path })).rejects.toThrow('no segment');
    expect(existsSync(join(cluster.data, path))).toBe(true);
  });

  it.each([{ endAt: '00000002.history' }, { endAt: '4' }, { timeline: 'latest' }, { timeline: '0' }])(
    'refuses what it is not: %o',
    async (flags) => {
      const cluster = await Cluster.create([]);
      expect(await cluster.fetch(at(1, 3), flags)).toBe('error 2');
    },
  );
});

it('H2: takes the size of segments from pg_control: without it nothing of an older timeline is delivered', async () => {
  const cluster = await Cluster.create();
  expect(await cluster.fetch(at(2, 3))).toBe('absent');
  writeFileSync(join(cluster.data, 'global/pg_control'), makeControlFile(testSystemIdentifier, 3));
  expect(await cluster.fetch(at(1, 3))).toBe('error 9');
});
