/** What stands in a folder at one moment, put there again for each test that begins with it: the same paths, times, links and owners. */
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { copyFolder } from './copy-folder.ts';
import { makeFolder, removeFolder } from './folders.ts';

export class KeptFolder {
  readonly #folder: string;
  readonly #place = makeFolder('kept');

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async keep(folder: string): Promise<KeptFolder> {
    const kept = new KeptFolder(folder);
    await copyFolder(folder, kept.#copy);
    return kept;
  }

  /** Until the running test ends. The test before must have removed it. */
  async putBack(): Promise<void> {
    await copyFolder(this.#copy, this.#folder);
    onTestFinished(() => removeFolder(this.#folder));
  }

  remove(): void {
    removeFolder(this.#place);
  }

  get #copy(): string {
    return join(this.#place, 'copy');
  }
}
