/** Temporary folders of a test, given to the servers' account and removed at its end. */
import { chmodSync, mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { giveAway } from './account.ts';

/** Short, since a socket's path may have about a hundred bytes. */
export function makeFolder(name = 'wal-t'): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), `${name}-`)));
  chmodSync(folder, 0o755);
  giveAway(folder);
  return folder;
}

export function removeFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
}

/** A folder that goes when the running test ends. */
export function temporaryFolder(name?: string): string {
  const folder = makeFolder(name);
  onTestFinished(() => removeFolder(folder));
  return folder;
}

/** The relative paths of all files below a folder, in order. */
export function filesBelow(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();
}
