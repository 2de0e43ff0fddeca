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
  readonly onDemand: Readonly<Record<string, string>>;
}

/** What is loaded only for a bucket or for keys, from chunks of its own. */
const onDemand = {
  packages:
    /^(?:@aws-sdk|@aws|@smithy)\/|^(?:@scure\/base|https-proxy-agent|agent-base|debug|ms|proxy-agent-negotiate|bowser)$|^(?:p-retry|is-network-error|xxhash-wasm)$/,
  src: { storage: 's3 s3-bucket s3-client s3-delete s3-errors s3-read s3-requests s3-sweep s3-upload s3-url' },
} as const;
/** Text forms where there are keys; a zstd where Node.js has none. */
const keysOnDemand = { ...onDemand.src, codec: 'age-text zstd-binding' };
/**
 * What reads WAL, for `wal-fetch --beside`; the configuration, for a standby where there is a later timeline; and for recoveries batches,
 * and the reader in the background.
 */
const fetchOnDemand = {
  '': 'byte-path',
  cli: 'background seldom-collected',
  cluster: 'configuration-files prefetch-folder prefetch-reader recovery-target',
  commands: 'bounded-work',
  'commands/wal-fetch': 'ahead ahead-plan ahead-segment beside left-timeline reader',
  postgres: 'wal-crc wal-events wal-page wal-record wal-scanner',
};

/** For a conflict: whether it is one. */
const pushOnDemand = { archive: 'wal-behind', 'commands/wal-fetch': 'deliver', 'commands/wal-push': 'left-timeline' };

/** What base backups alone use: neither an archiver nor a server in recovery waits for it. */
const ofBaseBackups = /^(?:pg(?:-.*|pass)?|postgres-.*|cli-progress|yargs(?:-parser)?|@node-rs\/crc32)$/;

const shared = {
  '': 'bytes config durable-file errors left-overs limits log place settings',
  codec: 'age age-keys age-stream header keys object zstd zstd-own',
} as const;

const allowed: Readonly<Record<string, Contents>> = {
  'wal-push': {
    packages: ['leven'],
    src: {
      ...shared,
      codec: `${shared.codec} zstd-compress`,
      archive: 'archive keys repository wal-archive',
      cli: 'aws-environment parsed run seldom-collected',
      'cli/main': 'wal-push',
      // what waits besides is looked for at each call
      cluster: 'ahead archive-status data-directory known-repository postmaster-pid prefetched push-markers wal-file',
      commands: 'bounded-work context init keys wal-push',
      'commands/wal-push': 'ahead cluster push',
      postgres: 'backup-history control-file lsn timeline-history wal-file-name wal-page',
      storage: 'deadline file file-naming file-patience open probe storage',
    },
    onDemand: { ...keysOnDemand, ...pushOnDemand },
  },
  'wal-fetch': {
    packages: ['is-network-error', 'leven', 'p-retry'],
    src: {
      ...shared,
      archive: 'archive keys repository wal-archive wal-behind wal-end',
      cli: 'aws-environment parsed run',
      'cli/main': 'wal-fetch',
      cluster: 'ahead data-directory last-refused postmaster-pid prefetched',
      commands: 'context keys wal-fetch which-cluster',
      'commands/wal-fetch': 'deliver own-segment prepare trying true-part',
      postgres: 'control-file lsn timeline-history wal-file-name',
      storage: 'deadline file file-naming file-patience open storage',
    },
    onDemand: { ...keysOnDemand, ...fetchOnDemand },
  },
  worker: {
    packages: [],
    src: {
      '': 'byte-path bytes durable-file errors left-overs limits log',
      archive: 'archive extents file-hashes files-line keys part part-ranges range-walk',
      cli: 'large-garbage thread-messages worker-thread',
      'cli/main': 'worker',
      cluster: 'data-file found-file restored-file scattered-files unchanged-file',
      codec:
        'age age-keys age-stream header keys object seekable streamed streamed-ranges tar zstd zstd-compress zstd-own',
      commands: 'context crew-tasks page-rules part-files',
      'commands/basebackup-fetch': 'batch piece-list read-back restore-over restore-part restore-window wanted-ranges',
      'commands/basebackup-push': 'changed-file pace part-tar store-part visible-pages',
      'commands/verify': 'verify-part',
      postgres: 'backup-manifest file-checksum page page-changes page-sum relation-file',
      storage: 'deadline file file-naming file-patience open storage',
    },
    onDemand: { ...onDemand.src, codec: 'zstd-binding' },
  },
};

