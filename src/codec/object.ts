/**
 * The envelope of every stored object: a header that says what it is, in a zstd skippable frame, then the content in zstd frames;
 * and all of it inside an age file, where there are recipients. Both directions. Byte layout: docs/FORMAT.md. Knows no storage.
 */
import { createHash } from 'node:crypto';
import { ByteReader, type Bytes, bytesOf, collect, giveBack } from '../bytes.ts';
import { ConfigurationError, CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { ageFileSize, ageMarkBytes, looksLikeAge, openAge, readAgeHeader, sealAge } from './age.ts';
import type { Stanza } from './age-keys.ts';
import { encodeHeader, measuredHeader, type ObjectHeader, type ObjectIdentity, readHeader } from './header.ts';
import { type Commitment, checkMac, checkStanza, contentStanza, type Keys, macOf, readContentStanza } from './keys.ts';
import { decompress } from './zstd.ts';
import { compress } from './zstd-compress.ts';

export interface SealOptions extends ObjectIdentity {
  readonly pushedAt: Date;
  readonly host: string;
  /** zstd level. */
  readonly level: number;
  readonly keys: Keys;
}

export interface SealedObject {
  readonly header: ObjectHeader;
  /** About the length of the body: encryption adds little. */
  readonly sizeHint: number;
  /** The object's bytes; may be called again for another attempt. */
  readonly body: () => Uint8Array | Bytes;
}

/**
 * Seals the content that `readContent` reads, from its beginning at each call. Chunks are copied before the next one is asked for.
 * The header stands first and tells hash and lengths, so all is compressed before the first byte is handed out. Up to 64 MiB the
 * frames are kept for that; beyond, they are made a second time while they are sent, and must come out the same.
 */
export async function sealObject(
  readContent: () => Bytes,
  { level, pushedAt, host, keys, ...identity }: SealOptions,
): Promise<SealedObject> {
  const measured = measure(readContent());
  let frames: Uint8Array[] | undefined = [];
  let framesBytes = 0;
  for await (const frame of compress(measured.content, level)) {
    framesBytes += frame.length;
    if (framesBytes > limits.heldBytes) frames = undefined;
    frames?.push(frame);
  }
  const { bytes, sha256 } = measured.result();
  const mac = macOf({ ...identity, bytes, sha256 }, keys);
  const header = measuredHeader(
    { ...identity, bytes, sha256, pushedAt: pushedAt.toISOString(), host, mac },
    framesBytes,
  );
  const head = encodeHeader(header);
  const held = frames;
  const plain = (): Bytes =>
    held === undefined ? sealAgain(readContent(), head, header, level) : bytesOf(head, ...held);
  const body = keys.recipients.length === 0 ? plain : () => encrypted(plain(), header, keys);
  if (held === undefined) return { header, sizeHint: header.stored, body };
  const whole = await collect(body(), limits.heldBytes * 2);
  for (const frame of held) giveBack(frame);
  return { header, sizeHint: whole.length, body: () => whole };
}

function encrypted(plain: Bytes, header: ObjectHeader, { recipients }: Keys): Bytes {
  return sealAge(plain, { recipients, stanzas: [contentStanza(header)] }).body;
}

async function* sealAgain(content: Bytes, head: Uint8Array, header: ObjectHeader, level: number) {
  const measured = measure(content);
  let stored = head.length;
  yield head;
  for await (const frame of compress(measured.content, level)) {
    stored += frame.length;
    yield frame;
  }
  if (measured.result().sha256 !== header.sha256 || stored !== header.stored) {
    throw new CorruptError('the file changed while it was pushed');
  }
}

/** An object that is being opened: its header is checked, its content is checked while it is read. */
export interface OpenedObject {
  readonly header: ObjectHeader;
  /** Nothing of it may be believed before the last chunk: the hash stands at the end. */
  readonly content: Bytes;
  /** Lets the object go unread. */
  readonly close: () => Promise<void>;
}

/**
 * Opens a whole object of `sizeBytes` stored bytes.
 * @throws CorruptError when it is none, is of a newer format, is not what `expected` says, is shorter or longer than its header says,
 * is not authentic, no identity fits, or is not encrypted although it must be; and from `content` when any byte of it is not as it was sealed.
 * @throws ConfigurationError when it is encrypted and there is no identity.
 */
export async function openObject(
  body: Bytes,
  sizeBytes: number,
  expected: ObjectIdentity,
  keys: Keys,
): Promise<OpenedObject> {
  const reader = new ByteReader(body);
  try {
    const plain = await decrypted(reader, sizeBytes, keys);
    const header = await readHeader(plain.reader);
    checkIdentity(header, expected);
    checkLength(plain.sizeBytes, header.stored);
    checkMac(header, keys);
    checkStanza(plain.stanzas, header);
    return { header, content: verifiedContent(plain.reader, header), close: () => plain.reader.close() };
  } catch (error) {
    await reader.close();
    throw error;
  }
}

/** The plain layer of a stored object, on its way. */
export interface PlainLayer {
  readonly reader: ByteReader;
  readonly sizeBytes: number;
  readonly stanzas: readonly Stanza[];
  /** Undefined when it is not encrypted. */
  readonly keyCommitment?: string;
}

/** The plain layer: the object itself, or what the age file holds. @throws CorruptError, ConfigurationError as `openObject`. */
export async function decrypted(
  reader: ByteReader,
  sizeBytes: number,
  { identities, readPlaintext }: Keys,
): Promise<PlainLayer> {
  if (!looksLikeAge(await reader.peek(ageMarkBytes))) {
    if (identities.length === 0 || readPlaintext) return { reader, sizeBytes, stanzas: [] };
    throw new CorruptError('it is not encrypted, though an identity is set', {
      hint: 'If it is from before encryption was turned on, WALT_READ_PLAINTEXT=1 accepts it. Else somebody put it there.',
    });
  }
  if (identities.length === 0) {
    throw new ConfigurationError('the archive is encrypted, and no identity is set', {
      hint: 'Set WALT_AGE_IDENTITY_FILE to the file of the identity. A host with recipients alone can push, not fetch.',
    });
  }
  const { content, plainBytes, stanzas, keyCommitment } = await openAge(reader, sizeBytes, identities);
  return { reader: new ByteReader(content), sizeBytes: plainBytes, stanzas, keyCommitment };
}

async function* verifiedContent(reader: ByteReader, header: ObjectHeader): Bytes {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  try {
    for await (const chunk of decompress(reader)) {
      sizeBytes += chunk.length;
      if (sizeBytes > header.bytes) throw new CorruptError('the content is longer than its header says');
      hash.update(chunk);
      yield chunk;
    }
    if (sizeBytes !== header.bytes || hash.digest('hex') !== header.sha256) {
      throw new CorruptError('the content is not the one that its header names');
    }
  } finally {
    await reader.close();
  }
}

/** What can be known of a stored object without decrypting it. */
export interface StoredObject extends Commitment {
  /** For people; not known of an encrypted one. */
  readonly origin?: string;
}

/**
 * What the object says that begins with `start` (at least `headerRangeBytes` of it, or all) and has `sizeBytes` bytes.
 * @throws CorruptError when it is none, is another one than expected, or has not the length that it promises.
 */
export async function describeObject(
  start: Uint8Array,
  sizeBytes: number,
  expected: ObjectIdentity,
): Promise<StoredObject> {
  const reader = new ByteReader(bytesOf(start));
  if (looksLikeAge(start)) {
    const header = await readAgeHeader(reader);
    const commitment = readContentStanza(header.stanzas);
    checkLength(sizeBytes, ageFileSize(header, commitment.stored));
    return commitment;
  }
  const header = await readHeader(reader);
  checkIdentity(header, expected);
  checkLength(sizeBytes, header.stored);
  return { sha256: header.sha256, stored: header.stored, origin: `pushed ${header.pushedAt} by ${header.host}` };
}

/** @throws CorruptError when the object is not the one that was asked for: it was swapped, or copied under another key. */
export function checkIdentity(header: ObjectIdentity, expected: ObjectIdentity): void {
  const fits =
    header.kind === expected.kind &&
    header.name === expected.name &&
    header.systemIdentifier === expected.systemIdentifier;
  if (fits) return;
  throw new CorruptError('another object is stored under this key', {
    detail: `its header says ${header.kind} "${header.name}" of system ${header.systemIdentifier}`,
  });
}

/** @throws CorruptError when the object has not the length that its header promises. */
function checkLength(sizeBytes: number, promised: number): void {
  if (promised === sizeBytes) return;
  throw new CorruptError(sizeBytes < promised ? 'the object is truncated' : 'bytes follow after the object', {
    detail: `${sizeBytes} bytes are stored, the header promises ${promised}`,
  });
}

/** Passes `content` on and keeps its length and hash. */
function measure(content: Bytes) {
  const hash = createHash('sha256');
  let bytes = 0;
  async function* pass(): AsyncGenerator<Uint8Array> {
    for await (const chunk of content) {
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
  }
  return { content: pass(), result: () => ({ bytes, sha256: hash.digest('hex') }) };
}
