/** bin/wal-fetch hands out what was fetched ahead without Node.js, and only where nothing of it is in doubt. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { giveAway } from '../support/account.ts';
import { KeptFolder } from '../support/kept-folder.ts';
import { at, PrefetchingCluster, postmasterPid } from '../support/prefetching.ts';
import { launcher, run } from '../support/run.ts';
import { makeSegment } from '../support/segment.ts';

const target = 'pg_wal/RECOVERYXLOG';
const [asked, next, behind] = [at(2, 1), at(2, 2), at(2, 3)];
/** Whoever starts it fails. */
const noNode = { WALT_NODE: '/bin/false' };

/** What `prefetched` has made, by its flags. */
const kept = new Map<string, { readonly cluster: PrefetchingCluster; readonly folder: KeptFolder }>();
afterAll(() => {
  for (const { folder } of kept.values()) folder.remove();
});

/** The next segment was fetched ahead by a call with `flags` in front. */
async function prefetched(flags: readonly string[] = []) {
  const known = kept.get(flags.join(' '));
  if (known !== undefined) {
    await known.folder.putBack();
    return known.cluster;
  }
  const cluster = await PrefetchingCluster.create([asked, next, behind]);
  const { code, stderr } = await cluster.launch([...flags, asked, target]);
  expect(code, stderr).toBe(0);
  expect(cluster.prefetched).toEqual([next, behind]);
  rmSync(join(cluster.data, target));
  kept.set(flags.join(' '), { cluster, folder: await KeptFolder.keep(cluster.folder) });
  return cluster;
}

type Cluster = PrefetchingCluster;

