/** The text forms of age's keys, as people keep them in files. Both directions. Apart from the keys: only a host that encrypts loads this. */
import { bech32 } from '@scure/base';
import { ConfigurationError } from '../errors.ts';
import { generateSecretKey, type Identity, identityOf, isUsable, keyBytes, type Recipient } from './age-keys.ts';

const recipientPrefix = 'age';
const identityPrefix = 'age-secret-key-';

/** `age1…` → recipient. @throws ConfigurationError, which does not repeat the text: it may be a secret. */
export function parseRecipient(text: string): Recipient {
  const publicKey = text === text.toLowerCase() ? decodeBech32(text, recipientPrefix) : undefined;
  if (publicKey !== undefined && isUsable({ publicKey })) return { publicKey };
  const hint = /^age1.*1/.test(text)
    ? 'Only X25519 recipients (age1…) are supported, no plugins and no post-quantum ones.'
    : 'A recipient is the "public key: age1…" that wal-t keygen or age-keygen prints.';
  throw new ConfigurationError('an age recipient is malformed', { hint });
}

/** `AGE-SECRET-KEY-1…` → identity. @throws ConfigurationError, which does not repeat the text. */
export function parseIdentity(text: string): Identity {
  const secretKey = text === text.toUpperCase() ? decodeBech32(text, identityPrefix) : undefined;
  if (secretKey !== undefined) return identityOf(secretKey);
  const hint = /^AGE-(?:PLUGIN-|SECRET-KEY-[^1]+-1)/i.test(text)
    ? 'Only X25519 identities (AGE-SECRET-KEY-1…) are supported, no plugins and no post-quantum ones.'
    : 'An identity is the line AGE-SECRET-KEY-1… that wal-t keygen or age-keygen prints.';
  throw new ConfigurationError('an age identity is malformed', { hint });
}

export function formatRecipient({ publicKey }: Recipient): string {
  return bech32.encodeFromBytes(recipientPrefix, publicKey);
}

/** A new identity in its text form. */
export function generateIdentity(): string {
  return bech32.encodeFromBytes(identityPrefix, generateSecretKey()).toUpperCase();
}

function decodeBech32(text: string, prefix: string): Uint8Array | undefined {
  const decoded = bech32.decodeUnsafe(text);
  if (decoded?.prefix !== prefix) return undefined;
  const bytes = bech32.fromWordsUnsafe(decoded.words);
  return bytes instanceof Uint8Array && bytes.length === keyBytes ? bytes : undefined;
}
