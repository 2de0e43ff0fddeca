/** A backlog, as a real archiver works it off: few starts of Node.js, nothing missing, whatever is killed, recycled or archived twice. */
import { existsSync, readdirSync, readFileSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { walFetch } from '../../src/commands/wal-fetch.ts';
import { makeContext } from '../support/context.ts';
import { CountedNode } from '../support/counted-node.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { TestRepository } from '../support/repository.ts';
import { launcher, run } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';

const torture = process.env.TORTURE === '1';
const longAgo = new Date(Date.now() - 3_600_000);

interface Backlog {
  readonly repository: TestRepository;
  readonly server: PostgresServer;
  readonly node: CountedNode;
  /** The archive_command for a settings file. */
  readonly command: (repository: TestRepository) => string;
}

/** A server whose archiver does nothing yet. */
async function startServer(major: number, settings: Readonly<Record<string, string>> = {}): Promise<Backlog> {
  const repository = await new TestRepository().init();
  const node = new CountedNode(temporaryFolder());
  const server = PostgresServer.create({ major, settings: { archive_mode: 'on', archive_command: '', ...settings } });
  onTestFinished(() => server.remove());
  await server.start();
  await server.query('create table t (n int)');
  const command = ({ config }: TestRepository) =>
    `WALT_NODE=${node.path} WALT_CONFIG=${config} ${launcher('wal-push')} %p %f`;
  return { repository, server, node, command };
}

/** Finished segments, that nobody has written to for long. @returns their names, and what is in them. */
async function fill(server: PostgresServer, count: number): Promise<Map<string, Buffer>> {
  for (let n = 0; n < count; n += 1) {
    await server.query(`insert into t select generate_series(${n * 100}, ${n * 100 + 99})`);
    await server.switchWal();
  }
  return waiting(server);
}

function waiting({ dataDirectory }: PostgresServer): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const mark of readdirSync(join(dataDirectory, 'pg_wal/archive_status')).sort()) {
    if (!mark.endsWith('.ready')) continue;
    const name = mark.slice(0, -'.ready'.length);
    const path = join(dataDirectory, 'pg_wal', name);
    utimesSync(path, longAgo, longAgo);
    found.set(name, readFileSync(path));
  }
  return found;
}

/** What the archive has of a file. */
async function storedIn({ root }: TestRepository, name: string, folder: string): Promise<Buffer> {
  const context = makeContext({ WALT_REPO: `file://${root}` }, { workingDirectory: folder });
  await walFetch(context, { name, path: name });
  return readFileSync(join(folder, name));
}

/** Every file comes back from the archive as it was. */
async function expectStored(repository: TestRepository, files: ReadonlyMap<string, Buffer>): Promise<void> {
  const folder = temporaryFolder();
  for (const [name, content] of files) {
    expect((await storedIn(repository, name, folder)).equals(content), name).toBe(true);
  }
}

const markersIn = ({ dataDirectory }: PostgresServer) => {
  const folder = join(dataDirectory, 'pg_wal/.wal-t/pushed');
  return existsSync(folder)
    ? readdirSync(folder, { recursive: true }).filter((path) => /[0-9A-F]{24}$/.test(String(path)))
    : [];
};

describe.each(torture ? [15, 17, 18] : [17])('PostgreSQL %s', (major) => {
  it('drains it with few starts of Node.js, and PostgreSQL counts each file', async () => {
    const { repository, server, node, command } = await startServer(major);
    const files = await fill(server, 40);
    expect(files.size).toBe(40);
    await server.setArchiveCommand(command(repository));
    await server.waitUntilAllArchived();
    expect(node.starts).toBeLessThanOrEqual(4); // 40 files, 33 a call; a signal may end one of them
    expect(await server.value('select archived_count from pg_stat_archiver')).toBe('40');
    expect(await server.value('select failed_count from pg_stat_archiver')).toBe('0');
    await expectStored(repository, files);
    expect(markersIn(server)).toEqual([]);
  });

  it('H9: fills two archives of one command', async () => {
    const { repository, server, command } = await startServer(major);
    const other = await new TestRepository().init();
    const files = await fill(server, 12);
    // the place at pg_wal is remembered once: the second archive is a copy of the first, as a mirror is
    await run('cp', ['-a', join(repository.root, 'repository.json'), other.root]);
    await server.setArchiveCommand(`${command(repository)} && ${command(other)}`);
    await server.waitUntilAllArchived();
    for (const one of [repository, other]) await expectStored(one, files);
  });

  it('is complete after the archiver, the commands and the server were killed, again and again', async () => {
    const { repository, server, command } = await startServer(major);
    const all = await fill(server, 16);
    await server.setArchiveCommand(command(repository));
    for (let round = 0; round < (torture ? 20 : 3); round += 1) {
      await waitFor('a marker, or the end', () => markersIn(server).length > 0 || isDone(server));
      await server.stop('SIGKILL');
      await run('pkill', ['-KILL', '-f', `WALT_CONFIG=${repository.config}|${repository.config}`]);
      await server.start();
      for (const [name, content] of await fill(server, 4)) if (!all.has(name)) all.set(name, content);
    }
    await server.waitUntilAllArchived();
    await expectStored(repository, all);
  });

  it('archives what is recycled under a name that had a marker', async () => {
    const { repository, server, command } = await startServer(major, { min_wal_size: '8MB', max_wal_size: '8MB' });
    const all = new Map<string, Buffer>();
    await server.setArchiveCommand(command(repository));
    for (let round = 0; round < 3; round += 1) {
      await server.setArchiveCommand('');
      for (const [name, content] of await fill(server, 6)) all.set(name, content);
      await server.setArchiveCommand(command(repository));
      await server.waitUntilAllArchived();
      await server.query('checkpoint'); // recycles what is archived
    }
    await expectStored(repository, all);
  });
});

function isDone({ dataDirectory }: PostgresServer): boolean {
  return !readdirSync(join(dataDirectory, 'pg_wal/archive_status')).some((mark) => mark.endsWith('.ready'));
}

it('H10: a standby that archives all it receives has in its archive what the primary has in its own', async () => {
  const { repository, server, command } = await startServer(17, { wal_keep_size: '256MB' });
  const standby = await server.backup();
  onTestFinished(() => standby.remove());
  const other = await new TestRepository().init();
  standby.configure({
    primary_conninfo: `host=${server.folder} user=postgres`,
    archive_mode: 'always',
    archive_command: command(other),
  });
  standby.signal('standby.signal');
  await standby.start();
  await server.setArchiveCommand(command(repository));
  for (let round = 0; round < 12; round += 1) {
    await server.query(`insert into t select generate_series(1, ${round * 700})`);
    if (round % 3 > 0) await server.switchWal();
  }
  await server.switchWal();
  await server.waitUntilAllArchived();
  const names = repository.files().flatMap((path) => /[0-9A-F]{24}$/.exec(path)?.[0] ?? []);
  const common = () => other.files().flatMap((path) => /[0-9A-F]{24}$/.exec(path)?.[0] ?? []);
  await waitFor('the standby to archive', () => common().includes(names.at(-1) ?? ''));
  const folder = temporaryFolder();
  for (const name of common()) {
    const [a, b] = [await storedIn(repository, name, folder), await storedIn(other, name, folder)];
    expect(a.equals(b), name).toBe(true);
  }
});
