/** What stands in a folder at one moment, put there again for each test that begins with it: the same paths, times, links and owners. */
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { makeFolder, removeFolder } from './folders.ts';
import { run } from './run.ts';

export class KeptFolder {
  readonly #folder: string;
  readonly #place = makeFolder('kept');

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async keep(folder: string): Promise<KeptFolder> {
    const kept = new KeptFolder(folder);
    await copy(folder, kept.#copy);
    return kept;
  }

  /** Until the running test ends. The test before must have removed it. */
  async putBack(): Promise<void> {
    await copy(this.#copy, this.#folder);
    onTestFinished(() => removeFolder(this.#folder));
  }

  remove(): void {
    removeFolder(this.#place);
  }

  get #copy(): string {
    return join(this.#place, 'copy');
  }
}

async function copy(from: string, to: string): Promise<void> {
  const { code, stderr } = await run('cp', ['-a', from, to], { asRoot: true });
  if (code !== 0) throw new Error(stderr);
}
