/** What an increment knows of each file of the cluster from its parent's list, stored in a repository: and of which it must know nothing. */
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { pieceHash } from '../../../src/archive/file-hashes.ts';
import { type EntryLine, type Extent, type FilesLine, formatLine } from '../../../src/archive/files-line.ts';
import { sealLines } from '../../../src/archive/files-list.ts';
import { storeStream } from '../../../src/archive/part.ts';
import { toBytePath } from '../../../src/byte-path.ts';
import { bytesOf } from '../../../src/bytes.ts';
import type { WalkEntry } from '../../../src/cluster/backup-walk.ts';
import type { KnownFile } from '../../../src/commands/basebackup-push/changed-file.ts';
import { Increment, type IncrementOptions } from '../../../src/commands/basebackup-push/increment.ts';
import type { ClusterEntry } from '../../../src/commands/basebackup-push/store-part.ts';
import { ChangedBlocks } from '../../../src/postgres/changed-blocks.ts';
import { makeArchive, testManifest } from '../../support/backups.ts';
import { temporaryFolder } from '../../support/folders.ts';
import { pageBytes, plainRules } from '../../support/increment-files.ts';
import { testBackupId } from '../../support/streamed.ts';

const olderId = '20261119T083000Z-000000010000000100000021-full-0badcafe';
const commitment = {
  objectBytes: 9,
  storedBytes: 9,
  rawBytes: 2 ** 30,
  sha256: '0'.repeat(64),
  tableSha256: '0'.repeat(64),
};
/** When the parent began, and a minute before. */
const startedMs = Date.parse(testManifest.startedAt);
const startedNs = BigInt(startedMs) * 1_000_000n;
const trustedNs = startedNs - 60_000_000_000n;
const trusted = { parentStartedAt: new Date(startedMs), marginMs: 60_000 };
const old = { mtimeNs: trustedNs - 1n, ctimeNs: trustedNs - 1n, inode: 5n };
const owned = { uid: 26, gid: 26, mode: 0o600 };

/** A file of 40 pages in part 0, unless told otherwise. */
function file(path: string, more: object = {}): EntryLine {
  const sizeBytes = 40 * pageBytes;
  return { type: 'file', path, ...owned, ...old, sizeBytes, extents: [[sizeBytes, 0, 512]], ...more };
}

const folder = (path: string): EntryLine => ({ type: 'folder', path, ...owned, mode: 0o700, mtimeNs: 0n });
const part = (index: number, backup: string, number: number, last?: true): FilesLine => ({
  type: 'part',
  index,
  backup,
  number,
  ...commitment,
  ...(last === undefined ? {} : { last }),
});

/** What the walk finds. */
function seen(path: string, more: object = {}): WalkEntry {
  return { type: 'file', path, source: `/none/${path}`, sizeBytes: 40 * pageBytes, ...old, ...more };
}

interface Given {
  readonly lines: readonly FilesLine[];
  readonly walk: readonly WalkEntry[];
  readonly options?: Partial<IncrementOptions>;
  readonly manifest?: Partial<typeof testManifest>;
  /** What the seal says, if it is to be wrong. */
  readonly sealedFiles?: number;
}

/** Everything that is known of the files of the walk, by path. */
async function knownOf({ lines, walk, options = {}, manifest = {}, sealedFiles }: Given) {
  const archive = makeArchive();
  const parts = lines.filter(({ type }) => type === 'part').length;
  const count = { parts, files: 0, folders: 0, tablespaces: 0 };
  for (const { type } of lines) if (type !== 'part') count[`${type}s`] += 1;
  count.files = sealedFiles ?? count.files;
  const text = bytesOf(Buffer.from(lines.map(formatLine).join('')));
  const sealed = sealLines(text, () => count);
  const files = await storeStream(archive, { backup: testBackupId, part: 'files' }, sealed, { level: 1, sizeHint: 0 });
  const increment = await Increment.open(archive, {
    parent: { ...testManifest, badPages: { count: 0, pages: [] }, ...manifest, files },
    rules: plainRules,
    changes: undefined,
    times: undefined,
    manifestChecksums: 'CRC32C',
    partsSince: undefined,
    ...options,
  });
  const known = new Map<string, KnownFile | undefined>();
  const entries: ClusterEntry[] = [];
  for await (const entry of increment.entries(all(walk))) {
    entries.push(entry);
    if (entry.type === 'file') known.set(entry.path, entry.known);
  }
  expect(entries.map(({ path }) => path)).toEqual(walk.map(({ path }) => path));
  return { known, increment };
}

