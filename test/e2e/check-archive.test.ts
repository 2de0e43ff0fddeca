/** The checks of the archive on archives of real servers: green when all is well, whatever the version and the storage; and what only a server can tell. */
import { readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatRecipient, generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import type { CheckResult } from '../../src/commands/check.ts';
import { archiveChecks, notOk, said } from '../support/checked-archive.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { flipByte, insertRow } from '../support/recovery.ts';
import { s3Settings, TestRepository } from '../support/repository.ts';
import { S3Server } from '../support/s3-server.ts';

const env = { PGUSER: 'postgres', WALT_WORKERS: '1' };
const [here, elsewhere] = [generateIdentity(), generateIdentity()];
const recipients = [here, elsewhere].map((text) => formatRecipient(parseIdentity(text))).join(' ');
const encrypted = { WALT_AGE_RECIPIENTS: recipients, WALT_AGE_IDENTITY: here };

type Settings = Readonly<Record<string, string>>;

class Host {
  readonly folder: string;
  readonly repository: TestRepository;
  readonly server: PostgresServer;

  private constructor(folder: string, repository: TestRepository, server: PostgresServer) {
    [this.folder, this.repository, this.server] = [folder, repository, server];
  }

  /** Archives, has a backup, and was verified to the last byte. */
  static async make(major: number, settings: Settings): Promise<Host> {
    const folder = makeFolder('check');
    const repository = await new TestRepository({ folder, settings }).init();
    const server = PostgresServer.create({ major, checksums: true, settings: repository.serverSettings });
    const host = new Host(folder, repository, server);
    await server.start();
    await server.query('create table t (n int)');
    await host.run('basebackup-push', [server.dataDirectory]);
    await insertRow(server, 1);
    await server.waitUntilArchived(await server.switchWal());
    await host.run('wal-t', ['verify', '--deep']);
    return host;
  }

  async run(name: string, words: readonly string[], code = 0): Promise<string> {
    const ended = await this.repository.run(name, words, { env: { ...env, PGHOST: this.server.folder } });
    expect({ code: ended.code, stderr: ended.stderr }).toMatchObject({ code });
    return ended.stdout;
  }

  async check(words: readonly string[] = [], code = 0): Promise<CheckResult> {
    const only = words.includes('--only') ? [] : ['--only', archiveChecks.join(',')];
    const text = await this.run('wal-t', ['check', this.server.dataDirectory, '--json', ...only, ...words], code);
    return JSON.parse(text) as CheckResult;
  }

  /** As if all WAL had been archived a day ago. */
  ageWal(): void {
    const at = new Date(Date.now() - 86_400_000);
    for (const path of this.repository.files().filter((file) => file.includes('/wal/'))) {
      utimesSync(join(this.repository.root, path), at, at);
    }
  }

  async remove(): Promise<void> {
    await this.server.remove();
    removeFolder(this.folder);
  }
}

async function expectGreen(host: Host, place: 'folder' | 'bucket', keys: Settings): Promise<void> {
  const before = place === 'folder' ? host.repository.files() : [];
  const result = await host.check();
  expect(notOk(result)).toEqual('WALT_AGE_RECIPIENTS' in keys ? {} : { 'key-copies': 'skipped' });
  expect(result.level).toBe('ok');
  if (place === 'folder') expect(host.repository.files()).toEqual(before);
  const { findings } = result;
  const figures = Object.assign({}, ...findings.map((one) => one.figures)) as Record<string, number>;
  const { restorable_from_timestamp_seconds: from = 0, restorable_to_timestamp_seconds: to = 0 } = figures;
  expect(to).toBeGreaterThan(from);
  expect(to).toBeLessThan(Date.now() / 1000);
  expect(figures.newest_backup_bytes).toBeGreaterThan(1_000_000);
}

describe('an archive that is well', () => {
  let s3: S3Server;
  beforeAll(async () => {
    s3 = await S3Server.start();
  });
  afterAll(() => s3.stop());

  const rows: readonly (readonly [major: number, place: 'folder' | 'bucket', settings: Settings])[] = [
    [18, 'bucket', encrypted],
    [15, 'folder', {}],
    [17, 'bucket', encrypted],
    [18, 'folder', encrypted],
  ];
  it.each(process.env.TORTURE === '1' ? rows : rows.slice(0, 1))(
    'of PostgreSQL %i in a %s is green',
    async (major, place, keys) => {
      const settings = place === 'bucket' ? { ...s3Settings(s3.s3, `check-${major}`), ...keys } : keys;
      const host = await Host.make(major, settings);
      try {
        await expectGreen(host, place, keys);
      } finally {
        await host.remove();
      }
    },
  );
});

describe('with a server that can be asked', () => {
  let host: Host;
  beforeAll(async () => {
    host = await Host.make(17, {});
  });
  afterAll(() => host.remove());

  it('is green, in a folder and without encryption', () => expectGreen(host, 'folder', {}));

  it('an idle one is well, however old its newest WAL', async () => {
    host.ageWal();
    const result = await host.check(['--only', 'wal']);
    expect(notOk(result)).toEqual({});
    expect(said(result, 'wal')).toContain('all WAL that the server has written is archived');
  });

  it('what was written and stands in a segment that is not full is told of', async () => {
    await host.server.query('insert into t select generate_series(1, 3000)');
    host.ageWal();
    const result = await host.check(['--only', 'wal']);
    expect(notOk(result)).toEqual({ wal: 'warning' });
    expect(said(result, 'wal')).toContain('archive_timeout = 60s');
    await host.server.query('alter system set archive_timeout = 60');
    await host.server.query('select pg_reload_conf()');
  });

  it('WAL that does not arrive is told of', async () => {
    await host.server.query(`alter system set archive_command = 'false'`);
    await host.server.query('select pg_reload_conf()');
    await host.server.switchWal();
    await insertRow(host.server, 3);
    await host.server.switchWal();
    host.ageWal();
    const result = await host.check(['--only', 'wal,holes'], 8);
    expect(notOk(result)).toEqual({ wal: 'failed' });
    expect(said(result, 'wal')).toMatch(/the server has ended [2-9] segments since/);
    await host.server.query('alter system reset archive_command');
    await host.server.query('select pg_reload_conf()');
    await host.server.waitUntilAllArchived();
    expect(notOk(await host.check(['--only', 'wal,holes']))).toEqual({});
  });

  it('a part that is damaged is found by verify, and told of from then on', async () => {
    const part = host.repository.files().find((path) => path.endsWith('/0000001') && path.includes('/part/')) ?? '';
    flipByte(join(host.repository.root, part));
    expect(notOk(await host.check(['--only', 'verified']))).toEqual({});
    await host.run('wal-t', ['verify', '--deep'], 8);
    await host.run('wal-t', ['verify']);
    const result = await host.check(['--only', 'verified'], 8);
    expect(notOk(result)).toEqual({ verified: 'failed' });
    expect(said(result, 'verified')).toMatch(/cannot be restored \| .*part.*; found by "wal-t verify --deep" of/);
    flipByte(join(host.repository.root, part));
    await host.run('wal-t', ['verify', '--deep']);
    expect(notOk(await host.check(['--only', 'verified']))).toEqual({});
  });

  it('pages that are damaged are told of from the next backup on', async () => {
    const { server } = host;
    const path = join(server.dataDirectory, await server.value(`select pg_relation_filepath('t')`));
    await server.query('checkpoint');
    await server.stop();
    const content = readFileSync(path);
    content.writeUInt8(content.readUInt8(8000) ^ 0xff, 8000); // not in the page's LSN: what is newer than the backup is not judged
    writeFileSync(path, content);
    await server.start();
    await host.run('basebackup-push', [server.dataDirectory], 8);
    const result = await host.check(['--only', 'checksums,backups'], 8);
    expect(notOk(result)).toEqual({ checksums: 'failed' });
    expect(said(result, 'checksums')).toMatch(
      /a page in the cluster had a wrong checksum.*block \d+ of "base\/\d+\/\d+"/,
    );
  });
});
