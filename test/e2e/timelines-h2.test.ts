/**
 * H2: a failover inside a segment of which the dead primary archived a whole one of its own. Whoever follows the new timeline replays no
 * row of the old primary's, whether or not the new timeline's segment is stored; who asks for the old timeline still gets all of it.
 */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { giveAway } from '../support/account.ts';
import { copyFolder } from '../support/copy-folder.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, flipByte, insertRow, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';

/** Row 1 in a segment of its own; in the next one, on timeline 1 row 2 and the foreign row 3, on timeline 2 rows 2 and 20; 21 behind. */
interface Failover {
  readonly folder: string;
  /** Before the server with row 1 began. */
  readonly base: PostgresServer;
  /** Timeline 2's own copy of the segment is not stored yet. */
  readonly early: string;
  /** All is stored. */
  readonly late: string;
  /** The name, without its timeline, of the segment in which the timelines part. */
  readonly place: string;
  readonly switchPoint: string;
}

const patience = { WALT_WAL_FETCH_STANDBY_TIMEOUT: '300ms', WALT_WAL_FETCH_TIMEOUT: '1s' };

async function failOver(major: number): Promise<Failover> {
  const folder = makeFolder('failover');
  const repository = await new TestRepository({ folder, settings: patience }).init();
  const primary = PostgresServer.create({ major, settings: repository.serverSettings });
  await primary.start();
  await primary.query('create table t (n int)');
  await primary.stop();
  const [base, standby] = [primary.copy(), primary.copy()];
  await primary.start();
  standby.configure({ primary_conninfo: `host=${primary.folder} user=postgres` });
  standby.signal('standby.signal');
  await standby.start();
  await archiveRow(primary, 1);
  await insertRow(primary, 2);
  await waitFor('the standby to have row 2', async () => (await rowsOf(standby)) === '1 2');

  await standby.query(`alter system set primary_conninfo = ''`);
  await standby.query('select pg_reload_conf()');
  const receivers = () => standby.value('select count(*) from pg_stat_wal_receiver');
  await waitFor('it to be alone', async () => (await receivers()) === '0');
  await insertRow(primary, 3);
  await standby.query('select pg_promote(false)');
  await standby.waitUntilOpen();
  await standby.waitUntilAllArchived();
  const place = (await archiveRow(primary, 4)).slice(8);
  await primary.remove();
  await insertRow(standby, 20);
  const early = `${repository.root}.early`;
  await copyFolder(repository.root, early);
  expect((await archiveRow(standby, 21)).slice(8)).toBe(place);
  await archiveRow(standby, 22);
  const history = readFileSync(join(standby.dataDirectory, 'pg_wal/00000002.history'), 'utf8');
  await standby.remove();
  return { folder, base, early, late: repository.root, place, switchPoint: history.split('\t')[1] ?? '' };
}

/** A repository like `root`, of the running test's own. */
async function copyOf(root: string): Promise<TestRepository> {
  const repository = new TestRepository({ settings: patience });
  await copyFolder(root, repository.root);
  return repository;
}

function serverOn(base: PostgresServer, repository: TestRepository, settings: Readonly<Record<string, string>> = {}) {
  const server = base.copy();
  onTestFinished(() => server.remove());
  const { restore_command = '' } = repository.serverSettings;
  server.configure({ archive_mode: 'off', restore_command, ...settings });
  return server;
}

/** The timelines that a server descends from, and where each was left. */
function ancestorsOf(server: PostgresServer): string[] {
  const text = readFileSync(join(server.dataDirectory, 'pg_wal/00000003.history'), 'utf8');
  return text
    .split('\n')
    .filter((line) => /^\d/.test(line))
    .map((line) => line.split('\t').slice(0, 2).join(' '));
}

const flagged = ({ config }: TestRepository, flags: string) =>
  `WALT_CONFIG=${config} ${launcher('wal-fetch')} ${flags} %f %p`;

