/** Keys in their text forms, and what authenticates an object: its MAC, its commitment, and that nothing is downgraded. */
import { createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto';
import { bech32 } from '@scure/base';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteReader, bytesOf } from '../../src/bytes.ts';
import { readAgeHeader, sealAge } from '../../src/codec/age.ts';
import { type Stanza, unwrapFileKey } from '../../src/codec/age-keys.ts';
import { sealStream } from '../../src/codec/age-stream.ts';
import { formatRecipient, generateIdentity, parseIdentity, parseRecipient } from '../../src/codec/age-text.ts';
import { headerRangeBytes, type ObjectIdentity } from '../../src/codec/header.ts';
import {
  type Authenticated,
  contentStanza,
  isSameContent,
  type Keys,
  noKeys,
  readContentStanza,
} from '../../src/codec/keys.ts';
import { describeObject, openObject } from '../../src/codec/object.ts';
import { ConfigurationError, CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { envelope, identity as is, join, seal } from '../support/objects.ts';

const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');
const [alice, bob] = [parseIdentity(generateIdentity()), parseIdentity(generateIdentity())];
const authKey = randomBytes(32);
const content = Buffer.from('1\t0/3000000\tno recovery target specified\n'.repeat(3));
/** Set on the host that pushes, and on the one that reads. */
const [sealing, reading]: readonly [Keys, Keys] = [
  { ...noKeys, recipients: [alice] },
  { ...noKeys, identities: [alice] },
];

async function open(object: Uint8Array, keys: Keys, expected: ObjectIdentity = is): Promise<Buffer> {
  const opened = await openObject(bytesOf(object), object.length, expected, keys);
  return join(opened.content);
}

async function headerOf(object: Uint8Array) {
  return readAgeHeader(new ByteReader(bytesOf(object)));
}

describe('the text form of a key', () => {
  // from the documentation of age and the shared vectors
  const secret = 'AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0';
  const post = 'AGE-SECRET-KEY-PQ-1HZLGZUPT4ETPKDEV8HSGFDCYZ4E522W0A7PU2LHT8EH9W6YLNC3SW78XKG';
  const recipient = formatRecipient(parseIdentity(secret));

  it('comes back as it went', () => {
    fc.assert(
      fc.property(fc.constant(0), () => {
        const text = generateIdentity();
        expect(text).toMatch(/^AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}$/);
        const { publicKey } = parseIdentity(text);
        const shown = formatRecipient({ publicKey });
        expect(shown).toMatch(/^age1[02-9ac-hj-np-z]{58}$/);
        expect(Buffer.from(parseRecipient(shown).publicKey).equals(publicKey)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  function refusal(parse: (text: string) => unknown, text: string): ConfigurationError {
    try {
      parse(text);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigurationError);
      return error as ConfigurationError;
    }
    throw new Error(`accepted: ${text}`);
  }

  const typos = (text: string) =>
    [...text].map((letter, at) => `${text.slice(0, at)}${/q/i.test(letter) ? 'p' : 'q'}${text.slice(at + 1)}`);
  const anyCase = (text: string) => [text, text.toUpperCase(), text.toLowerCase()];
  const supported = 'Only X25519';
  const rows: readonly (readonly [
    what: string,
    parse: (text: string) => unknown,
    texts: readonly string[],
    hint: string,
  ])[] = [
    ['a recipient with a typing error', parseRecipient, typos(recipient).map((text) => text.toLowerCase()), ''],
    ['an identity with a typing error', parseIdentity, typos(secret).map((text) => text.toUpperCase()), ''],
    ['a recipient in upper case', parseRecipient, [recipient.toUpperCase()], 'A recipient is'],
    ['an identity in lower case', parseIdentity, [secret.toLowerCase()], 'An identity is'],
    ['a key in both cases', parseRecipient, [`age1${recipient.slice(4).toUpperCase()}`], 'A recipient is'],
    ['an identity for a recipient', parseRecipient, anyCase(secret), 'A recipient is'],
    ['a recipient for an identity', parseIdentity, anyCase(recipient), 'An identity is'],
    ['nothing', parseRecipient, ['', ' ', 'age1', 'age'], 'A recipient is'],
    ['no identity', parseIdentity, ['', ' ', 'AGE-SECRET-KEY-1'], 'An identity is'],
    ['white space around', parseRecipient, [` ${recipient}`, `${recipient}\n`], 'A recipient is'],
    ['an SSH key', parseRecipient, ['ssh-ed25519'], 'A recipient is'],
    ['a key that is too short', parseRecipient, [bech32.encodeFromBytes('age', new Uint8Array(31).fill(9))], ''],
    ['a key that is too long', parseRecipient, [bech32.encodeFromBytes('age', new Uint8Array(33).fill(9))], ''],
    ['a point of low order', parseRecipient, [bech32.encodeFromBytes('age', new Uint8Array(32))], 'A recipient is'],
    ['a plugin’s recipient', parseRecipient, [bech32.encodeFromBytes('age1yubikey', randomBytes(33))], supported],
    [
      'a post-quantum recipient',
      parseRecipient,
      [bech32.encode('age1pq', bech32.toWords(randomBytes(1216)), false)],
      supported,
    ],
    ['a tagged recipient', parseRecipient, [bech32.encodeFromBytes('age1tag', randomBytes(33))], supported],
    ['a post-quantum identity', parseIdentity, [post], supported],
    [
      'a plugin’s identity',
      parseIdentity,
      [bech32.encodeFromBytes('age-plugin-yubikey-', randomBytes(20)).toUpperCase()],
      supported,
    ],
  ];

  it.each(rows)('is refused when it is %s, and never repeated', (_what, parse, texts, hint) => {
    for (const text of texts) {
      const error = refusal(parse, text);
      expect(error.message).toMatch(/^an age (recipient|identity) is malformed$/);
      expect(error.hint).toContain(hint);
      if (text.length < 20) continue;
      const said = `${error.message} ${error.detail} ${error.hint} ${error.stack} ${JSON.stringify(error.cause)}`;
      expect(said.toLowerCase()).not.toContain(text.trim().toLowerCase().slice(-20));
    }
  });
});

describe('the content stanza', () => {
  it('says hash and length in plain, or the MAC in place of the hash, and comes back', async () => {
    for (const commitment of [{ sha256: sha256(content) }, { mac: sha256(authKey) }]) {
      const stanza = contentStanza({ ...commitment, stored: 1234 });
      const [[kind, value] = []] = Object.entries(commitment);
      expect(stanza).toEqual({
        type: 'wal-t/content',
        arguments: [`${kind}=${value}`, '1234'],
        body: new Uint8Array(),
      });
      expect(readContentStanza([stanza])).toEqual({ ...commitment, stored: 1234 });
    }
  });

  it('stands first in a header, within the range that is read', async () => {
    const recipients = Array.from({ length: limits.recipients }, () => parseIdentity(generateIdentity()));
    const object = await seal(content, { keys: { ...noKeys, recipients, authKey } });
    expect(object.toString('latin1', 0, 60)).toMatch(/^age-encryption.org\/v1\n-> wal-t\/content mac=[0-9a-f]/);
    const { sizeBytes, stanzas } = await headerOf(object);
    expect([sizeBytes <= headerRangeBytes, stanzas.length]).toEqual([true, limits.recipients + 1]);
    const found = await describeObject(object.subarray(0, headerRangeBytes), object.length, is);
    expect(found.mac).toMatch(/^[0-9a-f]{64}$/);
  });

  const hex = sha256(content);
  it.each<readonly [string, readonly Stanza[]]>([
    ['none', []],
    ['one that is not the first', [stanza('grease'), stanza('wal-t/content', `sha256=${hex}`, '12')]],
    ['one of another name', [stanza('content', `sha256=${hex}`, '12')]],
    ['one without arguments', [stanza('wal-t/content')]],
    ['one without a length', [stanza('wal-t/content', `sha256=${hex}`)]],
    ['one with a negative length', [stanza('wal-t/content', `sha256=${hex}`, '-1')]],
    ['one with a length in hexadecimal', [stanza('wal-t/content', `sha256=${hex}`, '0x10')]],
    ['one with a length beyond 2^53', [stanza('wal-t/content', `sha256=${hex}`, '9'.repeat(16))]],
    ['one with a short hash', [stanza('wal-t/content', `sha256=${hex.slice(1)}`, '12')]],
    ['one with a hash in upper case', [stanza('wal-t/content', `sha256=${hex.toUpperCase()}`, '12')]],
    ['one with another hash', [stanza('wal-t/content', `sha1=${hex}`, '12')]],
    ['one with a member’s name', [stanza('wal-t/content', `constructor=${hex}`, '12')]],
  ])('is needed to tell what is stored: not with %s', (_what, stanzas) => {
    expect(() => readContentStanza(stanzas)).toThrow('does not say what it holds');
  });

  function stanza(type: string, ...words: readonly string[]): Stanza {
    return { type, arguments: words, body: new Uint8Array() };
  }

  /** An object whose header tells of what it does not hold. */
  async function forged(stanzas: readonly Stanza[], plain: Uint8Array): Promise<Buffer> {
    return join(sealAge(bytesOf(plain), { recipients: [alice], stanzas }).body);
  }

  it('H44: must agree with what is inside: else the hosts that cannot decrypt were lied to', async () => {
    const plain = await seal(content);
    const stored = plain.length;
    expect(await open(await forged([contentStanza({ sha256: hex, stored })], plain), reading)).toEqual(content);
    const lies = [
      { sha256: sha256(authKey), stored },
      { sha256: hex, stored: stored + 1 },
      { mac: hex, stored },
    ];
    for (const lie of lies) {
      await expect(open(await forged([contentStanza(lie)], plain), reading)).rejects.toThrow('other content');
    }
    await expect(open(await forged([stanza('wal-t/content', 'x')], plain), reading)).rejects.toThrow('does not say');
  });

  it('may lack in what age itself encrypted anew: that is read, but nothing is told of it without an identity', async () => {
    const object = await forged([], await seal(content));
    expect(await open(object, reading)).toEqual(content);
    await expect(describeObject(object, object.length, is)).rejects.toThrow('does not say what it holds');
  });

  it('H15: tells the length of the whole object', async () => {
    for (const keys of [sealing, { ...sealing, authKey }]) {
      const object = await seal(content, { keys });
      const start = object.subarray(0, headerRangeBytes);
      await describeObject(start, object.length, is);
      await expect(describeObject(start, object.length - 1, is)).rejects.toThrow('truncated');
      await expect(describeObject(start, object.length + 1, is)).rejects.toThrow('bytes follow');
    }
  });
});

describe('the authentication code', () => {
  const withKey = { ...noKeys, authKey };
  const fields: Authenticated = { ...is, bytes: content.length, sha256: sha256(content) };

  it('is HMAC-SHA-256 over kind, name, system identifier, length and hash, a line each', async () => {
    const text = `${is.kind}\n${is.name}\n${is.systemIdentifier}\n${content.length}\n${sha256(content)}\n`;
    const mac = createHmac('sha256', authKey).update(text).digest('hex');
    const object = await seal(content, { keys: withKey });
    expect(object.toString('latin1')).toContain(`"mac":"${mac}"}`);
    const encrypted = await seal(content, { keys: { ...sealing, authKey } });
    expect((await headerOf(encrypted)).stanzas[0]?.arguments[0]).toBe(`mac=${mac}`);
  });

  it('in place of the hash, tells nothing of the content to those without its key', async () => {
    const object = await seal(content, { keys: { ...sealing, authKey } });
    const header = object.toString('latin1', 0, (await headerOf(object)).sizeBytes);
    expect(header).not.toContain(sha256(content));
    const plain = await seal(content, { keys: sealing });
    expect(plain.toString('latin1')).toContain(sha256(content));
  });

  const name = 'wal/00000001/0000000100000000/000000010000000000000003';
  const others: readonly (readonly [what: string, change: Partial<ObjectIdentity>])[] = [
    ['of another kind', { kind: 'partial' }],
    ['of another name', { name }],
    ['of another cluster', { systemIdentifier: '1' }],
  ];

  it.each(others)('does not fit an object %s', async (_what, change) => {
    const stolen = mac(await seal(content, { keys: withKey, ...change }));
    const frames = await encodeFrame(content, 3);
    const object = envelope({ bytes: content.length, sha256: sha256(content), mac: stolen }, frames);
    await expect(open(object, withKey)).rejects.toThrow('it is not authentic');
  });

  function mac(object: Buffer): string {
    return /"mac":"([0-9a-f]{64})"/.exec(object.toString('latin1'))?.[1] ?? '';
  }

  it('does not fit other content, or another length', async () => {
    const sound = mac(await seal(content, { keys: withKey }));
    const frames = await encodeFrame(content, 3);
    const object = (members: object) =>
      envelope({ bytes: content.length, sha256: sha256(content), mac: sound, ...members }, frames);
    expect(await open(object({}), withKey)).toEqual(content);
    for (const members of [{ bytes: content.length + 1 }, { sha256: sha256(authKey) }]) {
      await expect(open(object(members), withKey)).rejects.toThrow('it is not authentic');
    }
  });

  /** What somebody makes who knows the recipient, as everybody may who has seen the settings of a host that pushes. */
  const forgeries: readonly (readonly [what: string, keys: Keys, detail: string])[] = [
    ['without a code', sealing, 'it carries no authentication code'],
    ['with the code of another key', { ...sealing, authKey: randomBytes(32) }, 'is not made with this key'],
    ['in plain, without a code', noKeys, 'it carries no authentication code'],
    ['in plain, with the code of another key', { ...noKeys, authKey: randomBytes(32) }, 'is not made with this key'],
  ];

  it.each(forgeries)('H44: is demanded by whoever has the key: a forged object %s', async (_what, keys, detail) => {
    const object = await seal(Buffer.from('forged'), { keys });
    const lenient = { ...reading, readPlaintext: true };
    expect(await open(object, lenient)).toEqual(Buffer.from('forged'));
    const error = await open(object, { ...lenient, authKey }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(CorruptError);
    expect(error).toMatchObject({ message: 'it is not authentic', detail: expect.stringContaining(detail) });
    expect(error).toMatchObject({ hint: expect.stringContaining('WALT_AUTH_KEY_FILE') });
  });

  it.each(['', 'x', '0'.repeat(63), '0'.repeat(64), '0'.repeat(65), 'é'.repeat(64), 'é'.repeat(32), 7, null, []])(
    'is refused when it is %j',
    async (code) => {
      const object = envelope(
        { bytes: content.length, sha256: sha256(content), mac: code },
        await encodeFrame(content, 3),
      );
      await expect(open(object, withKey)).rejects.toThrow(CorruptError);
    },
  );

  it('is not asked for by those who have no key', async () => {
    expect(await open(await seal(content, { keys: withKey }), noKeys)).toEqual(content);
    expect(await open(await seal(content, { keys: { ...sealing, authKey } }), reading)).toEqual(content);
  });

  it('tells the same content from other, and says so where it cannot', () => {
    const other = { ...fields, sha256: sha256(authKey) };
    const own = { mac: createMac(fields), stored: 1 };
    expect(isSameContent(own, fields, withKey)).toBe(true);
    expect(isSameContent(own, other, withKey)).toBe(false);
    expect(isSameContent(own, { ...fields, name }, withKey)).toBe(false);
    expect(isSameContent({ sha256: fields.sha256, stored: 1 }, fields, noKeys)).toBe(true);
    expect(isSameContent({ sha256: fields.sha256, stored: 1 }, other, noKeys)).toBe(false);
    expect(isSameContent({ sha256: fields.sha256, stored: 1 }, fields, withKey)).toBe(true);
    expect(() => isSameContent(own, fields, noKeys)).toThrow(ConfigurationError);
    expect(() => isSameContent(own, fields, sealing)).toThrow('it cannot be told whether the same is archived already');
  });

  function createMac({ kind, name: key, systemIdentifier, bytes, sha256: hash }: Authenticated): string {
    return createHmac('sha256', authKey)
      .update([kind, key, systemIdentifier, bytes, hash, ''].join('\n'))
      .digest('hex');
  }
});

describe('encryption', () => {
  it('hides all but the lengths and the hash: no name, no host, no content', async () => {
    const object = await seal(content, { keys: sealing });
    for (const text of [is.name, is.systemIdentifier, 'db1', 'segment', 'recovery target', 'pushedAt']) {
      expect([text, object.toString('latin1').includes(text)]).toEqual([text, false]);
    }
  });

  it('is opened by the envelope’s own rules: another object under this key is refused', async () => {
    const swapped = await seal(content, { keys: sealing, name: 'wal/history/00000002.history' });
    await expect(open(swapped, reading)).rejects.toThrow('another object is stored under this key');
  });

  it('needs an identity, and says so at once', async () => {
    const object = await seal(content, { keys: sealing });
    for (const keys of [noKeys, sealing, { ...noKeys, readPlaintext: true }]) {
      const error = await open(object, keys).catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(ConfigurationError);
      expect(error).toMatchObject({ mayPass: false, message: 'the archive is encrypted, and no identity is set' });
    }
    await expect(open(object, { ...noKeys, identities: [bob] })).rejects.toThrow('no identity fits');
    expect(await open(object, { ...noKeys, identities: [bob, alice] })).toEqual(content);
  });

  it('H44: is not downgraded: with an identity a plain object is refused, unless it is said to be wanted', async () => {
    const object = await seal(content);
    const error = await open(object, reading).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(CorruptError);
    expect(error).toMatchObject({ hint: expect.stringContaining('WALT_READ_PLAINTEXT=1') });
    expect(await open(object, { ...reading, readPlaintext: true })).toEqual(content);
    expect(await open(await seal(content, { keys: sealing }), { ...reading, readPlaintext: true })).toEqual(content);
    expect(await open(object, { ...sealing, identities: [] })).toEqual(content);
  });

  it('H44: does not prove who wrote: what a co-recipient puts under the same header is found by its commitment', async () => {
    const object = await seal(content, { keys: { ...noKeys, recipients: [alice, bob] } });
    const { stanzas, sizeBytes } = await headerOf(object);
    const fileKey = stanzas.map((one) => unwrapFileKey(one, bob)).find((key) => key !== undefined) ?? randomBytes(16);
    const nonce = object.subarray(sizeBytes, sizeBytes + 16);
    const payloadKey = Buffer.from(hkdfSync('sha256', fileKey, nonce, 'payload', 32));
    const replaced = async (plain: Uint8Array) =>
      Buffer.concat([object.subarray(0, sizeBytes + 16), await join(sealStream(payloadKey, bytesOf(plain)))]);
    expect((await replaced(await seal(content))).equals(object)).toBe(true);
    const other = await replaced(await seal(Buffer.from(content).fill('x')));
    await expect(open(other, reading)).rejects.toThrow('its age header tells of other content than it holds');
  });
});
