/** What PostgreSQL's archiver makes of wal-push: every failure is counted and passes, and what was archived comes back byte for byte. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { expectCounted } from '../support/failing-archiver.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { copyInstallation } from '../support/installation.ts';
import { PostgresServer } from '../support/postgres.ts';
import { archiveRow, insertRow, rowsOf } from '../support/recovery.ts';
import { TestRepository } from '../support/repository.ts';
import { hasTool } from '../support/tools.ts';

/** Servers with a table, of which the running tests' end disposes. */
async function startServer(options: Parameters<typeof PostgresServer.create>[0]): Promise<PostgresServer> {
  const server = PostgresServer.create(options);
  await server.start();
  await server.query('create table t (n int)');
  return server;
}

const isTorture = process.env.TORTURE === '1';

describe.each(isTorture ? [15, 17, 18] : [17])('archive_command of PostgreSQL %s', (major) => {
  const folder = makeFolder('archiving');
  const repository = new TestRepository({ folder });
  let server: PostgresServer;
  let fs: FaultyFs | undefined;
  let n = 0;

  beforeAll(async () => {
    await repository.init();
    copyInstallation(folder);
    const launcher = join(folder, 'bin/wal-push');
    const command = `. ${folder}/environment; exec env WALT_CONFIG=${repository.config} ${launcher} %p %f`;
    writeFileSync(join(folder, 'environment'), '');
    server = await startServer({ major, settings: { archive_mode: 'on', archive_command: command } });
    if (hasFaultyFs) fs = await FaultyFs.start(repository.root);
  });
  afterAll(async () => {
    await server.remove();
    await fs?.unmount();
    removeFolder(folder);
  });

  const { root } = repository;
  const environment = (line: string) => writeFileSync(join(folder, 'environment'), line);
  const move = (path: string, to: string) => renameSync(join(folder, path), join(folder, to));
  /** Loaded into node before the bundle. */
  const inNode = (code: string, flags = '') => {
    writeFileSync(join(folder, 'inside.mjs'), code);
    environment(`export NODE_OPTIONS='${flags} --import=${folder}/inside.mjs'`);
  };

  interface Failure {
    readonly what: string;
    /** Of the first line in the log. */
    readonly reason: RegExp;
    readonly begin: () => Promise<void> | void;
    readonly mend?: () => Promise<void> | void;
    readonly possible?: boolean;
    /** Under TORTURE alone: the launcher and the archiver do the same as over another row's. */
    readonly seldom?: boolean;
  }
  const failing: Failure[] = [
    {
      what: 'the storage is gone',
      reason: /error: could not \w+ ".*" in .*: no such file or directory/,
      begin: () => move('repo', 'repo.away'),
      mend: () => move('repo.away', 'repo'),
    },
    {
      what: 'the storage denies',
      seldom: true,
      reason: /error: could not \w+ ".*" in .*: permission denied/,
      begin: () => chmodSync(root, 0),
      mend: () => chmodSync(root, 0o755),
    },
    {
      what: 'the storage is not mounted',
      reason: /error: the repository is not at .*/,
      begin: () => {
        move('repo', 'repo.away');
        mkdirSync(root);
        chmodSync(root, 0o777);
      },
      mend: () => {
        rmdirSync(root); // fails if anything was stored in it
        move('repo.away', 'repo');
      },
    },
    {
      what: 'the storage is full',
      possible: hasFaultyFs,
      reason: /error: could not write ".*" in .*: no space left on device/,
      begin: async () => {
        await fs?.set({ spaceBytes: 0 });
        repository.configure({ WALT_REPO: `file://${fs?.path}` });
      },
      mend: () => fs?.set({}),
    },
    {
      what: 'the storage hangs',
      possible: hasFaultyFs,
      reason: /error: could not \w+ ".*" in .*: (no answer for 0.2 s|an earlier request still has no answer)/,
      begin: async () => {
        await fs?.set({ hang: ['*'] });
        repository.configure({ WALT_REPO: `file://${fs?.path}`, WALT_IDLE_TIMEOUT: '200ms' });
      },
      mend: () => fs?.set({}),
    },
    {
      what: 'a setting is unknown',
      reason: /error: unknown setting WALT_REPOSITORY .*/,
      begin: () => repository.configure({ WALT_REPOSITORY: 'x' }),
    },
    {
      what: 'the repository is of an unknown scheme',
      seldom: true,
      reason: /error: WALT_REPO has the unknown scheme .*/,
      begin: () => repository.configure({ WALT_REPO: 'ftp://there' }),
    },
    {
      what: 'the settings file is missing',
      reason: /error: could not read ".*settings.env": no such file or directory/,
      begin: () => move('settings.env', 'settings.away'),
    },
    {
      what: 'the bundle is missing',
      reason: /error: ".*wal-push.mjs" is missing/,
      begin: () => move('dist', 'dist.away'),
      mend: () => move('dist.away', 'dist'),
    },
    {
      what: 'the bundle is half replaced',
      seldom: true,
      reason: /error: Node.js ended with 1\b.*/,
      begin: () => {
        move('dist/wal-push.mjs', 'whole.mjs');
        const whole = readFileSync(join(folder, 'whole.mjs'));
        writeFileSync(join(folder, 'dist/wal-push.mjs'), whole.subarray(0, whole.length >> 1));
      },
      mend: () => move('whole.mjs', 'dist/wal-push.mjs'),
    },
    {
      what: 'node is missing',
      reason: /error: Node.js was not found.*/,
      begin: () => environment('export WALT_NODE=/nowhere/node'),
    },
    {
      what: 'node is killed while it runs',
      reason: /error: Node.js ended with 137\b.*/,
      begin: () => inNode(`setImmediate(() => process.kill(process.pid, 'SIGKILL'))`),
    },
    {
      what: 'node runs out of memory',
      seldom: true,
      reason: /error: Node.js ended with 134\b.*/,
      begin: () => inNode('for (const all = []; ; ) all.push(new Array(1e5).fill({}))', '--max-old-space-size=20'),
    },
    {
      what: 'node never comes to an end',
      reason: /error: Node.js ended with 0\b.*/,
      begin: () => inNode('process.exit(0)'),
    },
  ];

  const rows = failing.filter(({ seldom }) => isTorture || seldom !== true);
  it.for(rows)(
    'counts it when $what, and goes on when that is mended',
    async ({ reason, begin, mend, ...failure }, { skip }) => {
      skip(failure.possible === false, 'it needs FUSE');
      const mended = async () => {
        await mend?.();
        repository.configure({});
        environment('');
      };
      const segment = await expectCounted(server, { reason, row: ++n, begin, mend: mended });
      expect(statSync(repository.object(segment)).size).toBeGreaterThan(0);
    },
  );
});

