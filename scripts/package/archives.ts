/** Packs a tree that lies there: as a tarball and as a .deb, the same bytes from the same tree. */
import {
  chmodSync,
  cpSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { check } from './parts.ts';

/** On PATH. `delete` is in bin/ alone: its name is too short for that. */
const linked = ['wal-t', 'wal-push', 'wal-fetch', 'basebackup-push', 'basebackup-fetch', 'backup-list'];
const maintainerScripts = fileURLToPath(new URL('deb/', import.meta.url));

/** `tree` under its own name. `level` is gzip's: gzip is on every host, xz and zstd are not. */
export function packTarball(tree: string, file: string, level: number): void {
  const owner = ['--owner=0', '--group=0', '--numeric-owner'];
  const words = ['--sort=name', '--format=ustar', ...owner, '-I', `gzip -n -${level}`, '-cf', file];
  check('tar', [...words, '-C', dirname(tree), tree.slice(dirname(tree).length + 1)]);
}

export interface Deb {
  /** WAL-T's, and the package's own after the hyphen. */
  readonly version: string;
  readonly arch: string;
  /** Seconds since 1970. */
  readonly time: number;
  readonly level: number;
  readonly scratch: string;
}

/** @see Debian Policy, chapter 5 for the control file */
export function packDeb(tree: string, file: string, { version, arch, time, level, scratch }: Deb): void {
  const root = join(scratch, `deb-${arch}`);
  const control = join(root, 'DEBIAN');
  for (const folder of ['DEBIAN', 'usr/bin', 'usr/lib/wal-t', 'usr/share/doc/wal-t']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  check('cp', ['-al', tree, join(root, 'usr/lib/wal-t/package')]);
  for (const name of linked) symlinkSync(`../lib/wal-t/current/bin/${name}`, join(root, 'usr/bin', name));
  cpSync(join(tree, 'LICENSE'), join(root, 'usr/share/doc/wal-t/copyright'));
  writeFileSync(join(control, 'control'), controlFile(version, arch, check('du', ['-sk', tree]).split('\t')[0] ?? ''));
  for (const name of readdirSync(maintainerScripts)) {
    writeFileSync(
      join(control, name),
      readFileSync(join(maintainerScripts, name), 'utf8').replace('@VERSION@', version),
    );
    chmodSync(join(control, name), 0o755);
  }
  for (const folder of [
    '',
    'usr',
    'usr/bin',
    'usr/lib',
    'usr/lib/wal-t',
    'usr/share',
    'usr/share/doc',
    'usr/share/doc/wal-t',
    'DEBIAN',
  ]) {
    chmodSync(join(root, folder), 0o755);
  }
  for (const name of linked) lutimesSync(join(root, 'usr/bin', name), time, time);
  const compression = level === 9 ? ['-Zxz', '-z9'] : ['-Zgzip', `-z${level}`];
  check('dpkg-deb', ['--root-owner-group', ...compression, '--build', root, file], {
    env: { SOURCE_DATE_EPOCH: String(time) },
  });
}

function controlFile(version: string, arch: string, installedKib: string): string {
  return `Package: wal-t
Version: ${version}
Architecture: ${arch === 'x64' ? 'amd64' : arch}
Maintainer: The WAL-T maintainers <wal-t@localhost>
Installed-Size: ${installedKib}
Depends: libc6 (>= 2.28), libgcc-s1 | libgcc1, libstdc++6 (>= 7)
Suggests: postgresql, age, zstd
Section: database
Priority: optional
Description: continuous archiving and point-in-time recovery for PostgreSQL
 Archives the write-ahead log of PostgreSQL 15 and later, and base backups, into
 S3 and its relatives or into a folder, encrypted if wanted, and brings them back.
 .
 Brings its own Node.js runtime. archive_command is /usr/bin/wal-push %p %f.
`;
}
