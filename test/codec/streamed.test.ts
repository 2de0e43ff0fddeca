/** Streamed objects: what is sealed comes back, from however it arrives; anything that was not committed to is refused. */
import { spawnSync } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/bytes.ts';
import { generateIdentity, parseIdentity } from '../../src/codec/age-text.ts';
import { encodeStreamedHeader } from '../../src/codec/header.ts';
import { type Keys, noKeys } from '../../src/codec/keys.ts';
import { openStreamed, type StreamedCommitment, sealStreamed } from '../../src/codec/streamed.ts';
import { CorruptError } from '../../src/errors.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { temporaryFolder } from '../support/folders.ts';
import { cut, join, seal } from '../support/objects.ts';
import { openWhole, partIdentity, type StreamedObject, sealWhole } from '../support/streamed.ts';
import { hasTool } from '../support/tools.ts';

const [alice, bob, eve] = [generateIdentity(), generateIdentity(), generateIdentity()];
const identityOf = (text: string) => parseIdentity(text);
const keysOf = (...names: string[]): Keys => ({
  ...noKeys,
  recipients: names.map((name) => ({ publicKey: identityOf(name).publicKey })),
});
const opensWith = (name: string): Keys => ({ ...noKeys, identities: [identityOf(name)] });
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const small = Buffer.from('16384\tbase/5/16384\n'.repeat(4));
const frame = Buffer.from(await encodeFrame(small, 3));

/** Content that does not compress, of any length. */
function noise(length: number, seed = 0): Buffer {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16, seed), Buffer.alloc(16)).update(Buffer.alloc(length));
}

describe('a streamed object', () => {
  const mebibyte = 2 ** 20;
  const anyLength = fc.oneof(
    fc.nat(300),
    fc.constantFrom(0, 1, mebibyte - 1, mebibyte, mebibyte + 1, 2 * mebibyte),
    fc.nat(4 * mebibyte),
  );
  const anyContent = fc.oneof(
    anyLength.map((length) => noise(length)),
    fc.tuple(anyLength, fc.string({ minLength: 1 })).map(([length, text]) => Buffer.alloc(length, text)),
  );
  const anyCuts = fc.array(fc.nat(2 ** 23), { maxLength: 12 });
  const anyKeys = fc.constantFrom<readonly [Keys, Keys]>(
    [noKeys, noKeys],
    [keysOf(alice), opensWith(alice)],
    [keysOf(alice, bob), opensWith(bob)],
  );

  it('brings back any content, however it is cut, plain and encrypted, and is measured right', async () => {
    await fc.assert(
      fc.asyncProperty(anyContent, anyCuts, anyCuts, anyKeys, async (content, cuts, objectCuts, [seals, opens]) => {
        const sealed = await sealWhole(cut(content, cuts), seals, 1);
        const body = cut(sealed.object, objectCuts);
        expect((await openWhole(sealed, { keys: opens, body })).equals(content)).toBe(true);
        expect(sealed.commitment).toMatchObject({ objectBytes: sealed.object.length, rawBytes: content.length });
        expect(sealed.commitment.keyCommitment !== undefined).toBe(seals !== noKeys);
      }),
      { numRuns: 30 },
    );
  });

  it('is the same however its content was cut', async () => {
    const content = Buffer.concat([noise(mebibyte + 5), Buffer.alloc(mebibyte)]);
    const whole = await sealWhole(bytesOf(content));
    const pieces = await sealWhole(cut(content, [1, 0, 7, 512, 512, mebibyte, mebibyte + 1]));
    expect(pieces.object.equals(whole.object)).toBe(true);
    expect(pieces.commitment).toEqual(whole.commitment);
  });

  it('is right when its source uses the same memory for every chunk', async () => {
    for (const chunkBytes of [1000, 2 ** 16, mebibyte, mebibyte + 3]) {
      const memory = Buffer.alloc(chunkBytes);
      const source = async function* () {
        for (let chunk = 1; chunk <= 9_000_000 / chunkBytes; chunk += 1) {
          noise(chunkBytes, chunk & 0xff).copy(memory);
          yield memory;
        }
        memory.fill(0);
      };
      const copied = async function* () {
        for await (const chunk of source()) yield Buffer.from(chunk);
      };
      const content = await join(copied());
      expect((await openWhole(await sealWhole(source(), noKeys, 1))).equals(content)).toBe(true);
    }
  });

  it('commits to its bytes and its table, as often as it is asked, and not before it has ended', async () => {
    const { body, commitment } = sealStreamed(bytesOf(small), { ...partIdentity, level: 3, keys: noKeys });
    expect(() => commitment()).toThrow('before it has ended');
    const object = await join(body);
    const table = object.subarray(object.length - (8 + 2 * 12 + 9));
    const expected: StreamedCommitment = {
      objectBytes: object.length,
      storedBytes: object.length,
      rawBytes: small.length,
      sha256: sha256(object),
      tableSha256: sha256(table),
    };
    expect(commitment()).toEqual(expected);
    expect(commitment()).toEqual(expected);
  });

  it('fails where its source fails, and ends its source when nobody reads on', async () => {
    const broken = async function* () {
      yield noise(3 * mebibyte);
      throw new Error('unreadable');
    };
    await expect(sealWhole(broken())).rejects.toThrow('unreadable');
    const source = { begun: false, ended: false };
    const endless = async function* () {
      source.begun = true;
      try {
        for (;;) yield noise(mebibyte);
      } finally {
        source.ended = true;
      }
    };
    const { body } = sealStreamed(endless(), { ...partIdentity, level: 1, keys: keysOf(alice) });
    for await (const _ of body) if (source.begun) break;
    expect(source.ended).toBe(true);
  });

  it.skipIf(!hasTool('age') || !hasTool('zstd'))('comes back with age and zstd alone', async () => {
    const content = noise(mebibyte + 100);
    const folder = temporaryFolder();
    writeFileSync(joinPath(folder, 'identity'), `${bob}\n`);
    writeFileSync(joinPath(folder, 'object'), (await sealWhole(bytesOf(content), keysOf(alice, bob))).object);
    const script = 'cd "$1" && age -d -i identity object | zstd -dcq';
    const { stdout } = spawnSync('sh', ['-c', script, 'sh', folder], { maxBuffer: 2 ** 24 });
    expect(stdout.equals(content)).toBe(true);
  });
});

