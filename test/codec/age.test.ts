/** age v1: the shared vectors of the format, other implementations of it in both directions, and that nothing unauthentic is given. */
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { inflateSync } from 'node:zlib';
import { Decrypter, Encrypter } from 'age-encryption';
import * as vectors from 'cctv-age';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteReader, type Bytes, bytesOf } from '../../src/bytes.ts';
import { ageFileSize, looksLikeAge, openAge, readAgeHeader, sealAge } from '../../src/codec/age.ts';
import { decodeBase64, encodeBase64, type Identity, type Stanza } from '../../src/codec/age-keys.ts';
import { openChunks, openStream, plainSize, sealedRange, sealedSize, sealStream } from '../../src/codec/age-stream.ts';
import { formatRecipient, generateIdentity, parseIdentity, parseRecipient } from '../../src/codec/age-text.ts';
import { CorruptError } from '../../src/errors.ts';
import { temporaryFolder } from '../support/folders.ts';
import { cut, join } from '../support/objects.ts';
import { hasTool } from '../support/tools.ts';

const isTorture = process.env.TORTURE === '1';
const chunkBytes = 64 * 1024;
const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');
const [alice, bob, carol] = [newIdentity(), newIdentity(), newIdentity()];

function newIdentity(): Identity & { readonly text: string } {
  const text = generateIdentity();
  return { ...parseIdentity(text), text };
}

async function seal(content: Uint8Array, recipients: readonly Identity[], stanzas: readonly Stanza[] = []) {
  const { headBytes, body } = sealAge(bytesOf(content), { recipients, stanzas });
  const sizeBytes = headBytes + sealedSize(content.length);
  const file = await join(body);
  expect(file.length).toBe(sizeBytes);
  return file;
}

/** What is given before the end or the error, and the error. */
async function release(body: Bytes, sizeBytes: number, identities: readonly Identity[]) {
  const given: Uint8Array[] = [];
  let error: unknown;
  try {
    const { content } = await openAge(new ByteReader(body), sizeBytes, identities);
    for await (const chunk of content) given.push(chunk);
  } catch (caught) {
    error = caught;
  }
  return { given: Buffer.concat(given), error };
}

async function open(file: Uint8Array, ...identities: readonly Identity[]): Promise<Buffer> {
  const { given, error } = await release(bytesOf(file), file.length, identities);
  if (error !== undefined) throw error;
  return given;
}

