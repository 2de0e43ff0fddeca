/** What retention decides about, and what it decides. Types alone. */
import type { Lsn } from '../postgres/lsn.ts';
import type { BackupState } from './backup-catalogue.ts';

/** Part numbers, both ends included. */
export type PartRange = readonly [first: number, last: number];

/** What retention has to know of a backup: all backups of one cluster are given, whatever their state. */
export interface RetainedBackup {
  readonly id: string;
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly consistentLsn: Lsn;
  readonly startedAt: Date;
  readonly finishedAt: Date;
  readonly state: BackupState;
  /** Of its own parts. */
  readonly storedBytes: number;
  /** The parts that it needs, by the backup that stored them, itself included. */
  readonly uses: ReadonlyMap<string, readonly PartRange[]>;
  /** Of a running one's lease. */
  readonly walFloor?: Lsn;
}

export interface Pin {
  readonly backup: string;
  readonly until: Date | 'for ever';
}

/** Where a timeline leaves its parent, as history files tell. */
export interface TimelineFork {
  readonly timeline: number;
  readonly parent: number;
  readonly switchLsn: Lsn;
}

export interface RetentionState {
  readonly backups: readonly RetainedBackup[];
  /** A backup's last record alone. */
  readonly pins: readonly Pin[];
  readonly forks: readonly TimelineFork[];
  /** Those with WAL in the archive. */
  readonly timelines: readonly number[];
  /**
   * When the newest segment of each timeline was stored, by the storage's clock. Without it every timeline counts as alive, and the
   * one with the highest number as the cluster's own; then a backup on a timeline that was left long ago stays as long as `keepDays` is set.
   */
  readonly lastWalAt?: ReadonlyMap<number, Date>;
  /** The parts that are there, by backup. Without it only parts of the backups that go are named. */
  readonly storedParts?: ReadonlyMap<string, readonly number[]>;
}

/** Which backups to keep: those that any of its members keeps, and all when none but `sweep` is set. Counts are at least 1. */
export interface Policy {
  /** The newest so many, of any kind. */
  readonly retain?: number;
  /** Whatever it takes to restore each moment of the last so many days. */
  readonly keepDays?: number;
  /** The newest one of each of the last so many days (UTC), weeks (ISO 8601), months and years that have one. */
  readonly keepDaily?: number;
  readonly keepWeekly?: number;
  readonly keepMonthly?: number;
  readonly keepYearly?: number;
  /** All that did not finish before this time; or all that are not older than the backup of this id. */
  readonly before?: Date | string;
  /** All but the one of this id. */
  readonly backup?: string;
  /** Says in words that nothing but left-overs goes; each plan removes these anyway. */
  readonly sweep?: boolean;
}

export interface Decision {
  readonly id: string;
  readonly reasons: readonly string[];
}

/** WAL of one timeline that stays: the bytes from `startLsn` on and before `endLsn`. */
export interface NeededWal {
  readonly timeline: number;
  readonly startLsn: Lsn;
  /** `open`: all that there is, and all that comes. */
  readonly endLsn: Lsn | 'open';
  readonly why: string;
}

export interface RetentionPlan {
  readonly keep: readonly Decision[];
  /** Backups that go, and unfinished ones: left-overs, with or without a manifest. */
  readonly remove: readonly Decision[];
  /** Parts that nothing that stays needs, by the backup that stored them. */
  readonly parts: ReadonlyMap<string, readonly PartRange[]>;
  /** By timeline and start. History files always stay (H14). */
  readonly walNeeded: readonly NeededWal[];
  /** The timelines that were judged: the WAL of all others stays, whatever `walNeeded` says. */
  readonly timelines: readonly number[];
  /** Why nothing goes at all, though something was asked for. */
  readonly refusal?: string;
}
