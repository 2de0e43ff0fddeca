/**
 * `pg_wal/.wal-t`: folders for what a command did ahead of PostgreSQL, which bin/ahead.sh hands out. Each is bound, by its file `bound`, to
 * one start of the server, so that no crash, copy, snapshot or rewind carries it on, and to the settings as they were given (H4, H9).
 */
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemErrorCode } from '../errors.ts';
import { temporarySuffix } from '../left-overs.ts';
import { readServerStart } from './postmaster-pid.ts';

/** Lines; the first is the server's start, the second what else the launcher must know. */
export type Binding = string;

/** Undefined where no server runs on the data directory: nobody would ask next. `place`: see place.ts; `words`: without a line feed. */
export async function bindingOf(dataDirectory: string, place: string, words = ''): Promise<Binding | undefined> {
  const start = await readServerStart(dataDirectory);
  return start === undefined ? undefined : `${start}\n${words}\n${place}`;
}

/** Makes the folder below `walFolder`, if it is not there. Nothing of it outlives the server: so nothing is fsynced. */
export async function makeBoundFolder(folder: string, binding: Binding, walFolder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  // made by root by hand, it would shut the server's own commands out
  const { uid, gid } = await stat(walFolder);
  for (let path = folder; path.length > walFolder.length; path = dirname(path)) {
    await chown(path, uid, gid).catch(() => undefined);
  }
  if ((await readBinding(folder)) === binding) return;
  const temporary = join(folder, `bound.wal-t-${temporarySuffix()}`);
  await writeFile(temporary, binding, { mode: 0o600 });
  await rename(temporary, join(folder, 'bound'));
}

/** Undefined when there is none, or it is another user's: a call by root made it, and it binds nothing of ours. */
export async function readBinding(folder: string): Promise<Binding | undefined> {
  return readFile(join(folder, 'bound'), 'utf8').catch((error: unknown) => {
    if (['ENOENT', 'EACCES'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw error;
  });
}

/** Which start of the server: see `readServerStart`. */
export function startOf(binding: Binding): string {
  return binding.slice(0, binding.indexOf('\n'));
}

/** Was it made under this start of the server? */
export function isOfSameStart(found: Binding | undefined, own: Binding): boolean {
  return found !== undefined && startOf(found) === startOf(own);
}

export function removeBoundFolder(folder: string): Promise<void> {
  return rm(folder, { recursive: true, force: true });
}
