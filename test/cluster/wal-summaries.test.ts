/** WAL summaries of real servers: whatever page they changed is named, and where summaries are missing nothing is said at all. */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';
import { connect, type Session } from '../../src/cluster/connection.ts';
import { readConnectionSettings } from '../../src/cluster/connection-settings.ts';
import type { BackupServer } from '../../src/cluster/server.ts';
import { findGap, readChangedBlocks, type WalPiece } from '../../src/cluster/wal-summaries.ts';
import type { ChangedBlocks } from '../../src/postgres/changed-blocks.ts';
import { formatLsn, type Lsn, parseLsn } from '../../src/postgres/lsn.ts';
import { parseRelationFile } from '../../src/postgres/relation-file.ts';
import { parseTimelineHistory } from '../../src/postgres/timeline-history.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { waitFor } from '../support/wait.ts';
import { openTo, quietLog, startServer, startStandby } from './server-support.ts';

const majors = process.env.TORTURE === '1' ? [17, 18] : [17];
const pageBytes = 8192;
const summarizing = { summarize_wal: 'on', allow_in_place_tablespaces: 'on' };
const never = new AbortController().signal;
const options = { limitMs: 60_000, signal: never, log: quietLog };

/** Takes a backup of nothing. @returns where it started. */
async function backUp(session: BackupServer): Promise<Lsn> {
  const { startLsn } = await session.startBackup({ label: 'test', checkpoint: 'fast' });
  await session.stopBackup();
  return startLsn;
}

function piece(startLsn: Lsn, endLsn: Lsn, timeline = 1): WalPiece {
  return { timeline, startLsn, endLsn };
}

async function read(
  session: BackupServer,
  history: readonly WalPiece[],
  limitMs = options.limitMs,
): Promise<ChangedBlocks> {
  const found = await session.readChangedBlocks({ ...options, history, limitMs });
  if ('reason' in found) throw new Error(found.reason);
  return found.changes;
}

/** Why nothing was said. */
async function reasonOf(
  session: BackupServer,
  history: readonly WalPiece[],
  limitMs = options.limitMs,
): Promise<string> {
  const found = await session.readChangedBlocks({ ...options, history, limitMs });
  return 'reason' in found ? found.reason : 'it was all said';
}

/** The main forks' files by path; the server is idle and has just made a checkpoint. */
function mainForks({ dataDirectory }: PostgresServer): ReadonlyMap<string, Buffer> {
  const paths = readdirSync(dataDirectory, { recursive: true, encoding: 'latin1' });
  const isMain = (path: string): boolean => parseRelationFile(path)?.fork === 'main';
  return new Map(paths.filter(isMain).map((path) => [path, readFileSync(join(dataDirectory, path))]));
}

/**
 * Is a page another one than before? Where hint bits are WAL-logged each byte counts. Else the LSN, and whether all on it is visible, which comes
 * without an LSN (H36).
 */
function isOther(before: Buffer, now: Buffer, hintsAreLogged: boolean): boolean {
  if (hintsAreLogged) return !before.equals(now);
  const allVisible = 4;
  return (
    !before.subarray(0, 8).equals(now.subarray(0, 8)) ||
    ((before.readUInt16LE(10) ^ now.readUInt16LE(10)) & allVisible) !== 0
  );
}

interface Comparison {
  /** Pages that are others than before, and that nobody said so of. */
  readonly missed: readonly string[];
  /** Pages that are others than before, and known as such. */
  readonly known: number;
  /** Pages of known files that are the same and need not be read. */
  readonly spared: number;
}

/** A file that was not there before, and what lies beyond its former end, is always read (H42). */
function compare(before: ReadonlyMap<string, Buffer>, server: PostgresServer, changes: ChangedBlocks): Comparison {
  const missed: string[] = [];
  let [known, spared] = [0, 0];
  for (const [path, now] of mainForks(server)) {
    const then = before.get(path);
    const changed = changes.of(path);
    if (then === undefined) continue;
    for (let at = 0; at < Math.min(then.length, now.length); at += pageBytes) {
      const [one, other] = [then, now].map((file) => file.subarray(at, at + pageBytes)) as [Buffer, Buffer];
      const isNamed = changed === 'whole' || changed?.has(at / pageBytes) === true;
      if (!isNamed) spared += 1;
      if (!isOther(one, other, server.major >= 18)) continue;
      if (isNamed) known += 1;
      else missed.push(`${path} ${at / pageBytes}`);
    }
  }
  return { missed, known, spared };
}

