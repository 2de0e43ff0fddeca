/**
 * Collects large buffers in time. V8 sees only the small objects that hold them and lets 64 MiB gather in each thread before it looks: two
 * workers would hold twice that of what nobody needs any more.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What dies young, in a fraction of a millisecond. */
const youngBytes = 4 * 1024 * 1024;
/** All, since what was held while two young collections passed is old; it takes some milliseconds. */
const allBytes = 32 * 1024 * 1024;
/** What is sent is held until it has arrived, and old by then. */
const allSentBytes = 16 * 1024 * 1024;

type Collect = (options?: { readonly type: 'minor' }) => void;

/** To be called with what has passed; looks after so many bytes. `isSent`: not into a file, but over the network. */
export function garbageCollector(isSent: boolean): (bytes: number) => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as Collect | undefined;
  const limitBytes = isSent ? allSentBytes : allBytes;
  let [sinceYoung, sinceAll] = [0, 0];
  return (bytes) => {
    sinceYoung += bytes;
    sinceAll += bytes;
    if (sinceAll >= limitBytes) {
      [sinceYoung, sinceAll] = [0, 0];
      collect?.();
    } else if (sinceYoung >= youngBytes) {
      sinceYoung = 0;
      if (!isSent) collect?.({ type: 'minor' });
    }
  };
}
