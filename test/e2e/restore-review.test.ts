/** wal-t restore and windows with a damaged history, a damaged segment, a clock that was set back: what does not depend on it works. */
import { rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { formatTime } from '../../src/commands/restore/target.ts';
import { parseWalFileName, segmentStart } from '../../src/postgres/wal-file-name.ts';
import { giveAway } from '../support/account.ts';
import { seal } from '../support/objects.ts';
import type { PostgresServer } from '../support/postgres.ts';
import { archiveRow, flipByte, insertRow, rowsOf } from '../support/recovery.ts';
import type { TestRepository } from '../support/repository.ts';
import {
  type Archived,
  env,
  keep,
  pushBackup,
  restore,
  rowsAt,
  type SharedPrimary,
  startPrimary,
  startSharedPrimary,
  withCopy,
} from '../support/restoring.ts';
import { run } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';
import { changeCommits } from '../support/wal-times.ts';

vi.setConfig({ testTimeout: 400_000, hookTimeout: 400_000 }); // several restores each, or many segments

const repositorySettings = { WALT_WAL_FETCH_STANDBY_TIMEOUT: '100ms', WALT_WAL_FETCH_TIMEOUT: '300ms' };

/** Crashes it and opens it on the next timeline. */
async function crashOver(server: PostgresServer): Promise<void> {
  await server.stop('SIGQUIT');
  server.signal('recovery.signal');
  await server.open();
}

/** Microseconds are kept. */
const now = (server: PostgresServer) =>
  server.value(`select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'`);

const windows = ({ repository }: Archived, words: readonly string[] = []) =>
  repository.run('wal-t', ['windows', ...words], { env });

/** Rows 1 and 2 on timeline 1, 3 on timeline 2, whose history is damaged. */
async function damageHistory() {
  const started = await startSharedPrimary({ repositorySettings });
  await started.primary.query('create table t (n int)');
  const { repository, primary } = started;
  await pushBackup(started);
  await archiveRow(primary, 1);
  const time = await now(primary);
  await archiveRow(primary, 2);
  await crashOver(primary);
  await archiveRow(primary, 3);
  await primary.waitUntilAllArchived();
  await primary.stop();
  flipByte(repository.object('00000002.history'));
  return { started, time };
}

describe('a damaged history', () => {
  let started: SharedPrimary;
  let time: string;
  beforeAll(async () => {
    ({ started, time } = await damageHistory());
  });
  afterAll(() => started?.remove());

  it('H14: is never taken for absent: what may depend on it is refused, and says what to do', async () => {
    const listed = await windows(started, ['--at', time]);
    expect(listed.stderr).toContain('00000002.history');
    expect(listed.stdout).toMatch(/^timeline 1$[\s\S]*^ {2}from [\s\S]*^timeline 2$/m);
    expect(listed.stdout).toContain('nothing: its history cannot be read: nobody knows where it came from');
    expect(listed.stdout).toContain('not reachable: nobody knows where timeline 2 came from');
    expect(listed.code).toBe(8);

    const chosen = await restore(started, ['--target-time', time]);
    expect(chosen.ended).toMatchObject({
      code: 6,
      stderr: expect.stringMatching(/nobody knows where timeline 2 came from[\s\S]*--target-timeline/),
    });
    const asked = await restore(started, ['--target-timeline', '2']);
    expect(asked.ended).toMatchObject({ code: 6, stderr: expect.stringContaining('wal-set-aside 00000002.history') });
    const toEnd = await restore(started, ['--target-timeline', '1']);
    expect(toEnd.ended).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('cannot be told, since "00000002.history"'),
    });
    const deletion = await started.repository.run('wal-t', ['delete', '--retain', '1', '--confirm'], { env });
    expect(deletion).toMatchObject({ code: 6, stderr: expect.stringContaining('nothing was removed') });
  });

  it('H14: stops no recovery along an older timeline, which takes another number at its end', async () => {
    expect(await rowsAt(started, ['--target-timeline', '1', '--target-time', time])).toBe('1');
    const { copy } = await restore(started, ['--target-timeline', '1', '--until-hole']);
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2');
    await copy.query('checkpoint');
    expect(await copy.value('select timeline_id from pg_control_checkpoint()')).toBe('3'); // 2 is taken
  });

  it('H14: can be replaced by a sound one, and only then', async () => {
    const own = await withCopy(started, repositorySettings);
    const { repository, primary } = own;
    const setAside = () => repository.run('wal-t', ['wal-set-aside', '00000002.history', '--confirm'], { env });
    expect(await setAside()).toMatchObject({ code: 0 });
    const cwd = primary.dataDirectory;
    expect(await repository.run('wal-push', ['pg_wal/00000002.history'], { cwd, env })).toMatchObject({ code: 0 });
    expect(await setAside()).toMatchObject({ code: 2 });
    expect(await rowsAt(own)).toBe('1 2 3');
  });
});