describe("the format's shared vectors", () => {
  interface Vector {
    readonly name: string;
    readonly expected: string;
    readonly payloadSha256: string | undefined;
    readonly identities: readonly Identity[];
    readonly file: Buffer;
    /** Why WAL-T need not open it. */
    readonly leftOut: 'armor' | 'passphrase' | 'post-quantum' | undefined;
  }

  function parseVector(name: string, bytes: Uint8Array): Vector {
    const text = Buffer.from(bytes);
    const end = text.indexOf('\n\n');
    const fields = text.toString('latin1', 0, end).split('\n');
    const all = (field: string) =>
      fields.filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2));
    const body = text.subarray(end + 2);
    const x25519 = all('identity').filter((identity) => identity.startsWith('AGE-SECRET-KEY-1'));
    let leftOut: Vector['leftOut'];
    if (all('identity').length > 0 && x25519.length === 0) leftOut = 'post-quantum';
    if (all('passphrase').length > 0 && x25519.length === 0) leftOut = 'passphrase';
    if (all('armored').length > 0) leftOut = 'armor';
    return {
      name,
      expected: all('expect').join(),
      payloadSha256: all('payload')[0],
      identities: x25519.length === 0 ? [alice] : x25519.map(parseIdentity),
      file: all('compressed').length > 0 ? inflateSync(body) : body,
      leftOut,
    };
  }

  const known = Object.entries(vectors as Record<string, Uint8Array>).filter(
    ([, value]) => value instanceof Uint8Array,
  );
  const parsed = known.map(([name, bytes]) => parseVector(name, bytes));
  const applicable = parsed.filter(({ leftOut }) => leftOut === undefined);

  const messages: Readonly<Record<string, RegExp>> = {
    'header failure': /^(the age header is malformed|an X25519 (stanza|key) .*|ends too early)$/,
    'no match': /^no identity fits/,
    'HMAC failure': /^the age header is not authentic$/,
    'payload failure': /^an encrypted payload (is|has) /,
  };

  /**
   * A chunk is the last one when nothing follows it: the reader looks ahead. So where a payload goes on after a chunk that is marked as
   * the last, or ends after one that is not, it gives one chunk less than the vector allows. The number is of the chunks given.
   */
  const withheld: Readonly<Record<string, 0 | 1>> = {
    stream_no_final_full: 0,
    stream_no_final_two_chunks_full: 1,
    stream_trailing_garbage_long: 0,
    stream_trailing_garbage_short: 0,
    stream_two_final_chunks: 0,
    stream_two_final_chunks_full: 0,
    stream_two_final_chunks_second: 1,
  };

  function released(name: string, payloadSha256: string | undefined): string | undefined {
    const chunks = withheld[name];
    if (chunks === undefined) return payloadSha256;
    // the payload of this one is the first chunk of all these
    return chunks === 0
      ? sha256(Buffer.alloc(0))
      : parsed.find((vector) => vector.name === 'stream_no_final_full')?.payloadSha256;
  }

  const feeds: readonly { readonly fed: string; readonly feed: (file: Uint8Array) => Bytes }[] = [
    { fed: 'whole', feed: (file) => bytesOf(file) },
    { fed: 'in chunks', feed: (file) => inPieces(file, () => 997) },
    // each byte takes a microsecond or more: of large ones those around their ends and where chunks end, which is less than 300 bytes behind
    {
      fed: 'byte by byte',
      feed: (file) =>
        inPieces(file, (at) => {
          const inChunk = at % chunkBytes;
          const isNear = at > file.length - 600 || inChunk < 600 || inChunk > chunkBytes - 600;
          return file.length < 2 ** 14 || isNear ? 1 : 300;
        }),
    },
  ];

  async function* inPieces(file: Uint8Array, size: (at: number) => number): Bytes {
    for (let at = 0; at < file.length; ) {
      const end = at + size(at);
      yield file.subarray(at, end);
      at = end;
    }
  }

  it('are counted: which are run, and which kinds are left out', () => {
    const count = (kind: Vector['leftOut']) => parsed.filter(({ leftOut }) => leftOut === kind).length;
    const counts = {
      all: parsed.length,
      run: count(undefined),
      armor: count('armor'), // text around the binary form: nothing stores it
      passphrase: count('passphrase'), // scrypt: a server has no one to type it
      postQuantum: count('post-quantum'), // ML-KEM: not in node:crypto of the oldest Node.js that is supported
    };
    process.stderr.write(`cctv-age: ${JSON.stringify(counts)}\n`);
    expect(counts).toEqual({ all: 143, run: 69, armor: 33, passphrase: 24, postQuantum: 17 });
  });

  it.each(feeds)('open as they must, fed $fed', async ({ feed }) => {
    for (const { name, expected, payloadSha256, identities, file } of applicable) {
      const { given, error } = await release(feed(file), file.length, identities);
      if (expected === 'success') {
        expect([name, error, sha256(given)]).toEqual([name, undefined, payloadSha256]);
        continue;
      }
      expect([name, error]).toEqual([name, expect.any(CorruptError)]);
      expect([name, (error as Error).message]).toEqual([name, expect.stringMatching(messages[expected] ?? /nothing/)]);
      // a length that is impossible is seen before the first chunk
      if (given.length > 0) expect([name, sha256(given)]).toEqual([name, released(name, payloadSha256)]);
    }
  });

  it.each(feeds)(
    'give what is authentic and no more, also under a length that is not theirs, fed $fed',
    async ({ feed }) => {
      let run = 0;
      for (const { name, expected, payloadSha256, identities, file } of applicable) {
        if (payloadSha256 === undefined) continue;
        const { sizeBytes } = await readAgeHeader(new ByteReader(bytesOf(file)));
        const { given, error } = await release(feed(file), sizeBytes + 16 + sealedSize(1), identities);
        const wanted = expected === 'success' ? undefined : expect.any(CorruptError);
        expect([name, error]).toEqual([name, wanted]);
        expect([name, sha256(given)]).toEqual([name, released(name, payloadSha256)]);
        run += 1;
      }
      expect(run).toBeGreaterThan(30);
    },
  );

  it('are refused where they are left out, too', async () => {
    for (const { name, identities, file, leftOut } of parsed) {
      if (leftOut === undefined) continue;
      const { given, error } = await release(bytesOf(file), file.length, [alice, ...identities]);
      expect([name, given.length, error]).toEqual([name, 0, expect.any(CorruptError)]);
    }
  });

  it('have headers whose stanzas can be written again', async () => {
    for (const { expected, file, name } of applicable) {
      if (expected !== 'success') continue;
      const { stanzas } = await readAgeHeader(new ByteReader(bytesOf(file)));
      const again = await seal(Buffer.from(name), [alice], stanzas);
      expect((await readAgeHeader(new ByteReader(bytesOf(again)))).stanzas.slice(0, -1)).toEqual(stanzas);
    }
  });
});

