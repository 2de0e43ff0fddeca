/**
 * A chain of increments over whatever a server does to its files: each one restores to the files that the cluster had, also when others are deleted.
 * The server writes nothing while a backup is taken here, so that every byte can be compared; backups under load are in backup.test.ts.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { giveAway } from '../support/account.ts';
import { inDatabase } from '../support/backup-cluster.ts';
import { differences, hashFiles } from '../support/cluster-files.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';

const isTorture = process.env.TORTURE === '1';
const env = { PGUSER: 'postgres', WALT_WORKERS: '2', WALT_COMPRESSION_LEVEL: '1' };

/** So that nothing reaches a file behind a checkpoint's back. */
const quiet = {
  autovacuum: 'off',
  bgwriter_lru_maxpages: '0',
  checkpoint_timeout: '1d',
  max_wal_size: '4GB',
  shared_buffers: '128MB',
};

interface Pushed {
  readonly manifest: {
    readonly id: string;
    readonly type: string;
    readonly parent?: string;
    readonly statistics: { readonly rawBytes: number; readonly storedBytes: number; readonly usedBytes: number };
  };
  readonly readBytes: number;
}

/** What happens on each day of a cycle. `other` is a database that comes and goes under the same OID. */
const days: readonly (readonly string[])[] = [
  [
    'update account set balance = balance + 1 where id % 97 = 3',
    "insert into account select generate_series(1000001, 1003000), 5, repeat('n', 90)",
  ],
  ['delete from account where id % 11 = 2', 'vacuum account'],
  [
    'drop database if exists other',
    'drop table if exists plain',
    'create database other oid 77777 strategy file_copy',
    'create table plain as select n, md5(n::text) as t from generate_series(1, 8000) n',
  ],
  ['vacuum full account', 'create index on account (balance)'],
  ['drop database other', 'create database other oid 77777 strategy file_copy', 'truncate plain'],
  [
    'insert into plain select n, md5(n::text) from generate_series(1, 12000) n',
    'alter table plain set tablespace elsewhere',
  ],
  ['alter database other set tablespace elsewhere', 'drop index account_balance_idx'],
  ['delete from account where id > 900000', 'vacuum account', 'update plain set t = t || n where n % 50 = 0'],
  [
    'drop database other',
    'create database other oid 77777 strategy wal_log',
    'alter table plain set tablespace pg_default',
  ],
  [
    'alter database other set tablespace elsewhere',
    'alter database other set tablespace pg_default',
    'vacuum (freeze) plain',
  ],
  ['reindex table account', "insert into account select generate_series(2000001, 2012000), 7, repeat('b', 90)"],
  ['delete from account where id > 2003000', 'vacuum account', 'update account set balance = 0 where id % 131 = 1'],
];

/** Recovers to where the backup is consistent, and has every B-tree and every visibility map checked against its table. */
async function expectServes(copy: PostgresServer, { restore_command = '' }: Readonly<Record<string, string>>) {
  copy.configure({
    archive_mode: 'off',
    restore_command,
    recovery_target: 'immediate',
    recovery_target_action: 'promote',
  });
  copy.signal('recovery.signal');
  await copy.open();
  const databases = await copy.query("select datname from pg_database where datallowconn and datname <> 'template1'");
  for (const [database = ''] of databases) {
    const [[indexes, ...wrong] = []] = await inDatabase(
      copy,
      database,
      'create extension amcheck',
      'create extension pg_visibility',
      `select (select count(bt_index_check(c.oid, true)) from pg_class c join pg_am a on a.oid = c.relam
                where a.amname = 'btree' and c.relkind = 'i'),
              (select count(*) from pg_class c, pg_check_visible(c.oid) where c.relkind in ('r', 't', 'm')),
              (select count(*) from pg_class c, pg_check_frozen(c.oid) where c.relkind in ('r', 't', 'm'))`,
    );
    expect([Number(indexes) > 100, ...wrong], database).toEqual([true, '0', '0']);
  }
}

