/** What a check says, and what a check is. Each check of `wal-t check` is a file of this folder; the order is in `../check.ts`. */
import type { Subject } from './subject.ts';

/**
 * ok       as it should be
 * warning  nothing is lost yet, but somebody should act
 * failed   archiving, backups or a restore do not work, or soon will not
 * skipped  it was not looked at, because what it needs is not there
 */
export type Level = 'ok' | 'warning' | 'failed' | 'skipped';

/** Names of figures are metrics' names without their prefix: snake case, the unit last (`_seconds`, `_bytes`). */
export type Figures = Readonly<Record<string, number>>;

export interface Finding {
  readonly level: Level;
  /** In lower case, without a full stop: what was seen. */
  readonly message: string;
  readonly detail?: string | undefined;
  /** A sentence that says what to do. */
  readonly hint?: string | undefined;
  readonly figures?: Figures | undefined;
}

export interface Check {
  /** As `--only` and `--skip` take it. */
  readonly name: string;
  /** What it looks at, for `--help`. */
  readonly about: string;
  /**
   * A WalTError that it throws is a failed finding; a `NotLookedAt` a skipped one. Whatever it writes, it takes back.
   * Findings that are not ok come first to mind: an empty list is none at all, so give at least one.
   */
  look(subject: Subject): Promise<Finding | readonly Finding[]>;
}

type More = Omit<Finding, 'level' | 'message'>;

export const ok = (message: string, more: More = {}): Finding => ({ level: 'ok', message, ...more });
export const warning = (message: string, more: More = {}): Finding => ({ level: 'warning', message, ...more });
export const failed = (message: string, more: More = {}): Finding => ({ level: 'failed', message, ...more });

/** What a check needs is not there, and that is nobody's fault, or another check's to tell. */
export class NotLookedAt extends Error {}
