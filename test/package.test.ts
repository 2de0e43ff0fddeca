/** The packages: what is in them, what they ask of a host, and that they run where there is no Node.js, no HOME, and nothing to write to. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readSync, statSync, symlinkSync } from 'node:fs';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import packageJson from '../package.json' with { type: 'json' };
import { makeFolder, removeFolder, temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { packInto } from './support/package.ts';
import { type Ended, run } from './support/run.ts';
import { makeDataDirectory, makeSegment } from './support/segment.ts';
import { hasTool, orFailInCi } from './support/tools.ts';

const hasBinutils = hasTool('aarch64-linux-gnu-strip') && hasTool('readelf');
const isTorture = process.env.TORTURE === '1';
const { version } = packageJson;
const name = `wal-t-${version}`;
/** RHEL 8's and Debian 10's. */
const oldestGlibc = 28;

let folder: string;
let packed: (suffix: string) => string;
/** The small ones, packed a second time. */
let again: (suffix: string) => string;

const labels = [
  { label: 'linux-x64', arch: 'x64', libc: 'gnu' },
  { label: 'linux-arm64', arch: 'arm64', libc: 'gnu' },
  { label: 'linux-x64-musl', arch: 'x64', libc: 'musl' },
  { label: 'linux-arm64-musl', arch: 'arm64', libc: 'musl' },
] as const;
const here = `linux-${process.arch}`;

/** The one with another machine's Node.js takes as long as all others: torture's. */
function isPacked({ arch, libc }: (typeof labels)[number]): boolean {
  return arch === process.arch || (hasBinutils && (isTorture || libc === 'musl'));
}

function tarballOf(label: string): string {
  const suffix = `-${label}.tar.gz`;
  return label === 'linux-arm64-musl' && process.arch !== 'arm64' ? again(suffix) : packed(suffix);
}

/** Where a package is unpacked. */
function tree(label: string): string {
  return join(folder, label, name);
}

beforeAll(async () => {
  folder = makeFolder('wal-t-package');
  const bothArches = hasBinutils ? 'x64,arm64' : process.arch;
  packed = await packInto(join(folder, 'out'), ['--arch', isTorture ? bothArches : process.arch]);
  const mask = process.umask(0o077);
  try {
    again = await packInto(join(folder, 'again'), ['--libc', 'musl', '--arch', bothArches]);
  } finally {
    process.umask(mask);
  }
  for (const { label } of labels.filter(isPacked)) {
    mkdirSync(join(folder, label));
    tool('tar', ['-xzf', tarballOf(label), '-C', join(folder, label)]);
  }
}, 600_000);
afterAll(() => removeFolder(folder));

function tool(command: string, words: readonly string[], cwd = '/'): string {
  const { status, stdout, stderr } = spawnSync(command, words, { cwd, encoding: 'utf8', maxBuffer: 2 ** 26 });
  expect(status, stderr).toBe(0);
  return stdout;
}

/** All files below, as paths relative to it, in order. */
function filesOf(root: string): string[] {
  const entries = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory());
  return entries.map((entry) => relative(root, join(entry.parentPath, entry.name))).sort();
}

/** The machine that an ELF file is for; undefined for any other file. */
function machineOf(path: string): string | undefined {
  const header = Buffer.alloc(20);
  const file = openSync(path, 'r');
  readSync(file, header, 0, header.length, 0);
  closeSync(file);
  if (header.subarray(0, 4).toString('latin1') !== '\x7fELF') return undefined;
  return { 62: 'x64', 183: 'arm64' }[header.readUInt16LE(18)] ?? 'another';
}

function binariesOf(root: string): string[] {
  return filesOf(root).filter((path) => machineOf(join(root, path)) !== undefined);
}