describe('other implementations', () => {
  const contents = [0, 1, 1000, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes].map((size) =>
    randomBytes(size),
  );
  const foreign: Stanza = { type: 'wal-t/content', arguments: ['sha256=00', '12'], body: new Uint8Array() };
  const withAge = it.skipIf(!hasTool('age'));
  const withKeygen = it.skipIf(!hasTool('age-keygen'));

  withAge("age's own opens what is sealed here", async () => {
    const key = joinPath(temporaryFolder(), 'key');
    writeFileSync(key, `${bob.text}\n`);
    for (const content of contents) {
      const input = await seal(content, [alice, bob], [foreign]);
      const { status, stdout } = spawnSync('age', ['-d', '-i', key], { input, maxBuffer: 2 ** 24 });
      expect([content.length, status, stdout.equals(content)]).toEqual([content.length, 0, true]);
    }
  });

  withAge("what age's own seals opens here", async () => {
    for (const content of contents) {
      const words = ['-r', formatRecipient(alice), '-r', formatRecipient(bob)];
      const { stdout } = spawnSync('age', words, { input: content, maxBuffer: 2 ** 24 });
      expect((await open(stdout, bob)).equals(content)).toBe(true);
      await expect(open(stdout, carol)).rejects.toThrow('no identity fits');
    }
  });

  withKeygen('age-keygen makes identities that are understood here, and understands those made here', () => {
    const [, publicKey = '', secret = ''] =
      /public key: (age1\S+)\n(\S+)\n/.exec(spawnSync('age-keygen', { encoding: 'utf8' }).stdout) ?? [];
    expect(formatRecipient(parseIdentity(secret))).toBe(publicKey);
    expect(parseRecipient(publicKey)).toEqual({ publicKey: parseIdentity(secret).publicKey });
    const { stdout } = spawnSync('age-keygen', ['-y'], { input: `${alice.text}\n`, encoding: 'utf8' });
    expect(stdout).toBe(`${formatRecipient(alice)}\n`);
  });

  it('age-encryption opens what is sealed here, and what it seals opens here', async () => {
    for (const content of contents) {
      const decrypter = new Decrypter();
      decrypter.addIdentity(bob.text);
      const opened = await decrypter.decrypt(await seal(content, [alice, bob], [foreign]));
      expect(Buffer.from(opened).equals(content)).toBe(true);
      const encrypter = new Encrypter();
      for (const identity of [alice, bob]) encrypter.addRecipient(formatRecipient(identity));
      expect((await open(await encrypter.encrypt(content), bob)).equals(content)).toBe(true);
    }
  });
});

