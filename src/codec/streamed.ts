/**
 * The envelope of objects that are made while they are stored, parts and lists of files: a short header, zstd frames, and a seek table;
 * inside an age file, where there are recipients. Both directions. What commits to them stands elsewhere. Byte layout: docs/FORMAT.md.
 */
import { createHash, type Hash } from 'node:crypto';
import { ByteReader, type Bytes } from '../bytes.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { sealAge } from './age.ts';
import { sealedSize } from './age-stream.ts';
import { encodeStreamedHeader, type ObjectIdentity, readStreamedHeader } from './header.ts';
import type { Keys } from './keys.ts';
import { checkIdentity, decrypted } from './object.ts';
import {
  decodeSeekTable,
  encodeSeekTable,
  headerEntry,
  isSeekTable,
  type SeekEntry,
  seekTableSize,
} from './seekable.ts';
import { decodeOnce, type Frame, frameChecksum, inFlight, readFrameApart } from './zstd.ts';
import { compressFrames } from './zstd-compress.ts';

/** What a list of files or a manifest says of a streamed object: nothing else is accepted under its name. */
export interface StreamedCommitment {
  /** Length of the whole stored object. */
  readonly objectBytes: number;
  /** Length of its plain layer. */
  readonly storedBytes: number;
  /** Length of its content. */
  readonly rawBytes: number;
  /** Hexadecimal SHA-256 of the plain layer. */
  readonly sha256: string;
  /** Hexadecimal SHA-256 of the seek table: commits to the place and checksum of each frame, so that a range can be read by itself. */
  readonly tableSha256: string;
  /** Of the file key of an encrypted object (`keyCommitment`). */
  readonly keyCommitment?: string | undefined;
}

export interface StreamedSealing extends ObjectIdentity {
  /** zstd level. */
  readonly level: number;
  readonly keys: Keys;
}

export interface SealedStream {
  readonly body: Bytes;
  /** Known when the body has ended. */
  readonly commitment: () => StreamedCommitment;
}

/**
 * Seals `raw` while it is read.
 * A chunk of `raw` is copied before the next one is asked for, so its source may use the same memory for all of them.
 */
export function sealStreamed(raw: Bytes, { level, keys, ...identity }: StreamedSealing): SealedStream {
  const plain = new PlainSeal(encodeStreamedHeader(identity));
  const frames = plain.layer(raw, level);
  if (keys.recipients.length === 0) {
    return { body: frames, commitment: () => plain.commitment(0, undefined) };
  }
  const { headBytes, body, keyCommitment } = sealAge(frames, { recipients: keys.recipients });
  return { body, commitment: () => plain.commitment(headBytes, keyCommitment) };
}

/** The plain layer, and what it came to. */
class PlainSeal {
  readonly #head: Uint8Array;
  readonly #hash: Hash = createHash('sha256');
  readonly #entries: SeekEntry[];
  #storedBytes = 0;
  #rawBytes = 0;
  #hashes: Pick<StreamedCommitment, 'sha256' | 'tableSha256'> | undefined;

  constructor(head: Uint8Array) {
    this.#head = head;
    this.#entries = [headerEntry(head.length)];
  }

  async *layer(raw: Bytes, level: number): AsyncGenerator<Uint8Array> {
    yield this.#measured(this.#head);
    for await (const { stored, rawBytes } of compressFrames(raw, level, limits.framesOfPartInFlight)) {
      this.#entries.push({ storedBytes: stored.length, rawBytes, checksum: frameChecksum(stored) });
      this.#rawBytes += rawBytes;
      yield this.#measured(stored);
    }
    const table = encodeSeekTable(this.#entries);
    const last = this.#measured(table);
    this.#hashes = { sha256: this.#hash.digest('hex'), tableSha256: sha256(table) };
    yield last;
  }

  #measured(bytes: Uint8Array): Uint8Array {
    this.#hash.update(bytes);
    this.#storedBytes += bytes.length;
    return bytes;
  }