describe.each<readonly [string, Keys, Keys]>([
  ['plain', noKeys, noKeys],
  ['encrypted', keysOf(alice), opensWith(alice)],
])('a damaged streamed object, %s', async (_, seals, keys) => {
  const sealed = await sealWhole(bytesOf(small), seals);
  const refused = (object: Buffer, sizeBytes = object.length) =>
    expect(openWhole({ ...sealed, object }, { keys, sizeBytes })).rejects.toBeInstanceOf(CorruptError);

  it('is refused with any one of its bytes changed', async () => {
    for (let at = 0; at < sealed.object.length; at += 1) {
      for (const bits of [1, 0x80, 0xff]) {
        const object = Buffer.from(sealed.object);
        object.writeUInt8(object.readUInt8(at) ^ bits, at);
        await refused(object);
      }
    }
  });

  it('is refused at every truncation, also when the storage still tells the whole length', async () => {
    for (let length = 0; length < sealed.object.length; length += 1) {
      await refused(sealed.object.subarray(0, length));
      await refused(sealed.object.subarray(0, length), sealed.object.length);
    }
  });

  it.each<readonly [string, Buffer]>([
    ['a byte', Buffer.alloc(1)],
    ['zeros', Buffer.alloc(512)],
    ['a frame', frame],
    ['itself', sealed.object],
    ['its own table', sealed.object.subarray(-41)],
  ])('is refused with %s behind it, also when the storage tells the right length', async (_what, behind) => {
    const object = Buffer.concat([sealed.object, behind]);
    await refused(object);
    await refused(object, sealed.object.length);
    // in a chunk of its own, which nobody who stops at the table would ask for
    const body = bytesOf(sealed.object, behind);
    await expect(openWhole(sealed, { keys, body })).rejects.toBeInstanceOf(CorruptError);
  });
});

