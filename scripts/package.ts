/**
 * Packages of WAL-T that need nothing else: npm run package [-- --arch x64 --out FOLDER --revision 2 --quick]
 * For each platform a tarball to unpack anywhere, for glibc a .deb besides, and SHA256SUMS. The same sources give the same bytes.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import packageJson from '../package.json' with { type: 'json' };
import { packDeb, packTarball } from './package/archives.ts';
import { thirdPartyLicences } from './package/licences.ts';
import { check, type Platform, project } from './package/parts.ts';
import { type Assembly, assemble } from './package/tree.ts';

/** What a host or an image is asked to take. */
const maxFileBytes = 60_000_000;

const { values } = parseArgs({
  options: {
    arch: { type: 'string', default: 'x64,arm64' },
    libc: { type: 'string', default: 'glibc,musl' },
    out: { type: 'string', default: join(project, 'release') },
    revision: { type: 'string', default: '1' },
    // little compression: for tests
    quick: { type: 'boolean', default: false },
  },
});
const arches = (['x64', 'arm64'] as const).filter((arch) => values.arch.split(',').includes(arch));
const libcs = (['glibc', 'musl'] as const).filter((libc) => values.libc.split(',').includes(libc));
const out = resolve(values.out);
const level = values.quick ? 1 : 9;

/** Seconds since 1970: the last commit's, so that everybody who packs it gets the same. */
function sourceTime(): number {
  try {
    return Number(
      process.env.SOURCE_DATE_EPOCH ?? check('git', ['log', '-1', '--format=%ct'], { cwd: project }).trim(),
    );
  } catch {
    return 499_162_500; // npm's, where there is no git
  }
}

/** @returns the files that it made */
function pack(platform: Platform, assembly: Assembly): string[] {
  const { scratch, time } = assembly;
  const { arch, libc } = platform;
  const name = `wal-t-${packageJson.version}`;
  const label = `linux-${arch}${libc === 'musl' ? '-musl' : ''}`;
  const tree = join(scratch, label, name);
  assemble(tree, platform, assembly);
  const tarball = join(out, `${name}-${label}.tar.gz`);
  packTarball(tree, tarball, level);
  if (libc === 'musl') return [tarball];
  const version = `${packageJson.version}-${values.revision}`;
  const deb = join(out, `wal-t_${version}_${arch === 'x64' ? 'amd64' : arch}.deb`);
  packDeb(tree, deb, { version, arch, time, level, scratch });
  return [tarball, deb];
}

const scratch = mkdtempSync(join(tmpdir(), 'wal-t-package-'));
try {
  mkdirSync(out, { recursive: true });
  const assembly = { scratch, time: sourceTime(), licences: thirdPartyLicences() };
  const files = libcs.flatMap((libc) => arches.flatMap((arch) => pack({ arch, libc }, assembly)));
  const sums = files.map(
    (file) => `${createHash('sha256').update(readFileSync(file)).digest('hex')}  ${basename(file)}\n`,
  );
  writeFileSync(join(out, 'SHA256SUMS'), sums.join(''));
  for (const file of files) {
    const sizeBytes = statSync(file).size;
    process.stdout.write(`${(sizeBytes / 1e6).toFixed(1)} MB  ${file}\n`);
    if (sizeBytes > maxFileBytes) throw new Error(`"${file}" has more than ${maxFileBytes / 1e6} MB`);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
