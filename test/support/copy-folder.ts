/** A copy of a folder as it is, owners and times included. */
import { run } from './run.ts';

/** Into the folder `to` where that is there, else as it. */
export async function copyFolder(from: string, to: string): Promise<void> {
  const { code, stderr } = await run('cp', ['-a', from, to], { asRoot: true });
  if (code !== 0) throw new Error(stderr);
}
