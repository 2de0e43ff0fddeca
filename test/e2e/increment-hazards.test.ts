/**
 * What would make an increment's restore another cluster than the one that was backed up, on real servers: each of these was seen to lose data, or to
 * give an invalid page, where the rule against it was left out. The rules one by one are in test/commands/basebackup-push.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { basebackupPush } from '../../src/commands/basebackup-push.ts';
import { deleteBackups } from '../../src/commands/delete.ts';
import { openStorage as openRealStorage, type StorageSettings } from '../../src/storage/open.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const major = 15;
/** The servers of these tests come without it. */
const checksumsTool = '/usr/lib/postgresql/15/bin/pg_checksums';
const env = { PGUSER: 'postgres', WALT_WORKERS: '2', WALT_COMPRESSION_LEVEL: '1' };

let folder: string;
let repository: TestRepository;
let server: PostgresServer;

beforeAll(async () => {
  folder = makeFolder('hazards');
  repository = await new TestRepository({ folder }).init();
  server = PostgresServer.create({
    major,
    checksums: false,
    walSegmentSize: 16, // each segment is a command of its own
    settings: {
      ...repository.serverSettings,
      bgwriter_lru_maxpages: '0',
      checkpoint_timeout: '1d',
      allow_in_place_tablespaces: 'on', // its recovery demands it, too
    },
  });
  await server.start();
  await server.query('create extension pg_visibility');
});

afterAll(async () => {
  await server.remove();
  removeFolder(folder);
});

interface Manifest {
  readonly id: string;
  readonly type: string;
  readonly parent?: string;
}

function pushOf(cluster: PostgresServer, words: readonly string[]): Promise<Ended> {
  return repository.run('basebackup-push', [cluster.dataDirectory, '--json', ...words], { env });
}

/** A backup that succeeds, with what it said. */
async function push(...words: string[]): Promise<Manifest & { readonly said: string }> {
  await server.query('checkpoint');
  const ended = await pushOf(server, words);
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  return { ...(JSON.parse(ended.stdout) as { manifest: Manifest }).manifest, said: ended.stderr };
}

/** An increment that is killed as soon as it has stored something of this kind; one that ends before counts, and the next one is its child. */
function pushKilledAt(step: string): Promise<Ended> {
  const known = new Set(repository.files());
  return repository.run('basebackup-push', [server.dataDirectory, '--incremental'], {
    env,
    ownGroup: true,
    onStart: ({ pid = 0, exitCode }) => {
      const isThere = () => repository.files().some((path) => path.includes(step) && !known.has(path));
      void waitFor(`a new object in ${step}`, () => isThere() || exitCode !== null).then(() => {
        try {
          process.kill(-pid, 'SIGKILL');
        } catch {
          // it has ended by itself
        }
      });
    },
  });
}

/** Its files, restored. */
async function fetch(id: string): Promise<PostgresServer> {
  const copy = server.elsewhere();
  const ended = await repository.run('basebackup-fetch', [copy.dataDirectory, id], { env });
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  return copy;
}

/** The same, recovered to the end of what is archived, and open. It archives nothing. */
async function open(id: string): Promise<PostgresServer> {
  const copy = await fetch(id);
  copy.configure({ archive_mode: 'off', recovery_target_timeline: 'current', recovery_target_lsn: '' });
  copy.signal('recovery.signal');
  await copy.open();
  return copy;
}

/** Rows that nobody has vacuumed, whose hint bits are set already: all that VACUUM still does to their pages is PD_ALL_VISIBLE. */
async function makeRows(table: string): Promise<void> {
  await server.query(
    `create table ${table} as select n as id, repeat('x', 200) as pad from generate_series(1, 4000) n`,
  );
  await server.query(`create index on ${table} (id)`);
  await server.query(`select count(*) from ${table}`);
}

/** Deletes a half, and asks by index alone how many are left: where a page does not know that it is all visible, the map keeps saying so. */
async function expectMapIsRight(copy: PostgresServer, table: string): Promise<void> {
  await copy.query(`delete from ${table} where id % 2 = 0`);
  expect(await copy.value(`select count(*) from pg_check_visible('${table}')`)).toBe('0');
  const client = await copy.connect();
  try {
    await client.query('set enable_seqscan = off; set enable_bitmapscan = off');
    const { rows } = await client.query<{ count: string }>(`select count(id) from ${table} where id > 0`);
    expect(rows[0]?.count).toBe('2000');
  } finally {
    await client.end();
  }
}

