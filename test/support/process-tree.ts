/** A process with all that it has started, and what memory they take together. Linux. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** The process and its descendants. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const parent = parentOf(pid);
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), Number(pid)]);
  }
  const found = [root];
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found;
}

/** Those that run in a folder: PostgreSQL's commands run in the data directory, and so does what goes on without them. */
export function processesIn(folder: string): number[] {
  return readdirSync('/proc').flatMap((pid) =>
    /^\d+$/.test(pid) && workingDirectoryOf(pid) === folder ? [Number(pid)] : [],
  );
}

function workingDirectoryOf(pid: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined; // it has ended
  }
}

function parentOf(pid: string): number | undefined {
  const stat = tryRead(`/proc/${pid}/stat`);
  // the name may hold anything, and ends at the last parenthesis
  return stat === undefined ? undefined : Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
}

/**
 * What a container of these processes is charged for, in bytes: each one's own pages, and the executable's, which they share, once. The
 * sum of resident sets, `residentBytes`, counts it for each of them.
 */
export function memoryOf(pids: readonly number[]): { readonly chargedBytes: number; readonly residentBytes: number } {
  let [own, shared, resident] = [0, 0, 0];
  for (const pid of pids) {
    const rollup = tryRead(`/proc/${pid}/smaps_rollup`) ?? '';
    const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1] ?? 0) * 1024;
    own += bytes('Anonymous');
    shared = Math.max(shared, bytes('Rss') - bytes('Anonymous'));
    resident += bytes('Rss');
  }
  return { chargedBytes: own + shared, residentBytes: resident };
}

function tryRead(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // it has ended
  }
}
