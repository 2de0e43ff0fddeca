/** Puts what was found at %p, whole and durable, or not at all; and as much of it as is true. */
import type { Bytes } from '../../bytes.ts';
import { replaceFile } from '../../durable-file.ts';
import { HostError, systemErrorReason, WalTError } from '../../errors.ts';
import type { Place } from './fetch.ts';

/** Temporary file, fsync, rename, fsync of the folder: no byte stands at `%p` before all were verified. */
export async function deliver({ target }: Place, content: Bytes): Promise<void> {
  try {
    await replaceFile(target, content, 0o640);
  } catch (error) {
    if (error instanceof WalTError) throw error;
    throw new HostError(`could not write "${target}": ${systemErrorReason(error)}`, {
      hint: 'PostgreSQL gives the path as %p, relative to the data directory. Look at its disk and permissions.',
      cause: error,
    });
  }
}

/** The content up to `endBytes`, then zeros to its full length, at which PostgreSQL sees that the WAL ends: what stands behind is nobody's. */
export async function* endingAt(content: Bytes, endBytes: number): Bytes {
  let offset = 0;
  for await (const chunk of content) {
    const keep = Math.max(0, Math.min(chunk.length, endBytes - offset));
    offset += chunk.length;
    yield keep === chunk.length ? chunk : Buffer.concat([chunk.subarray(0, keep)], chunk.length);
  }
}
