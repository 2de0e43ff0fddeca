/** What a contender of the backlog is, and what all of them archive. */
import { mkdirSync, rmSync } from 'node:fs';
import { giveAway } from '../../test/support/account.ts';
import type { PostgresServer } from '../../test/support/postgres.ts';

export interface Scene {
  readonly folder: string;
  readonly server: PostgresServer;
  /** That wait, in order. */
  readonly segments: readonly string[];
  readonly entrySegment: string;
  /** Each segment compressed by zstd at level 3. */
  readonly compressed: readonly string[];
}

/** An archive_command, or one process that does the like. */
export interface Archiver {
  readonly name: string;
  readonly command: string;
  /** One process for all segments: there is no server to call it. */
  readonly isWhole?: boolean;
  /** So few take part, where the whole backlog would take too long. */
  readonly count?: number;
  /** Nothing of a run before is there any more. */
  readonly renew: () => Promise<void> | void;
  /** How many segments it has archived, where that can be seen. */
  readonly archived?: () => number | undefined;
  readonly storedBytes?: () => number | undefined;
}

/** A folder of the servers' account with nothing in it. */
export function makeEmpty(folder: string): string {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  giveAway(folder);
  return folder;
}
