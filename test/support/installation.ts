/** Where the servers' account finds the executables under test and the servers: in the checkout, or in a copy when that account cannot read it. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { account } from './account.ts';

export const checkout = fileURLToPath(new URL('../..', import.meta.url));
const serversFolder = join(checkout, 'test/servers');
/** How global setup tells the test processes. */
const rootVariable = 'TEST_INSTALLATION';

/** The root of the installation under test: `bin/`, `dist/`. */
export function installation(): string {
  return process.env[rootVariable] ?? checkout;
}

/** A second installation in `folder`, to break: its own launchers and bundles, which find the modules of the one under test. */
export function copyInstallation(folder: string): void {
  for (const part of ['bin', 'dist']) cpSync(join(installation(), part), join(folder, part), { recursive: true });
  symlinkSync(join(installation(), 'node_modules'), join(folder, 'node_modules'));
}

/** The executables of PostgreSQL's major version. */
export function serverBin(major: number): string {
  const name = `pg${major}-${process.platform}-${process.arch}`;
  return join(installation(), 'test/servers/node_modules', name, 'native/bin');
}

/** Installs the servers if they are not, and copies all that an unprivileged account must read if it cannot. @returns the undoing. */
export function prepareInstallation(): () => void {
  installServers();
  if (process.env[rootVariable] !== undefined || isReadable()) return () => undefined;
  const copy = mkdtempSync(join(tmpdir(), 'wal-t-installation-'));
  chmodSync(copy, 0o755);
  const servers = readdirSync(join(serversFolder, 'node_modules')).filter((name) => name.startsWith('pg'));
  const parts = ['bin', 'dist', 'package.json', 'node_modules/@mongodb-js', 'node_modules/@node-rs'];
  for (const part of [...parts, ...servers.map((name) => join('test/servers/node_modules', name))]) {
    mkdirSync(dirname(join(copy, part)), { recursive: true });
    cpSync(join(checkout, part), join(copy, part), { recursive: true, verbatimSymlinks: true });
  }
  mkdirSync(join(copy, 'node/bin'), { recursive: true });
  cpSync(process.execPath, join(copy, 'node/bin/node'));
  process.env[rootVariable] = copy;
  return () => rmSync(copy, { recursive: true, force: true });
}

function isReadable(): boolean {
  const launcher = join(checkout, 'bin/wal-push');
  const { status } = spawnSync(process.execPath, ['-e', `require('fs').readFileSync(${JSON.stringify(launcher)})`], {
    ...account,
    cwd: '/',
  });
  return status === 0;
}

function installServers(): void {
  if (!areServersInstalled()) {
    process.stderr.write('installing the servers for tests …\n');
    const flags = ['--ignore-scripts', '--no-engine-strict', '--loglevel=error', '--no-audit', '--no-fund'];
    const { status } = spawnSync('npm', ['ci', ...flags], {
      cwd: serversFolder,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status !== 0) throw new Error('could not install test/servers');
  }
  for (const major of [15, 17, 18]) linkLibraries(`pg${major}-${process.platform}-${process.arch}`);
}

/** Is every package that is meant for this platform there, in the version that is wanted? */
function areServersInstalled(): boolean {
  const { dependencies, optionalDependencies } = JSON.parse(
    readFileSync(join(serversFolder, 'package.json'), 'utf8'),
  ) as { readonly [member in 'dependencies' | 'optionalDependencies']: Readonly<Record<string, string>> };
  const platform = `-${process.platform}-${process.arch}`;
  const servers = Object.entries(optionalDependencies).filter(([name]) => name.endsWith(platform));
  return [...Object.entries(dependencies), ...servers].every(([name, wanted]) => {
    const path = join(serversFolder, 'node_modules', name, 'package.json');
    return existsSync(path) && readFileSync(path, 'utf8').includes(`"version": "${wanted.split('@').at(-1)}"`);
  });
}

/** The packages cannot hold symbolic links and list them in a file, for an install script that not every npm runs. */
function linkLibraries(name: string): void {
  const root = join(serversFolder, 'node_modules', name);
  const list = join(root, 'native/pg-symlinks.json');
  if (!existsSync(list)) return;
  for (const { source, target } of JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) {
    const path = join(root, target);
    if (!existsSync(path)) symlinkSync(relative(dirname(path), join(root, source)), path);
  }
}
