/** The README tells the truth: its tables come from the source, its commands work word for word, and the project installs as it says. */
import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { withTables } from '../scripts/readme-tables.ts';
import { temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { run } from './support/run.ts';
import { orFailInCi } from './support/tools.ts';

const canTryPackage = orFailInCi(
  process.getuid?.() === 0 && process.arch === 'x64',
  'the package is tried by root, and on x64',
);

it('shows every setting and exit code in its tables', () => {
  const readme = readFileSync(join(checkout, 'README.md'), 'utf8');
  expect(readme).toBe(withTables(readme));
});

it('has no command block that does not work in an empty folder, nor have those of the package where there is no Node.js', async () => {
  const env = { HOME: process.env.HOME ?? '/' }; // where npm keeps what it has fetched
  const { code, stdout, stderr } = await run(join(checkout, 'scripts/readme-check'), [], { asRoot: true, env });
  expect(code, stderr).toBe(0);
  expect(stdout).toContain('The table is back, with its last committed row.');
  if (canTryPackage) expect(stdout).toContain('every command of docs/PACKAGE.md works, and the lost server is back');
}, 900_000);

it('installs without development packages over a built tree', () => {
  const folder = temporaryFolder();
  for (const part of ['bin', 'dist', 'scripts', 'package.json', 'package-lock.json']) {
    cpSync(join(checkout, part), join(folder, part), { recursive: true });
  }
  const npm = spawnSync('npm', ['ci', '--omit=dev'], { cwd: folder, encoding: 'utf8' });
  expect(npm.status, npm.stderr).toBe(0);
  const version = spawnSync(join(folder, 'bin/wal-t'), ['--version'], { encoding: 'utf8' });
  expect(version.stdout.trim()).toBe(JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')).version);
}, 600_000); // npm may have to fetch
