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
  /** Take over what did not change since an earlier backup. */
  readonly incremental?: boolean | undefined;
  /** The earlier backup's name; else the newest one that is fit. */
  readonly parent?: string | undefined;
  /** A full one when the last full one is so old. */
  readonly fullEveryMs?: number | undefined;
  /** Are files as they were whose times, size and inode are? */
  readonly trustMtime?: boolean | undefined;
  /** What stands in parts older than this is stored afresh. */
  readonly maxPartAgeMs?: number | undefined;
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