describe('one chain, and one cluster that is restored from it', () => {
  let full: Manifest;
  let copy: PostgresServer;

  beforeAll(async () => {
    for (const table of ['marked', 'killed', 'placed']) await makeRows(table);
    await server.query("create tablespace in_place location ''");
    await server.query('alter table placed set tablespace in_place');
    await server.query('create database pattern');
    const rows = "select n as id, repeat('a', 200) as pad from generate_series(1, 4000) n";
    await inDatabase(server, 'pattern', `create table t as ${rows}`);
    await server.query('create database other oid 77777 template pattern strategy file_copy');
    await inDatabase(server, 'other', "update t set pad = repeat('b', 200) where id % 100 = 1");
    full = await push();
    await server.query('vacuum marked');
    await server.query('drop database other');
    await server.query('create database other oid 77777 template pattern strategy file_copy');
    await server.query('update placed set pad = pad || 1 where id % 50 = 7');
    let before = await push('--incremental');
    expect(before).toMatchObject({ type: 'incremental', parent: full.id });
    const steps = isTorture ? ['/lease/', '/part/', '/files/', '/manifest/'] : ['/part/', '/manifest/'];
    for (const [index, step] of steps.entries()) {
      // other pages at each step: what was believed wrongly is still there at the end
      await server.query(`update killed set pad = pad || 1 where id between ${index} * 1000 and ${index} * 1000 + 500`);
      await server.query('checkpoint');
      const ended = await pushKilledAt(step);
      const pushed = await push('--incremental');
      expect(pushed.type).toBe('incremental');
      if (ended.signal === 'SIGKILL' && step !== '/manifest/') expect(pushed.parent).toBe(before.id);
      before = pushed;
    }
    copy = await open(before.id);
  }, 300_000);

  afterAll(async () => {
    await copy?.remove();
    for (const name of ['other', 'pattern']) await server.query(`drop database if exists ${name}`); // later backups are smaller
  });

  const expectSameHere = async (table: string) =>
    expect(await copy.value(contentOf(table))).toBe(await server.value(contentOf(table)));

  it('H36: what VACUUM says of a page without an LSN is in the increment', () => expectMapIsRight(copy, 'marked'));

  it('H40: a database of the same OID, copied file by file, is another one under the same names', async () => {
    const wanted = await inDatabase(server, 'other', contentOf('t'));
    expect(await inDatabase(copy, 'other', contentOf('t'))).toBe(wanted);
  });

  it('kill -9 of an increment at any step leaves nothing that the next one would believe', () =>
    expectSameHere('killed'));

  it('a tablespace in place is taken as any other', () => expectSameHere('placed'));

  it('--parent is taken, or refused where there is none; --full-every does not bring a full one before its time', async () => {
    const name = '20200101T000000Z-000000010000000000000001-full-00000000';
    const none = await pushOf(server, ['--incremental', '--parent', name]);
    expect(none.code, none.stderr).toBe(1);
    const child = await push('--incremental', '--parent', full.id, '--full-every', '1h');
    expect(child).toMatchObject({ type: 'incremental', parent: full.id });
  });
});

it('H38: a backup of what this timeline never went through is no parent; one from before the fork is', {
  timeout: 240_000,
}, async () => {
  await makeRows('forked');
  const early = await push('--incremental');
  const target = await server.value('select pg_switch_wal()');
  await server.query("update forked set pad = 'of the abandoned timeline' where id % 100 = 1");
  const late = await push('--incremental');
  await server.switchWal();
  await server.waitUntilAllArchived();
  const copy = await fetch(early.id);
  try {
    copy.configure({ recovery_target_lsn: target, recovery_target_action: 'promote' });
    copy.signal('recovery.signal');
    await copy.open();
    await copy.query("update forked set pad = 'of the new timeline' where id % 100 = 2");
    await copy.query('checkpoint');
    const asked = await pushOf(copy, ['--incremental', '--parent', late.id]);
    expect(asked.code, asked.stderr).toBe(8);
    expect(asked.stderr).toContain("which is not in this server's history");
    const ended = await pushOf(copy, ['--incremental']);
    expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: expect.stringContaining('every file is read') });
    const { manifest } = JSON.parse(ended.stdout) as { manifest: Manifest };
    expect(manifest).toMatchObject({ type: 'incremental', parent: early.id });
    await expectSame(manifest.id, { table: 'forked', from: copy });
  } finally {
    await copy.remove();
  }
});