describe('of twenty segments', () => {
  /** Gone; each of its rows in a segment, and when it had been committed. */
  let gone: SharedPrimary;
  const names: string[] = [];
  const times: string[] = [];
  beforeAll(async () => {
    gone = await startSharedPrimary({ repositorySettings });
    const { primary } = gone;
    await primary.query('create table t (n int)');
    await pushBackup(gone);
    for (let n = 1; n <= 20; n += 1) {
      await insertRow(primary, n);
      times.push(await now(primary));
      names.push(await primary.switchWal());
    }
    await primary.waitUntilAllArchived();
    await primary.stop('SIGQUIT');
  });
  afterAll(() => gone?.remove());
  const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1).join(' ');

  it('a damaged one is a hole like another: what comes before it can be restored', async () => {
    const started = await withCopy(gone, repositorySettings);
    const last = names[19] ?? '';
    flipByte(started.repository.object(last));

    const listed = await windows(started);
    expect(listed.stdout).toContain(`HOLE "${last}" cannot be read`);
    expect(listed.code).toBe(0);
    expect(await rowsAt(started, ['--target-time', times[0] ?? ''])).toBe('1');
    const toEnd = await restore(started);
    expect(toEnd.ended).toMatchObject({ code: 1, stderr: expect.stringContaining(`"${last}" cannot be read`) });
    expect(await rowsAt(started, ['--until-hole'])).toBe(upTo(19));
  });

  it('those of a clock that was set back are told of, and what is said beforehand is what PostgreSQL does: it stops at the first transaction that is too late', async () => {
    const started = await withCopy(gone, repositorySettings);
    const { repository } = started;
    const hour = 3_600_000_000n;
    for (const name of names.slice(4, 8)) await rewrite(repository, name, (time) => time + hour); // rows 5 to 8, an hour ahead
    const time = times[14] ?? '';
    const { copy, ended } = await restore(started, ['--target-time', time]);
    expect(ended).toMatchObject({ code: 0, stderr: expect.stringContaining("the server's clock went back") });
    await copy.open();
    expect(await rowsOf(copy)).toBe('1 2 3 4');
    const dry = await restore(started, ['--target-time', time, '--dry-run', '--json']);
    expect(JSON.parse(dry.ended.stdout).plan.segments).toBeLessThan(9);
    const after = new Date(Date.parse(times[19] ?? '') + 60_000).toISOString(); // later than all but those that are ahead
    const late = await restore(started, ['--target-time', after, '--dry-run']);
    expect(late.ended.stdout).toContain('recovery_target_time'); // it does not go to the end
    expect(late.ended.stdout).not.toContain("recovery_target_time = ''");
  });

  it('those of a clock that was set back by a millisecond: of two transactions that ended together the later one is written first', async () => {
    const started = await withCopy(gone, repositorySettings);
    const { repository } = started;
    let last = 0n;
    await rewrite(repository, names[18] ?? '', (time) => {
      last = time;
      return time;
    });
    await rewrite(repository, names[19] ?? '', () => last - 1000n);
    const target = formatTime(last + 946_684_800_000_000n - 500n); // between the two
    expect(await rowsAt(started, ['--target-time', target])).toBe(upTo(18));
  });
});

describe('a recovery that is over', () => {
  it('H22: leaves settings that would end a standby copied from the server: what is printed takes them back', async () => {
    const started = await startPrimary({ repositorySettings });
    await started.primary.query('create table t (n int)');
    const { primary } = started;
    await primary.query('alter system set max_logical_replication_workers = 3');
    await pushBackup(started);
    await archiveRow(primary, 1);
    const time = await now(primary);
    await archiveRow(primary, 2);
    await primary.stop();
    const beside = await restore(started, ['--target-time', time]);
    expect(beside.ended.stdout).toContain("alter system set max_logical_replication_workers = '3';");

    const { copy, ended } = await restore(started, ['--target-time', time, '--take-over']);
    await copy.open();
    expect(await rowsOf(copy)).toBe('1');
    const statements = ended.stdout.match(/stop there: (.*)/)?.[1]?.split(';') ?? [];
    for (const statement of statements) if (statement.trim() !== '') await copy.query(statement);
    await copy.stop();
    const standby = keep(copy.copy());
    await copy.start();
    standby.configure({ primary_conninfo: `host=${copy.folder} user=postgres` });
    standby.signal('standby.signal');
    await standby.start();
    await copy.query('insert into t values (10)');
    await waitFor('the standby to follow', async () => (await rowsOf(standby)) === '1 10', 200_000).catch((error) => {
      throw new Error(standby.log.slice(-3000), { cause: error });
    });
    expect(await standby.value('select pg_is_in_recovery()')).toBe('true');
  });
});

/** The stored segment with other times of its commits. */
async function rewrite(repository: TestRepository, name: string, change: (time: bigint) => bigint): Promise<void> {
  const path = repository.object(name);
  const { stdout, code } = await run('sh', ['-c', `zstd -dc <'${path}' | base64 -w0`]);
  expect(code).toBe(0);
  const content = Buffer.from(stdout, 'base64');
  const file = parseWalFileName(name);
  if (file?.kind !== 'segment') throw new Error(name);
  expect(await changeCommits(content, segmentStart(file, content.length) ?? 0n, change)).toBeGreaterThan(0);
  const [systemIdentifier = '', ...key] = path.slice(repository.root.length + 1).split('/');
  rmSync(path);
  writeFileSync(path, await seal(content, { kind: 'segment', name: key.join('/'), systemIdentifier }));
  giveAway(path);
}
