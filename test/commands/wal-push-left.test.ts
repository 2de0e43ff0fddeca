/**
 * H2: what wal-fetch gave a standby of a segment within which its timeline was left, pushed back (archive_mode = always), is no conflict; all
 * else stays one. Without a server, which e2e/timelines-h2 has.
 */
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { keygen } from '../../src/commands/keygen.ts';
import { walPush } from '../../src/commands/wal-push.ts';
import { ConflictError } from '../../src/errors.ts';
import { FileStorage } from '../../src/storage/file.ts';
import type { TestContext } from '../support/context.ts';
import { GatedStorage } from '../support/gated-storage.ts';
import { at, PrefetchingCluster } from '../support/prefetching.ts';
import { flipByte } from '../support/recovery.ts';
import { makeSegment } from '../support/segment.ts';

const name = at(1, 6);
const whole = makeSegment(name);
const endBytes = 0x80000;
const leftAt = (lsn: string) => `1\t${lsn}\tno recovery target specified\n`;
/** Timeline 2 left the first one in the middle of the segment. */
const history = leftAt('0/680000');

/** The first bytes of the segment, then zeros. */
const beginning = (bytes = endBytes) => Buffer.concat([whole.subarray(0, bytes)], whole.length);

const changedAt = (content: Buffer, offset: number) => {
  const changed = Buffer.from(content);
  changed.writeUInt8(changed.readUInt8(offset) ^ 0xff, offset);
  return changed;
};

/** Puts `content` under the segment's name into pg_wal, finished long ago. */
function put(cluster: PrefetchingCluster, file: string, content: Buffer | string): void {
  const path = join(cluster.data, 'pg_wal', file);
  writeFileSync(path, content);
  const longAgo = new Date(Date.now() - 3_600_000);
  utimesSync(path, longAgo, longAgo);
}

/** As PostgreSQL asks. */
async function push(cluster: PrefetchingCluster, content: Buffer, context = cluster.context()): Promise<TestContext> {
  put(cluster, name, content);
  await walPush(context, { path: `pg_wal/${name}`, name, mayLookAhead: true });
  return context;
}

const counted = (cluster: PrefetchingCluster) => {
  const times = { idleMs: 10_000, requestMs: 10_000 };
  return new GatedStorage(new FileStorage(cluster.repository.root, times), Number.POSITIVE_INFINITY);
};

describe('H2: the beginning of a segment that is archived whole', () => {
  it('is archived, where a stored history says that its timeline was left there: nothing is stored', async () => {
    const cluster = await PrefetchingCluster.create([name], { '00000002.history': history });
    const stored = readFileSync(cluster.repository.object(name));
    const files = cluster.repository.files();
    const { lines } = await push(cluster, beginning());
    expect(lines.join('')).toContain(`test: info: "${name}" is archived already, with more behind the place`);
    expect(lines.join('')).toContain('"00000002.history" says that this was at 0/680000');
    expect(cluster.repository.files()).toEqual(files);
    expect(readFileSync(cluster.repository.object(name)).equals(stored)).toBe(true);
  });

  it.each<[string, Readonly<Record<string, string>>]>([
    [
      'several timelines left it, the first one earlier',
      { '00000002.history': leftAt('0/620000'), '00000003.history': history },
    ],
    ['a grandchild tells, and its parent cannot', { '00000003.history': `${history}2\t0/900000\tx\n` }],
    ['another timeline has no part in it', { '00000002.history': leftAt('0/100000'), '00000003.history': history }],
  ])('is archived, where %s', async (_, histories) => {
    const cluster = await PrefetchingCluster.create([name], histories);
    if (histories['00000002.history'] === undefined) {
      await cluster.archive('00000002.history', Buffer.from(history));
      flipByte(cluster.repository.object('00000002.history'));
    }
    await push(cluster, beginning());
  });

  it.each<[string, Buffer]>([
    ['differs before that place', changedAt(beginning(), endBytes - 100)],
    ['goes on behind it with what is stored', beginning(endBytes + 1000)],
    ['goes on behind it otherwise', changedAt(beginning(), endBytes + 1000)],
    ['is otherwise at its very end', changedAt(beginning(), whole.length - 1)],
    ['ends before it with what is not stored', changedAt(beginning(endBytes - 1000), endBytes - 500)],
  ])('is a conflict, where it %s', async (_, content) => {
    const cluster = await PrefetchingCluster.create([name], { '00000002.history': history });
    await expect(push(cluster, content)).rejects.toBeInstanceOf(ConflictError);
  });

  it.each<[string, Readonly<Record<string, string>>]>([
    ['no timeline left it', {}],
    ['one left it before the segment', { '00000002.history': leftAt('0/600000') }],
    ['one left it behind the segment', { '00000002.history': leftAt('0/700000') }],
    ['one left it earlier in it', { '00000002.history': leftAt('0/640000') }],
    ['one left another timeline there', { '00000003.history': '2\t0/680000\tno recovery target specified\n' }],
  ])('is a conflict, where %s', async (_, histories) => {
    const cluster = await PrefetchingCluster.create([name], histories);
    await expect(push(cluster, beginning())).rejects.toBeInstanceOf(ConflictError);
  });

  it('is a conflict, where the history lies in pg_wal alone', async () => {
    const cluster = await PrefetchingCluster.create([name]);
    put(cluster, '00000002.history', history);
    await expect(push(cluster, beginning())).rejects.toBeInstanceOf(ConflictError);
  });

  it.each(['00000002.history', name])('is a conflict, where the stored %s is damaged', async (damaged) => {
    const cluster = await PrefetchingCluster.create([name], { '00000002.history': history });
    flipByte(cluster.repository.object(damaged));
    await expect(push(cluster, beginning())).rejects.toBeInstanceOf(ConflictError);
  });

  it('is looked for only where it may be: a segment that is in use to its end costs no request more', async () => {
    const cluster = await PrefetchingCluster.create([name], { '00000002.history': history });
    const storage = counted(cluster);
    const pushed = push(
      cluster,
      changedAt(whole, whole.length - 1),
      cluster.context({}, { openStorage: () => storage }),
    );
    await expect(pushed).rejects.toBeInstanceOf(ConflictError);
    expect(storage.passed.map((key) => key.split('/').at(-1)).sort()).toEqual([name, name, 'cluster.json']);
  });
});