describe('a streamed object that is another one', () => {
  /** Like `sealWhole` of `small`, but with other frames or another table. */
  const other = async (frames: readonly Uint8Array[], table?: Buffer): Promise<Buffer> => {
    const { object } = await sealWhole(bytesOf(small));
    return Buffer.concat([encodeStreamedHeader(partIdentity), ...frames, table ?? object.subarray(-41)]);
  };
  const committed = (object: Buffer, commitment: StreamedCommitment): StreamedObject => ({
    object,
    commitment: { ...commitment, objectBytes: object.length, storedBytes: object.length, sha256: sha256(object) },
  });

  it.each<readonly [string, () => Promise<Buffer>]>([
    ['of other content', async () => (await sealWhole(bytesOf(Buffer.alloc(small.length, 'x')))).object],
    ['at another level, with the same content', async () => (await sealWhole(bytesOf(small), noKeys, 19)).object],
    ['of no bytes', async () => Buffer.alloc(0)],
    ['of a segment', () => seal(small)],
  ])('is refused: %s', async (_, make) => {
    const { commitment } = await sealWhole(bytesOf(small));
    const object = await make();
    await expect(openWhole({ object, commitment })).rejects.toBeInstanceOf(CorruptError);
    const sameLength = { ...commitment, objectBytes: object.length, storedBytes: object.length };
    await expect(openWhole({ object, commitment: sameLength })).rejects.toBeInstanceOf(CorruptError);
  });

  it('H45: is refused under another name, of another kind and of another cluster', async () => {
    const sealed = await sealWhole(bytesOf(small));
    for (const members of [
      { name: partIdentity.name.replace(/1$/, '2') },
      { kind: 'files' as const },
      { systemIdentifier: '7312345678901234568' },
    ]) {
      const identity = { ...partIdentity, ...members };
      await expect(openWhole(sealed, { identity })).rejects.toThrow('another object is stored under this key');
    }
  });

  it.each<readonly [string, (commitment: StreamedCommitment) => Partial<StreamedCommitment>, RegExp]>([
    ['is longer', ({ objectBytes }) => ({ objectBytes: objectBytes - 1 }), /bytes follow/],
    ['is shorter', ({ objectBytes }) => ({ objectBytes: objectBytes + 1 }), /truncated/],
    ['has another plain length', ({ storedBytes }) => ({ storedBytes: storedBytes + 1 }), /not the object/],
    ['holds more', ({ rawBytes }) => ({ rawBytes: rawBytes - 1 }), /not the object/],
    ['holds less', ({ rawBytes }) => ({ rawBytes: rawBytes + 1 }), /not the object/],
    ['has another hash', () => ({ sha256: sha256(small) }), /not the object/],
    ['has another table', () => ({ tableSha256: sha256(small) }), /not the object/],
    ['is not encrypted', () => ({ keyCommitment: sha256(small) }), /not the object/],
  ])('is refused when it %s than committed to', async (_, change, message) => {
    const { object, commitment } = await sealWhole(bytesOf(small));
    const reading = openWhole({ object, commitment: { ...commitment, ...change(commitment) } });
    await expect(reading).rejects.toThrow(message);
    await expect(reading).rejects.toBeInstanceOf(CorruptError);
  });

  it('is refused before more is given than was committed to', async () => {
    const { object, commitment } = await sealWhole(bytesOf(Buffer.alloc(5 * 2 ** 20)));
    const lying = { ...commitment, rawBytes: 2 ** 21 };
    let given = 0;
    const read = async () => {
      const opening = { commitment: lying, identity: partIdentity, keys: noKeys };
      for await (const chunk of openStreamed(bytesOf(object), object.length, opening)) given += chunk.length;
    };
    await expect(read()).rejects.toMatchObject({ detail: 'it holds more' });
    expect(given).toBe(2 ** 21);
  });

  it('is refused with frames that are not as its table says, though every hash is as committed', async () => {
    const { commitment } = await sealWhole(bytesOf(small));
    expect(await openWhole(committed(await other([frame]), commitment))).toEqual(small);
    const halves = [small.subarray(0, 10), small.subarray(10)];
    const twoFrames = await Promise.all(halves.map((half) => encodeFrame(half, 3)));
    for (const frames of [twoFrames, [], [frame, frame], [await encodeFrame(small, 19)]]) {
      const object = await other(frames);
      if (sha256(object) === commitment.sha256) continue; // a level that makes the same frame
      await expect(openWhole(committed(object, commitment))).rejects.toBeInstanceOf(CorruptError);
    }
    // of three entries, whose last two make the object's two frames; the commitment tells this table
    const table = (await sealWhole(cut(noise(2 ** 20 + 1), []))).object.subarray(-53);
    const lying = committed(await other(twoFrames, table), commitment);
    const agreed = { ...lying.commitment, tableSha256: sha256(table) };
    await expect(openWhole({ ...lying, commitment: agreed })).rejects.toBeInstanceOf(CorruptError);
  });

  it('H44: is refused in plain where an identity is set, and when it is encrypted anew', async () => {
    const plain = await sealWhole(bytesOf(small));
    await expect(openWhole(plain, { keys: opensWith(alice) })).rejects.toBeInstanceOf(CorruptError);
    const lifted = { ...opensWith(alice), readPlaintext: true };
    expect(await openWhole(plain, { keys: lifted })).toEqual(small);
    const [first, second] = [
      await sealWhole(bytesOf(small), keysOf(alice)),
      await sealWhole(bytesOf(small), keysOf(alice)),
    ];
    expect(first.object.length).toBe(second.object.length);
    const swapped = { object: second.object, commitment: first.commitment };
    await expect(openWhole(swapped, { keys: opensWith(alice) })).rejects.toMatchObject({
      detail: 'its encryption is another one',
    });
    await expect(openWhole(first, { keys: opensWith(eve) })).rejects.toBeInstanceOf(Error);
    await expect(openWhole(first, { keys: noKeys })).rejects.toBeInstanceOf(Error);
  });
});