describe('a sealed file', () => {
  it('brings back any content, however it is cut on the way', async () => {
    const anySize = fc.oneof(fc.nat(300), fc.nat(200_000), fc.constantFrom(chunkBytes, 2 * chunkBytes));
    const anyCuts = fc.array(fc.nat(2 ** 22), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(anySize, anyCuts, anyCuts, async (size, cuts, fileCuts) => {
        const content = randomBytes(size);
        const { body, headBytes } = sealAge(cut(content, cuts), { recipients: [alice] });
        const sizeBytes = headBytes + sealedSize(size);
        const file = await join(body);
        expect(file.length).toBe(sizeBytes);
        expect(ageFileSize(await readAgeHeader(new ByteReader(bytesOf(file))), size)).toBe(sizeBytes);
        const { content: opened, plainBytes } = await openAge(new ByteReader(cut(file, fileCuts)), sizeBytes, [alice]);
        expect([plainBytes, (await join(opened)).equals(content)]).toEqual([size, true]);
      }),
      { numRuns: isTorture ? 300 : 20 },
    );
  });

  it('opens for each of its recipients, with whichever identity fits, and for nobody else', async () => {
    const content = Buffer.from('wal');
    const file = await seal(content, [alice, bob]);
    for (const identities of [[alice], [bob], [carol, bob], [carol, alice, bob]]) {
      expect(await open(file, ...identities)).toEqual(content);
    }
    await expect(open(file, carol)).rejects.toThrow('no identity fits');
    await expect(open(file)).rejects.toThrow('no identity fits');
  });

  it('stays readable over a rotation: the old identity for old files, the new one for new', async () => {
    const [old, both, recent] = [
      await seal(Buffer.from('old'), [alice]),
      await seal(Buffer.from('both'), [alice, bob]),
      await seal(Buffer.from('recent'), [bob]),
    ];
    for (const file of [old, both, recent]) await open(file, alice, bob);
    await expect(open(old, bob)).rejects.toThrow('no identity fits');
    await expect(open(recent, alice)).rejects.toThrow('no identity fits');
    expect(await open(both, bob)).toEqual(Buffer.from('both'));
  });

  it('never has a key twice: the same content sealed again shares no header and no payload', async () => {
    const [one, two] = [await seal(Buffer.alloc(64), [alice]), await seal(Buffer.alloc(64), [alice])];
    expect(one.subarray(40, 80)).not.toEqual(two.subarray(40, 80));
    expect(one.subarray(-80)).not.toEqual(two.subarray(-80));
  });

  it('closes its source, read to the end or not', async () => {
    let closed = 0;
    async function* source(file: Uint8Array): Bytes {
      try {
        for (let at = 0; at < file.length; at += 1000) yield file.subarray(at, at + 1000);
      } finally {
        closed += 1;
      }
    }
    const file = await seal(Buffer.alloc(3 * chunkBytes), [alice]);
    const { content } = await openAge(new ByteReader(source(file)), file.length, [alice]);
    await join(content);
    const early = await openAge(new ByteReader(source(file)), file.length, [alice]);
    for await (const _chunk of early.content) break;
    expect(closed).toBe(2);
  });
});