describe.each([
  // hint bits alone are no change where nothing logs them: with this, all bytes can be compared
  { major: 15, checksums: false, settings: { wal_log_hints: 'on' }, by: 'pages, without checksums' },
  { major: 15, checksums: true, settings: {}, by: 'pages, with checksums' },
  { major: 17, checksums: true, settings: { summarize_wal: 'on' }, by: 'WAL summaries' },
  { major: 18, checksums: true, settings: { summarize_wal: 'on' }, by: 'WAL summaries' },
])('PostgreSQL $major, by $by', ({ major, checksums, settings, by }) => {
  const isInSuite = isTorture || (major !== 18 && !(major === 15 && checksums));
  it.runIf(isInSuite)(
    'every increment brings back each file as it was, also when others were deleted',
    { timeout: isTorture ? 1_800_000 : 300_000 },
    async () => {
      const folder = makeFolder('increments');
      const repository = await new TestRepository({ folder }).init();
      const server = PostgresServer.create({
        major,
        checksums,
        walSegmentSize: 16,
        settings: { ...repository.serverSettings, ...quiet, ...settings },
      });
      try {
        await server.start();
        const tablespace = join(server.folder, 'elsewhere');
        mkdirSync(tablespace);
        giveAway(tablespace);
        await server.query(`create tablespace elsewhere location '${tablespace}'`);
        await server.query(
          "create table account as select n as id, n % 1000 as balance, repeat('x', 90) as pad from generate_series(1, 20000) n",
        );
        await server.query('create unique index on account (id)');
        await server.query('vacuum account');
        const push = async (...words: string[]): Promise<Pushed> => {
          await server.query('checkpoint');
          const ended = await repository.run('basebackup-push', [server.dataDirectory, '--json', ...words], { env });
          expect(ended, ended.stderr).toMatchObject({ code: 0, stderr: expect.not.stringContaining('full backup') });
          if (by === 'WAL summaries') expect(ended.stderr).not.toContain('every relation is read');
          return JSON.parse(ended.stdout) as Pushed;
        };
        const taken = new Map<string, Map<string, string>>();
        const remember = async ({ manifest: { id } }: Pushed) =>
          taken.set(id, await hashFiles(server.dataDirectory, major));
        const full = await push();
        await remember(full);
        const count = isTorture ? 30 : by === 'WAL summaries' ? days.length / 2 : 4;
        let before = full.manifest.id;
        for (let day = 0; day < count; day += 1) {
          // two days in one in the suite: what each does to `other` is still seen from one increment to the next
          const [one = [], next = []] = isTorture ? [days[day % days.length]] : days.slice(2 * day, 2 * day + 2);
          for (const sql of [...one, ...next]) await server.query(sql);
          const pushed = await push('--incremental');
          expect(pushed.manifest).toMatchObject({ type: 'incremental', parent: before });
          before = pushed.manifest.id;
          await remember(pushed);
        }
        const expectRestores = async (id: string, { starts }: { starts: boolean }) => {
          const copy = server.elsewhere();
          try {
            const mapped = `${tablespace}=${join(copy.folder, 'elsewhere')}`;
            const words = [copy.dataDirectory, id, '--tablespace-mapping', mapped];
            const ended = await repository.run('basebackup-fetch', words, { env });
            expect(ended, ended.stderr).toMatchObject({ code: 0 });
            const found = await hashFiles(copy.dataDirectory, major);
            expect(differences(taken.get(id) ?? new Map(), found), id).toEqual([]);
            if (starts) await expectServes(copy, repository.serverSettings);
          } finally {
            await copy.remove();
          }
        };
        if (isTorture) for (const id of taken.keys()) await expectRestores(id, { starts: false });
        const random = seededRandom(major);
        const ids = [...taken.keys()].map((id) => ({ id, place: random(1_000_000) }));
        const going = ids.sort((a, b) => a.place - b.place).slice(0, Math.ceil((count * 2) / 3));
        for (const { id } of going) {
          const ended = await repository.run('wal-t', ['delete', '--backup', id, '--confirm'], { env });
          expect(ended, ended.stderr).toMatchObject({ code: 0 });
          taken.delete(id);
        }
        // the last of the others is started, under TORTURE=1 each: only a server says that its indexes fit
        for (const id of taken.keys())
          await expectRestores(id, { starts: isTorture || id === [...taken.keys()].at(-1) });
        const verified = await repository.run('wal-t', ['verify', '--deep'], { env });
        expect(verified, verified.stdout).toMatchObject({ code: 0 });
      } finally {
        await server.remove();
        removeFolder(folder);
      }
    },
  );
});
