/**
 * What a package takes from npm's registry: the Node.js runtime and the native bindings, each in one version, known by its hash.
 * runtime.json pins Node.js, package-lock.json the bindings. Knows nothing of the tree that they are put into.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import runtime from './runtime.json' with { type: 'json' };

export const project = fileURLToPath(new URL('../..', import.meta.url));

export interface Platform {
  readonly arch: 'x64' | 'arm64';
  readonly libc: 'glibc' | 'musl';
}

export interface Binding {
  /** The package that the bundles import. */
  readonly name: string;
  /** The file in it that they import, which finds the binary of the platform. */
  readonly entry: string;
  /** The package that holds the binary of one platform. */
  readonly binaryOf: (platform: Platform) => string;
}

export const bindings: readonly Binding[] = [
  {
    name: '@mongodb-js/zstd',
    entry: 'bindings.js',
    binaryOf: ({ arch, libc }) => `@mongodb-js/zstd-linux-${arch}-${libc === 'musl' ? 'musl' : 'gnu'}`,
  },
  {
    name: '@node-rs/crc32',
    entry: 'index.js',
    binaryOf: ({ arch, libc }) => `@node-rs/crc32-linux-${arch}-${libc === 'musl' ? 'musl' : 'gnu'}`,
  },
];

interface Part {
  readonly name: string;
  readonly version: string;
  /** As npm writes it: sha512- and base64. */
  readonly integrity: string;
}

/** Node.js's own package. npm's registry has none for musl. */
export function nodePackage({ arch, libc }: Platform): Part | undefined {
  return libc === 'musl' ? undefined : { ...runtime.packages[arch], version: runtime.version };
}

/** Unpacks every part for `platform` into a folder of `folder`. @returns the folder of a package by its name */
export function fetchParts(platform: Platform, folder: string): (name: string) => string {
  const node = nodePackage(platform);
  const parts = [...(node === undefined ? [] : [node]), ...bindings.map(({ binaryOf }) => locked(binaryOf(platform)))];
  mkdirSync(folder, { recursive: true });
  const files = download(parts, folder);
  for (const part of parts) unpack(part, join(folder, files.get(part.name) ?? ''), join(folder, part.name));
  return (name) => join(folder, name);
}

function locked(name: string): Part {
  const lock = JSON.parse(readFileSync(join(project, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly version: string; readonly integrity: string }>>;
  };
  const entry = lock.packages[`node_modules/${name}`];
  if (entry === undefined) throw new Error(`package-lock.json has no ${name}`);
  return { name, ...entry };
}

/** @returns the file names by the packages' names */
function download(parts: readonly Part[], folder: string): Map<string, string> {
  const specifiers = parts.map(({ name, version }) => `${name}@${version}`);
  const flags = ['--json', '--ignore-scripts', '--prefer-offline', '--loglevel=error'];
  const output = check('npm', ['pack', ...flags, '--pack-destination', folder, ...specifiers], { cwd: folder });
  const packed = JSON.parse(output) as readonly { readonly name: string; readonly filename: string }[];
  // some versions of npm tell the name without its scope's sign
  return new Map(packed.map(({ name, filename }) => [name, filename.replace('@', '').replace('/', '-')]));
}

/** @throws when it is not byte for byte what was pinned */
function unpack({ name, version, integrity }: Part, file: string, into: string): void {
  const found = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
  if (found !== integrity)
    throw new Error(`${name}@${version} is not what was pinned: ${found} instead of ${integrity}`);
  mkdirSync(into, { recursive: true });
  check('tar', ['-xzf', file, '-C', into, '--strip-components=1', '--no-same-owner']);
}

/** Runs a tool to its end. @returns what it printed. @throws with what it said when it fails or is not there */
export function check(
  command: string,
  words: readonly string[],
  options: { readonly cwd?: string; readonly env?: Readonly<Record<string, string>> } = {},
): string {
  const { status, stdout, stderr, error } = spawnSync(command, words, {
    ...options,
    env: { ...process.env, ...options.env },
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (status !== 0) throw new Error(`${command} ${words.join(' ')}: ${error?.message ?? stderr}`);
  return stdout;
}