async function* all<T>(items: readonly T[]): AsyncGenerator<T> {
  await Promise.resolve();
  yield* items;
}

const base: readonly FilesLine[] = [part(0, testBackupId, 1), folder('base'), folder('base/5')];

describe('the parent’s list beside the walk', () => {
  it('finds each file by its path, in the order of bytes; nothing of one that the parent does not have', async () => {
    const names = ['base/5/1', 'base/5/10', 'base/5/1_vm', 'base/5/caf\xe9', 'base/5/\xff'];
    const walk = ['base/5/0', 'base/5/1', 'base/5/10', 'base/5/11', 'base/5/1_vm', 'base/5/caf\xe9', 'base/5/\xff'];
    const { known } = await knownOf({
      lines: [...base, ...names.map((path) => file(path))],
      walk: walk.map((path) => seen(path)),
    });
    const found = [...known].filter(([, one]) => one !== undefined);
    expect(found.map(([path, one]) => [path, one?.line.path])).toEqual(names.map((path) => [path, path]));
  });

  it('is believed when its seal fits, and before anything is taken from it', async () => {
    const lines = [...base, file('base/5/1'), part(1, testBackupId, 2, true)];
    const walk = [seen('base/5/1')];
    expect((await knownOf({ lines, walk })).known.get('base/5/1')).toBeDefined();
    await expect(knownOf({ lines, walk, sealedFiles: 2 })).rejects.toMatchObject({ detail: 'its seal does not fit' });
  });

  it('takes no file for what was a folder, or is one now', async () => {
    const { known } = await knownOf({
      lines: [...base, file('base/a'), folder('base/b'), file('base/b/x'), file('base/z')],
      walk: [
        { ...owned, type: 'folder', path: 'base/a', source: '/none', mtimeNs: 0n },
        seen('base/a/x'),
        seen('base/b'),
        seen('base/z'),
      ],
    });
    expect([...known].map(([path, one]) => [path, one?.line.path])).toEqual([
      ['base/a/x', undefined],
      ['base/b', undefined],
      ['base/z', 'base/z'],
    ]);
  });

  it('takes over nothing of what is copied last', async () => {
    const label = { ...file('backup_label'), extents: [[40 * pageBytes, 7, 0]] } as EntryLine;
    const control = { ...file('global/pg_control'), extents: [[40 * pageBytes, 7, 0]] } as EntryLine;
    const { known, increment } = await knownOf({
      lines: [...base, file('base/5/1'), part(7, testBackupId, 2, true), control, label],
      walk: [seen('backup_label'), seen('base/5/1'), seen('global/pg_control')],
    });
    expect([...known].filter(([, one]) => one !== undefined).map(([path]) => path)).toEqual(['base/5/1']);
    expect(increment.firstOwnIndex).toBe(1);
    expect([...increment.partLines([0, 7, 1])].map(({ number }) => number)).toEqual([1]);
  });

  it('names parts of several backups anew, whatever their indexes and gaps were, each once', async () => {
    const size = 40 * pageBytes;
    const extents: Extent[] = [
      [8192, 90, 512],
      [8192, -1, 0],
      [8192, 3, 0],
      [8192, 90, 100],
      [size - 4 * 8192, 41, 7],
    ];
    const { known, increment } = await knownOf({
      lines: [
        part(90, olderId, 4),
        folder('base'),
        folder('base/5'),
        file('base/5/1', { extents: [[size, 90, 0]] }),
        part(3, testBackupId, 9),
        part(41, olderId, 2),
        file('base/5/2', { extents }),
      ],
      walk: [seen('base/5/1'), seen('base/5/2')],
    });
    expect(known.get('base/5/1')?.line.extents).toEqual([[size, 0, 0]]);
    expect(known.get('base/5/2')?.line.extents).toEqual(
      extents.map(([length, index, skip]) => [length, { 90: 0, 3: 1, 41: 2 }[index] ?? -1, skip]),
    );
    expect(increment.firstOwnIndex).toBe(3);
    const lines = [...increment.partLines([2, 0]), ...increment.partLines([0, 1, 2])];
    expect(lines.map(({ index, backup, number }) => [index, backup, number])).toEqual([
      [2, olderId, 2],
      [0, olderId, 4],
      [1, testBackupId, 9],
    ]);
  });

  it('leaves a checksum that is by another algorithm', async () => {
    const lines = [...base, file('base/5/1_vm', { checksum: '0badcafe' })];
    const walk = [seen('base/5/1_vm')];
    const same = await knownOf({ lines, walk });
    expect(same.known.get('base/5/1_vm')?.line.checksum).toBe('0badcafe');
    const other = await knownOf({ lines, walk, options: { manifestChecksums: 'SHA256' } });
    expect(other.known.get('base/5/1_vm')?.line.checksum).toBeUndefined();
  });

  it('H42: knows which pages of each file were broken', async () => {
    const bad = [
      { path: 'base/5/1', block: 7 },
      { path: 'base/5/1.2', block: 2 * 131_072 + 3 },
      { pathHex: Buffer.from('base/5/caf\xe9', 'latin1').toString('hex'), block: 1 },
      { path: 'base/5/1', block: 9 },
    ];
    const paths = ['base/5/1', 'base/5/1.2', 'base/5/2', 'base/5/caf\xe9'];
    const { known } = await knownOf({
      lines: [...base, ...paths.map((path) => file(path))],
      walk: paths.map((path) => seen(path)),
      manifest: { badPages: { count: 4, pages: bad } },
    });
    expect(paths.map((path) => known.get(path)?.badPages)).toEqual([[7, 9], [3], [], [1]]);
  });
});