/** Of `wal-t` only the packages: its files are many, and what a subcommand needs is loaded by it. */
const walTPackages = {
  atOnce:
    '@scure/base ansi-regex ansi-styles cliui emoji-regex escalade get-caller-file get-east-asian-width is-network-error ' +
    'leven p-retry string-width strip-ansi wrap-ansi y18n yargs yargs-parser',
  onDemand:
    '@opentelemetry/api ansi-regex bintrees cli-progress croner emoji-regex is-fullwidth-code-point pg pg-cloudflare ' +
    'pg-connection-string pg-int8 pg-pool pg-protocol pg-types pgpass postgres-array postgres-bytea postgres-date ' +
    'postgres-interval prom-client split2 string-width strip-ansi tdigest xtend',
} as const;

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

it('is one bundle for each executable that is not wal-t under another name, and one for worker threads', () => {
  expect(bundles.map(({ name }) => name).sort()).toEqual(['wal-fetch', 'wal-push', 'wal-t', 'worker']);
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
    expect(sourcesOf(bundle.onDemand)).toEqual(expectedSources(contents.onDemand));
    expect(packagesOf(bundle.onDemand).filter((one) => !onDemand.packages.test(one))).toEqual([]);
  });
});

describe.each([
  ['wal-push', []],
  ['wal-fetch', ['"@node-rs/crc32"']], // to read WAL for --beside
])('the bundle of %s', (name, nativeOnDemand) => {
  const bundle = bundles.find((one) => one.name === name) ?? { name, inputs: [], onDemand: [] };
  const nativeIn = (path: string) => readFileSync(path, 'utf8').match(/["'](?:@node-rs\/|pg-native)[^"']*["']/g) ?? [];

  it('holds nothing that base backups alone use, neither at once nor on demand, nor asks Node.js for it', () => {
    const packages = packagesOf([...bundle.inputs, ...bundle.onDemand]);
    expect(packages.filter((one) => ofBaseBackups.test(one))).toEqual([]);
    expect(nativeIn(join(checkout, 'dist', `${name}.mjs`))).toEqual([]);
    expect(chunksOf(name).flatMap(nativeIn)).toEqual(nativeOnDemand);
  });
});

describe('the bundle of wal-t', () => {
  const bundle = bundles.find(({ name }) => name === 'wal-t') ?? { name: '', inputs: [], onDemand: [] };

  it('holds these packages and no other: what connects to a server and draws progress is loaded on demand', () => {
    expect(packagesOf(bundle.inputs)).toEqual(walTPackages.atOnce.split(' '));
    const later = packagesOf(bundle.onDemand).filter((one) => !onDemand.packages.test(one));
    expect(later).toEqual(walTPackages.onDemand.split(' '));
  });

  it('asks Node.js for the native CRC32C on demand alone', () => {
    expect(readFileSync(join(checkout, 'dist/wal-t.mjs'), 'utf8')).not.toMatch(nativeCrc);
  });
});

/** Imported at once: a call in `import("…")` is another thing. */
const nativeCrc = /from\s*"@node-rs\/crc32"/;

/** The paths of what a built bundle loads on demand. */
function chunksOf(name: string): string[] {
  const folder = join(checkout, 'dist/chunks');
  return readdirSync(folder)
    .filter((file) => file.startsWith(`${name}-`))
    .map((file) => join(folder, file));
}

/** One regular expression of the package emoji-regex, of which yargs and cli-progress each use another version, is a single line of 14 KB and cannot throw. */
const unbreakable = /\\uFE0F\??\\u20E3\|/;

describe.each(bundles)('the built $name', ({ name }) => {
  const path = join(checkout, 'dist', `${name}.mjs`);

  it('has short lines: an uncaught error prints the one it stands in', () => {
    const files = [path, ...chunksOf(name)];
    const long = files.flatMap((file) => readFileSync(file, 'utf8').split('\n')).filter((line) => line.length > 1000);
    expect(long.filter((line) => name !== 'wal-t' || !unbreakable.test(line))).toEqual([]);
    expect(long.length).toBeLessThanOrEqual(2);
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
