/**
 * Whose temporary file is this? Names that tell the writing process, and the verdict whether it still lives.
 * The one place outside `cli/` that asks the operating system about processes.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { pid, kill as sendSignal } from 'node:process';
import { systemErrorCode } from './errors.ts';

/** Tells this process from an earlier one that had the same process id, which containers do all the time. */
const token = randomBytes(4).toString('hex');
let count = 0;

/** A new name for a temporary file of this process: `<process id>-<random>-<count>`. */
export function temporarySuffix(): string {
  count += 1;
  return `${pid}-${token}-${count}`;
}

/** Was the file with this suffix left by a process of this host that no longer lives? */
export function isLeftOver(suffix: string): boolean {
  const [owner, ownerToken] = suffix.split('-');
  if (owner === String(pid)) return ownerToken !== token;
  return !isAlive(Number(owner));
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
