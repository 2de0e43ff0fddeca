/**
 * How a file in a folder gets its name exactly once: written under a temporary name on the same file system, then linked.
 * Knows no keys. Errors are the system's own.
 */
import { createHash } from 'node:crypto';
import type { Stats } from 'node:fs';
import { link, lstat, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import type { Bytes } from '../bytes.ts';
import { writeNewFile } from '../durable-file.ts';
import { StorageError, systemErrorCode } from '../errors.ts';
import { isLeftOver, temporarySuffix } from '../left-overs.ts';

/** In the root, so on the same file system as every final name. */
const temporaryFolder = '.tmp';
/** A temporary file of another host that is older than this was left behind. */
const foreignLeftOverMs = 24 * 60 * 60 * 1000;
/** A lock guards two system calls; one of this age was left behind by a host that died between them. */
const staleLockMs = 10 * 60 * 1000;
/** What `link` answers on file systems that have no hard links. */
const noHardLinks: readonly string[] = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'];

/** Writes and fsyncs a file in `root`'s temporary folder; what killed processes left there is removed on the way. */
export async function writeTemporary(root: string, body: Bytes): Promise<string> {
  const folder = join(root, temporaryFolder);
  await mkdir(folder).catch(ignore('EEXIST'));
  await removeLeftOvers(folder);
  const temporary = join(folder, ownName());
  try {
    await writeNewFile(temporary, body, 0o640);
  } catch (error) {
    await removeTemporary(temporary);
    throw error;
  }
  return temporary;
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

/** The same where there are no hard links: `rename`, under a lock that only one process can make. */
async function renameOnce(temporary: string, path: string): Promise<boolean> {
  const name = createHash('sha256').update(path).digest('hex').slice(0, 32);
  const lock = join(dirname(temporary), `lock-${name}`);
  await takeLock(lock, await stat(temporary));
  try {
    if (await exists(path)) return false;
    await rename(temporary, path);
    return true;
  } finally {
    await rm(lock, { force: true });
  }
}

/** @throws StorageError when another process holds the lock: the next call will find what it has done. */
async function takeLock(lock: string, now: Stats): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await writeFile(lock, ownName(), { flag: 'wx', mode: 0o640 });
      return;
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST') throw error;
    }
    const held = await lstat(lock).catch(ignore('ENOENT'));
    const owner = await readFile(lock, 'utf8').catch(ignore('ENOENT'));
    const old = held !== undefined && now.mtimeMs - held.mtimeMs > staleLockMs;
    if (old || isOurLeftOver(owner ?? '')) {
      await rm(lock, { force: true });
    } else if (attempt > 200) {
      throw new StorageError(`another process is writing the same object and holds ${lock}`, {
        hint: `It is tried again. A lock that nobody holds any more is ignored after ${staleLockMs / 60_000} minutes.`,
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** `<host>~<whose>`: without characters that a foreign file system forbids. */
function ownName(): string {
  return `${hostname()}~${temporarySuffix()}`;
}

function isOurLeftOver(name: string): boolean {
  const [host, suffix] = name.split('~');
  return host === hostname() && suffix !== undefined && isLeftOver(suffix);
}

async function removeLeftOvers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const found = await lstat(path).catch(ignore('ENOENT'));
    const old = found !== undefined && Date.now() - found.mtimeMs > foreignLeftOverMs;
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
