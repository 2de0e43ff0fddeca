/**
 * Files in the age v1 format: a header that gives the file key to each recipient, and a payload. Both directions.
 * @see https://c2sp.org/age
 */
import { createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import type { ByteReader, Bytes } from '../bytes.ts';
import { CorruptError, WrongKeyError } from '../errors.ts';
import {
  decodeBase64,
  encodeBase64,
  fileKeyBytes,
  type Identity,
  type Recipient,
  type Stanza,
  unwrapFileKey,
  wrapFileKey,
} from './age-keys.ts';
import { openStream, plainSize, sealedSize, sealStream } from './age-stream.ts';

const versionLine = 'age-encryption.org/v1';
const nonceBytes = 16;
const columns = 64;
/** Bounds what is read before anything is known to be authentic. */
const maxHeaderBytes = 64 * 1024;
/** What stands before a payload is at most so long. */
export const maxAgeHeadBytes = maxHeaderBytes + nonceBytes;

/** How many bytes of its beginning tell an age file. */
export const ageMarkBytes = versionLine.length;

/** Does a file that begins with these bytes claim to be an age file? */
export function looksLikeAge(start: Uint8Array): boolean {
  return Buffer.from(start.subarray(0, ageMarkBytes)).equals(Buffer.from(versionLine));
}

/** A header as it was read; nothing of it is authentic before `openAge` has checked it with the file key. */
export interface AgeHeader {
  readonly stanzas: readonly Stanza[];
  /** Its own length: the payload's nonce follows. */
  readonly sizeBytes: number;
  readonly mac: Uint8Array;
  /** What the MAC covers: everything before it. */
  readonly covered: Uint8Array;
}

export interface SealedAge {
  /** Length of all that is not payload: header and nonce. */
  readonly headBytes: number;
  readonly body: Bytes;
  readonly keyCommitment: string;
}

/**
 * Encrypts `plain` to every recipient.
 * `stanzas` stand first in the header, in plain, covered by its MAC; readers that do not know them ignore them.
 */
export function sealAge(
  plain: Bytes,
  { recipients, stanzas = [] }: { readonly recipients: readonly Recipient[]; readonly stanzas?: readonly Stanza[] },
): SealedAge {
  const fileKey = randomBytes(fileKeyBytes);
  const all = [...stanzas, ...recipients.map((recipient) => wrapFileKey(fileKey, recipient))];
  const covered = [versionLine, '\n', ...all.map(formatStanza), '---'].join('');
  const mac = headerMac(fileKey, Buffer.from(covered));
  const nonce = randomBytes(nonceBytes);
  const head = Buffer.concat([Buffer.from(`${covered} ${encodeBase64(mac)}\n`), nonce]);
  return {
    headBytes: head.length,
    body: headThen(head, sealStream(payloadKey(fileKey, nonce), plain)),
    keyCommitment: commitTo(fileKey),
  };
}

async function* headThen(head: Uint8Array, rest: Bytes): Bytes {
  yield head;
  yield* rest;
}

export interface OpenedAge {
  /** Ends only when all of it was authentic; ending early closes `reader`, too. */
  readonly content: Bytes;
  readonly plainBytes: number;
  readonly stanzas: readonly Stanza[];
  /** Tells this file's key from any other, and tells nothing of it. */
  readonly keyCommitment: string;
}

/**
 * Decrypts the age file of `sizeBytes` bytes at `reader` with whichever identity fits.
 * @throws CorruptError when it is none, when no identity fits, when its header is not authentic; and from the content, see `openStream`.
 */
export async function openAge(
  reader: ByteReader,
  sizeBytes: number,
  identities: readonly Identity[],
): Promise<OpenedAge> {
  const head = await openAgeHead(reader, identities);
  const plainBytes = plainSize(sizeBytes - head.sizeBytes);
  if (plainBytes === undefined) throw new CorruptError('an encrypted payload has an impossible length');
  const content = closing(reader, openStream(head.payloadKey, reader));
  return { content, plainBytes, stanzas: head.stanzas, keyCommitment: head.keyCommitment };
}

/** What stands before the payload, opened. */
export interface AgeHead extends Pick<OpenedAge, 'stanzas' | 'keyCommitment'> {
  /** Where the payload begins. */
  readonly sizeBytes: number;
  readonly payloadKey: Uint8Array;
}

/** Takes header and nonce from `reader`. @throws as `openAge`. */
export async function openAgeHead(reader: ByteReader, identities: readonly Identity[]): Promise<AgeHead> {
  const header = await readAgeHeader(reader);
  const fileKey = findFileKey(header, identities);
  const nonce = await reader.read(nonceBytes);
  return {
    stanzas: header.stanzas,
    keyCommitment: commitTo(fileKey),
    sizeBytes: header.sizeBytes + nonceBytes,
    payloadKey: payloadKey(fileKey, nonce),
  };
}

async function* closing(reader: ByteReader, content: Bytes): Bytes {
  try {
    yield* content;
  } finally {
    await reader.close();
  }
}

/** The length of the whole file around `plainBytes` bytes, from its header. */
export function ageFileSize({ sizeBytes }: AgeHeader, plainBytes: number): number {
  return sizeBytes + nonceBytes + sealedSize(plainBytes);
}

/** Takes the header from `reader`. @throws CorruptError when it is not exactly of age's form. */
export async function readAgeHeader(reader: ByteReader): Promise<AgeHeader> {
  const lines = new HeaderLines(reader);
  if ((await lines.next()) !== versionLine) throw malformed('it does not begin with "age-encryption.org/v1"');
  const stanzas: Stanza[] = [];
  for (;;) {
    const before = lines.text.length;
    const line = await lines.next();
    if (line.startsWith('---')) {
      const mac = decodeBase64(line.slice(4));
      if (!line.startsWith('--- ') || mac?.length !== 32 || stanzas.length === 0) throw malformed('its last line');
      checkScrypt(stanzas);
      return {
        stanzas,
        sizeBytes: lines.text.length,
        mac,
        covered: Buffer.from(`${lines.text.slice(0, before)}---`, 'latin1'),
      };
    }
    stanzas.push(await readStanza(line, lines));
  }
}

async function readStanza(line: string, lines: HeaderLines): Promise<Stanza> {
  const [arrow, type, ...words] = line.split(' ');
  if (arrow !== '->' || type === undefined || ![type, ...words].every((word) => /^[!-~]+$/.test(word))) {
    throw malformed('a stanza');
  }
  let text = '';
  for (let body = ''; ; ) {
    body = await lines.next();
    if (body.length > columns) throw malformed("a stanza's body");
    text += body;
    if (body.length < columns) break;
  }
  const bytes = decodeBase64(text);
  if (bytes === undefined) throw malformed("a stanza's body");
  return { type, arguments: words, body: bytes };
}

/** A passphrase must be the only way in: else somebody who knows another key could make others believe it was used. */
function checkScrypt(stanzas: readonly Stanza[]): void {
  if (stanzas.length > 1 && stanzas.some(({ type }) => type === 'scrypt'))
    throw malformed('a passphrase beside other recipients');
}

function formatStanza({ type, arguments: words, body }: Stanza): string {
  const text = encodeBase64(body);
  const full = text.match(/.{64}/g) ?? [];
  return [`-> ${[type, ...words].join(' ')}`, ...full, text.slice(full.length * columns), ''].join('\n');
}

function findFileKey(header: AgeHeader, identities: readonly Identity[]): Uint8Array {
  let found: Uint8Array | undefined;
  for (const stanza of header.stanzas) {
    for (const identity of identities) found ??= unwrapFileKey(stanza, identity);
  }
  if (found === undefined) {
    throw new WrongKeyError('no identity fits: it is encrypted to other recipients', {
      hint: 'Set WALT_AGE_IDENTITY_FILE to the identity of one of the recipients that it was pushed with.',
    });
  }
  if (!timingSafeEqual(headerMac(found, header.covered), header.mac)) {
    throw new CorruptError('the age header is not authentic');
  }
  return found;
}

function headerMac(fileKey: Uint8Array, covered: Uint8Array): Buffer {
  const key = Buffer.from(hkdfSync('sha256', fileKey, '', 'header', 32));
  return createHmac('sha256', key).update(covered).digest();
}

/** A file's key is chosen anew for each: whoever lays another header before the payload cannot have chosen the same. */
function commitTo(fileKey: Uint8Array): string {
  return createHmac('sha256', fileKey).update('wal-t/file-key').digest('hex');
}

function payloadKey(fileKey: Uint8Array, nonce: Uint8Array): Buffer {
  return Buffer.from(hkdfSync('sha256', fileKey, nonce, 'payload', 32));
}

/** Lines that end with a line feed and nothing else, and all that was read of them. */
class HeaderLines {
  readonly #reader: ByteReader;
  text = '';

  constructor(reader: ByteReader) {
    this.#reader = reader;
  }

  async next(): Promise<string> {
    const start = this.text.length;
    for (;;) {
      const byte = (await this.#reader.read(1)).toString('latin1');
      this.text += byte;
      if (byte === '\n') return this.text.slice(start, -1);
      if (this.text.length > maxHeaderBytes) throw malformed('it is too long');
    }
  }
}

function malformed(what: string): CorruptError {
  return new CorruptError('the age header is malformed', { detail: what });
}