describe('a damaged file', () => {
  it('H44: is refused at every one-byte change, and gives no byte of a chunk that is not authentic', async () => {
    const content = randomBytes(200);
    const stanza: Stanza = {
      type: 'wal-t/content',
      arguments: [`sha256=${sha256(content)}`, '200'],
      body: randomBytes(60),
    };
    const file = await seal(content, [bob, alice], [stanza]);
    for (let at = 0; at < file.length; at += 1) {
      for (const mask of isTorture ? [1 << (at & 7), 0xff] : [1 << (at & 7)]) {
        const changed = Buffer.from(file);
        changed.writeUInt8(changed.readUInt8(at) ^ mask, at);
        const { given, error } = await release(bytesOf(changed), changed.length, [alice]);
        expect([at, mask, given.length, error]).toEqual([at, mask, 0, expect.any(CorruptError)]);
      }
    }
  });

  it('is refused at every truncation and with anything behind it, whatever length the storage tells', async () => {
    const content = randomBytes(2 * chunkBytes);
    const file = await seal(content, [alice]);
    const headerBytes = file.length - sealedSize(content.length);
    const lengths = [
      ...Array.from({ length: headerBytes + 40 }, (_, length) => length),
      ...[0, 1, 15, 16, 17].map((more) => headerBytes + chunkBytes + 16 + more),
      ...[1, 15, 16, 17, 1000].map((less) => file.length - less),
    ];
    for (const length of lengths) {
      for (const told of [length, file.length]) {
        const { given, error } = await release(bytesOf(file.subarray(0, length)), told, [alice]);
        expect([length, told, error]).toEqual([length, told, expect.any(CorruptError)]);
        const sound = length > headerBytes + chunkBytes + 16 ? [0, chunkBytes] : [0];
        expect([length, sound.includes(given.length)]).toEqual([length, true]);
        expect(given.equals(content.subarray(0, given.length))).toBe(true);
      }
    }
    for (const more of [1, 15, 16, 17, chunkBytes + 16]) {
      for (const told of [file.length, file.length + more]) {
        const { error } = await release(bytesOf(file, Buffer.alloc(more)), told, [alice]);
        expect([more, told, error]).toEqual([more, told, expect.any(CorruptError)]);
      }
    }
  });

  it('gives exactly the chunks before the one that was changed, swapped or dropped', async () => {
    const content = randomBytes(4 * chunkBytes + 100);
    const file = await seal(content, [alice]);
    const sealedChunk = chunkBytes + 16;
    const start = file.length - sealedSize(content.length);
    const chunk = (n: number) => file.subarray(start + n * sealedChunk, start + (n + 1) * sealedChunk);
    const chunks = [0, 1, 2, 3, 4].map(chunk);
    const head = file.subarray(0, start);
    const changes: readonly (readonly [what: string, sound: number, order: readonly number[]])[] = [
      ['swapped', 1, [0, 2, 1, 3, 4]],
      ['twice', 2, [0, 1, 1, 2, 3, 4]],
      ['dropped', 2, [0, 1, 3, 4]],
      ['dropped at the end', 3, [0, 1, 2, 3]],
      ['the last one first', 0, [4, 1, 2, 3, 0]],
      ['the last one alone', 0, [4]],
    ];
    for (const [what, sound, order] of changes) {
      const changed = Buffer.concat([head, ...order.map((n) => chunks[n] ?? head)]);
      const { given, error } = await release(bytesOf(changed), file.length, [alice]);
      expect([what, error]).toEqual([what, expect.any(CorruptError)]);
      expect([what, given.equals(content.subarray(0, sound * chunkBytes))]).toEqual([what, true]);
    }
    for (const n of [0, 1, 2, 3, 4]) {
      const changed = Buffer.from(file);
      const at = start + n * sealedChunk + 57;
      changed.writeUInt8(changed.readUInt8(at) ^ 4, at);
      const { given, error } = await release(bytesOf(changed), file.length, [alice]);
      expect([n, error]).toEqual([n, expect.any(CorruptError)]);
      expect([n, given.equals(content.subarray(0, n * chunkBytes))]).toEqual([n, true]);
    }
  });

  it('is refused before its payload is read when the told length is none that a payload has', async () => {
    const file = await seal(randomBytes(2 * chunkBytes), [alice]);
    for (const told of [file.length - sealedSize(2 * chunkBytes) + 15, file.length - chunkBytes, 0]) {
      const { given, error } = await release(bytesOf(file), told, [alice]);
      expect([given.length, error]).toMatchObject([0, { message: 'an encrypted payload has an impossible length' }]);
    }
  });

  it('takes no payload of another file, and no header', async () => {
    const [one, two] = [await seal(Buffer.alloc(100, 1), [alice]), await seal(Buffer.alloc(100, 2), [alice])];
    const at = one.length - sealedSize(100);
    for (const boundary of [at, at - 16]) {
      const mixed = Buffer.concat([one.subarray(0, boundary), two.subarray(boundary)]);
      const { given, error } = await release(bytesOf(mixed), mixed.length, [alice]);
      expect([given.length, error]).toEqual([0, expect.any(CorruptError)]);
    }
  });
});

