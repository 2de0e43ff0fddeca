/** Streamed objects of a backup, its parts and its list of files: stored while they are made, read only as what the backup committed to. */

import { type Bytes, canGiveBack, collect, giveBack } from '../bytes.ts';
import type { ObjectIdentity } from '../codec/header.ts';
import { manifestKeys } from '../codec/keys.ts';
import { openStreamed, type StreamedCommitment, sealStreamed } from '../codec/streamed.ts';
import { discard } from '../codec/zstd.ts';
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
  /** Told about how many bytes are left for the garbage collector, as they are stored. */
  readonly onGarbage?: (bytes: number) => void;
}

/** Which of a backup's streamed objects: a part by its number, or the list of files. */
export type StreamName = { readonly backup: string; readonly part: number | 'files' };

/** Stores `raw` while it is read. @returns what a reader will demand of it. */
export async function storeStream(
  archive: Archive,
  name: StreamName,
  raw: Bytes,
  { level, sizeHint, signal, onGarbage = () => undefined }: StreamOptions,
): Promise<StreamedCommitment> {
  const identity = identityOf(archive, name);
  const keys = name.part === 'files' ? manifestKeys(archive.keys) : archive.keys;
  const { body, commitment } = sealStreamed(raw, { ...identity, level, keys });
  const key = objectKey(archive.systemIdentifier, identity.name);
  try {
    const isPlain = keys.recipients.length === 0;
    await archive.storage.put(key, told(body, isPlain, onGarbage), { signal, sizeHint, spend: true });
  } catch (error) {
    // the name is random: it is our own, stored by a request whose answer was lost
    if (!(error instanceof ObjectExists) || !(await hasSize(archive, key, commitment().objectBytes, signal)))
      throw error;
  }
  return commitment();
}

/** Tells of each chunk when it was taken: the storage has given its memory back then, or has made a copy; where it is sealed two were made before. */
async function* told(made: Bytes, isPlain: boolean, onGarbage: (bytes: number) => void): Bytes {
  for await (const chunk of made) {
    const { length } = chunk;
    yield chunk;
    onGarbage((isPlain ? length / 4 : 2 * length) + 2 * chunk.length);
  }
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

/** Of plain content that was given back: what else was made to read it. */
const garbageShare = 1 / 8;

/**
 * Gives the memory of content of a streamed object back when it was used. @returns about how many bytes are left for the garbage collector:
 * all where the memory stays, or was decrypted.
 */
export async function discardContent(
  content: Uint8Array,
  { keyCommitment }: StreamedCommitment,
  share = garbageShare,
): Promise<number> {
  const { length } = content;
  await discard(content);
  return keyCommitment === undefined ? Math.max(content.length, length * share) : length;
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
    let [before, last]: [readonly Uint8Array[], readonly Uint8Array[]] = [[], []];
    for (let window = running.shift(); window !== undefined; window = running.shift()) {
      const { pieces } = await window;
      // whoever asks for a third window has copied what it took of the first: no frame is as long as the second
      for (const memory of before) giveBack(memory);
      [before, last] = [last, memoriesOf(pieces)];
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

/** Where the pieces lie, without the memory in which something else lies, too. */
function memoriesOf(pieces: readonly Uint8Array[]): Uint8Array[] {
  if (!canGiveBack) return [];
  const filled = new Map<ArrayBufferLike, number>();
  for (const { buffer, length } of pieces) filled.set(buffer, (filled.get(buffer) ?? 0) + length);
  return [...filled]
    .filter(([{ byteLength }, bytes]) => bytes === byteLength)
    .map(([memory]) => new Uint8Array(memory));
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
