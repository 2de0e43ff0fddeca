/**
 * Lets V8 collect seldom: for a process that reads GBs and gives the memory of what was used back itself. What is on its way grows and
 * shrinks by more than V8 waits for, a heap of 15 MiB, so that it would look through all of it again and again, in vain: a sixth of the
 * processor time of a recovery's reader.
 */
import { setFlagsFromString } from 'node:v8';
import { canGiveBack } from '../bytes.ts';

/** By which share of what a collection has left memory may grow until the next one. */
const flag = '--heap-growing-percent=350';

export function collectSeldom(): void {
  if (canGiveBack) setFlagsFromString(flag);
}