describe.each(process.env.TORTURE === '1' ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  let failover: Failover;
  beforeAll(async () => {
    failover = await failOver(major);
  });
  afterAll(async () => {
    await failover.base.remove();
    removeFolder(failover.folder);
  });

  it('H2: a standby goes over to the new timeline where the two part, and on as its segments come', async () => {
    const { base, early, late, place } = failover;
    const repository = await copyOf(early);
    const parted = [`00000001${place}`, `00000001${place}.partial`, '00000002.history'].map((name) =>
      repository.object(name),
    );
    for (const path of parted) renameSync(path, `${path}.away`);
    const server = serverOn(base, repository);
    server.signal('standby.signal');
    await server.start();
    await waitFor('row 1', async () => (await rowsOf(server)) === '1');
    for (const path of parted.reverse()) {
      renameSync(`${path}.away`, path);
      await waitFor('the new timeline', () => server.log.includes('new target timeline is 2'));
    }
    await waitFor('row 2', async () => (await rowsOf(server)) === '1 2');
    const rounds = () => server.log.match(/invalid record length|wal-fetch: error/g)?.length ?? 0;
    const before = rounds();
    await waitFor('it to have asked again', () => rounds() > before + 2);
    expect(await rowsOf(server)).toBe('1 2');
    await copyFolder(`${late}/.`, repository.root);
    await waitFor('row 22', async () => (await rowsOf(server)).endsWith('22'));
    expect(await rowsOf(server)).toBe('1 2 20 21 22');
    expect(server.log).not.toContain('wal-fetch: error');
  });

  it.each(['latest', '1'])(
    'H2: a standby that is behind when the new timeline comes, and follows %s, comes to where that goes',
    async (goal) => {
      const { base, late, place } = failover;
      const repository = await copyOf(late);
      const history = repository.object('00000002.history');
      renameSync(history, `${history}.away`);
      const [hold, asked] = [join(repository.folder, 'hold'), join(repository.folder, 'asked')];
      writeFileSync(hold, '');
      const gate = `if [ %f = 00000001${place} ] && [ -e ${hold} ]; then rm -rf pg_wal/.wal-t/prefetch; : >${asked}; while [ -e ${hold} ]; do sleep 0.02; done; fi`;
      const server = serverOn(base, repository, {
        restore_command: `${gate}; ${flagged(repository, '')}`,
        recovery_target_timeline: goal,
      });
      giveAway(repository.folder);
      server.signal('standby.signal');
      await server.start();
      await waitFor('it to ask for the segment in which the two part', () => existsSync(asked));
      renameSync(`${history}.away`, history);
      rmSync(hold);
      if (goal === 'latest') {
        await waitFor('row 22', async () => (await rowsOf(server)).endsWith('22'));
        expect(await rowsOf(server)).toBe('1 2 20 21 22');
        expect(server.log).toContain('timeline 2 left timeline 1 at');
      } else {
        await waitFor('row 4', async () => (await rowsOf(server)).endsWith('4'));
        expect(await rowsOf(server)).toBe('1 2 3 4');
      }
    },
  );

  it('H2: a standby that cannot be given the new timeline is not given the old one instead', async () => {
    const { base, late, place } = failover;
    const repository = await copyOf(late);
    const object = repository.object(`00000002${place}`);
    flipByte(object);
    const server = serverOn(base, repository);
    server.signal('standby.signal');
    await server.start();
    const refusal = `wal-fetch: error: "00000001${place}" is not delivered, since "00000002${place}" could not be`;
    await waitFor('the refusal', () => server.log.split(refusal).length > 3);
    expect(await rowsOf(server)).toBe('1');
    flipByte(object);
    await waitFor('row 22', async () => (await rowsOf(server)).endsWith('22'));
    expect(await rowsOf(server)).toBe('1 2 20 21 22');
  });

  it.each(['', '--timeline 2'])(
    'H2: a recovery along it ends at the switch point, with a true history: wal-fetch %s',
    async (flags) => {
      const { base, early, switchPoint } = failover;
      const repository = await copyOf(early);
      const server = serverOn(base, repository, {
        recovery_target_timeline: '2',
        restore_command: flagged(repository, flags),
      });
      server.signal('recovery.signal');
      await server.open();
      expect(await rowsOf(server)).toBe('1 2');
      expect(ancestorsOf(server)).toEqual([`1 ${switchPoint}`, `2 ${switchPoint}`]);
    },
  );

  it('H2: a standby that archives all it restores is not stuck on the beginning of a segment', async () => {
    const { base, early, late, place } = failover;
    const repository = await copyOf(early);
    const { archive_command = '' } = repository.serverSettings;
    const server = serverOn(base, repository, { archive_mode: 'always', archive_command });
    server.signal('standby.signal');
    const parted = `00000001${place}`;
    const stored = readFileSync(repository.object(parted));
    await server.start();
    await waitFor('row 2', async () => (await rowsOf(server)) === '1 2');
    const mark = (state: string) =>
      existsSync(join(server.dataDirectory, 'pg_wal/archive_status', `${parted}.${state}`));
    const isRefused = () => server.log.includes(`wal-push: error: "${parted}" is archived already, with other content`);
    await waitFor('it to push what it was given', () => mark('done') || isRefused());
    expect(isRefused()).toBe(false);
    const given = readFileSync(join(server.dataDirectory, 'pg_wal', parted));
    expect(given.subarray(-1000).every((byte) => byte === 0)).toBe(true);
    await copyFolder(`${late}/.`, repository.root);
    await waitFor('row 22', async () => (await rowsOf(server)).endsWith('22'));
    await server.waitUntilAllArchived();
    expect(await server.value('select failed_count from pg_stat_archiver')).toBe('0');
    expect(readFileSync(repository.object(parted)).equals(stored)).toBe(true);
  });

  it('H2: a recovery along it goes on behind the switch point once its segments are stored', async () => {
    const { base, late, switchPoint } = failover;
    const server = serverOn(base, await copyOf(late), { recovery_target_timeline: '2' });
    server.signal('recovery.signal');
    await server.open();
    expect(await rowsOf(server)).toBe('1 2 20 21 22');
    expect(ancestorsOf(server)[0]).toBe(`1 ${switchPoint}`);
  });

  it('H2: a recovery along the old timeline has all of it', async () => {
    const { base, late } = failover;
    const server = serverOn(base, await copyOf(late), { recovery_target_timeline: '1' });
    server.signal('recovery.signal');
    await server.open();
    expect(await rowsOf(server)).toBe('1 2 3 4');
  });

  it('H1: --end-at ends every timeline before a hole, which else stops the recovery', async () => {
    const { base, late, place } = failover;
    const repository = await copyOf(late);
    rmSync(repository.object(`00000002${place}`));
    const server = serverOn(base, repository, { recovery_target_timeline: '2' });
    server.signal('recovery.signal');
    server.launch();
    await waitFor('the server to stop', () => !server.isRunning);
    expect(server.log).toContain('is missing in the middle of the archive');
    server.configure({ restore_command: flagged(repository, `--timeline 2 --end-at 00000001${place}`) });
    await server.open();
    expect(await rowsOf(server)).toBe('1');
  });
});
