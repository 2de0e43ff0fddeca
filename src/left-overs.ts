/**
 * Whose temporary file is this? Names that tell the writing process, and the verdict whether it still lives.
 * The one place outside `cli/` that asks the operating system about processes.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { pid, kill as sendSignal } from 'node:process';
import { getEnvironmentData, setEnvironmentData, threadId } from 'node:worker_threads';
import { systemErrorCode } from './errors.ts';

/** Tells this process from an earlier one that had the same process id, which containers do all the time. */
const token = processToken();
/** Process ids count within a namespace: two containers of one host, or of one host's name, have the same ids for others. */
const namespace = pidNamespace();
let count = 0;
/** Each thread of the process counts by itself. */
const countsOfThread = 1_000_000_000;

/** A new name for a temporary file of this process: `<process id>-<namespace>-<random>-<count>`. */
export function temporarySuffix(): string {
  count += 1;
  return `${pid}-${namespace}-${token}-${threadId * countsOfThread + count}`;
}

/** Whose is the file with this suffix? `nobody`: its process is gone. `elsewhere`: that cannot be seen from here. `unknown`: not ours at all. */
export function ownerOf(suffix: string): 'somebody' | 'nobody' | 'elsewhere' | 'unknown' {
  const match = /^(\d{1,10})-(\d{1,20})-([0-9a-f]{8})-\d+$/.exec(suffix);
  if (match === null) return 'unknown';
  const [, owner, ownerNamespace, ownerToken] = match;
  if (ownerNamespace !== namespace) return 'elsewhere';
  if (owner === String(pid)) return ownerToken === token ? 'somebody' : 'nobody';
  return isAlive(Number(owner)) ? 'somebody' : 'nobody';
}

/** One for all threads: a worker must not take its own process for dead. */
function processToken(): string {
  const known = getEnvironmentData('wal-t/process');
  if (typeof known === 'string') return known;
  const made = randomBytes(4).toString('hex');
  setEnvironmentData('wal-t/process', made);
  return made;
}

function pidNamespace(): string {
  try {
    return /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? '0'; // pid:[4026531836]
  } catch {
    return '0'; // where there is no /proc there are no namespaces
  }
}

/** Does a process of this host run under this id? One of another user (EPERM) does, too. */
export function isAlive(processId: number): boolean {
  if (!Number.isSafeInteger(processId) || processId <= 0) return false;
  try {
    sendSignal(processId, 0);
    return !isZombie(processId);
  } catch (error) {
    return systemErrorCode(error) === 'EPERM';
  }
}

/** Killed, but not yet collected by its parent: in a container whose PID 1 collects nobody, it stays so for ever. */
function isZombie(processId: number): boolean {
  try {
    const stat = readFileSync(`/proc/${processId}/stat`, 'latin1'); // <pid> (<name>) <state> …
    return stat.startsWith(') Z', stat.lastIndexOf(')'));
  } catch {
    return false; // no /proc, no zombies known
  }
}