describe.each(labels.filter(isPacked))('the package for $label', ({ label, arch, libc }) => {
  it('holds the launchers, the bundles, the bindings, a runtime, papers, and nothing else', () => {
    const files = filesOf(tree(label));
    const notListed = /^(?:dist|docs|examples)\//;
    const node = libc === 'gnu' ? ['node/LICENSE', 'node/bin/node'] : [];
    expect(files.filter((path) => !notListed.test(path))).toEqual(
      [
        'ARCHITECTURE.md',
        'CHANGELOG.md',
        'LICENSE',
        'README.md',
        'THIRD-PARTY-LICENSES',
        ...readdirSync(join(checkout, 'bin')).map((file) => `bin/${file}`),
        ...node,
        ...['bindings.js', 'package.json', `zstd.linux-${arch}-${libc}.node`].map(
          (file) => `node_modules/@mongodb-js/zstd/${file}`,
        ),
        ...[`crc32.linux-${arch}-${libc}.node`, 'index.js', 'package.json'].map(
          (file) => `node_modules/@node-rs/crc32/${file}`,
        ),
        'scripts/restore-by-hand.sh',
      ].sort(),
    );
    for (const bundle of ['wal-push', 'wal-fetch', 'wal-t', 'worker']) expect(files).toContain(`dist/${bundle}.mjs`);
    for (const folder of ['docs', 'examples']) {
      expect(files.filter((path) => path.startsWith(folder))).toEqual(
        filesOf(join(checkout, folder)).map((path) => `${folder}/${path}`),
      );
    }
    expect(files.filter((path) => /(?:^|\/)\.|\.map$/.test(path))).toEqual([]);
  });

  it('is readable by all, writable by its owner alone, root', () => {
    const listing = tool('tar', ['-tvzf', tarballOf(label)])
      .trim()
      .split('\n');
    for (const line of listing) expect(line).toMatch(/^(?:d|-)rwxr-xr-x 0\/0 |^-rw-r--r-- 0\/0 /);
  });

  it('holds binaries of its own machine alone', () => {
    const binaries = binariesOf(tree(label));
    expect(binaries).toHaveLength(libc === 'gnu' ? 3 : 2);
    for (const path of binaries) expect(machineOf(join(tree(label), path)), path).toBe(arch);
  });

  it.skipIf(!hasBinutils)(
    `asks for ${libc === 'gnu' ? `glibc 2.${oldestGlibc} or later` : 'no glibc'} and common libraries alone`,
    () => {
      for (const path of binariesOf(tree(label))) {
        const file = join(tree(label), path);
        // libgcc has a GLIBC_2.0 of its own, on musl, too
        const versions = [...tool('readelf', ['-VW', file]).matchAll(/\bGLIBC_2\.([1-9]\d*)/g)].map(([, minor]) =>
          Number(minor),
        );
        if (libc === 'gnu') {
          expect(versions.length, path).toBeGreaterThan(0);
          expect(Math.max(...versions), path).toBeLessThanOrEqual(oldestGlibc);
        } else {
          expect(versions, path).toEqual([]);
        }
        const libraries = [...tool('readelf', ['-dW', file]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(
          ([, library]) => library,
        );
        for (const library of libraries) {
          expect(library, path).toMatch(
            /^(?:lib(?:c|m|dl|rt|pthread|gcc_s|stdc\+\+|c\.musl-\w+)\.so(?:\.\d)?|ld-linux.*)$/,
          );
        }
      }
    },
  );
});

it('has at most 60 MB a file, each with its checksum', () => {
  const out = join(folder, 'out');
  const files = readdirSync(out).filter((file) => file !== 'SHA256SUMS');
  expect(files).toHaveLength(hasBinutils && isTorture ? 6 : 3);
  for (const file of files) expect(statSync(join(out, file)).size, file).toBeLessThanOrEqual(60_000_000);
  const checked = tool('sha256sum', ['-c', 'SHA256SUMS'], out).trim().split('\n').sort();
  expect(checked).toEqual(files.map((file) => `${file}: OK`).sort());
});

it('gives the same bytes from the same sources, whatever the umask', () => {
  const file = `-${here}-musl.tar.gz`;
  expect(readFileSync(again(file)).equals(readFileSync(packed(file)))).toBe(true);
});

it('has the licence of every package in the bundles', () => {
  const text = readFileSync(join(tree(here), 'THIRD-PARTY-LICENSES'), 'utf8');
  for (const part of [
    '@aws-sdk/client-s3',
    '@mongodb-js/zstd',
    '@node-rs/crc32',
    'pg',
    'yargs',
    'xxhash-wasm',
    'leven',
  ]) {
    expect(text).toMatch(new RegExp(`^${part} \\d`, 'm'));
  }
  expect(readFileSync(join(tree(here), 'node/LICENSE'), 'utf8')).toContain('Zstandard');
});

describe('without Node.js, HOME, PATH, or a right to write', () => {
  const isRoot = orFailInCi(process.getuid?.() === 0, 'only root may be another user');
  const stranger = { uid: 12_345, gid: 12_345 };

  /** As a user whom the host does not know; `repository` is the one thing that is said. */
  function runAlone(root: string, command: string, words: readonly string[], cwd: string): Promise<Ended> {
    const { uid, gid } = stranger;
    const user = ['--reuid', String(uid), '--regid', String(gid), '--clear-groups'];
    const environment = ['env', '-i', 'PATH=/nonexistent', `WALT_REPO=file://${join(folder, 'archive', 'repository')}`];
    return run('setpriv', [...user, ...environment, join(root, 'bin', command), ...words], { cwd, asRoot: true });
  }

  it.skipIf(!isRoot)('archives a segment and gives it back', async () => {
    const root = tree(here);
    const own = { '': join(folder, 'archive'), data: join(folder, 'data') };
    for (const path of Object.values(own)) mkdirSync(path);
    const segmentName = '00000001000000000000002A';
    const segment = makeSegment(segmentName);
    makeDataDirectory(own.data)(segmentName, segment);
    for (const path of Object.values(own)) tool('chown', ['-R', '12345:12345', path]);
    expect(await runAlone(root, 'wal-t', ['init'], '/')).toMatchObject({ code: 0, stderr: '' });
    const pushed = await runAlone(root, 'wal-push', [`pg_wal/${segmentName}`, segmentName], own.data);
    expect(pushed).toMatchObject({ code: 0 });
    const fetched = await runAlone(root, 'wal-fetch', [segmentName, 'pg_wal/RECOVERYXLOG'], own.data);
    expect(fetched).toMatchObject({ code: 0 });
    expect(readFileSync(join(own.data, 'pg_wal/RECOVERYXLOG')).equals(segment)).toBe(true);
  });

  // its Node.js has a zstd of its own, an older one has not
  it.skipIf(!isRoot)('reads what a checkout wrote, and the other way round', async () => {
    const root = tree(here);
    const own = { '': join(folder, 'both'), data: join(folder, 'both-data') };
    for (const path of Object.values(own)) mkdirSync(path);
    const env = { WALT_REPO: `file://${join(own[''], 'repository')}` };
    const call = (bin: string, command: string, words: readonly string[]) =>
      run(join(bin, 'bin', command), words, { cwd: own.data, asRoot: true, env });
    expect(await call(checkout, 'wal-t', ['init'])).toMatchObject({ code: 0 });
    const write = makeDataDirectory(own.data);
    for (const [n, writer, reader] of [
      [1, checkout, root],
      [2, root, checkout],
    ] as const) {
      const name = `00000001000000000000000${n}`;
      const segment = makeSegment(name);
      write(name, segment);
      expect(await call(writer, 'wal-push', [`pg_wal/${name}`, name])).toMatchObject({ code: 0 });
      expect(await call(reader, 'wal-push', [`pg_wal/${name}`, name])).toMatchObject({ code: 0 }); // the same content
      expect(await call(reader, 'wal-fetch', [name, 'pg_wal/fetched'])).toMatchObject({ code: 0 });
      expect(readFileSync(join(own.data, 'pg_wal/fetched')).equals(segment)).toBe(true);
    }
  });

  it.skipIf(!isRoot)('runs from a copy, as an init container makes it', async () => {
    const copy = join(folder, 'an empty folder');
    mkdirSync(copy);
    tool('cp', ['-a', `${tree(here)}/.`, copy]);
    const { code, stdout } = await runAlone(copy, 'wal-t', ['--version'], '/');
    expect([code, stdout]).toEqual([0, `${version}\n`]);
  });

  it('tells PostgreSQL the path that stays when an upgrade switches the link, and no runtime', async () => {
    symlinkSync(`${here}/${name}`, join(folder, 'wal-t'));
    const env = { WALT_REPO: `file://${join(temporaryFolder(), 'repository')}`, PATH: '/nonexistent' };
    const { stdout, stderr } = await run(join(folder, 'wal-t/bin/wal-t'), ['init'], { env });
    expect(stdout, stderr).toContain(`archive_command = '${join(folder, 'wal-t/bin/wal-push')} %p %f'`);
  });
});

describe('the .deb', () => {
  it('links the executables into PATH, but not delete', () => {
    const lines = tool('dpkg-deb', ['-c', packed('_amd64.deb')]).split('\n');
    const links = lines.filter((line) => line.includes('./usr/bin/') && line.startsWith('l'));
    expect(links.map((line) => line.split('./usr/bin/')[1])).toEqual(
      ['backup-list', 'basebackup-fetch', 'basebackup-push', 'wal-fetch', 'wal-push', 'wal-t'].map(
        (command) => `${command} -> ../lib/wal-t/current/bin/${command}`,
      ),
    );
    expect(lines.filter((line) => line.includes('bin/delete'))).toHaveLength(1);
    for (const line of lines.filter((one) => one !== '')) expect(line).toContain(' root/root ');
  });

  it('says which glibc it needs', () => {
    expect(tool('dpkg-deb', ['-f', packed('_amd64.deb'), 'Depends'])).toContain(`libc6 (>= 2.${oldestGlibc})`);
    expect(tool('dpkg-deb', ['-f', packed('_amd64.deb'), 'Version'])).toBe(`${version}-1\n`);
  });

  it.skipIf(!hasTool('shellcheck'))('has scripts that pass shellcheck', () => {
    const scripts = join(checkout, 'scripts/package/deb');
    tool(
      'shellcheck',
      readdirSync(scripts).map((file) => join(scripts, file)),
    );
  });
});
