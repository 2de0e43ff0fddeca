/**
 * The header of an object: what it is, in canonical JSON, in a zstd skippable frame. Both directions. Byte layout: docs/FORMAT.md.
 */
import type { ByteReader } from '../bytes.ts';
import { CorruptError } from '../errors.ts';
import { limits } from '../limits.ts';

/** What is written, and the newest that is understood. */
const formatVersion = 1;
/** Features that a header may require of its reader and that this reader has. */
const knownFeatures: readonly string[] = [];
/** A zstd skippable frame: magic 4, length 4, then the header's JSON. */
const headerMagic = 0x184d2a57;
const headerPrefixBytes = 8;

/** A range of this many bytes from the beginning holds every header whole. */
export const headerRangeBytes = 16 * 1024;

/** What an object with a full header may be, and the most content it may say. */
const contentLimits = {
  segment: limits.segmentBytes,
  partial: limits.segmentBytes,
  backup: limits.smallFileBytes,
  history: limits.smallFileBytes,
  manifest: limits.manifestBytes,
  lease: limits.smallFileBytes,
  pin: limits.smallFileBytes,
  plan: limits.planBytes,
  verification: limits.planBytes,
} as const;
/** Objects that are made while they are stored: nobody knows their length beforehand. */
const streamedKinds = ['files', 'part'] as const;

export type SealedKind = keyof typeof contentLimits;
export const objectKinds = Object.keys(contentLimits) as readonly SealedKind[];
export type StreamedKind = (typeof streamedKinds)[number];
export type ObjectKind = SealedKind | StreamedKind;

/** What an object is: sealed into it, and demanded when it is opened. */
export interface ObjectIdentity {
  readonly kind: ObjectKind;
  /** The object's key below its system identifier. */
  readonly name: string;
  /** Decimal; a string because JSON's numbers would round it. */
  readonly systemIdentifier: string;
}

/** The header of a streamed object: lengths and hashes stand behind it, in the manifest and in the list of files. */
export interface StreamedHeader extends ObjectIdentity {
  readonly format: number;
  readonly requires?: readonly string[];
}

export interface ObjectHeader extends StreamedHeader {
  /** Length of the content. */
  readonly bytes: number;
  /** Hexadecimal SHA-256 of the content. */
  readonly sha256: string;
  /** Length of the whole plain object, this header included. */
  readonly stored: number;
  /** ISO 8601, UTC. For people: nothing is decided by it. */
  readonly pushedAt: string;
  readonly host: string;
  /** Who wrote it had the authentication key: see `macOf`. */
  readonly mac?: string;
}

/** @throws CorruptError when none is there, or one of a newer format. */
export async function readHeader(reader: ByteReader): Promise<ObjectHeader> {
  return decodeHeader(await readHeaderJson(reader));
}

/** The header of a streamed object, and the length of its frame. @throws CorruptError as `readHeader`. */
export async function readStreamedHeader(reader: ByteReader) {
  const json = await readHeaderJson(reader);
  const header = parseCanonical(json);
  checkUnderstood(header);
  if (!isStreamedHeader(header)) throw new CorruptError('the header lacks what it must say');
  return { header, frameBytes: headerPrefixBytes + json.length };
}

async function readHeaderJson(reader: ByteReader): Promise<Buffer> {
  if (await reader.ended()) throw new CorruptError('the object is empty');
  const prefix = await reader.read(headerPrefixBytes);
  if (prefix.readUInt32LE(0) !== headerMagic) throw new CorruptError('not an object of WAL-T');
  const length = prefix.readUInt32LE(4);
  if (length > limits.headerBytes) throw new CorruptError('the header is longer than a header may be');
  return reader.read(length);
}

/** The frame around a header. */
export function encodeHeader(header: ObjectHeader | StreamedHeader): Uint8Array {
  const json = Buffer.from(JSON.stringify(header));
  if (json.length > limits.headerBytes) throw new Error(`header of ${json.length} bytes`);
  const prefix = Buffer.alloc(headerPrefixBytes);
  prefix.writeUInt32LE(headerMagic, 0);
  prefix.writeUInt32LE(json.length, 4);
  return Buffer.concat([prefix, json]);
}

/** The frame around the header of a streamed object. */
export function encodeStreamedHeader({ kind, name, systemIdentifier }: ObjectIdentity): Uint8Array {
  return encodeHeader({ format: formatVersion, kind, name, systemIdentifier });
}

/** `stored` counts the header that holds it: its own digits settle after a round or two. */
export function measuredHeader(
  fields: Omit<ObjectHeader, 'format' | 'stored' | 'mac'> & { readonly mac: string | undefined },
  framesBytes: number,
): ObjectHeader {
  const { kind, name, systemIdentifier, bytes, sha256, pushedAt, host, mac } = fields;
  const authenticated = mac === undefined ? {} : { mac };
  let stored = framesBytes;
  for (;;) {
    const header = {
      format: formatVersion,
      kind,
      name,
      systemIdentifier,
      bytes,
      sha256,
      stored,
      pushedAt,
      host,
      ...authenticated,
    };
    const actual = encodeHeader(header).length + framesBytes;
    if (actual === stored) return header;
    stored = actual;
  }
}

function decodeHeader(bytes: Buffer): ObjectHeader {
  const header = parseCanonical(bytes);
  checkUnderstood(header);
  if (!isHeader(header)) throw new CorruptError('the header lacks what it must say');
  if (header.bytes > (contentLimits[header.kind as SealedKind] ?? limits.segmentBytes)) {
    throw new CorruptError(`the header says more content than a ${header.kind} can have`, {
      detail: `${header.bytes} bytes`,
    });
  }
  return header;
}

/** @throws CorruptError when only a newer version may read the object. */
function checkUnderstood({ format, requires }: Record<string, unknown>): void {
  if (typeof format === 'number' && format > formatVersion) throw newer(`format ${format}`);
  const unknown = Array.isArray(requires) ? requires.find((feature) => !knownFeatures.includes(feature)) : undefined;
  if (unknown !== undefined) throw newer(`feature "${unknown}"`);
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

const isText = (value: unknown) => typeof value === 'string';
const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;

function isStreamedHeader(header: object): header is StreamedHeader {
  const fields = header as Partial<Record<keyof StreamedHeader, unknown>>;
  return isIdentified(fields) && (streamedKinds as readonly unknown[]).includes(fields.kind);
}

function isIdentified(fields: Partial<Record<keyof StreamedHeader, unknown>>): boolean {
  return (
    fields.format === formatVersion &&
    (fields.requires === undefined || Array.isArray(fields.requires)) &&
    isText(fields.name) &&
    isText(fields.systemIdentifier)
  );
}

function isHeader(header: object): header is ObjectHeader {
  const fields = header as Partial<Record<keyof ObjectHeader, unknown>>;
  return (
    isIdentified(fields) &&
    typeof fields.kind === 'string' &&
    isCount(fields.bytes) &&
    typeof fields.sha256 === 'string' &&
    /^[0-9a-f]{64}$/.test(fields.sha256) &&
    isCount(fields.stored) &&
    isText(fields.pushedAt) &&
    isText(fields.host) &&
    (fields.mac === undefined || isText(fields.mac))
  );
}

function newer(what: string): CorruptError {
  return new CorruptError(`the object needs a newer WAL-T: ${what}`, {
    hint: 'Install at least the version of WAL-T that wrote it.',
  });
}