  commitment(headBytes: number, keyCommitment: string | undefined): StreamedCommitment {
    if (this.#hashes === undefined) throw new Error('a streamed object is measured before it has ended');
    const objectBytes = keyCommitment === undefined ? this.#storedBytes : headBytes + sealedSize(this.#storedBytes);
    return {
      objectBytes,
      storedBytes: this.#storedBytes,
      rawBytes: this.#rawBytes,
      ...this.#hashes,
      keyCommitment,
    };
  }
}

/**
 * The content of a whole streamed object of `sizeBytes` stored bytes, frame by frame.
 * Each frame has passed its own checksum; that all are what the commitment says is known when the stream ends.
 * @throws CorruptError when it is another object, is not encrypted although it must be, or any byte is not as it was sealed.
 */
export async function* openStreamed(
  body: Bytes,
  sizeBytes: number,
  { commitment, identity, keys }: OpenStreamed,
): AsyncGenerator<Uint8Array> {
  const reader = new ByteReader(body);
  try {
    if (sizeBytes !== commitment.objectBytes) {
      throw new CorruptError(sizeBytes < commitment.objectBytes ? 'it is truncated' : 'bytes follow after it', {
        detail: `${sizeBytes} bytes are stored, ${commitment.objectBytes} were`,
      });
    }
    const plain = await decrypted(reader, sizeBytes, keys);
    if (plain.keyCommitment !== commitment.keyCommitment) throw notTheOne('its encryption is another one');
    yield* openPlain(plain.reader, commitment, identity);
  } finally {
    await reader.close();
  }
}

export interface OpenStreamed {
  readonly identity: ObjectIdentity;
  readonly commitment: StreamedCommitment;
  readonly keys: Keys;
}

async function* openPlain(source: ByteReader, commitment: StreamedCommitment, identity: ObjectIdentity): Bytes {
  const hash = createHash('sha256');
  const reader = new ByteReader(hashed(source, hash));
  const { header, frameBytes } = await readStreamedHeader(reader);
  checkIdentity(header, identity);
  const entries = [headerEntry(frameBytes)];
  let rawBytes = 0;
  for await (const { content, entry } of inFlight(framesOf(reader), decoded, limits.framesOfPartInFlight)) {
    rawBytes += content.length;
    if (rawBytes > commitment.rawBytes) throw notTheOne('it holds more');
    entries.push(entry);
    yield content;
  }
  const table = await reader.read(seekTableSize(entries.length));
  if (!(await reader.ended())) throw notTheOne('bytes follow after its seek table');
  const agrees =
    rawBytes === commitment.rawBytes &&
    reader.offset === commitment.storedBytes &&
    sha256(table) === commitment.tableSha256 &&
    hash.digest('hex') === commitment.sha256 &&
    areSame(decodeSeekTable(table), entries);
  if (!agrees) throw notTheOne('lengths or hashes differ');
}

async function decoded({ stored, rawBytes }: Frame) {
  const entry = { storedBytes: stored.length, rawBytes, checksum: frameChecksum(stored) };
  return { content: await decodeOnce({ stored, rawBytes }), entry };
}

async function* framesOf(reader: ByteReader): AsyncGenerator<Frame> {
  for (;;) {
    const magic = await reader.peek(4);
    if (magic.length < 4) throw new CorruptError('it is truncated');
    if (isSeekTable(magic)) return;
    yield await readFrameApart(reader);
  }
}

async function* hashed(reader: ByteReader, hash: Hash): Bytes {
  while (!(await reader.ended())) {
    const chunk = await reader.readSome(limits.frameRawBytes);
    hash.update(chunk);
    yield chunk;
  }
}

function areSame(table: readonly SeekEntry[], frames: readonly SeekEntry[]): boolean {
  return table.every((entry, index) => {
    const frame = frames[index];
    return (
      entry.storedBytes === frame?.storedBytes && entry.rawBytes === frame.rawBytes && entry.checksum === frame.checksum
    );
  });
}

function notTheOne(detail: string): CorruptError {
  return new CorruptError('it is not the object that the backup was made with', { detail });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
