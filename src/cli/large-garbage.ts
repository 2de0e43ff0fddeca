/**
 * Collects large buffers in time. V8 sees only the small objects that hold them and lets 64 MiB gather in each thread before it looks: two
 * workers would hold twice that of what nobody needs any more.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A whole collection, since what was held while two young ones passed is old; it takes some milliseconds. */
const everyBytes = 32 * 1024 * 1024;

/** To be called with what has passed; looks after so many bytes. */
export function garbageCollector(): (bytes: number) => void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  let passed = 0;
  return (bytes) => {
    passed += bytes;
    if (passed < everyBytes || typeof collect !== 'function') return;
    passed = 0;
    collect();
  };
}
