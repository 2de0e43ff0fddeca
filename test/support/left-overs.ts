/** The names that temporary files bear: see `src/left-overs.ts`. */
import { readlinkSync } from 'node:fs';

const namespace = process.platform === 'linux' ? /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] : '0';

/** The suffix that an earlier process of this host with this id would have used; `where` makes it another container's. */
export function suffixOf(processId: number | undefined, where = namespace): string {
  return `${processId}-${where}-0123abcd-1`;
}
