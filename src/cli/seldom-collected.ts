/**
 * Lets V8 collect seldom: for a process that passes GBs on and gives the memory of what was used back itself. V8 counts the buffers that are on
 * their way as growth of its heaps of 15 MiB, and would look through such a heap each time a few more of them are: in vain, and for a sixth of
 * the processor time of a recovery's reader, or of a restore over S3.
 */
import { setFlagsFromString } from 'node:v8';
import { canGiveBack } from '../bytes.ts';

/** By which share of what a collection has left memory may grow until the next one. */
const flag = '--heap-growing-percent=350';

export function collectSeldom(): void {
  if (canGiveBack) setFlagsFromString(flag);
}
