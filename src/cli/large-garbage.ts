/**
 * Collects large buffers in time. V8 sees only the small objects that hold them and lets 64 MiB gather in each thread before it looks: two
 * workers would hold twice that of what nobody needs any more.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What dies young, in a fraction of a millisecond. */
const youngBytes = 8 * 1024 * 1024;
/** All, since what was held while two young collections passed is old; it takes some milliseconds. */
const allBytes = 32 * 1024 * 1024;

type Collect = (options?: { readonly type: 'minor' }) => void;

/** To be called with what has passed; looks after so many bytes. */
export function garbageCollector(): (bytes: number) => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as Collect | undefined;
  let [sinceYoung, sinceAll] = [0, 0];
  return (bytes) => {
    sinceYoung += bytes;
    sinceAll += bytes;
    if (sinceYoung < youngBytes) return;
    sinceYoung = 0;
    if (sinceAll < allBytes) return collect?.({ type: 'minor' });
    sinceAll = 0;
    collect?.();
  };
}
