/** Puts the tree of a package together: what lies in it and with which modes and times. Does not pack it. */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { type Binding, bindings, check, fetchParts, nodePackage, type Platform, project } from './parts.ts';

const own = [
  'bin',
  'dist',
  'docs',
  'examples',
  'scripts/restore-by-hand.sh',
  'README.md',
  'ARCHITECTURE.md',
  'CHANGELOG.md',
  'LICENSE',
];

export interface Assembly {
  /** Where parts may be unpacked. */
  readonly scratch: string;
  /** Every file's, in seconds since 1970. */
  readonly time: number;
  /** Those of the third parties. */
  readonly licences: string;
}

/** Fills the new folder `tree`. */
export function assemble(tree: string, platform: Platform, { scratch, time, licences }: Assembly): void {
  const partFolder = fetchParts(platform, join(scratch, `parts-${platform.arch}-${platform.libc}`));
  mkdirSync(join(tree, 'scripts'), { recursive: true });
  // a name that begins with a dot is a file that is being built
  const isWhole = (path: string) => !basename(path).startsWith('.');
  for (const part of own) cpSync(join(project, part), join(tree, part), { recursive: true, filter: isWhole });
  for (const binding of bindings) placeBinding(tree, binding, partFolder(binding.binaryOf(platform)));
  const node = nodePackage(platform);
  if (node !== undefined) placeNode(tree, partFolder(node.name), platform);
  writeFileSync(join(tree, 'THIRD-PARTY-LICENSES'), licences);
  settle(tree, time);
}

/** The binary alone, without what PostgreSQL's host has no use for: the symbols for debuggers, headers, manuals. */
function placeNode(tree: string, from: string, { arch }: Platform): void {
  mkdirSync(join(tree, 'node/bin'), { recursive: true });
  const strip = arch === process.arch ? 'strip' : `${arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu-strip`;
  check(strip, ['-o', join(tree, 'node/bin/node'), join(from, 'bin/node')]);
  copyFileSync(join(from, 'LICENSE'), join(tree, 'node/LICENSE'));
}

/**
 * The binary under the name that the bundles import, with a loader that need not find out where it runs: the package's own asks
 * Node.js for a report on the whole process, at every start.
 */
function placeBinding(tree: string, { name, entry }: Binding, from: string): void {
  const original = join(project, 'node_modules', name);
  const exported = readFileSync(join(original, entry), 'utf8').matchAll(/^module\.exports\.(\w+) = /gm);
  const binary = readdirSync(from).find((file) => file.endsWith('.node'));
  if (binary === undefined) throw new Error(`"${from}" holds no binary`);
  const folder = join(tree, 'node_modules', name);
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(from, binary), join(folder, binary));
  const { version, license } = JSON.parse(readFileSync(join(original, 'package.json'), 'utf8'));
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify({ name, version, license, main: entry }, null, 2)}\n`);
  const lines = [...exported].map(([, word]) => `module.exports.${word} = binding.${word};\n`);
  writeFileSync(join(folder, entry), `const binding = require('./${binary}');\n${lines.join('')}`);
}

/** Whatever the umask and the hour: readable by all, writable by its owner, of one time. */
function settle(path: string, time: number): void {
  const stats = lstatSync(path);
  if (stats.isDirectory()) for (const name of readdirSync(path)) settle(join(path, name), time);
  if (!stats.isSymbolicLink()) chmodSync(path, stats.isDirectory() || (stats.mode & 0o100) !== 0 ? 0o755 : 0o644);
  lutimesSync(path, time, time);
}
