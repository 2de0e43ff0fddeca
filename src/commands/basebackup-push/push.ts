/** A base backup that is being taken: what all of its steps are given. */
import { availableParallelism } from 'node:os';
import type { Archive } from '../../archive/archive.ts';
import type { BackupServer } from '../../cluster/server.ts';
import type { ManifestChecksums } from '../../postgres/file-checksum.ts';
import type { Context } from '../context.ts';

export interface BasebackupPushArguments {
  /** Else WALT_PGDATA, else PGDATA. */
  readonly pgdata?: string | undefined;
  readonly checkpoint: 'fast' | 'spread';
  /** Bytes per second that are read, of all workers together. */
  readonly maxRate?: number | undefined;
  readonly annotations: Readonly<Record<string, string>>;
  readonly manifestChecksums: ManifestChecksums;
  readonly label?: string | undefined;
}

export interface Push extends Context {
  readonly archive: Archive;
  readonly server: BackupServer;
  /** Absolute. */
  readonly dataDirectory: string;
  readonly args: BasebackupPushArguments;
  readonly startedAt: Date;
}

export function versionsOf({ server }: Push) {
  return { postgresMajor: server.facts.major, catalogVersion: server.facts.catalogVersion };
}

/** A production server has other work to do: half the cores, and four at most. */
export function workersFor({ settings }: Context): number {
  return settings.workers ?? Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));
}
