/** What all contenders of the backups' bench share: the cluster, where they store, and what they must leave behind. */
import { mkdirSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { giveAway } from '../../test/support/account.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';
import { call } from './call.ts';
import { sizeOf } from './cluster.ts';
import type { Contender } from './measure.ts';

export interface Scene {
  readonly folder: string;
  readonly server: PostgresServer;
  readonly size: ReturnType<typeof sizeOf>;
  /** What each contender has stored, in bytes, by its name. */
  readonly stored: Map<string, number>;
  /** The settings that the server archives by: the contender's whose turn it is. */
  readonly config: string;
}

/** Removes what was restored when it is of the right size. */
export function expectRestored({ size }: Scene, name: string, target: string): void {
  const found = sizeOf(target);
  if (found.files !== size.files || found.bytes !== size.bytes) {
    throw new Error(`${name} restored ${found.files} files, ${found.bytes} bytes, not ${size.files}, ${size.bytes}`);
  }
  rmSync(target, { recursive: true, force: true });
}

export function makeEmpty(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  giveAway(folder);
}

/** Of all files below the folder whose path fits; each once, since newer Node.js follows links, such as pgBackRest's `latest`. */
export function bytesIn(folder: string, kind: RegExp): number {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => realpathSync(join(entry.parentPath, entry.name)));
  return [...new Set(paths)].filter((path) => kind.test(path)).reduce((sum, path) => sum + statSync(path).size, 0);
}

/** What the one before has written is on the disk before the next one begins: each waits for its own bytes alone. */
export function settled(contenders: readonly Contender[]): Contender[] {
  return contenders.map((contender) => ({
    ...contender,
    before: () => {
      contender.before?.();
      call('sync', []);
    },
  }));
}