describe('times', () => {
  it.each([
    ['tell that nothing was written', {}, {}, 'times'],
    ['were a minute before the parent or less: mtime', { mtimeNs: trustedNs }, { mtimeNs: trustedNs }, 'content'],
    ['were a minute before the parent or less: ctime', { ctimeNs: trustedNs }, { ctimeNs: trustedNs }, 'content'],
    ['another size', {}, { sizeBytes: 41 * pageBytes }, 'content'],
    ['another time of modification', {}, { mtimeNs: 1n }, 'content'],
    ['another time of change', {}, { ctimeNs: 1n }, 'content'],
    ['another inode', {}, { inode: 6n }, 'content'],
  ])('%s', async (_what, before, now, expected) => {
    const given = { lines: [...base, file('base/5/1', before)], walk: [seen('base/5/1', now)] };
    const { known } = await knownOf({ ...given, options: { times: trusted } });
    expect(known.get('base/5/1')?.changes).toBe(expected);
    const distrustful = await knownOf(given);
    expect(distrustful.known.get('base/5/1')?.changes).toBe('content');
  });
});

describe('WAL summaries', () => {
  const locator = { tablespaceOid: 1663, databaseOid: 5, relfilenode: 1 };
  const lines = [...base, ...['base/5/1', 'base/5/1.1', 'base/5/1_vm', 'base/5/2'].map((path) => file(path))];
  const walk = ['base/5/1', 'base/5/1.1', 'base/5/1_vm', 'base/5/2'].map((path) => seen(path, { mtimeNs: 1n }));
  const told = async (changes: ChangedBlocks) => {
    const { known } = await knownOf({ lines, walk, options: { changes, times: trusted } });
    return walk.map(({ path }) => {
      const found = known.get(path)?.changes;
      return found instanceof Uint32Array ? [...found] : found;
    });
  };

  it('name blocks over all files of a relation, and nothing of what is no main fork', async () => {
    const changes = new ChangedBlocks();
    changes.add(locator, [0, 39, 40, 131_072, 131_073, 131_112]);
    expect(await told(changes)).toEqual([[0, 39], [0, 1], 'content', []]);
  });

  it('H42: make every block from a limit on a changed one', async () => {
    const changes = new ChangedBlocks();
    changes.add(locator, [2]);
    changes.setLimit(locator, 38);
    const every = Array.from({ length: 40 }, (_, page) => page);
    expect(await told(changes)).toEqual([[2, 38, 39], every, 'content', []]);
  });

  it('H37: make a database that was made or moved another one, though its files bear the same names', async () => {
    const changes = new ChangedBlocks();
    changes.setLimit({ ...locator, relfilenode: 0 }, 0);
    expect(await told(changes)).toEqual([undefined, undefined, 'content', undefined]);
  });
});

