/** What an archive is sealed and opened with, and what authenticates it. Nothing here reads files or settings. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { ConfigurationError, CorruptError } from '../errors.ts';
import type { Identity, Recipient, Stanza } from './age-keys.ts';

export interface Keys {
  /** Everything is encrypted to all of them; with none, nothing is. */
  readonly recipients: readonly Recipient[];
  /** May also read manifests, leases and lists of files. */
  readonly manifestRecipients?: readonly Recipient[];
  /** Several serve rotation: any of them opens what was sealed for it. */
  readonly identities: readonly Identity[];
  /** 32 bytes: proves who wrote, which age does not. */
  readonly authKey?: Uint8Array | undefined;
  /** Plain objects are accepted though identities are set: from before encryption was turned on. */
  readonly readPlaintext: boolean;
}

export const noKeys: Keys = { recipients: [], identities: [], readPlaintext: false };

/** What manifests, leases and lists of files are sealed with: to whoever may read data, and to those who may only see what there is. */
export function manifestKeys(keys: Keys): Keys {
  return { ...keys, recipients: [...keys.recipients, ...(keys.manifestRecipients ?? [])] };
}

/** What the MAC covers: all that tells one object's content from another's. */
export interface Authenticated {
  readonly kind: string;
  readonly name: string;
  readonly systemIdentifier: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** HMAC-SHA-256, hexadecimal, over the five fields, a line each; undefined without a key. */
export function macOf(fields: Authenticated, { authKey }: Keys): string | undefined {
  if (authKey === undefined) return undefined;
  const { kind, name, systemIdentifier, bytes, sha256 } = fields;
  const lines = [kind, name, systemIdentifier, bytes, sha256].map((field) => `${field}\n`).join('');
  return createHmac('sha256', authKey).update(lines).digest('hex');
}

/** @throws CorruptError when a key is set and the object was not written by somebody who has it. */
export function checkMac(fields: Authenticated & { readonly mac?: string | undefined }, keys: Keys): void {
  const expected = macOf(fields, keys);
  if (expected === undefined) return;
  const { mac = '' } = fields;
  const [given, right] = [Buffer.from(mac), Buffer.from(expected)];
  if (given.length === right.length && timingSafeEqual(given, right)) return;
  throw new CorruptError('it is not authentic', {
    detail: mac === '' ? 'it carries no authentication code' : 'its authentication code is not made with this key',
    hint: 'Somebody without the key of WALT_AUTH_KEY_FILE wrote it, or it is from before the key was set.',
  });
}

/** What a host that cannot decrypt may know of an object's content: enough to tell "the same" from "other". */
export interface Commitment {
  readonly sha256?: string;
  readonly mac?: string;
  /** Length of the plain layer. */
  readonly stored: number;
}

/** Qualified, as age asks for, so that nobody else's stanza has this name. */
const stanzaType = 'wal-t/content';

/** `-> wal-t/content <sha256=…|mac=…> <stored>`, with an empty body. With an authentication key the plain hash is not told. */
export function contentStanza({ sha256, mac, stored }: Commitment): Stanza {
  const commitment = mac === undefined ? `sha256=${sha256}` : `mac=${mac}`;
  return { type: stanzaType, arguments: [commitment, String(stored)], body: new Uint8Array() };
}

/** The commitment among a header's stanzas. @throws CorruptError when there is none of the known form. */
export function readContentStanza(stanzas: readonly Stanza[]): Commitment {
  const [first] = stanzas;
  const [commitment = '', stored = ''] = first?.type === stanzaType ? first.arguments : [];
  const match = /^(sha256|mac)=([0-9a-f]{64})$/.exec(commitment);
  if (match?.[2] === undefined || !/^\d{1,15}$/.test(stored)) {
    throw new CorruptError('it is encrypted, but does not say what it holds', {
      detail: `its header has no stanza "${stanzaType}"`,
    });
  }
  return match[1] === 'mac' ? { mac: match[2], stored: Number(stored) } : { sha256: match[2], stored: Number(stored) };
}

/**
 * What hosts that cannot decrypt were told must be what is inside. Without the stanza nobody was told anything: such is a file that
 * was encrypted anew by age itself.
 * @throws CorruptError
 */
export function checkStanza(stanzas: readonly Stanza[], inside: Commitment): void {
  if (stanzas[0]?.type !== stanzaType) return;
  const { sha256, mac, stored } = readContentStanza(stanzas);
  const agrees = mac === undefined ? sha256 === inside.sha256 : mac === inside.mac;
  if (agrees && stored === inside.stored) return;
  throw new CorruptError('its age header tells of other content than it holds');
}

/**
 * Is what is stored the same content as `mine`?
 * @throws ConfigurationError when the stored one is told by a MAC and this host has no key to compare with.
 */
export function isSameContent(stored: Commitment, mine: Authenticated, keys: Keys): boolean {
  if (stored.mac === undefined) return stored.sha256 === mine.sha256;
  const own = macOf(mine, keys);
  if (own !== undefined) return own === stored.mac;
  throw new ConfigurationError('it cannot be told whether the same is archived already', {
    detail: 'the stored object was written with an authentication key',
    hint: 'Set WALT_AUTH_KEY_FILE on this host, too.',
  });
}