/** Waits until the summarizer has come so far. */
async function summarized(server: PostgresServer, lsn: Lsn): Promise<void> {
  const question = `select summarized_lsn >= '${formatLsn(lsn)}' from pg_get_wal_summarizer_state()`;
  await waitFor('the summarizer', async () => (await server.value(question)) === 'true').catch(
    async (error: unknown) => {
      const state = await server.query('select * from pg_get_wal_summarizer_state()');
      throw new Error(`its state is ${state.join()}:\n${server.log.slice(-3000)}`, { cause: error });
    },
  );
}

/** Sets `summarize_wal`, and waits until the summarizer has ended or begun. */
async function summarize(server: PostgresServer, setting: 'on' | 'off'): Promise<void> {
  server.configure({ summarize_wal: setting });
  await server.query('select pg_reload_conf()');
  const question = 'select summarizer_pid is not null from pg_get_wal_summarizer_state()';
  await waitFor(
    `the summarizer to be ${setting}`,
    async () => (await server.value(question)) === `${setting === 'on'}`,
  );
}

/** Ends so many segments and lets none of them be kept. */
async function dropWal(server: PostgresServer, segments: number): Promise<void> {
  for (let segment = 0; segment < segments; segment += 1) {
    await server.query('create table if not exists filler (i int)');
    await server.query('insert into filler values (1)');
    await server.query('select pg_switch_wal()');
    await server.query('checkpoint');
  }
}

/** Statements in a session of their own, each by itself: some may stand in no transaction. */
async function run(server: PostgresServer, statements: string, database = 'postgres'): Promise<void> {
  const client = new pg.Client({ ...server.connection, database });
  await client.connect();
  for (const statement of statements.split(';')) await client.query(statement);
  await client.end();
}

const filled = (name: string, rows: number): string =>
  `create table ${name} as select i, repeat('x', 100) as t from generate_series(1, ${rows}) i;`;

async function valueIn(server: PostgresServer, database: string, question: string): Promise<string> {
  const client = new pg.Client({ ...server.connection, database });
  await client.connect();
  const { rows } = await client.query<[unknown]>({ text: question, rowMode: 'array' });
  await client.end();
  return String(rows[0]?.[0]);
}

/** A session as a backup has it. */
async function openSession(server: PostgresServer): Promise<Session> {
  const environment = { PGHOST: server.folder, PGUSER: 'postgres', HOME: '/nonexistent' };
  const settings = await readConnectionSettings({
    environment,
    dataDirectory: server.dataDirectory,
    connectMs: 10_000,
    log: quietLog,
  });
  const session = await connect(settings, { log: quietLog, signal: never });
  onTestFinished(() => session.close());
  return session;
}

async function replayed(primary: PostgresServer, standby: PostgresServer): Promise<void> {
  const lsn = await primary.value('select pg_current_wal_lsn()');
  const question = `select pg_last_wal_replay_lsn() >= '${lsn}'`;
  await waitFor('the standby', async () => (await standby.value(question)) === 'true');
}

/** Where a backup of a standby would start. */
async function controlRedo(server: PostgresServer): Promise<Lsn> {
  return parseLsn(await server.value('select redo_lsn from pg_control_checkpoint()')) ?? 0n;
}

/** Where timeline 2 left timeline 1. */
function switchPoint(server: PostgresServer): Lsn {
  const text = readFileSync(join(server.dataDirectory, 'pg_wal/00000002.history'), 'utf8');
  return parseTimelineHistory(2, text).ancestors[0]?.end ?? 0n;
}

