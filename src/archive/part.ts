/** Streamed objects of a backup, its parts and its list of files: stored while they are made, read only as what the backup committed to. */

import type { Bytes } from '../bytes.ts';
import { collect } from '../bytes.ts';
import type { ObjectIdentity } from '../codec/header.ts';
import { manifestKeys } from '../codec/keys.ts';
import { openStreamed, type StreamedCommitment, sealStreamed } from '../codec/streamed.ts';
import { CorruptError, ObjectExists, ObjectNotFound } from '../errors.ts';
import { limits } from '../limits.ts';
import type { RequestOptions } from '../storage/storage.ts';
import { type Archive, about } from './archive.ts';
import { filesName, objectKey, partName } from './keys.ts';

export interface StreamOptions extends RequestOptions {
  /** zstd level. */
  readonly level: number;
  /** About how many bytes there will be. */
  readonly sizeHint: number;
}

/** Which of a backup's streamed objects: a part by its number, or the list of files. */
export type StreamName = { readonly backup: string; readonly part: number | 'files' };

/** Stores `raw` while it is read. @returns what a reader will demand of it. */
export async function storeStream(
  archive: Archive,
  name: StreamName,
  raw: Bytes,
  { level, sizeHint, signal }: StreamOptions,
): Promise<StreamedCommitment> {
  const identity = identityOf(archive, name);
  const keys = name.part === 'files' ? manifestKeys(archive.keys) : archive.keys;
  const { body, commitment } = sealStreamed(raw, { ...identity, level, keys });
  const key = objectKey(archive.systemIdentifier, identity.name);
  try {
    await archive.storage.put(key, body, { signal, sizeHint });
  } catch (error) {
    // the name is random: it is our own, stored by a request whose answer was lost
    if (!(error instanceof ObjectExists) || !(await hasSize(archive, key, commitment().objectBytes, signal)))
      throw error;
  }
  return commitment();
}

/**
 * The content of a streamed object. All of it is known to be right when it ends.
 * @throws CorruptError when it is missing, or not byte for byte what the backup committed to.
 */
export async function* readStream(
  archive: Archive,
  name: StreamName,
  commitment: StreamedCommitment,
  { signal }: RequestOptions,
): AsyncGenerator<Uint8Array> {
  const identity = identityOf(archive, name);
  const key = objectKey(archive.systemIdentifier, identity.name);
  try {
    const { sizeBytes, body } = await openWindows(archive, key, signal);
    yield* openStreamed(body, sizeBytes, { commitment, identity, keys: archive.keys });
  } catch (error) {
    throw aboutStream(error, archive, key);
  }
}

/** Says of which streamed object an error is, and what to do about it. */
export function aboutStream(error: unknown, archive: Archive, key: string): unknown {
  if (error instanceof ObjectNotFound) {
    return new CorruptError(`"${key}" is missing in ${archive.storage.url}`, {
      hint: 'The backup cannot be restored without it: bring it back from another copy of the repository, or take another backup.',
      cause: error,
    });
  }
  return about(
    error,
    archive,
    key,
    'Restore from another backup, or bring this object back from another copy of the repository.',
  );
}

function identityOf({ systemIdentifier }: Archive, { backup, part }: StreamName): ObjectIdentity {
  return part === 'files'
    ? { kind: 'files', name: filesName(backup), systemIdentifier }
    : { kind: 'part', name: partName(backup, part), systemIdentifier };
}

/** Reads an object by ranges, the next ones while one is used: a slow reader holds no connection open, and a fast one need not wait. */
async function openWindows({ storage }: Archive, key: string, signal: AbortSignal | undefined) {
  const read = async (offset: number) => {
    const { sizeBytes, body } = await storage.get(key, { range: { offset, length: limits.windowBytes }, signal });
    return { sizeBytes, pieces: await piecesOf(body, limits.windowBytes) };
  };
  const first = await read(0);
  const { sizeBytes } = first;
  const running: Promise<{ readonly pieces: Uint8Array[] }>[] = [Promise.resolve(first)];
  return { sizeBytes, body: windows() };

  async function* windows(): AsyncGenerator<Uint8Array> {
    let next: number = limits.windowBytes;
    for (let window = running.shift(); window !== undefined; window = running.shift()) {
      const { pieces } = await window;
      for (; next < sizeBytes && running.length < limits.windowsInFlight; next += limits.windowBytes) {
        const ahead = read(next);
        ahead.catch(() => undefined); // awaited in its turn
        running.push(ahead);
      }
      // each is let go when it was used: a worker's windows are most of what it holds
      for (let piece = pieces.shift(); piece !== undefined; piece = pieces.shift()) yield piece;
    }
  }
}

/** @throws CorruptError when there is more: nothing is collected without a limit. */
async function piecesOf(body: Bytes, limitBytes: number): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of body) {
    sizeBytes += piece.length;
    if (sizeBytes > limitBytes) throw new CorruptError(`more than the ${limitBytes} bytes that may be here`);
    pieces.push(piece);
  }
  return pieces;
}

async function hasSize({ storage }: Archive, key: string, sizeBytes: number, signal: AbortSignal | undefined) {
  const found = await storage.get(key, { range: { offset: 0, length: 0 }, signal });
  await collect(found.body, 0);
  return found.sizeBytes === sizeBytes;
}
