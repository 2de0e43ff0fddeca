/**
 * X25519 recipients and identities of age v1: the keys, and the wrapping of a file key for them. Both directions.
 * @see https://c2sp.org/age#the-x25519-recipient-type
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';
import { CorruptError } from '../errors.ts';

/** Who may read: a public key. A secret toward the store, since whoever knows it can forge (age does not say who wrote a file). */
export interface Recipient {
  readonly publicKey: Uint8Array;
}

/** Who reads: a secret key, and the public one that belongs to it. */
export interface Identity extends Recipient {
  readonly secretKey: KeyObject;
}

/** One recipient's part of a header: `-> type arguments…`, and a body. */
export interface Stanza {
  readonly type: string;
  readonly arguments: readonly string[];
  readonly body: Uint8Array;
}

export const keyBytes = 32;
export const fileKeyBytes = 16;
const tagBytes = 16;
const stanzaType = 'X25519';
const wrapInfo = 'age-encryption.org/v1/X25519';
/** A file key's wrapping key is used once, so its nonce may be zero. */
const zeroNonce = Buffer.alloc(12);
/** What stands before a raw key in DER: PKCS #8 and SPKI of X25519. @see RFC 8410 */
const secretKeyDer = Buffer.from('302e020100300506032b656e04220420', 'hex');
const publicKeyDer = Buffer.from('302a300506032b656e032100', 'hex');

/** Wraps a file key so that only the recipient's identity gets it back. */
export function wrapFileKey(fileKey: Uint8Array, { publicKey }: Recipient): Stanza {
  const ephemeral = generateKeyPairSync('x25519');
  const share = rawKey(ephemeral.publicKey, 'spki');
  const key = wrappingKey(ephemeral.privateKey, publicKey, Buffer.concat([share, publicKey]));
  const cipher = createCipheriv('chacha20-poly1305', key, zeroNonce, { authTagLength: tagBytes });
  const body = Buffer.concat([cipher.update(fileKey), cipher.final(), cipher.getAuthTag()]);
  return { type: stanzaType, arguments: [encodeBase64(share)], body };
}

/**
 * The file key in a stanza; undefined when the stanza is not for this identity.
 * @throws CorruptError when it is an X25519 stanza that cannot be one.
 */
export function unwrapFileKey(stanza: Stanza, { secretKey, publicKey }: Identity): Uint8Array | undefined {
  if (stanza.type !== stanzaType) return undefined;
  const [text, ...others] = stanza.arguments;
  const share = text === undefined ? undefined : decodeBase64(text);
  const sound = share?.length === keyBytes && others.length === 0 && stanza.body.length === fileKeyBytes + tagBytes;
  if (share === undefined || !sound) throw new CorruptError('an X25519 stanza of the age header is malformed');
  const key = wrappingKey(secretKey, share, Buffer.concat([share, publicKey]));
  const decipher = createDecipheriv('chacha20-poly1305', key, zeroNonce, { authTagLength: tagBytes });
  decipher.setAuthTag(stanza.body.subarray(fileKeyBytes));
  try {
    return Buffer.concat([decipher.update(stanza.body.subarray(0, fileKeyBytes)), decipher.final()]);
  } catch {
    return undefined; // it is for somebody else: only the tag tells
  }
}

function wrappingKey(secretKey: KeyObject, publicKey: Uint8Array, salt: Uint8Array): Buffer {
  let shared: Buffer;
  try {
    shared = diffieHellman({ privateKey: secretKey, publicKey: publicKeyOf(publicKey) });
  } catch (cause) {
    throw new CorruptError('an X25519 key is a point of low order', { cause }); // the shared secret would be zero, known to all
  }
  return Buffer.from(hkdfSync('sha256', shared, salt, wrapInfo, keyBytes));
}

/** Can something be wrapped for it? Not for a point of low order, which is nobody's key. */
export function isUsable(recipient: Recipient): boolean {
  try {
    wrapFileKey(new Uint8Array(fileKeyBytes), recipient);
    return true;
  } catch (error) {
    if (error instanceof CorruptError) return false;
    throw error;
  }
}

/** A new raw secret key. */
export function generateSecretKey(): Uint8Array {
  return rawKey(generateKeyPairSync('x25519').privateKey, 'pkcs8');
}

/** The identity of a raw secret key of 32 bytes. */
export function identityOf(raw: Uint8Array): Identity {
  const secretKey = createPrivateKey({ key: Buffer.concat([secretKeyDer, raw]), format: 'der', type: 'pkcs8' });
  return { secretKey, publicKey: rawKey(createPublicKey(secretKey), 'spki') };
}

function publicKeyOf(raw: Uint8Array): KeyObject {
  return createPublicKey({ key: Buffer.concat([publicKeyDer, raw]), format: 'der', type: 'spki' });
}

/** Raw keys stand at the end of their DER forms. */
function rawKey(key: KeyObject, type: 'pkcs8' | 'spki'): Uint8Array {
  const der =
    type === 'pkcs8' ? key.export({ format: 'der', type: 'pkcs8' }) : key.export({ format: 'der', type: 'spki' });
  return new Uint8Array(der.subarray(-keyBytes));
}

/** Base64 without padding, as age writes it. */
export function encodeBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64').replace(/=+$/, '');
}

/** Undefined for anything but the one canonical form: two texts for the same bytes would make two headers for the same file. */
export function decodeBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64');
  return encodeBase64(bytes) === text ? bytes : undefined;
}
