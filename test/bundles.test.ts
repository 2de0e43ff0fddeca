/** What each bundle may contain: the two that PostgreSQL calls for every segment start fast and say little when they break. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkout } from './support/installation.ts';

/** Packages, and the files of `src/` by folder. A name that is added here costs every call: say in the commit why it is worth it. */
interface Contents {
  readonly packages: readonly string[];
  readonly src: Readonly<Record<string, string>>;
}

const shared = {
  '': 'bytes config durable-file errors left-overs limits log',
  codec: 'object zstd',
} as const;

const allowed: Readonly<Record<string, Contents>> = {
  'wal-push': {
    packages: ['leven', 'xxhash-wasm'],
    src: {
      ...shared,
      archive: 'keys repository wal-archive',
      cli: 'parsed run',
      'cli/main': 'wal-push',
      cluster: 'data-directory known-repository wal-file',
      commands: 'context init wal-push',
      postgres: 'backup-history control-file lsn timeline-history wal-file-name wal-page',
      storage: 'deadline file file-naming open probe storage',
    },
  },
  'wal-fetch': {
    packages: ['is-network-error', 'leven', 'p-retry', 'xxhash-wasm'],
    src: {
      ...shared,
      archive: 'keys repository wal-archive wal-end',
      cli: 'parsed run',
      'cli/main': 'wal-fetch',
      cluster: 'data-directory',
      commands: 'context wal-fetch',
      postgres: 'control-file lsn timeline-history wal-file-name',
      storage: 'deadline file file-naming open storage',
    },
  },
};

interface Bundle {
  readonly name: string;
  readonly inputs: readonly string[];
}

const { stdout, stderr, status } = spawnSync(process.execPath, ['scripts/build.mjs', '--list'], {
  cwd: checkout,
  encoding: 'utf8',
});
if (status !== 0) throw new Error(stderr);
const bundles = stdout
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Bundle);

function packagesOf({ inputs }: Bundle): string[] {
  const names = inputs.map((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined))].sort();
}

function sourcesOf({ inputs }: Bundle): string[] {
  return inputs.filter((path) => !path.includes('node_modules/')).sort();
}

const expectedSources = ({ src }: Contents): string[] =>
  Object.entries(src)
    .flatMap(([folder, names]) => names.split(' ').map((name) => join('src', folder, `${name}.ts`)))
    .sort();

it('is one bundle for each executable', () => {
  expect(bundles.map(({ name }) => name).sort()).toEqual(['wal-fetch', 'wal-push', 'wal-t']);
});

describe.each(Object.entries(allowed))('the bundle of %s', (name, contents) => {
  const bundle = bundles.find((one) => one.name === name) ?? { name, inputs: [] };

  it('holds these packages and no other: no yargs', () => {
    expect(packagesOf(bundle)).toEqual(contents.packages);
  });

  it('holds these files of ours and no other', () => {
    expect(sourcesOf(bundle)).toEqual(expectedSources(contents));
  });
});

/** One regular expression of the package emoji-regex, which yargs uses, is a single line of 14 KB and cannot throw. */
const unbreakable = '\\uFE0F?\\u20E3|';

describe.each(bundles)('the built $name', ({ name }) => {
  const path = join(checkout, 'dist', `${name}.mjs`);

  it('has short lines: an uncaught error prints the one it stands in', () => {
    const lines = readFileSync(path, 'utf8').split('\n');
    const long = lines.filter((line) => line.length > 800);
    expect(long.filter((line) => name !== 'wal-t' || !line.includes(unbreakable))).toEqual([]);
    expect(long.length).toBeLessThanOrEqual(1);
  });

  it('prints less than 2 KB into the log when an error is not caught', () => {
    const breaking = 'data:text/javascript,process.on = undefined';
    const ended = spawnSync(process.execPath, ['--import', breaking, path, 'a', 'b'], { encoding: 'utf8' });
    expect(ended.status).toBe(1);
    expect(ended.stderr).toContain(`dist/${name}.mjs:`);
    expect(ended.stderr).toContain('TypeError: ');
    expect(Buffer.byteLength(ended.stderr)).toBeLessThan(2048);
    expect(ended.stdout).toBe('');
  });
});
