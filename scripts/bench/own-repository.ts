/** A repository of WAL-T for a contender: its settings file, the commands that use it, and how it becomes as new before a run. */
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { settingsTable } from '../../src/settings.ts';
import { filesBelow } from '../../test/support/folders.ts';
import { s3Settings } from '../../test/support/repository.ts';
import { launcher } from '../../test/support/run.ts';
import type { S3Endpoint } from '../../test/support/s3-server.ts';
import { call } from './call.ts';

interface Where {
  /** Holds the settings file, and the repository unless that is in a bucket. */
  readonly folder: string;
  readonly name: string;
  readonly bucket?: S3Endpoint;
  readonly server: { readonly dataDirectory: string };
  /** A segment that is pushed before each run, so that the cluster's entry is there, and belongs to none. */
  readonly entrySegment: string;
}

export interface OwnRepository {
  readonly config: string;
  /** Nothing is archived but the entry segment, and the cluster believes it. No segment may wait meanwhile. */
  renew(): void;
  /** The same repository is reached elsewhere from now on. */
  reachAt(bucket: S3Endpoint): void;
  /** How many segments of a run are archived; undefined in a bucket. */
  segments(): number | undefined;
  /** Of them. */
  storedBytes(): number | undefined;
}

export function ownRepository({ folder, name, bucket, server, entrySegment }: Where): OwnRepository {
  const config = join(folder, `${name}.env`);
  const root = join(folder, name);
  let prefix = '';
  const configure = (settings: Readonly<Record<string, string>>) => {
    const lines = Object.entries(settings).map(([key, value]) => `${key}=${value}\n`);
    writeFileSync(config, lines.join(''));
  };
  const init = () => call(launcher('wal-t'), ['init'], { WALT_CONFIG: config });
  if (bucket === undefined) {
    configure({ WALT_REPO: `file://${root}` });
    init();
  }
  const archived = () =>
    filesBelow(root).filter((path) => /\/[0-9A-F]{24}$/.test(path) && !path.endsWith(`/${entrySegment}`));
  return {
    config,
    renew: () => {
      if (bucket === undefined) {
        for (const cluster of readdirSync(root).filter((entry) => /^\d+$/.test(entry))) {
          rmSync(join(root, cluster, 'wal'), { recursive: true, force: true });
        }
      } else {
        prefix = `${name}-${process.pid}-${Date.now().toString(36)}`; // under a prefix of its own nothing has to be deleted
        configure(s3Settings(bucket, prefix));
        init();
      }
      rmSync(join(server.dataDirectory, 'pg_wal/.wal-t'), { recursive: true, force: true });
      call(launcher('wal-push'), [join(server.dataDirectory, 'pg_wal', entrySegment)], { WALT_CONFIG: config });
    },
    reachAt: (elsewhere) => configure(s3Settings(elsewhere, prefix)),
    segments: () => (bucket === undefined ? archived().length : undefined),
    storedBytes: () => (bucket === undefined ? sizeOfAll(root, archived()) : undefined),
  };
}

function sizeOfAll(root: string, paths: readonly string[]): number {
  return paths.reduce((sum, path) => sum + statSync(join(root, path)).size, 0);
}

/** For an archive_command or restore_command: the shell's words before `%p` and `%f`. `settings` that this WAL-T does not know are left out. */
export function ownCommand(
  name: 'wal-push' | 'wal-fetch',
  config: string,
  settings: Readonly<Record<string, string>> = {},
): string {
  const known = Object.entries(settings).filter(([key]) => hasSetting(key));
  const variables = Object.entries({ WALT_CONFIG: config, ...Object.fromEntries(known) });
  return [...variables.map(([key, value]) => `${key}=${value}`), launcher(name)].join(' ');
}

/** Can this WAL-T be told to do one file for each call? */
export function hasSetting(name: string): boolean {
  return settingsTable.some((setting) => setting.name === name);
}
