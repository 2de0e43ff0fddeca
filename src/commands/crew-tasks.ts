/** What worker threads do, by the task's kind. */
import type { Archive } from '../archive/archive.ts';
import type { Keys } from '../codec/keys.ts';
import type { Storage } from '../storage/storage.ts';
import { restoreOver } from './basebackup-fetch/restore-over.ts';
import { type PartRestore, restorePart } from './basebackup-fetch/restore-part.ts';
import { restoreWindow, type WindowRestore } from './basebackup-fetch/restore-window.ts';
import { type PartBatch, storePart } from './basebackup-push/store-part.ts';
import { type Context, storageOf } from './context.ts';
import type { CrewTask, Progressing } from './crew.ts';
import { type VerifyBatch, verifyPart } from './verify/verify-part.ts';

type Work = (
  archive: Archive,
  task: CrewTask,
  options: { readonly signal: AbortSignal; readonly progress: Progressing },
) => Promise<unknown>;

/** What each is given, is what the command that asks for it puts there. */
const tasks: Readonly<Record<string, Work>> = {
  'store-part': (archive, { batch }, options) => storePart(archive, batch as PartBatch, options),
  'restore-part': (archive, { batch }, options) => restorePart(archive, batch as PartRestore, options),
  'restore-window': (archive, { batch }, options) => restoreWindow(archive, batch as WindowRestore, options),
  'restore-over': (archive, { batch }, options) => restoreOver(archive, batch as WindowRestore, options),
  'verify-part': (archive, { batch }, options) => verifyPart(archive, batch as VerifyBatch, options),
};

/** Does one task; `context.signal` is aborted, with the reason to throw, when it must end. */
export async function performTask(context: Context, task: CrewTask, progress: Progressing): Promise<unknown> {
  const work = Object.hasOwn(tasks, task.kind) ? tasks[task.kind] : undefined;
  if (work === undefined) throw new Error(`no worker knows the task "${task.kind}"`);
  const { systemIdentifier, keys } = task as unknown as { systemIdentifier: string; keys: Keys };
  const archive = { storage: await storageFor(context), systemIdentifier, keys };
  return work(archive, task, { signal: context.signal, progress });
}

/** One for all tasks of a thread: its connections are used again. */
const storages = new WeakMap<Context['settings'], Promise<Storage>>();

function storageFor(context: Context): Promise<Storage> {
  const known = storages.get(context.settings);
  if (known !== undefined) return known;
  const opened = storageOf(context);
  storages.set(context.settings, opened);
  return opened;
}