describe('H2: on a host that holds', () => {
  const sealed = async () => {
    const { publicKey = '', text } = await keygen({ auth: false, output: undefined });
    const cluster = await PrefetchingCluster.create([]);
    const recipient = { WALT_AGE_RECIPIENTS: publicKey };
    const identity = /AGE-SECRET-KEY-\S+/.exec(text)?.[0] ?? '';
    for (const [file, content] of [
      ['00000002.history', history],
      [name, whole],
    ] as const) {
      put(cluster, file, content);
      await walPush(cluster.context(recipient), { path: `pg_wal/${file}`, name: file });
    }
    return { cluster, recipient, both: { ...recipient, WALT_AGE_IDENTITY: identity } };
  };

  it('recipients alone it cannot be told, and stays a conflict that says so', async () => {
    const { cluster, recipient } = await sealed();
    const error = await push(cluster, beginning(), cluster.context(recipient)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ConflictError);
    const { message, detail, hint } = error as ConflictError;
    expect(message).toBe(`"${name}" is archived already, with other content`);
    expect(detail).toContain('this host has no identity to look');
    expect(hint).toContain('give wal-push the WALT_AGE_IDENTITY_FILE that its wal-fetch has');
  });

  it('an identity, as one must to which wal-fetch gave it, it is archived', async () => {
    const { cluster, both } = await sealed();
    await push(cluster, beginning(), cluster.context(both));
    await expect(push(cluster, changedAt(beginning(), 100), cluster.context(both))).rejects.toBeInstanceOf(
      ConflictError,
    );
  });
});

describe('H2: a push of what waits ahead of PostgreSQL', () => {
  const asked = at(1, 5);
  const markersOf = ({ data }: PrefetchingCluster) => {
    const folder = join(data, 'pg_wal/.wal-t/pushed');
    const paths = existsSync(folder) ? (readdirSync(folder, { recursive: true }) as string[]) : [];
    return paths.flatMap((path) => /\/([0-9A-F]{24})$/.exec(path)?.[1] ?? []);
  };

  it.each([
    ['marks it', beginning(), [name]],
    ['does not mark what differs', changedAt(beginning(), endBytes - 100), []],
  ])('%s', async (_, content, marked) => {
    const cluster = await PrefetchingCluster.create([name], { '00000002.history': history });
    put(cluster, asked, makeSegment(asked));
    put(cluster, name, content);
    for (const one of [asked, name]) put(cluster, `archive_status/${one}.ready`, '');
    await walPush(cluster.context(), { path: `pg_wal/${asked}`, name: asked, mayLookAhead: true });
    expect(markersOf(cluster)).toEqual(marked);
  });
});
