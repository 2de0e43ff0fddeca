/**
 * The envelope of every stored object: a header that says what it is, in a zstd skippable frame, then the content in zstd frames.
 * Both directions. Byte layout: docs/FORMAT.md. Knows no keys and no storage.
 */
import { createHash } from 'node:crypto';
import { ByteReader, type Bytes, bytesOf } from '../bytes.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';
import { compress, decompress } from './zstd.ts';

/** What is written, and the newest that is understood. */
const formatVersion = 1;
/** Features that a header may require of its reader and that this reader has. */
const knownFeatures: readonly string[] = [];
/** A zstd skippable frame: magic 4, length 4, then the header's JSON. */
const headerMagic = 0x184d2a57;
const headerPrefixBytes = 8;

/** A range of this many bytes from the beginning holds every header whole. */
export const headerRangeBytes = 16 * 1024;

export const objectKinds = ['segment', 'partial', 'backup', 'history'] as const;
export type ObjectKind = (typeof objectKinds)[number];

/** What an object is: sealed into it, and demanded when it is opened. */
export interface ObjectIdentity {
  readonly kind: ObjectKind;
  /** The object's key below its system identifier. */
  readonly name: string;
  /** Decimal; a string because JSON's numbers would round it. */
  readonly systemIdentifier: string;
}

export interface ObjectHeader extends ObjectIdentity {
  readonly format: number;
  readonly requires?: readonly string[];
  /** Length of the content. */
  readonly bytes: number;
  /** Hexadecimal SHA-256 of the content. */
  readonly sha256: string;
  /** Length of the whole object, this header included. */
  readonly stored: number;
  /** ISO 8601, UTC. For people: nothing is decided by it. */
  readonly pushedAt: string;
  readonly host: string;
}

export interface SealOptions extends ObjectIdentity {
  readonly pushedAt: Date;
  readonly host: string;
  /** zstd level. */
  readonly level: number;
}

export interface SealedObject {
  readonly header: ObjectHeader;
  /** The object's bytes; may be called again for another attempt. */
  readonly body: () => Uint8Array | Bytes;
}

/**
 * Seals the content that `readContent` reads, from its beginning at each call.
 * The header stands first and tells hash and lengths, so all is compressed before the first byte is handed out. Up to 64 MiB the
 * frames are kept for that; beyond, they are made a second time while they are sent, and must come out the same.
 */
export async function sealObject(
  readContent: () => Bytes,
  { level, pushedAt, host, ...identity }: SealOptions,
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
  const header = measuredHeader({ ...identity, bytes, sha256, pushedAt: pushedAt.toISOString(), host }, framesBytes);
  const head = encodeHeader(header);
  if (frames !== undefined) {
    const whole = Buffer.concat([head, ...frames]);
    return { header, body: () => whole };
  }
  return { header, body: () => sealAgain(readContent(), head, header, level) };
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
}

/**
 * Opens a whole object of `sizeBytes` stored bytes.
 * @throws CorruptError when it is none, is of a newer format, is not what `expected` says, or is shorter or longer than its header says;
 * and from `content` when any byte of it is not as it was sealed.
 */
