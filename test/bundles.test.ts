/** What each bundle may contain: the two that PostgreSQL calls for every segment start fast and say little when they break. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkout } from './support/installation.ts';

/** Packages, and the files of `src/` by folder. A name that is added here costs every call: say in the commit why it is worth it. */
interface Contents {
  readonly packages: readonly string[];
  readonly src: Readonly<Record<string, string>>;
}

/** What is loaded only for a bucket or for keys, from chunks of its own. */
const onDemand = {
  packages:
    /^(?:@aws-sdk|@aws|@smithy)\/|^(?:@scure\/base|https-proxy-agent|agent-base|debug|ms|proxy-agent-negotiate|bowser)$|^(?:p-retry|is-network-error)$/,
  src: { codec: 'age-text', storage: 's3 s3-client s3-errors s3-requests s3-upload s3-url' },
} as const;

const shared = {
  '': 'bytes config durable-file errors left-overs limits log settings',
  codec: 'age age-keys age-stream header keys object zstd',
} as const;

const allowed: Readonly<Record<string, Contents>> = {
  'wal-push': {
    packages: ['leven', 'xxhash-wasm'],
    src: {
      ...shared,
      archive: 'keys repository wal-archive',
      cli: 'aws-environment parsed run',
      'cli/main': 'wal-push',
      cluster: 'data-directory known-repository wal-file',
      commands: 'context init keys wal-push',
      postgres: 'backup-history control-file lsn timeline-history wal-file-name wal-page',
      storage: 'deadline file file-naming file-patience open probe storage',
    },
  },
  'wal-fetch': {
    packages: ['is-network-error', 'leven', 'p-retry', 'xxhash-wasm'],
    src: {
      ...shared,
      archive: 'keys repository wal-archive wal-end',
      cli: 'aws-environment parsed run',
      'cli/main': 'wal-fetch',
      cluster: 'data-directory',
      commands: 'context keys wal-fetch',
      postgres: 'control-file lsn timeline-history wal-file-name',
      storage: 'deadline file file-naming file-patience open storage',
    },
  },
};

interface Bundle {
  readonly name: string;
  /** Loaded at every call. */
  readonly inputs: readonly string[];
  readonly onDemand: readonly string[];
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

function packagesOf(inputs: readonly string[]): string[] {
  const names = inputs.map((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined))].sort();
}

function sourcesOf(inputs: readonly string[]): string[] {
  return inputs.filter((path) => !path.includes('node_modules/')).sort();
}

const expectedSources = (src: Contents['src']): string[] =>
  Object.entries(src)
    .flatMap(([folder, names]) => names.split(' ').map((name) => join('src', folder, `${name}.ts`)))
    .sort();

it('is one bundle for each executable', () => {
  expect(bundles.map(({ name }) => name).sort()).toEqual(['wal-fetch', 'wal-push', 'wal-t']);
});

describe.each(Object.entries(allowed))('the bundle of %s', (name, contents) => {
  const bundle = bundles.find((one) => one.name === name) ?? { name, inputs: [], onDemand: [] };

  it('holds these packages and no other: no yargs', () => {
    expect(packagesOf(bundle.inputs)).toEqual(contents.packages);
  });

  it('holds these files of ours and no other', () => {
    expect(sourcesOf(bundle.inputs)).toEqual(expectedSources(contents.src));
  });

  it('leaves the S3 client and the text forms of keys to the runs that need them', () => {
    expect(sourcesOf(bundle.onDemand)).toEqual(expectedSources(onDemand.src));
    expect(packagesOf(bundle.onDemand).filter((one) => !onDemand.packages.test(one))).toEqual([]);
  });
});

/** One regular expression of the package emoji-regex, which yargs uses, is a single line of 14 KB and cannot throw. */
const unbreakable = '\\uFE0F?\\u20E3|';

describe.each(bundles)('the built $name', ({ name }) => {
  const path = join(checkout, 'dist', `${name}.mjs`);

  it('has short lines: an uncaught error prints the one it stands in', () => {
    const chunks = readdirSync(join(checkout, 'dist/chunks')).filter((file) => file.startsWith(`${name}-`));
    const files = [path, ...chunks.map((file) => join(checkout, 'dist/chunks', file))];
    const long = files.flatMap((file) => readFileSync(file, 'utf8').split('\n')).filter((line) => line.length > 1000);
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