it.skipIf(!hasTool(checksumsTool))(
  'H39, H36: page checksums that were switched make a full backup; off and on again in between lose nothing',
  { timeout: 240_000 },
  async () => {
    await makeRows('switched');
    await push('--incremental');
    await switchChecksums('--enable');
    const full = await push('--incremental');
    expect(full).toMatchObject({
      type: 'full',
      said: expect.stringContaining('page checksums were off, and are on now'),
    });
    await switchChecksums('--disable');
    await server.query('vacuum switched');
    await switchChecksums('--enable');
    const pushed = await push('--incremental', '--parent', full.id);
    expect(pushed).toMatchObject({ type: 'incremental', parent: full.id });
    const copy = await open(pushed.id);
    try {
      await expectMapIsRight(copy, 'switched');
    } finally {
      await copy.remove();
    }
  },
);

describe('H27: a parent that is deleted before the increment holds it', () => {
  /** Takes an increment in this process; its parent is deleted when it is about to store this one of its leases. */
  function pushWhileDeleting(parent: string, { lease, words = {} }: { lease: number; words?: { parent?: string } }) {
    const settings = { WALT_REPO: `file://${repository.root}`, WALT_WORKERS: '2', WALT_COMPRESSION_LEVEL: '1' };
    const members = { workingDirectory: folder, libpq: { PGHOST: server.folder, PGUSER: 'postgres' } };
    let leases = 0;
    const openStorage = async (from: StorageSettings): Promise<Storage> => {
      const storage = await openRealStorage(from);
      return {
        url: storage.url,
        get: storage.get.bind(storage),
        list: storage.list.bind(storage),
        delete: storage.delete.bind(storage),
        put: async (key, body, options) => {
          if (key.includes('/lease/')) leases += 1;
          if (key.includes('/lease/') && leases === lease) {
            await deleteBackups(makeContext(settings, members), { backup: parent, sweep: false, confirm: true });
          }
          await storage.put(key, body, options);
        },
      };
    };
    const context = makeContext(settings, { ...members, openStorage });
    const choices = { checkpoint: 'fast', annotations: {}, manifestChecksums: 'CRC32C', incremental: true } as const;
    return { context, pushing: basebackupPush(context, { pgdata: server.dataDirectory, ...choices, ...words }) };
  }

  it('is none: the backup is a full one, whichever lease comes then; it is refused where it was asked for by its name', async () => {
    let { id } = await push();
    for (const lease of [1, 2]) {
      const { pushing, context } = pushWhileDeleting(id, { lease });
      const { manifest } = await pushing;
      expect(manifest.type).toBe('full');
      expect(context.lines.join('\n')).toContain(`${id} was deleted just now`);
      id = manifest.id;
    }
    const { pushing } = pushWhileDeleting(id, { lease: 1, words: { parent: id } });
    await expect(pushing).rejects.toMatchObject({ message: expect.stringContaining(id) });
  });
});

async function switchChecksums(how: '--enable' | '--disable'): Promise<void> {
  await server.stop();
  const ended = await run(checksumsTool, [how, '-D', server.dataDirectory]);
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  await server.start();
}

/** The only value of a query in another database. */
async function inDatabase(cluster: PostgresServer, database: string, sql: string): Promise<string> {
  const client = new pg.Client({ ...cluster.connection, database });
  await client.connect();
  try {
    const { rows } = await client.query<unknown[]>({ text: sql, rowMode: 'array' });
    return String(rows[0]?.[0]);
  } finally {
    await client.end();
  }
}

/** What a table holds, row by row. */
const contentOf = (table: string) => `select md5(string_agg(t::text, ',' order by t::text)) from ${table} t`;

/** Restored and recovered it holds the same as it did there. */
async function expectSame(id: string, { table, from }: { readonly table: string; readonly from: PostgresServer }) {
  const copy = await open(id);
  try {
    expect(await copy.value(contentOf(table))).toBe(await from.value(contentOf(table)));
  } finally {
    await copy.remove();
  }
}
