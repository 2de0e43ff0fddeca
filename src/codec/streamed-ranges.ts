/**
 * A streamed object out of its middle: its seek table tells where each frame lies, and what is committed to is the table. Reading only.
 * What is read comes through a function: this knows no storage.
 */
import { createHash } from 'node:crypto';
import { ByteReader, bytesOf, collect } from '../bytes.ts';
import { ConfigurationError, CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { ageMarkBytes, looksLikeAge, maxAgeHeadBytes, openAgeHead } from './age.ts';
import { openChunks, sealedRange, sealedSize } from './age-stream.ts';
import type { Keys } from './keys.ts';
import { decodeSeekTable, headerEntry, seekTableSize } from './seekable.ts';
import type { StreamedCommitment } from './streamed.ts';
import { decodeFrame, type Frame, frameChecksum, readFrame } from './zstd.ts';

/** Gives exactly these bytes of the stored object. */
export type ReadRange = (offset: number, lengthBytes: number) => Promise<Uint8Array>;

/** Frames of an object, in its order. */
export interface FrameRange {
  readonly first: number;
  readonly last: number;
}

/** Opened for reading frames of it: small, and to be kept. */
export class FrameAccess {
  /** Of its content, the header's apart. All but the last one have a raw length of `limits.frameRawBytes`. */
  readonly frames: number;
  readonly #commitment: StreamedCommitment;
  readonly #payload: Payload | undefined;
  /** In the plain layer: where each frame begins, and where the last one ends. */
  readonly #starts: Float64Array;
  readonly #checksums: Uint32Array;

  private constructor(commitment: StreamedCommitment, payload: Payload | undefined, table: Table) {
    this.#commitment = commitment;
    this.#payload = payload;
    this.#starts = table.starts;
    this.#checksums = table.checksums;
    this.frames = table.checksums.length;
  }

  /**
   * @throws CorruptError when it is not encrypted although it must be, when no identity fits, or when its seek table is not the one that was
   * committed to; ConfigurationError when it is encrypted and there is no identity.
   */
  static async open(
    read: ReadRange,
    { commitment, keys }: { readonly commitment: StreamedCommitment; readonly keys: Keys },
  ): Promise<FrameAccess> {
    const payload = await openPayload(read, commitment, keys);
    const sizeBytes = seekTableSize(frameCount(commitment) + 1);
    const offset = commitment.storedBytes - sizeBytes;
    if (offset < 0 || sizeBytes > limits.seekTableBytes)
      throw new CorruptError('it cannot have the seek table that it needs');
    const table = await readPlain(read, { offset, lengthBytes: sizeBytes }, { payload, ...commitment });
    if (createHash('sha256').update(table).digest('hex') !== commitment.tableSha256) {
      throw new CorruptError('its seek table is not the one that the backup was made with');
    }
    return new FrameAccess(commitment, payload, tableOf(table, { ...commitment, endOffset: offset }));
  }

  /** Length of these frames as they are stored. */
  storedBytes({ first, last }: FrameRange): number {
    return (this.#starts[last + 1] ?? 0) - (this.#starts[first] ?? 0);
  }

  /** Stored bytes of these frames, which `split` takes apart: they wait for that in one piece. */
  read(read: ReadRange, range: FrameRange): Promise<Buffer> {
    const offset = this.#starts[range.first] ?? 0;
    const place = { offset, lengthBytes: this.storedBytes(range) };
    return readPlain(read, place, { payload: this.#payload, ...this.#commitment });
  }

  /** One after the other, not decompressed yet, each known to be of the lengths and the checksum that the table says. */
  async *split(bytes: Buffer, range: FrameRange): AsyncGenerator<Frame> {
    const reader = new ByteReader(bytesOf(bytes));
    for (let index = range.first; index <= range.last; index += 1) {
      const frame = await readFrame(reader);
      const agrees =
        frame.stored.length === this.storedBytes({ first: index, last: index }) &&
        frame.rawBytes === rawBytesOf(this.#commitment, index) &&
        frameChecksum(frame.stored) === this.#checksums[index];
      if (!agrees) throw new CorruptError(`frame ${index} is not the one that its seek table says`);
      yield frame;
    }
  }

  /** The content of one of its frames. */
  static decode(frame: Frame): Promise<Uint8Array> {
    return decodeFrame(frame);
  }
}

/** Where the plain layer is, of an encrypted object. */
interface Payload {
  readonly key: Uint8Array;
  readonly offset: number;
}

interface Table {
  readonly starts: Float64Array;
  readonly checksums: Uint32Array;
}

function frameCount({ rawBytes }: Pick<StreamedCommitment, 'rawBytes'>): number {
  return Math.ceil(rawBytes / limits.frameRawBytes);
}

function rawBytesOf({ rawBytes }: Pick<StreamedCommitment, 'rawBytes'>, index: number): number {
  return Math.min(limits.frameRawBytes, rawBytes - index * limits.frameRawBytes);
}

async function openPayload(
  read: ReadRange,
  { objectBytes, storedBytes, keyCommitment }: StreamedCommitment,
  { identities, readPlaintext }: Keys,
): Promise<Payload | undefined> {
  if (keyCommitment === undefined) {
    if (identities.length > 0 && !readPlaintext) {
      throw new CorruptError('it is not encrypted, though an identity is set', {
        hint: 'If it is from before encryption was turned on, WALT_READ_PLAINTEXT=1 accepts it. Else somebody put it there.',
      });
    }
    if (objectBytes !== storedBytes) throw new CorruptError('its lengths contradict each other');
    return undefined;
  }
  if (identities.length === 0) {
    throw new ConfigurationError('the archive is encrypted, and no identity is set', {
      hint: 'Set WALT_AGE_IDENTITY_FILE to the file of the identity. A host with recipients alone can push, not fetch.',
    });
  }
  const headBytes = objectBytes - sealedSize(storedBytes);
  if (headBytes < ageMarkBytes || headBytes > maxAgeHeadBytes)
    throw new CorruptError('its lengths contradict each other');
  const head = await read(0, headBytes);
  if (!looksLikeAge(head)) throw new CorruptError('it is not encrypted, and was');
  const { sizeBytes, payloadKey, keyCommitment: found } = await openAgeHead(new ByteReader(bytesOf(head)), identities);
  if (sizeBytes !== headBytes || found !== keyCommitment) {
    throw new CorruptError('it is not the object that the backup was made with', {
      detail: 'its encryption is another one',
    });
  }
  return { key: payloadKey, offset: headBytes };
}

interface Range {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Bytes of the plain layer. */
async function readPlain(
  read: ReadRange,
  { offset, lengthBytes }: Range,
  { payload, storedBytes }: { readonly payload: Payload | undefined; readonly storedBytes: number },
): Promise<Buffer> {
  if (payload === undefined) return asBuffer(await read(offset, lengthBytes));
  const range = sealedRange(offset, lengthBytes, storedBytes);
  const sealed = await read(payload.offset + range.offset, range.length);
  const chunks = openChunks(payload.key, bytesOf(sealed), { firstChunk: range.firstChunk, plainBytes: storedBytes });
  const plain = await collect(chunks, range.length);
  return plain.subarray(range.skip, range.skip + lengthBytes);
}

/** @throws CorruptError when the table does not describe such an object: what was committed to may have been made by an enemy. */
function tableOf(
  bytes: Buffer,
  { rawBytes, endOffset }: { readonly rawBytes: number; readonly endOffset: number },
): Table {
  const [header, ...entries] = decodeSeekTable(bytes);
  const starts = new Float64Array(entries.length + 1);
  const checksums = new Uint32Array(entries.length);
  const frame = headerEntry(header?.storedBytes ?? 0);
  let isSound = header?.rawBytes === frame.rawBytes && header.checksum === frame.checksum;
  let offset = frame.storedBytes;
  for (const [index, entry] of entries.entries()) {
    isSound &&= entry.rawBytes === rawBytesOf({ rawBytes }, index) && entry.storedBytes <= limits.frameStoredBytes;
    starts[index] = offset;
    checksums[index] = entry.checksum;
    offset += entry.storedBytes;
  }
  starts[entries.length] = offset;
  if (!isSound || offset !== endOffset) throw new CorruptError('its seek table does not describe it');
  return { starts, checksums };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