export async function openObject(body: Bytes, sizeBytes: number, expected: ObjectIdentity): Promise<OpenedObject> {
  const reader = new ByteReader(body);
  try {
    const header = await readHeader(reader);
    checkIdentity(header, expected);
    checkStored(header, sizeBytes);
    return { header, content: verifiedContent(reader, header) };
  } catch (error) {
    await reader.close();
    throw error;
  }
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

/**
 * The header at the beginning of `start`, which holds at least `headerRangeBytes` of the object or all of it.
 * @throws CorruptError when there is none, or one of a newer format.
 */
export async function parseHeader(start: Uint8Array): Promise<ObjectHeader> {
  return readHeader(new ByteReader(bytesOf(start)));
}

/** @throws CorruptError when the object is not the one that was asked for: it was swapped, or copied under another key. */
export function checkIdentity(header: ObjectHeader, expected: ObjectIdentity): void {
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
export function checkStored(header: ObjectHeader, sizeBytes: number): void {
  if (header.stored === sizeBytes) return;
  throw new CorruptError(sizeBytes < header.stored ? 'the object is truncated' : 'bytes follow after the object', {
    detail: `${sizeBytes} bytes are stored, the header promises ${header.stored}`,
  });
}

async function readHeader(reader: ByteReader): Promise<ObjectHeader> {
  if (await reader.ended()) throw new CorruptError('the object is empty');
  const prefix = await reader.read(headerPrefixBytes);
  if (prefix.readUInt32LE(0) !== headerMagic) throw new CorruptError('not an object of WAL-T');
  const length = prefix.readUInt32LE(4);
  if (length > limits.headerBytes) throw new CorruptError('the header is longer than a header may be');
  return decodeHeader(await reader.read(length));
}

function encodeHeader(header: ObjectHeader): Uint8Array {
  const json = Buffer.from(JSON.stringify(header));
  if (json.length > limits.headerBytes) throw new Error(`header of ${json.length} bytes`);
  const prefix = Buffer.alloc(headerPrefixBytes);
  prefix.writeUInt32LE(headerMagic, 0);
  prefix.writeUInt32LE(json.length, 4);
  return Buffer.concat([prefix, json]);
}

/** `stored` counts the header that holds it: its own digits settle after a round or two. */
function measuredHeader(fields: Omit<ObjectHeader, 'format' | 'stored'>, framesBytes: number): ObjectHeader {
  const { kind, name, systemIdentifier, bytes, sha256, pushedAt, host } = fields;
  let stored = framesBytes;
  for (;;) {
    const header = { format: formatVersion, kind, name, systemIdentifier, bytes, sha256, stored, pushedAt, host };
    const actual = encodeHeader(header).length + framesBytes;
    if (actual === stored) return header;
    stored = actual;
  }
}

function decodeHeader(bytes: Buffer): ObjectHeader {
  const header = parseCanonical(bytes);
  const { format, requires } = header;
  if (typeof format === 'number' && format > formatVersion) throw newer(`format ${format}`);
  const unknown = Array.isArray(requires) ? requires.find((feature) => !knownFeatures.includes(feature)) : undefined;
  if (unknown !== undefined) throw newer(`feature "${unknown}"`);
  if (!isHeader(header)) throw new CorruptError('the header lacks what it must say');
  const isText = header.kind === 'history' || header.kind === 'backup';
  if (header.bytes > (isText ? limits.smallFileBytes : limits.segmentBytes)) {
    throw new CorruptError(`the header says more content than a ${header.kind} can have`, {
      detail: `${header.bytes} bytes`,
    });
  }
  return header;
}

/** JSON that is byte for byte its own re-serialisation: one header has one form, and nothing can be hidden in it. */
function parseCanonical(bytes: Buffer): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new CorruptError('the header is not JSON', { cause });
  }
  if (typeof value !== 'object' || value === null || !Buffer.from(JSON.stringify(value)).equals(bytes)) {
    throw new CorruptError('the header is not canonical JSON');
  }
  return value as Record<string, unknown>;
}

function isHeader(header: object): header is ObjectHeader {
  const fields = header as Partial<Record<keyof ObjectHeader, unknown>>;
  const isText = (value: unknown) => typeof value === 'string';
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  return (
    fields.format === formatVersion &&
    (fields.requires === undefined || Array.isArray(fields.requires)) &&
    isText(fields.kind) &&
    isText(fields.name) &&
    isText(fields.systemIdentifier) &&
    isCount(fields.bytes) &&
    typeof fields.sha256 === 'string' &&
    /^[0-9a-f]{64}$/.test(fields.sha256) &&
    isCount(fields.stored) &&
    isText(fields.pushedAt) &&
    isText(fields.host)
  );
}

function newer(what: string): CorruptError {
  return new CorruptError(`the object needs a newer WAL-T: ${what}`, {
    hint: 'Install at least the version of WAL-T that wrote it.',
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