describe.each(majors)('PostgreSQL %i', (major) => {
  const start = (settings: Readonly<Record<string, string>> = {}): Promise<PostgresServer> =>
    startServer({ major, settings: { ...summarizing, ...settings } });

  it('names every page that was changed between two backups', async () => {
    const server = await start();
    await run(
      server,
      `create tablespace one location ''; create tablespace other location ''; create database source;
       create sequence counter; ${filled('updated', 20_000)} create index on updated (i); ${filled('loaded', 5000)}
       ${filled('emptied', 5000)} ${filled('rewritten', 5000)} ${filled('cut', 20_000)} ${filled('indexed', 5000)}
       ${filled('untouched', 20_000)} ${filled('dropped', 5000)} ${filled('frozen', 20_000)} ${filled('moved', 2000)}
       ${filled('visible', 5000)} select count(*) from visible`,
    );
    await run(server, filled('along', 5000), 'source');
    await run(
      server,
      `create database copied oid 20001 template source; create database logged oid 20002 template source;
       create database moving tablespace one`,
    );
    const session = await openTo(server);
    const parent = await backUp(session);
    const before = mainForks(server);

    const random = seededRandom(major);
    const some = Array.from({ length: 60 }, () => 1 + random(20_000)).join();
    await run(server, `update along set t = 'y' where i % 2 = 0; checkpoint`, 'source');
    await run(
      server,
      `update updated set t = repeat('y', 100) where i in (${some});
       insert into loaded select i, 'z' from generate_series(1, 30000) i; truncate emptied; vacuum full rewritten;
       delete from cut where i > 100; vacuum cut; create index on indexed (i); drop table dropped; vacuum (freeze) frozen; vacuum visible;
       alter table moved set tablespace other; select nextval('counter'); alter database moving set tablespace other;
       drop database copied; drop database logged;
       create database copied oid 20001 strategy file_copy template source;
       create database logged oid 20002 strategy wal_log template source`,
    );
    const { startLsn } = await session.startBackup({ label: 'test', checkpoint: 'fast' });
    const changes = await read(session, [piece(parent, startLsn)]);
    const { missed, known, spared } = compare(before, server, changes);
    await session.stopBackup();

    expect(missed).toEqual([]);
    expect(known).toBeGreaterThan(500);
    expect(spared).toBeGreaterThan(1000);
    const of = async (name: string) => changes.of(await server.value(`select pg_relation_filepath('${name}')`));
    expect(await of('untouched')).toBeUndefined();
    expect(await of('cut')).toMatchObject({ limitBlock: 2 });
    expect(await of('emptied')).toMatchObject({ limitBlock: 0 });
    for (const folder of ['base/20001', 'base/20002']) expect(changes.of(`${folder}/1259`)).toBe('whole');
    // that the same paths hold other pages with old LSNs is what makes it needed (H40)
    const along = await valueIn(server, 'copied', `select pg_relation_filepath('along')`);
    const now = readFileSync(join(server.dataDirectory, along));
    expect(before.get(along)?.equals(now)).toBe(false);
  });

  it('H37: names a relation that was only made shorter, and whole databases, though no block of them is named', async () => {
    const server = await start();
    await run(
      server,
      `create database gone; ${filled('cut', 20_000)} delete from cut where i > 100; vacuum (truncate off) cut`,
    );
    const gone = await server.value(`select oid from pg_database where datname = 'gone'`);
    const session = await openTo(server);
    const parent = await backUp(session);
    await run(server, 'vacuum cut; drop database gone');
    const { startLsn } = await session.startBackup({ label: 'test', checkpoint: 'fast' });
    const changes = await read(session, [piece(parent, startLsn)]);
    const cut = changes.of(await server.value(`select pg_relation_filepath('cut')`));
    expect(cut).toMatchObject({ limitBlock: 2 });
    expect(changes.of(`base/${gone}/1259.1`)).toBe('whole');
  });

  it('reads summaries that begin earlier and end later, and several of them as one', async () => {
    const server = await start();
    await run(server, `${filled('updated', 20_000)} vacuum updated`); // no hint bits are left to be set
    const session = await openTo(server);
    const path = await server.value(`select pg_relation_filepath('updated')`);
    const starts = [await backUp(session)];
    for (const i of [1, 5000, 10_000]) {
      await run(server, `update updated set t = 'y' where i = ${i}`);
      starts.push(await backUp(session));
    }
    const blocksOf = async (from: Lsn, to: Lsn): Promise<number> => {
      const found = (await read(session, [piece(from, to)])).of(path);
      return found === undefined || found === 'whole' ? -1 : found.countIn(0, 100_000);
    };
    const [first = 0n, second = 0n, third = 0n, last = 0n] = starts;
    const all = await blocksOf(first, last);
    expect(all).toBeGreaterThanOrEqual(3);
    expect(await blocksOf(first, second)).toBeLessThan(all);
    expect(await blocksOf(first + 8n, last - 8n)).toBe(all);
    expect(await blocksOf(second + 8n, third - 8n)).toBe(await blocksOf(second, third));
    expect((await read(session, [piece(first, first)])).of(path)).toBeUndefined();
  });

  it('H37: says nothing where the summarizer was off while WAL went away', async () => {
    const server = await start();
    const session = await openTo(server);
    const parent = await backUp(session);
    await summarize(server, 'off');
    const beforeLsn = await backUp(session);
    expect(await reasonOf(session, [piece(parent, beforeLsn)])).toBe('summarize_wal is off');
    await dropWal(server, 6);
    await summarize(server, 'on');
    const startLsn = await backUp(session);
    await summarized(server, startLsn);
    const reason = await reasonOf(session, [piece(parent, startLsn)]);
    expect(reason).toMatch(
      /^WAL of timeline 1 from \S+ on has no summary: it was removed \(wal_summary_keep_time\), or /,
    );
    expect(await reasonOf(session, [piece(startLsn, await backUp(session))])).toBe('it was all said');
  });

  it('is content when the summarizer made up for it from WAL that was still there', async () => {
    const server = await start({ wal_keep_size: '64MB' });
    await run(server, filled('updated', 5000));
    const session = await openTo(server);
    const parent = await backUp(session);
    await summarize(server, 'off');
    await run(server, 'update updated set t = 1');
    await backUp(session);
    await summarize(server, 'on');
    const changes = await read(session, [piece(parent, await backUp(session))]);
    expect(changes.of(await server.value(`select pg_relation_filepath('updated')`))).toBeDefined();
  });

  it('H37: says nothing where summaries were removed, before they are listed or after', async () => {
    const server = await start();
    const session = await openTo(server);
    const starts: Lsn[] = [];
    for (let backup = 0; backup < 4; backup += 1) starts.push(await backUp(session));
    const [first = 0n, second = 0n, third = 0n, last = 0n] = starts;
    await summarized(server, last);

    const own = await openSession(server);
    const folder = join(server.dataDirectory, 'pg_wal/summaries');
    const remove = (lsn: Lsn): void => {
      const part = lsn.toString(16).toUpperCase().padStart(16, '0');
      rmSync(join(folder, readdirSync(folder).find((name) => name.slice(8, 24) === part) ?? ''));
    };
    const removing: Session = {
      ...{ place: own.place, user: own.user, database: own.database, announcedPid: own.announcedPid, lost: own.lost },
      close: () => own.close(),
      query: (action, sql, values) => {
        if (sql.includes('declare') && values?.[1] === formatLsn(third)) remove(third);
        return own.query(action, sql, values);
      },
    };
    const found = await readChangedBlocks(removing, { ...options, history: [piece(first, last)] });
    expect(found).toMatchObject({ reason: expect.stringMatching(/^could not read a WAL summary: .* No such file/) });
    expect(await own.query('see that it lives', 'select 1')).toHaveLength(1);

    expect(await reasonOf(session, [piece(first, third)])).toBe('it was all said');
    remove(second);
    const reason = await reasonOf(session, [piece(first, third)]);
    expect(reason).toContain(`WAL of timeline 1 from ${formatLsn(second)} on has no summary`);
  });

  it('H37: waits for a summarizer that sticks no longer than it may, and says so', async () => {
    const server = await start();
    const session = await openTo(server);
    const parent = await backUp(session);
    await summarized(server, parent);
    const pid = Number(await server.value('select summarizer_pid from pg_get_wal_summarizer_state()'));
    process.kill(pid, 'SIGSTOP');
    try {
      const { startLsn } = await session.startBackup({ label: 'test', checkpoint: 'fast' });
      const reason = await reasonOf(session, [piece(parent, startLsn)], 500);
      expect(reason).toBe(
        `WAL summaries up to ${formatLsn(startLsn)} of timeline 1 were not there within 0.5 s: they reach ${formatLsn(parent)}`,
      );
      expect(await session.stopBackup()).toBeDefined(); // the backup goes on
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });

  it('H37: says nothing while the summarizer sticks at a timeline switch, whose segment is only a .partial one', async () => {
    const primary = await startServer({ major, settings: { archive_mode: 'on', archive_command: 'true' } });
    const standby = await startStandby(primary);
    onTestFinished(() => standby.remove());
    await run(primary, `${filled('added', 5000)} select pg_switch_wal(); ${filled('more', 100)}`);
    await replayed(primary, standby);
    await standby.query('select pg_promote()');
    await standby.waitUntilOpen();
    // without this one the promotion would have waited for the summarizer
    await summarize(standby, 'on');
    await waitFor('its complaint', () => standby.log.includes('has already been removed'));
    const session = await openTo(standby, { PGHOST: standby.folder });
    const parent = await backUp(session);
    const reason = await reasonOf(session, [piece(parent, await backUp(session), 2)], 1000);
    expect(reason).toMatch(/^WAL summaries up to \S+ of timeline 2 were not there within 1 s: they reach /);
  });

  it('reads on across a timeline switch', async () => {
    const primary = await start();
    await run(primary, `${filled('early', 1000)} ${filled('late', 1000)}`);
    const standby = await startStandby(primary);
    onTestFinished(() => standby.remove());
    const session = await openTo(standby, { PGHOST: standby.folder });
    const parent = await controlRedo(standby);
    await run(primary, "update early set t = 'y'");
    await replayed(primary, standby);
    await standby.query('select pg_promote()');
    await standby.waitUntilOpen();
    await run(standby, "update late set t = 'y'");
    const startLsn = await backUp(session);
    const end = switchPoint(standby);
    const changes = await read(session, [piece(parent, end, 1), piece(end, startLsn, 2)]);
    for (const name of ['early', 'late']) {
      expect(changes.of(await standby.value(`select pg_relation_filepath('${name}')`))).toBeDefined();
    }
    const afterwards = await read(session, [piece(end, startLsn, 2)]);
    expect(afterwards.of(await standby.value(`select pg_relation_filepath('early')`))).toBeUndefined();
  });

  it('names the GRANTs that a role lacks', async () => {
    const server = await start();
    await run(
      server,
      `create role "Odd" login in role pg_read_all_settings; grant execute on all functions in schema pg_catalog to "Odd";
       revoke execute on function pg_wal_summary_contents(bigint, pg_lsn, pg_lsn) from public, "Odd"`,
    );
    const session = await openTo(server, { PGUSER: 'Odd' });
    const parent = await backUp(session);
    const history = [piece(parent, await backUp(session))];
    const grant = 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_summary_contents(bigint, pg_lsn, pg_lsn) TO "Odd";';
    expect(await reasonOf(session, history)).toBe(
      `role "Odd" may not read WAL summaries; in database "postgres": ${grant}`,
    );
    await run(server, grant.slice(0, -1));
    expect(await reasonOf(session, history)).toBe('it was all said');
  });

  it('ends with the signal, and fails when the session is lost', async () => {
    const server = await start();
    const session = await openTo(server);
    const parent = await backUp(session);
    const beyond = [piece(parent, parent + 2n ** 40n)];
    const stopping = new AbortController();
    const waiting = session.readChangedBlocks({ ...options, history: beyond, signal: stopping.signal });
    stopping.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    const going = session.readChangedBlocks({ ...options, history: beyond });
    await run(server, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'wal-t'`);
    await expect(going).rejects.toThrow('the connection to the server');
  });
});

it('says that PostgreSQL 15 has no summaries', async () => {
  const session = await openTo(await startServer({ major: 15 }));
  const parent = await backUp(session);
  expect(await reasonOf(session, [piece(parent, await backUp(session))])).toBe(
    'WAL summaries begin with PostgreSQL 17',
  );
});

it('finds the first gap in any summaries', () => {
  const lsn = fc.integer({ min: 0, max: 12 });
  const pieces = fc.array(fc.tuple(fc.integer({ min: 1, max: 2 }), lsn, lsn), { maxLength: 8 });
  fc.assert(
    fc.property(pieces, lsn, lsn, lsn, (made, one, other, third) => {
      const [from = 0, middle = 0, to = 0] = [one, other, third].sort((a, b) => a - b);
      const history = [piece(BigInt(from), BigInt(middle), 1), piece(BigInt(middle), BigInt(to), 2)];
      const sound = made.filter(([, start, end]) => start < end).sort((a, b) => a[1] - b[1]);
      const covered = (timeline: number, at: number): boolean =>
        sound.some(([on, start, end]) => on === timeline && start <= at && at < end);
      const missing = Array.from({ length: to - from }, (_, index) => from + index).find(
        (at) => !covered(at < middle ? 1 : 2, at),
      );
      const gap = findGap(
        history,
        sound.map(([on, start, end]) => piece(BigInt(start), BigInt(end), on)),
      );
      expect(gap?.startLsn).toBe(missing === undefined ? undefined : BigInt(missing));
    }),
  );
});
