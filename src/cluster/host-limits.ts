/** What this host has to offer a backup or a restore: space and open files. */
import { readFile, statfs } from 'node:fs/promises';

/** Bytes that an unprivileged user may still write to the file system that `path` is on; undefined where it does not say. */
export async function freeBytes(path: string | Buffer): Promise<number | undefined> {
  try {
    const { bavail, bsize, blocks } = await statfs(path);
    return blocks === 0 ? undefined : bavail * bsize; // some network file systems count nothing
  } catch {
    return undefined;
  }
}

/** How many files this process may have open; undefined where there is no /proc, or no limit. */
export async function openFilesLimit(): Promise<number | undefined> {
  try {
    const text = await readFile('/proc/self/limits', 'utf8');
    const soft = /^Max open files\s+(\d+)\s/m.exec(text)?.[1];
    return soft === undefined ? undefined : Number(soft);
  } catch {
    return undefined;
  }
}
