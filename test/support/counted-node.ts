/** A Node.js that counts how often it is started. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { giveAway } from './account.ts';

export class CountedNode {
  /** For WALT_NODE. */
  readonly path: string;
  readonly #log: string;

  constructor(folder: string) {
    this.path = join(folder, 'counted-node');
    this.#log = join(folder, 'starts');
    writeFileSync(this.#log, '');
    giveAway(this.#log);
    writeFileSync(this.path, `#!/bin/sh\necho >>${this.#log}\nexec ${process.execPath} "$@"\n`, { mode: 0o755 });
  }

  get starts(): number {
    return readFileSync(this.#log).length;
  }
}