/** A server with a table, in `repository`. */
async function archivingServer(repository: TestRepository, options: { major: number; walSegmentSize?: number }) {
  const server = await startServer({ ...options, settings: repository.serverSettings });
  onTestFinished(() => server.remove());
  return server;
}

/** Recovers a backup to the end of the archive. */
async function recovered(backup: PostgresServer, commands: TestRepository['serverSettings']): Promise<PostgresServer> {
  onTestFinished(() => backup.remove());
  backup.configure({ ...commands, archive_mode: 'off' });
  backup.signal('recovery.signal');
  await backup.open();
  return backup;
}

describe('what was archived', () => {
  const sizes = [
    { megabytes: 1, major: 15 },
    { megabytes: 1, major: 18 },
    { megabytes: 16, major: 17 },
    ...(isTorture ? [{ megabytes: 64, major: 17 }] : []),
  ];
  it.each(sizes)('recovers PostgreSQL $major with segments of $megabytes MB', async ({ megabytes, major }) => {
    const repository = await new TestRepository().init();
    const server = await archivingServer(repository, { major, walSegmentSize: megabytes });
    const backup = await server.backup();
    await archiveRow(server, 1);
    await archiveRow(server, 2);
    expect(await rowsOf(await recovered(backup, repository.serverSettings))).toBe('1 2');
  });

  const hugeMegabytes = isTorture ? 1024 : 256; // either is more than may be held
  it(`comes and goes in segments of ${hugeMegabytes} MB, in little memory`, async () => {
    const repository = await new TestRepository().init();
    const server = await archivingServer(repository, { major: 17, walSegmentSize: hugeMegabytes });
    const peak = join(repository.folder, 'peak');
    const note = `process.on('exit', () => fs.writeFileSync('${peak}', String(process.resourceUsage().maxRSS)))`;
    writeFileSync(join(repository.folder, 'note.mjs'), `import fs from 'node:fs';\n${note};\n`);
    const env = { NODE_OPTIONS: `--import=${repository.folder}/note.mjs` };
    await insertRow(server, 1);
    await server.configure({ archive_command: 'false' });
    await server.restart();
    const segment = await server.switchWal();
    const path = `pg_wal/${segment}`;
    for (const [name, words] of [
      ['wal-push', [path, segment]],
      ['wal-fetch', [segment, 'fetched']],
    ] as const) {
      const { code, stderr } = await repository.run(name, words, { cwd: server.dataDirectory, env });
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      const peakBytes = Number(readFileSync(peak, 'utf8')) * 1024;
      expect(peakBytes).toBeLessThan(200 * 1024 * 1024);
    }
    const { status } = spawnSync('cmp', [join(server.dataDirectory, path), join(server.dataDirectory, 'fetched')]);
    expect(status).toBe(0);
  });

  it('is what zstd alone makes of a stored segment, and wal-fetch of every kind of file', async () => {
    const repository = await new TestRepository().init();
    const server = await archivingServer(repository, { major: 17 });
    const backup = await server.backup();
    await backup.remove();
    const segment = await archiveRow(server, 1);
    const walFolder = join(server.dataDirectory, 'pg_wal');
    const label = readdirSync(walFolder).find((name) => name.endsWith('.backup')) ?? '';
    await server.waitUntilArchived(label);
    for (const name of [segment, label]) {
      const original = readFileSync(join(walFolder, name));
      const { code } = await repository.run('wal-fetch', [name, 'fetched'], { cwd: server.dataDirectory });
      expect(code).toBe(0);
      expect(readFileSync(join(server.dataDirectory, 'fetched')).equals(original)).toBe(true);
      if (!hasTool('zstd')) continue;
      const { stdout } = spawnSync('zstd', ['-dc', repository.object(name)], { maxBuffer: 1 << 22 });
      expect(stdout.equals(original)).toBe(true);
    }
  });

  it('stays apart for two clusters under one prefix', async () => {
    const repository = await new TestRepository().init();
    const servers = await Promise.all([1, 2].map(() => archivingServer(repository, { major: 17 })));
    const backups = await Promise.all(servers.map((server) => server.backup()));
    const segments = await Promise.all(
      servers.map(async (server, index) => {
        const names = [];
        for (const n of [1, 2]) names.push(await archiveRow(server, 10 * index + n));
        return names;
      }),
    );
    expect(segments[0]).toEqual(segments[1]); // the same names, at the same time
    const identifiers = await Promise.all(
      servers.map((server) => server.value('select system_identifier from pg_control_system()')),
    );
    const stored = repository.files().filter((path) => path.endsWith(`/${segments[0]?.[0]}`));
    expect(stored.map((path) => path.split('/')[0])).toEqual([...identifiers].sort());
    const copies = await Promise.all(backups.map((backup) => recovered(backup, repository.serverSettings)));
    expect(await Promise.all(copies.map(rowsOf))).toEqual(['1 2', '11 12']);
  });
});
