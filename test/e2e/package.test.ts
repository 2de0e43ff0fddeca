/** The .deb through installations and upgrades by dpkg, while PostgreSQL archives by it and a backup runs: nobody meets half a version. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };
import { temporaryFolder } from '../support/folders.ts';
import { packInto } from '../support/package.ts';
import { PostgresServer } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { hasTool, orFailInCi } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const { version } = packageJson;
const isPossible =
  hasTool('dpkg-deb') && hasTool('strip') && orFailInCi(process.getuid?.() === 0, 'only root may run dpkg');

function tool(command: string, words: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, words, { encoding: 'utf8' });
  expect(status, stderr).toBe(0);
  return stdout;
}

/** The same package with another revision. */
function withRevision(deb: string, revision: number): string {
  const folder = join(temporaryFolder(), 'unpacked');
  tool('dpkg-deb', ['-R', deb, folder]);
  for (const [file, before, after] of [
    ['control', `Version: ${version}-1`, `Version: ${version}-${revision}`],
    ['postinst', `version=${version}-1`, `version=${version}-${revision}`],
  ] as const) {
    const path = join(folder, 'DEBIAN', file);
    const text = readFileSync(path, 'utf8');
    expect(text).toContain(before);
    writeFileSync(path, text.replace(before, after));
  }
  writeFileSync(join(folder, 'usr/lib/wal-t/package/revision'), String(revision));
  const packed = `${folder}.deb`;
  tool('dpkg-deb', ['-Znone', '-b', folder, packed]);
  return packed;
}

/** A host's root, as far as dpkg needs one. */
function makeRoot() {
  const root = temporaryFolder();
  for (const folder of ['info', 'updates', 'triggers'])
    mkdirSync(join(root, 'var/lib/dpkg', folder), { recursive: true });
  writeFileSync(join(root, 'var/lib/dpkg/status'), '');
  const forced = ['script-chrootless', 'depends', 'architecture'].map((what) => `--force-${what}`);
  const versions = join(root, 'usr/lib/wal-t');
  return {
    root,
    dpkg: (...words: string[]) => tool('dpkg', [`--root=${root}`, '--log=/dev/null', ...forced, ...words]),
    current: () => readlinkSync(join(versions, 'current')),
    trees: () =>
      readdirSync(versions)
        .filter((name) => /^\d/.test(name))
        .sort(),
    executable: (name: string) => join(root, 'usr/bin', name),
  };
}

// minutes of unpacking: the package itself is tested in test/package.test.ts
it.skipIf(!isPossible || process.env.TORTURE !== '1')(
  'is upgraded while WAL is archived and a backup runs, and leaves nothing behind',
  async () => {
    const packed = await packInto(temporaryFolder(), ['--arch', process.arch, '--libc', 'glibc']);
    const first = packed('.deb');
    const [second, third] = [withRevision(first, 2), withRevision(first, 3)];
    const host = makeRoot();
    host.dpkg('-i', first);
    expect(host.current()).toBe(`${version}-1`);

    const folder = temporaryFolder();
    const repository = join(folder, 'repository');
    const env = {
      WALT_CONFIG: join(folder, 'settings.env'),
      PGUSER: 'postgres',
      WALT_WORKERS: '1',
      PATH: '/usr/bin:/bin',
    };
    writeFileSync(env.WALT_CONFIG, `WALT_REPO=file://${repository}\n`);
    const init = await run(host.executable('wal-t'), ['init'], { env });
    const stable = join(host.root, 'usr/lib/wal-t/current/bin/wal-push');
    expect(init.stdout, init.stderr).toContain(`archive_command = 'WALT_CONFIG=${env.WALT_CONFIG} ${stable} %p %f'`);
    const server = PostgresServer.create({
      major: 17,
      settings: {
        archive_mode: 'on',
        archive_command: `WALT_CONFIG=${env.WALT_CONFIG} ${host.executable('wal-push')} %p %f`,
      },
    });
    onTestFinished(() => server.remove());
    await server.start();
    const archive = async () => {
      await server.query("select pg_create_restore_point('something to archive')");
      await server.waitUntilArchived(await server.switchWal());
    };

    // stopped in the midst of its work, until all upgrades are over
    let pid = 0;
    const backup = run(host.executable('basebackup-push'), [server.dataDirectory, '--max-rate', '2M'], {
      env,
      ownGroup: true,
      onStart: (child) => {
        pid = child.pid ?? 0;
        onTestFinished(() => void (child.exitCode ?? process.kill(-pid, 'SIGKILL')));
      },
    });
    const isUnderWay = () =>
      existsSync(repository) &&
      readdirSync(repository, { recursive: true }).some((path) => /\/part\/[^/]+\/0/.test(String(path)));
    await waitFor('the backup to store its first part', isUnderWay);
    process.kill(-pid, 'SIGSTOP');

    host.dpkg('--unpack', second);
    expect(host.current(), 'before it is configured, the old version is in force').toBe(`${version}-1`);
    await archive();
    host.dpkg('--configure', 'wal-t');
    expect(host.current()).toBe(`${version}-2`);
    await archive();
    host.dpkg('-i', third);
    expect(host.current()).toBe(`${version}-3`);
    expect(host.trees(), 'the first is in use, the second was the one before').toEqual(
      [1, 2, 3].map((n) => `${version}-${n}`),
    );
    await archive();

    process.kill(-pid, 'SIGCONT');
    const { code, stderr } = await backup;
    expect(code, stderr).toBe(0);
    expect(await server.value('select failed_count from pg_stat_archiver')).toBe('0');

    host.dpkg('-i', third);
    expect(host.current(), 'installed once more').toBe(`${version}-3.2`);
    expect(host.trees(), 'what nobody uses is gone').toEqual([`${version}-3`, `${version}-3.2`]);
    await archive();
    await server.stop();
    host.dpkg('-r', 'wal-t');
    expect(
      readdirSync(join(host.root, 'usr'), { recursive: true }).filter((path) => String(path).includes('wal-')),
    ).toEqual([]);
  },
  600_000,
);
