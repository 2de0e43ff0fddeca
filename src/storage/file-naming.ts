/**
 * How a file in a folder gets its name exactly once: written under a temporary name on the same file system, then linked.
 * Knows no keys. Errors are the system's own.
 */
import { createHash } from 'node:crypto';
import { chown, link, lstat, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { Bytes } from '../bytes.ts';
import { writeNewFile } from '../durable-file.ts';
import { StorageError, systemErrorCode } from '../errors.ts';
import { ownerOf, temporarySuffix } from '../left-overs.ts';

/** In the root, so on the same file system as every final name. */
const temporaryFolder = '.tmp';
/** A temporary file of another host that is older than this was left behind. */
const foreignLeftOverMs = 24 * 60 * 60 * 1000;
/** A lock guards two system calls; another host's of this age was left behind. */
const staleLockMs = 10 * 60 * 1000;
/** About three seconds. */
const lockAttempts = 200;
/** What `link` answers on file systems that have no hard links. */
const noHardLinks: readonly string[] = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/** Writes and fsyncs a file in `root`'s temporary folder; what killed processes left there is removed on the way. */
export async function writeTemporary(root: string, body: Bytes): Promise<string> {
  const folder = join(root, temporaryFolder);
  await makeFolder(folder, root);
  const temporary = join(folder, ownName());
  try {
    await writeNewFile(temporary, body, 0o640);
    await giveToOwner(temporary, root);
    await removeLeftOvers(folder, temporary);
  } catch (error) {
    await removeTemporary(temporary);
    throw error;
  }
  return temporary;
}

/** Makes a folder, unless it is there, that belongs to the owner of `root`. */
export async function makeFolder(folder: string, root: string): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o750 });
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') return;
    throw error;
  }
  await giveToOwner(folder, root);
}

/** What root made by hand would otherwise shut PostgreSQL out of its own repository. Everyone else cannot, and need not. */
async function giveToOwner(path: string, root: string): Promise<void> {
  const { uid, gid } = await stat(root);
  await chown(path, uid, gid).catch(() => undefined);
}

/** Removes a temporary file, if it can be: the next process removes what stays. */
export async function removeTemporary(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

/**
 * Gives the file its final name if nothing has it: false when something has.
 * By `link`, never by `rename`, which replaces what is there (H47).
 */
export async function nameOnce(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    const code = systemErrorCode(error) ?? '';
    if (noHardLinks.includes(code)) return renameOnce(temporary, path);
    if (code !== 'EEXIST') throw error;
    // NFS answers EEXIST to our own link when its first answer was lost
    const [mine, found] = await Promise.all([stat(temporary), lstat(path)]);
    return mine.ino === found.ino && mine.dev === found.dev;
  }
}

/** The same where there are no hard links: `rename`, while no other process may do the same. */
async function renameOnce(temporary: string, path: string): Promise<boolean> {
  const folder = dirname(temporary);
  const now = (await stat(temporary)).mtimeMs; // the file server's clock: this host's may differ
  const lock = join(folder, `${ownName()}~${createHash('sha256').update(path).digest('hex').slice(0, 32)}`);
  try {
    for (let attempt = 1; attempt <= lockAttempts; attempt += 1) {
      if (await exists(path)) return false;
      if (await takeLock(lock, now)) {
        if (await exists(path)) return false;
        await rename(temporary, path);
        return true;
      }
      await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 20));
    }
  } finally {
    await removeTemporary(lock);
  }
  throw new StorageError(`other processes are writing the same object and hold locks in ${folder}`, {
    hint: `It is tried again. A lock that another host left behind counts for ${staleLockMs / 60_000} minutes.`,
  });
}

/**
 * A lock is a file that bears its owner's name, so that ignoring and removing a dead process's lock can never hit a living one's.
 * Whoever has made his own and then sees no other holds it; of several who see each other the first in order stays and tries again.
 */
async function takeLock(lock: string, now: number): Promise<boolean> {
  if (!(await exists(lock)) && (await otherLocks(lock, now)).length > 0) return false;
  await writeFile(lock, '', { mode: 0o640 });
  const others = await otherLocks(lock, now);
  if (others.some((other) => other < basename(lock))) await removeTemporary(lock);
  return others.length === 0;
}

/** The names of locks on the same object whose owners live, or may live. */
async function otherLocks(lock: string, now: number): Promise<string[]> {
  const [folder, mine] = [dirname(lock), basename(lock)];
  const object = mine.slice(mine.lastIndexOf('~'));
  const others: string[] = [];
  for (const other of await readdir(folder)) {
    if (other === mine || !other.endsWith(object) || isOurLeftOver(other)) continue;
    const found = await lstat(join(folder, other)).catch(ignore('ENOENT'));
    if (found !== undefined && now - found.mtimeMs <= staleLockMs) others.push(other);
  }
  return others;
}

/** `<host>~<whose>`: without characters that a foreign file system forbids. */
function ownName(): string {
  return `${hostname()}~${temporarySuffix()}`;
}

function isOurLeftOver(name: string): boolean {
  const [host, suffix = ''] = name.split('~');
  return host === hostname() && ownerOf(suffix) === 'nobody';
}

/** What somebody else put there, under a name that is not of our form, stays. `own` was just written and tells the file server's time. */
async function removeLeftOvers(folder: string, own: string): Promise<void> {
  const now = (await lstat(own)).mtimeMs;
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if (path === own || ownerOf(name.split('~')[1] ?? '') === 'unknown') continue;
    const found = await lstat(path).catch(ignore('ENOENT'));
    const old = found !== undefined && now - found.mtimeMs > foreignLeftOverMs;
    if (old || isOurLeftOver(name)) await removeTemporary(path);
  }
}

export async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(ignore('ENOENT'))) !== undefined;
}

/** For `catch`: an error of this code is no error here. */
export function ignore(code: string) {
  return (error: unknown): undefined => {
    if (systemErrorCode(error) !== code) throw error;
    return undefined;
  };
}
