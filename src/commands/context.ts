/** What every command is given: nothing of the process itself, which only `cli/` touches. */
import type { Settings } from '../config.ts';
import { ConfigurationError } from '../errors.ts';
import type { Log } from '../log.ts';
import { openStorage, type Patience, type StorageSettings } from '../storage/open.ts';
import type { Storage } from '../storage/storage.ts';
import type { Crew } from './crew.ts';

export interface Context {
  readonly settings: Settings;
  readonly log: Log;
  /** Aborted, with the reason to throw, when the command must end. */
  readonly signal: AbortSignal;
  readonly workingDirectory: string;
  /** This host's name, for people who read the archive. */
  readonly host: string;
  /** Which archive is meant, as the settings were given: see place.ts. Undefined: nothing is done ahead of PostgreSQL. */
  readonly place?: string;
  /** libpq's environment: every `PG…` variable, and HOME, where it looks for its files. */
  readonly libpq: Readonly<Record<string, string>>;
  /** Tells a person who waits how far the work is; undefined where nobody wants to know. */
  readonly report?: (progress: Progress) => void;
  /** Worker threads, so many; to be closed by who opened them. */
  readonly crew: (size: number) => Crew;
  /** Another way from the settings to a storage than by WALT_REPO's scheme. */
  readonly openStorage?: (settings: StorageSettings) => Storage | Promise<Storage>;
}

export interface Progress {
  /** What was done to the bytes: "copied". */
  readonly what: string;
  readonly doneBytes: number;
  /** As far as known; 0 where it is not. */
  readonly totalBytes: number;
  /** Done so far. */
  readonly files: number;
}

/** The WALT_REPO setting. @throws ConfigurationError when it is not set. */
export function repositoryUrl({ settings }: Context): string {
  if (settings.repository !== undefined) return settings.repository;
  throw new ConfigurationError('no repository is set', {
    hint: 'Set WALT_REPO=s3://bucket/prefix or WALT_REPO=file:///path in /etc/wal-t.env, in a file named by WALT_CONFIG, or in the environment.',
  });
}

/** The storage that the settings name, for a command that has `patience`. */
export async function storageOf(context: Context, patience?: Patience): Promise<Storage> {
  const { s3, connections, times } = context.settings;
  return (context.openStorage ?? openStorage)({ repository: repositoryUrl(context), s3, connections, times, patience });
}

/** A signal that is aborted with `late()` after `limitMs`, or when the command must end. */
export function withDeadline(signal: AbortSignal, limitMs: number, late: () => Error): AbortSignal {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(late()), limitMs);
  timer.unref();
  return AbortSignal.any([signal, controller.signal]);
}