describe('a header', () => {
  const body = (text: string) => Buffer.concat([Buffer.from(text), Buffer.alloc(1000)]);
  const mac = encodeBase64(Buffer.alloc(32));

  /** All points of low order, in every form below 2^255. @see https://cr.yp.to/ecdh.html#validate */
  const lowOrder = [
    '0000000000000000000000000000000000000000000000000000000000000000',
    '0100000000000000000000000000000000000000000000000000000000000000',
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
    '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
    'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  ].flatMap((hex) =>
    [0, 0x80].map((high) => {
      const point = Buffer.from(hex, 'hex');
      point.writeUInt8(point.readUInt8(31) | high, 31);
      return point;
    }),
  );

  it.each(lowOrder.map((point) => [point.toString('hex'), point] as const))(
    'is refused with the share %s, whose secret everybody knows',
    async (_hex, share) => {
      const file = body(`age-encryption.org/v1\n-> X25519 ${encodeBase64(share)}\n${mac}\n--- ${mac}\n`);
      await expect(open(file, alice)).rejects.toThrow('point of low order');
      expect(() => sealAge(bytesOf(), { recipients: [{ publicKey: share }] })).toThrow('point of low order');
    },
  );

  it.each([
    ['endless, in one line', 'a', ''],
    ['endless, in stanzas', '-> grease\n\n', 'age-encryption.org/v1\n'],
    ['endless, in one body', `${'A'.repeat(64)}\n`, 'age-encryption.org/v1\n-> grease\n'],
  ])('is refused when it is %s, after 64 KiB', async (_what, piece, start) => {
    let taken = 0;
    async function* endless(): Bytes {
      yield Buffer.from(start);
      for (;;) {
        taken += piece.length;
        yield Buffer.from(piece);
      }
    }
    const { error } = await release(endless(), 10_000_000, [alice]);
    expect(error).toBeInstanceOf(CorruptError);
    expect(taken).toBeLessThan(70_000);
  });

  it.each([
    ['without stanzas', `age-encryption.org/v1\n--- ${mac}\n`],
    ['of a version to come', `age-encryption.org/v2\n-> X25519 ${mac}\n${mac}\n--- ${mac}\n`],
    ['with a line end of two bytes', `age-encryption.org/v1\r\n-> X25519 ${mac}\r\n${mac}\r\n--- ${mac}\r\n`],
    ['with a stanza of no type', `age-encryption.org/v1\n-> \n${mac}\n--- ${mac}\n`],
    ['with two spaces', `age-encryption.org/v1\n->  X25519 ${mac}\n${mac}\n--- ${mac}\n`],
    ['with a letter beyond ASCII', `age-encryption.org/v1\n-> X25519 ${mac} ü\n${mac}\n--- ${mac}\n`],
    ['with padding', `age-encryption.org/v1\n-> X25519 ${mac}=\n${mac}\n--- ${mac}\n`],
    ['with the alphabet of URLs', `age-encryption.org/v1\n-> a\n--__\n--- ${mac}\n`],
    ['with a MAC of 31 bytes', `age-encryption.org/v1\n-> a\n\n--- ${encodeBase64(Buffer.alloc(31))}\n`],
    ['with a passphrase beside others', `age-encryption.org/v1\n-> scrypt ${mac} 10\n${mac}\n-> a\n\n--- ${mac}\n`],
    ['that ends in the middle', `age-encryption.org/v1\n-> X25519 ${mac}`],
  ])('is refused %s', async (_what, text) => {
    await expect(open(Buffer.from(text), alice)).rejects.toThrow(CorruptError);
  });

  it('is known by its first line alone', () => {
    expect(looksLikeAge(Buffer.from('age-encryption.org/v1\n-> X'))).toBe(true);
    for (const other of [
      '',
      'age',
      'age-encryption.org/v',
      'age-encryption.org/v2',
      'W*M\u0018',
      '-----BEGIN AGE ENCRYPTED FILE-----',
    ]) {
      expect([other, looksLikeAge(Buffer.from(other))]).toEqual([other, false]);
    }
  });

  it('has base64 in one form only', () => {
    for (const bytes of [0, 1, 2, 3, 16, 32].map((size) => randomBytes(size))) {
      expect(decodeBase64(encodeBase64(bytes))).toEqual(bytes);
    }
    for (const text of ['A', 'AB', 'AA==', 'AA=', 'A A', 'AAA\n', '-_-_', 'ÄÄÄÄ', 'AAAAA']) {
      expect([text, decodeBase64(text)]).toEqual([text, undefined]);
    }
  });
});

