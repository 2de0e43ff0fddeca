/** pgBackRest as the contenders use it: one stanza named bench, zstd level 3, everything in one folder. */
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../../test/support/wait.ts';
import { call } from './call.ts';

interface Stanza {
  /** Holds the configuration file, and below `pgbackrest` repository, locks and spool. */
  readonly folder: string;
  readonly server: { readonly dataDirectory: string; readonly folder: string };
  readonly settings?: Readonly<Record<string, string>>;
}

export interface PgBackRest {
  /** The executable with the words that each of its commands needs. */
  readonly command: readonly string[];
  readonly repository: string;
  /** Forgets all WAL that was archived; the stanza stays. */
  forgetWal(): void;
  /** How many segments are archived. */
  segments(): number;
  /** Of them. */
  walBytes(): number;
  /** Ends the use of its spool: whatever it still does ends, and what it has is forgotten. */
  settle(): Promise<void>;
}

/** Undefined when it is not on PATH. The server must run. */
export function preparePgBackRest(
  { folder, server, settings = {} }: Stanza,
  name = 'pgbackrest',
): PgBackRest | undefined {
  if (spawnSync('pgbackrest', ['version']).status !== 0) return undefined;
  const config = join(folder, `${name}.conf`);
  const [repository, spool] = [join(folder, name), join(folder, `${name}-spool`)];
  const global = {
    'repo1-path': repository,
    'spool-path': spool,
    'log-path': folder,
    'lock-path': join(folder, `${name}-lock`),
    'compress-type': 'zst',
    'compress-level': '3',
    'log-level-console': 'warn',
    'log-level-file': 'off',
    ...settings,
  };
  const stanza = { 'pg1-path': server.dataDirectory, 'pg1-socket-path': server.folder, 'pg1-user': 'postgres' };
  const lines = (section: Readonly<Record<string, string>>) =>
    Object.entries(section).map(([key, value]) => `${key}=${value}`);
  writeFileSync(config, ['[global]', ...lines(global), '[bench]', ...lines(stanza), ''].join('\n'));
  const words = [`--config=${config}`, '--stanza=bench'];
  call('pgbackrest', [...words, 'stanza-create']);
  // its segments stand in folders of the names' first sixteen digits; what stanza-create made stays
  const wal = () => readdirSync(join(repository, 'archive'), { recursive: true, withFileTypes: true });
  const segments = () => wal().filter(({ name }) => /^[0-9A-F]{24}-/.test(name));
  return {
    command: ['pgbackrest', ...words],
    repository,
    forgetWal: () => {
      for (const entry of wal()) {
        if (/^[0-9A-F]{16}$/.test(entry.name))
          rmSync(join(entry.parentPath, entry.name), { recursive: true, force: true });
      }
    },
    segments: () => segments().length,
    walBytes: () => segments().reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0),
    settle: async () => {
      await waitFor('pgbackrest to end', () => spawnSync('pgrep', ['-f', config]).status !== 0);
      rmSync(spool, { recursive: true, force: true });
    },
  };
}
