/** What every command is given: nothing of the process itself, which only `cli/` touches. */
import type { Settings } from '../config.ts';
import { ConfigurationError } from '../errors.ts';
import type { Log } from '../log.ts';
import { openStorage, type Patience, type StorageSettings } from '../storage/open.ts';
import type { Storage } from '../storage/storage.ts';

export interface Context {
  readonly settings: Settings;
  readonly log: Log;
  /** Aborted, with the reason to throw, when the command must end. */
  readonly signal: AbortSignal;
  readonly workingDirectory: string;
  /** This host's name, for people who read the archive. */
  readonly host: string;
  /** Another way from the settings to a storage than by WALT_REPO's scheme. */
  readonly openStorage?: (settings: StorageSettings) => Storage | Promise<Storage>;
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