describe('H40: a database of the same OID is another one', () => {
  /** With a relation in its own place, and one in a tablespace. */
  const home = 'base/5';
  const space = 'pg_tblspc/16400/PG_17_202406281/5';
  const made = new Date(startedMs - 10_000);
  const lines = (version: Date) => [
    ...base,
    file(`${home}/1`),
    file(`${home}/PG_VERSION`, { sizeBytes: 3, extents: [[3, 0, 0]], mtimeNs: BigInt(version.getTime()) * 1_000_000n }),
    folder('pg_tblspc'),
    folder('pg_tblspc/16400'),
    folder(dirname(space)),
    folder(space),
    file(`${space}/2`),
  ];

  async function areKnown(change: (data: string) => void = () => undefined, version = made): Promise<boolean[]> {
    const data = temporaryFolder();
    for (const path of [home, space]) mkdirSync(join(data, path), { recursive: true });
    writeFileSync(join(data, home, 'PG_VERSION'), '17\n');
    utimesSync(join(data, home, 'PG_VERSION'), version, version);
    change(data);
    const at = (path: string): WalkEntry => ({
      ...owned,
      type: 'folder',
      path,
      source: `${toBytePath(data)}/${path}`,
      mtimeNs: 0n,
    });
    const walk = [at(home), seen(`${home}/1`), at(space), seen(`${space}/2`)];
    const { known } = await knownOf({ lines: lines(version), walk });
    return [known.get(`${home}/1`), known.get(`${space}/2`)].map((one) => one !== undefined);
  }

  it('not while its PG_VERSION is the same: also what it has in another tablespace is known', async () => {
    expect(await areKnown()).toEqual([true, true]);
  });

  it('when its PG_VERSION is of another time, or gone: nothing of it is known, wherever it lies', async () => {
    const later = new Date(made.getTime() + 1);
    expect(await areKnown((data) => utimesSync(join(data, home, 'PG_VERSION'), later, later))).toEqual([false, false]);
    expect(await areKnown((data) => rmSync(join(data, home, 'PG_VERSION')))).toEqual([false, false]);
  });

  it('when it was made while the parent was taken: the parent may have files of the one before', async () => {
    expect(await areKnown(undefined, new Date(startedMs + 500))).toEqual([false, false]);
    expect(await areKnown(undefined, new Date(startedMs - 500))).toEqual([false, false]); // a file system that knows seconds alone
  });

  it('when it has its own place now where it had but some relations', async () => {
    expect(await areKnown((data) => writeFileSync(join(data, space, 'PG_VERSION'), '17\n'))).toEqual([true, false]);
  });
});

it('a file in very many pieces is stored whole', async () => {
  const size = 40 * pageBytes;
  const pieces = Array.from({ length: 32_769 }, () => [1, 0, 1] as const);
  const extents = [...pieces, [size - pieces.length, 0, 1] as const];
  const { known } = await knownOf({
    lines: [...base, file('base/5/1', { extents }), file('base/5/2', { extents: extents.slice(2).with(0, [3, 0, 1]) })],
    walk: [seen('base/5/1'), seen('base/5/2')],
  });
  expect(known.get('base/5/1')).toBeUndefined();
  expect(known.get('base/5/2')).toBeDefined();
});

it('the hashes of a file come with its line', async () => {
  const hashes = pieceHash(Buffer.from('x')).toString('base64');
  const { known } = await knownOf({ lines: [...base, file('base/5/1_vm', { hashes })], walk: [seen('base/5/1_vm')] });
  expect(known.get('base/5/1_vm')?.line.hashes).toBe(hashes);
});