describe('what was fetched ahead', () => {
  it.each<readonly [string, string[]]>([
    ['by itself', []],
    ['with flags in front', ['--timeline', '2', '--end-at', at(2, 9)]],
    ['with a flag alone', ['--beside']],
  ])('is handed out %s, and is then gone', async (_, flags) => {
    const cluster = await prefetched(flags);
    expect(await cluster.launch([...flags, next, target], noNode)).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(cluster.delivered?.equals(makeSegment(next))).toBe(true);
    expect(cluster.prefetched).toEqual([behind]);
    const word = await run(launcher('wal-t'), ['wal-fetch', ...flags, behind, target], {
      cwd: cluster.data,
      asRoot: true,
      env: { WALT_CONFIG: cluster.repository.config, ...noNode },
    });
    expect(word).toMatchObject({ code: 0, stderr: '' });
    expect(cluster.delivered?.equals(makeSegment(behind))).toBe(true);
    expect(cluster.prefetched).toEqual([]);
  });

  it('is handed out to a standby, too', async () => {
    const cluster = await prefetched();
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    expect(await cluster.launch([next, target], noNode)).toMatchObject({ code: 0 });
  });

  it('is handed out though another place was refused', async () => {
    const cluster = await prefetched();
    writeFileSync(join(cluster.data, 'pg_wal/.wal-t/last-refused'), `${at(3, 1)} 1 1 1790000000\n`);
    expect(await cluster.launch([next, target], noNode)).toMatchObject({ code: 0 });
  });

  interface Doubt {
    readonly what: string;
    readonly change?: (cluster: Cluster) => unknown;
    readonly words?: readonly string[];
    readonly env?: Readonly<Record<string, string>>;
    /** What Node.js then answers, when it runs; unless told, that it is delivered. */
    readonly code?: number;
    /** What the launcher answers where Node.js fails. */
    readonly status?: number;
  }
  const inFuture = new Date(Date.now() + 3_600_000);
  const place = (cluster: Cluster) => cluster.prefetch(next);
  const doubts: readonly Doubt[] = [
    { what: 'H4: of another process of the server', change: (cluster) => cluster.restart(2) },
    { what: 'H4: of another start of the server', change: (cluster) => cluster.restart(1, 1_790_000_001) },
    { what: 'H4: without a server', change: ({ data }) => rmSync(join(data, 'postmaster.pid')) },
    { what: 'not bound', change: (cluster) => rmSync(cluster.prefetch('bound')) },
    { what: 'of a call with other flags', words: ['--timeline', '2', next, target] },
    { what: 'of a call with no flags behind', words: [next, target, '--timeline', '2'] },
    { what: 'H9: of other settings in the environment', env: { WALT_S3_FORCE_PATH_STYLE: '1' } },
    {
      what: 'H9: of other settings in the file',
      change: ({ repository }) => {
        repository.configure({ WALT_S3_FORCE_PATH_STYLE: '1' });
        utimesSync(repository.config, 0, 0);
      },
    },
    {
      what: 'H9: older than the settings',
      change: ({ repository }) => utimesSync(repository.config, inFuture, inFuture),
    },
    {
      what: "H2: asked for in the place of a later timeline's that was refused",
      change: ({ data }) => writeFileSync(join(data, 'pg_wal/.wal-t/last-refused'), `${at(3, 2)} 4 1 1790000000\n`),
      code: 200,
    },
    {
      what: 'H2: of a standby that has waited with it',
      change: (cluster) => {
        writeFileSync(join(cluster.data, 'standby.signal'), '');
        utimesSync(cluster.prefetch('until'), 0, 0);
      },
      status: 70,
    },
    {
      what: 'H2: of a standby, and of no known time',
      change: (cluster) => {
        writeFileSync(join(cluster.data, 'standby.signal'), '');
        rmSync(cluster.prefetch('until'));
      },
      status: 70,
    },
    {
      what: 'a link',
      change: (cluster) => {
        renameSync(place(cluster), join(cluster.data, 'elsewhere'));
        symlinkSync(join(cluster.data, 'elsewhere'), place(cluster));
      },
    },
    {
      what: 'a folder',
      change: (cluster) => {
        rmSync(place(cluster));
        mkdirSync(place(cluster));
      },
    },
    { what: 'for a person', words: [next, 'pg_wal/by-hand'] },
    { what: 'H6: for pg_rewind', words: [next, `pg_wal/${next}`] },
  ];

  it.each(doubts)(
    'is not handed out where it is $what',
    async ({ change, words = [next, target], env = {}, code = 0, status = 200 }) => {
      const cluster = await prefetched();
      await change?.(cluster);
      const there = () => readdirSync(cluster.prefetch()).filter((name) => name !== 'now');
      const before = there();
      expect((await cluster.launch(words, { ...env, ...noNode })).code).toBe(status);
      expect(cluster.delivered).toBeUndefined();
      expect(there()).toEqual(before);
      expect((await cluster.launch(words, env)).code).toBe(code);
      const path = join(cluster.data, words[words.indexOf(next) + 1] ?? '');
      if (code === 0) expect(readFileSync(path).equals(makeSegment(next))).toBe(true);
    },
  );

  it('H6: is not handed out where the path is absolute', async () => {
    const cluster = await prefetched();
    expect((await cluster.launch([next, join(cluster.data, target)], noNode)).code).toBe(200);
    expect(cluster.prefetched).toEqual([next, behind]);
  });

  it('is not handed out in another folder than the data directory', async () => {
    const cluster = await prefetched();
    rmSync(join(cluster.data, 'PG_VERSION'));
    expect((await cluster.launch([next, target], { WALT_PGDATA: '/nowhere', ...noNode })).code).toBe(200);
    expect(cluster.prefetched).toEqual([next, behind]);
  });

  it.each(['bound', 'pace', '../../../PG_VERSION', ''])('is no other file of the folder: "%s"', async (name) => {
    const cluster = await prefetched();
    expect((await cluster.launch([name, target], noNode)).code).toBe(200);
    expect(cluster.delivered).toBeUndefined();
  });

  it.each([0, 1])('H3: comes by Node.js where mv moves nothing and ends with %s', async (code) => {
    const cluster = await prefetched();
    const bin = join(cluster.folder, 'bin');
    mkdirSync(bin);
    writeFileSync(join(bin, 'mv'), `#!/bin/sh\nexit ${code}\n`, { mode: 0o755 });
    giveAway(bin);
    const env = { PATH: `${bin}:${process.env.PATH}` };
    expect((await cluster.launch([next, target], { ...env, ...noNode })).code).toBe(200);
    expect(existsSync(join(cluster.data, target))).toBe(false);
    expect((await cluster.launch([next, target], env)).code).toBe(0);
    expect(cluster.delivered?.equals(makeSegment(next))).toBe(true);
  });

  it('H3: leaves a failure of Node.js what it was: remembered, with the code for a standby', async () => {
    const cluster = await prefetched();
    writeFileSync(join(cluster.data, 'standby.signal'), '');
    cluster.restart(2);
    expect((await cluster.launch([next, target], noNode)).code).toBe(70);
    const remembered = readFileSync(join(cluster.data, 'pg_wal/.wal-t/last-refused'), 'utf8');
    expect(remembered).toBe(`${next} 70 2 1790000000\n`);
    expect(postmasterPid(2)).toContain('1790000000');
  });
});