describe('the payload', () => {
  const key = randomBytes(32);

  it('has the size that was computed, and the computation has an inverse', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.nat(2 ** 20),
          fc.maxSafeNat().map((n) => n % 2 ** 45),
        ),
        (size) => {
          expect(plainSize(sealedSize(size))).toBe(size);
        },
      ),
      { numRuns: 1000 },
    );
    const possible = new Set(Array.from({ length: 3 * chunkBytes }, (_, size) => sealedSize(size)));
    for (let sealed = -20; sealed < sealedSize(3 * chunkBytes); sealed += 1) {
      if ((plainSize(sealed) !== undefined) !== possible.has(sealed)) throw new Error(`a payload of ${sealed} bytes`);
    }
  });

  it('gives any range from the chunks around it', async () => {
    const anyRange = fc
      .nat(4 * chunkBytes)
      .chain((size) =>
        fc.nat(size).chain((offset) => fc.tuple(fc.constant(size), fc.constant(offset), fc.nat(size - offset))),
      );
    const edges = [
      [0, 0, 0],
      [chunkBytes, 0, chunkBytes],
      [2 * chunkBytes, chunkBytes, chunkBytes],
      [2 * chunkBytes + 1, chunkBytes - 1, 2],
      [2 * chunkBytes + 1, 2 * chunkBytes, 1],
      [3 * chunkBytes, 3 * chunkBytes, 0],
    ] as [number, number, number][];
    await fc.assert(
      fc.asyncProperty(anyRange, async ([plainBytes, offset, length]) => {
        const content = randomBytes(plainBytes);
        const sealed = await join(sealStream(key, bytesOf(content)));
        expect(sealed.length).toBe(sealedSize(plainBytes));
        const range = sealedRange(offset, length, plainBytes);
        expect(range.offset + range.length).toBeLessThanOrEqual(sealed.length);
        expect(range.length).toBeLessThanOrEqual(sealedSize(length) + 2 * (chunkBytes + 16));
        const body = bytesOf(sealed.subarray(range.offset, range.offset + range.length));
        const given = await join(openChunks(key, body, { firstChunk: range.firstChunk, plainBytes }));
        const wanted = given.subarray(range.skip, range.skip + length);
        expect(wanted.equals(content.subarray(offset, offset + length))).toBe(true);
      }),
      { numRuns: 60, examples: edges.map((edge) => [edge]) },
    );
  });

  it('refuses chunks out of the middle under another number, as the last or not as the last, and cut', async () => {
    const plainBytes = 3 * chunkBytes + 10;
    const sealed = await join(sealStream(key, bytesOf(randomBytes(plainBytes))));
    const chunk = (n: number) => sealed.subarray(n * (chunkBytes + 16), (n + 1) * (chunkBytes + 16));
    const rows: readonly (readonly [Uint8Array, { readonly firstChunk: number; readonly plainBytes: number }])[] = [
      [chunk(1), { firstChunk: 0, plainBytes }],
      [chunk(1), { firstChunk: 2, plainBytes }],
      [chunk(2), { firstChunk: 2, plainBytes: 3 * chunkBytes }],
      [chunk(3), { firstChunk: 3, plainBytes: 4 * chunkBytes + 1 }],
      [chunk(3), { firstChunk: 2, plainBytes }],
      [chunk(1).subarray(0, -1), { firstChunk: 1, plainBytes }],
      [chunk(1).subarray(0, 15), { firstChunk: 1, plainBytes }],
      [Buffer.concat([chunk(1), chunk(1)]), { firstChunk: 1, plainBytes }],
    ];
    for (const [bytes, position] of rows) {
      await expect(join(openChunks(key, bytesOf(bytes), position))).rejects.toThrow(CorruptError);
    }
    await expect(join(openStream(randomBytes(32), new ByteReader(bytesOf(sealed))))).rejects.toThrow(CorruptError);
  });
});
