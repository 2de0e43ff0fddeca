/** The envelope: what is sealed comes back, and whatever is not exactly what was sealed is refused. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Bytes, bytesOf } from '../../src/bytes.ts';
import { headerRangeBytes, objectKinds } from '../../src/codec/header.ts';
import { noKeys } from '../../src/codec/keys.ts';
import { describeObject, openObject, sealObject } from '../../src/codec/object.ts';
import { compress } from '../../src/codec/zstd-compress.ts';
import { CorruptError } from '../../src/errors.ts';
import { limits } from '../../src/limits.ts';
import { encodeFrame } from '../support/encode-frame.ts';
import { temporaryFolder } from '../support/folders.ts';
import {
  bytesOfSealed,
  cut,
  envelope,
  enveloped,
  headerText,
  identity,
  join,
  seal,
  sealOptions,
} from '../support/objects.ts';
import { hasTool } from '../support/tools.ts';

const withZstd = it.skipIf(!hasTool('zstd'));
const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');

async function open(object: Uint8Array, body: Bytes = bytesOf(object)) {
  const { header, content } = await openObject(body, object.length, identity, noKeys);
  return { header, content: await join(content) };
}

const small = Buffer.from('1\t0/3000000\tno recovery target specified\n'.repeat(3));
const frame = await encodeFrame(small, 3);
/** What the header must say of `small`. */
const saysSmall = { bytes: small.length, sha256: sha256(small) };

describe('a sealed object', () => {
  const anyContent = fc.oneof(
    fc.uint8Array({ maxLength: 5000 }),
    fc
      .tuple(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.nat(2_500_000))
      .map(([seed, n]) => Buffer.alloc(n, seed)),
  );
  const anyCuts = fc.array(fc.nat(2 ** 22), { maxLength: 8 });
  const anyIdentity = fc.record({
    kind: fc.constantFrom('segment' as const, 'partial' as const),
    name: fc.string({ minLength: 1, maxLength: 100, unit: 'binary' }),
    systemIdentifier: fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }).map(String),
  });

  it('brings back any content, however it is cut, and says what it is', async () => {
    await fc.assert(
      fc.asyncProperty(anyContent, anyCuts, anyCuts, anyIdentity, async (content, cuts, objectCuts, is) => {
        const sealed = await sealObject(() => cut(content, cuts), { ...sealOptions, ...is, level: 1 });
        const object = await bytesOfSealed(sealed);
        const { header, content: opened } = await openObject(cut(object, objectCuts), object.length, is, noKeys);
        expect((await join(opened)).equals(content)).toBe(true);
        expect(header).toEqual({
          ...is,
          format: 1,
          bytes: content.length,
          sha256: sha256(content),
          stored: object.length,
          pushedAt: '2026-11-20T08:30:00.000Z',
          host: 'db1',
        });
        expect(sealed.header).toEqual(header);
        const { stored, origin } = await describeObject(object.subarray(0, headerRangeBytes), object.length, is);
        expect({ stored, origin }).toEqual({ stored: object.length, origin: 'pushed 2026-11-20T08:30:00.000Z by db1' });
      }),
      { numRuns: 40 },
    );
  });

  it.each(objectKinds)('says of which kind it is: %s', async (kind) => {
    const object = await seal(small, { kind });
    const { content } = await openObject(bytesOf(object), object.length, { ...identity, kind }, noKeys);
    expect(await join(content)).toEqual(small);
    const others = objectKinds.filter((other) => other !== kind);
    for (const other of others) {
      const reading = openObject(bytesOf(object), object.length, { ...identity, kind: other }, noKeys);
      await expect(reading).rejects.toThrow('another object is stored under this key');
    }
  });

  it('counts itself right at every length, also where a digit is gained', async () => {
    const spare = 1000 - (await seal(Buffer.alloc(1))).length;
    for (let length = spare - 30; length < spare + 30; length += 1) {
      const object = await seal(
        createHash('shake256', { outputLength: length + 1 })
          .digest()
          .subarray(1),
      );
      expect((await open(object)).header.stored).toBe(object.length);
    }
  });

  it('is the same for the same input, and may be taken twice', async () => {
    const sealed = await sealObject(() => bytesOf(small), sealOptions);
    const object = await bytesOfSealed(sealed);
    expect(object).toEqual(await bytesOfSealed(sealed));
    expect(object).toEqual(await seal(small));
  });

  it('H46: carries a system identifier beyond 2^53 digit for digit, as a string', async () => {
    const object = await seal(small, { systemIdentifier: '18446744073709551615' });
    expect(object.toString('latin1')).toContain('"systemIdentifier":"18446744073709551615"');
  });

  withZstd('comes back with zstd alone', async () => {
    for (const content of [small, Buffer.alloc(0), Buffer.alloc(3_000_000, 'wal')]) {
      const object = await seal(content);
      const zstd = (words: string) => spawnSync('zstd', [words], { input: object, maxBuffer: 2 ** 24 });
      expect(zstd('-dcq').stdout.equals(content)).toBe(true);
      expect(zstd('-tq').status).toBe(0);
    }
  });
});

describe('a damaged object', () => {
  function flipped(object: Buffer, bit: number): Buffer {
    const changed = Buffer.from(object);
    changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    return changed;
  }

  it('H15: is refused at every truncation, of the header already', async () => {
    const object = await seal(Buffer.concat([Buffer.alloc(2 ** 20), small]));
    for (let length = 0; length < object.length; length += 1) {
      await expect(open(object.subarray(0, length))).rejects.toThrow(CorruptError);
    }
    const start = object.subarray(0, headerRangeBytes);
    await expect(describeObject(start, object.length - 1, identity)).rejects.toThrow('truncated');
  });

  it('is refused at every truncation, also when the storage still tells the whole length', async () => {
    const object = await seal(Buffer.concat([Buffer.alloc(2 ** 20), small]));
    for (let length = 0; length < object.length; length += 1) {
      const reading = openObject(bytesOf(object.subarray(0, length)), object.length, identity, noKeys);
      await expect(reading.then(({ content }) => join(content))).rejects.toThrow(CorruptError);
    }
  });

  it('H43: is refused at every one-bit change, or gives the same content under the same name', async () => {
    const object = await seal(small);
    let refused = 0;
    for (let bit = 0; bit < object.length * 8; bit += 1) {
      const outcome = await open(flipped(object, bit)).catch((error: unknown) => error);
      if (outcome instanceof Error) {
        expect(outcome).toBeInstanceOf(CorruptError);
        refused += 1;
      } else {
        expect(outcome).toMatchObject({ header: { ...identity, ...saysSmall }, content: small });
      }
    }
    const forPeople = Buffer.from('2026-11-20T08:30:00.000Zdb1').length * 8;
    expect(refused).toBeGreaterThan(object.length * 8 - forPeople - 100);
  });

  withZstd('H43: is refused by zstd alone too, or gives the same content', async () => {
    const object = await seal(small);
    const headerBytes = object.length - frame.length;
    const folder = temporaryFolder();
    const cases = joinPath(folder, 'cases');
    mkdirSync(cases);
    // zstd skips the header's text: all else is changed. A cut right behind the header leaves an empty, sound file.
    for (let bit = 0; bit < object.length * 8; bit += bit === 63 ? headerBytes * 8 - 63 : 1) {
      writeFileSync(joinPath(cases, `bit-${bit}`), flipped(object, bit));
    }
    for (let length = 0; length < object.length; length += 1) {
      if (length !== headerBytes) writeFileSync(joinPath(cases, `cut-${length}`), object.subarray(0, length));
    }
    const script = 'cd "$1" && for f in *; do zstd -dcq "$f" >"$2/$f" 2>/dev/null || rm "$2/$f"; done';
    const given = joinPath(folder, 'given');
    mkdirSync(given);
    expect(spawnSync('sh', ['-c', script, 'sh', cases, given]).status).toBe(0);
    const accepted = readdirSync(given);
    for (const name of accepted) expect([name, readFileSync(joinPath(given, name))]).toEqual([name, small]);
    expect(accepted.length).toBeLessThan(20);
    expect(accepted.filter((name) => name.startsWith('cut-'))).toEqual([]);
  });
});

describe('an object that is not what was asked for', () => {
  type Row = readonly [what: string, object: Buffer, message: RegExp];
  const unsound: readonly Row[] = [
    ['of no bytes', Buffer.alloc(0), /is empty/],
    ['of three bytes', Buffer.from('572a4d', 'hex'), /ends too early/],
    ['of zeros', Buffer.alloc(1000), /not an object of WAL-T/],
    ['without a header', Buffer.from(frame), /not an object of WAL-T/],
    [
      'with a foreign skippable frame',
      Buffer.concat([Buffer.from([0x50]), envelope({}, frame).subarray(1)]),
      /not an object/,
    ],
    ['with a header over 4 KiB', envelope({ host: 'h'.repeat(4096) }, frame), /longer than a header may be/],
    ['that claims a header of 4 GiB', Buffer.from('572a4d18ffffffff7b7d', 'hex'), /longer than a header may be/],
    ['with an empty header', enveloped('', frame), /not JSON/],
    ['with a header that is no JSON', enveloped('{"format":1', frame), /not JSON/],
    ['with a header that is null', enveloped('null', frame), /not canonical/],
    ['with a header that is a list', enveloped('[]', frame), /lacks/],
    ['with white space in the header', enveloped(`${headerText({})} `, frame), /not canonical/],
    ['with a member twice', enveloped(headerText({}).replace('{', '{"host":"x",'), frame), /not canonical/],
    [
      'with a number in another form',
      enveloped(headerText({}).replace('"bytes":0', '"bytes":0e0'), frame),
      /not canonical/,
    ],
    [
      'with an escape that needs none',
      enveloped(headerText({}).replace('"db1"', '"\\u0064b1"'), frame),
      /not canonical/,
    ],
    [
      'with a byte that is no UTF-8',
      enveloped(Buffer.from(headerText({ host: '\u00ff' }), 'latin1'), frame),
      /not canonical/,
    ],
    ['of a newer format', envelope({ format: 2 }, frame), /needs a newer WAL-T: format 2/],
    ['that requires an unknown feature', envelope({ requires: ['age'] }, frame), /newer WAL-T: feature "age"/],
    ['that requires no list', envelope({ requires: 'age' }, frame), /lacks/],
    ['of format 0', envelope({ format: 0 }, frame), /lacks/],
    ['of a format in words', envelope({ format: '1' }, frame), /lacks/],
    ['of a negative length', envelope({ bytes: -1 }, frame), /lacks/],
    ['of a length beyond 2^53', envelope({ bytes: 2 ** 53 }, frame), /lacks/],
    ['of a segment above 1 GiB', envelope({ bytes: 2 ** 30 + 1 }, frame), /more content than a segment can have/],
    [
      'of a history above 1 MiB',
      envelope({ kind: 'history', bytes: 2 ** 20 + 1 }, frame),
      /more content than a history/,
    ],
    ['of a broken length', envelope({ bytes: 1.5 }, frame), /lacks/],
    ['with half a hash', envelope({ sha256: sha256(small).slice(32) }, frame), /lacks/],
    ['with a hash in capitals', envelope({ sha256: sha256(small).toUpperCase() }, frame), /lacks/],
    ['with a system identifier as a number', envelope({ systemIdentifier: 7312345678901234 }, frame), /lacks/],
    ...['format', 'kind', 'name', 'systemIdentifier', 'bytes', 'sha256', 'pushedAt', 'host'].map(
      (member): Row => [`without ${member}`, envelope({ ...saysSmall, [member]: undefined }, frame), /lacks/],
    ),
    ['without stored', enveloped(headerText({ ...saysSmall, stored: undefined }), frame), /lacks/],
    ['of another kind', envelope({ ...saysSmall, kind: 'partial' }, frame), /another object is stored/],
    ['of an unknown kind', envelope({ ...saysSmall, kind: 'dump' }, frame), /another object is stored/],
    ['of another name', envelope({ ...saysSmall, name: `${identity.name}0` }, frame), /another object is stored/],
    [
      'of another cluster',
      envelope({ ...saysSmall, systemIdentifier: '7312345678901234568' }, frame),
      /another object is/,
    ],
    ['shorter than it says', envelope({ ...saysSmall, stored: 10_000 }, frame), /truncated/],
    ['with a byte behind it', Buffer.concat([envelope(saysSmall, frame), Buffer.alloc(1)]), /bytes follow/],
    ['with a sound frame behind it', Buffer.concat([envelope(saysSmall, frame), frame]), /bytes follow/],
    [
      'with a frame more than its content',
      envelope(saysSmall, Buffer.concat([frame, frame])),
      /longer than its header says/,
    ],
    ['with garbage counted in', envelope(saysSmall, Buffer.concat([frame, Buffer.alloc(8)])), /not a zstd frame/],
    [
      'with a skippable frame counted in',
      envelope(saysSmall, Buffer.concat([frame, enveloped('{}', Buffer.alloc(0))])),
      /not a zstd/,
    ],
    ['without its content', envelope(saysSmall, Buffer.alloc(0)), /not the one that its header names/],
    [
      "with a length that is not the content's",
      envelope({ ...saysSmall, bytes: small.length + 1 }, frame),
      /not the one/,
    ],
    ["with a hash that is not the content's", envelope({ ...saysSmall, sha256: sha256(frame) }, frame), /not the one/],
  ];

  it.each(unsound)('is refused: %s', async (_what, object, message) => {
    const error: unknown = await open(object).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(CorruptError);
    expect((error as CorruptError).message).toMatch(message);
  });

  it('is refused with a hint where a newer WAL-T is needed', async () => {
    const hint = 'Install at least the version of WAL-T that wrote it.';
    await expect(open(envelope({ format: 2 }, frame))).rejects.toMatchObject({ hint });
    await expect(open(envelope({ requires: ['age'] }, frame))).rejects.toMatchObject({ hint });
  });

  it('is told by its header: which it is', async () => {
    const other = envelope({ kind: 'history', name: 'wal/history/00000009.history' }, frame);
    const detail = 'its header says history "wal/history/00000009.history" of system 7312345678901234567';
    await expect(open(other)).rejects.toMatchObject({ detail });
    await expect(describeObject(other, other.length, identity)).rejects.toMatchObject({ detail });
  });
});

it('ignores members that it does not know, and a list of no required features', async () => {
  const object = envelope({ requires: [], ...saysSmall, mac: 'later', more: { deep: [1] } }, frame);
  expect((await open(object)).content).toEqual(small);
});

it('reads the header of the longest kind from its range, and seals none that is longer', async () => {
  const host = (length: number) => ({ host: 'h'.repeat(length) });
  const otherBytes = (await seal(small, host(3000))).length - frame.length - 8 - 3000; // `stored` has four digits, as below
  const longest = limits.headerBytes - otherBytes;
  const object = await seal(small, host(longest));
  expect(object.readUInt32LE(4)).toBe(4096);
  const { origin } = await describeObject(object.subarray(0, headerRangeBytes), object.length, identity);
  expect(origin).toContain('h'.repeat(longest));
  await expect(seal(small, host(longest + 1))).rejects.toThrow('header of 4097 bytes');
});

it('closes its source when it refuses, and when the content is done or left', async () => {
  const object = await seal(Buffer.alloc(3_000_000, 'wal'));
  let closed = 0;
  async function* source(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
    try {
      for (let at = 0; at < bytes.length; at += 100) yield bytes.subarray(at, at + 100);
    } finally {
      closed += 1;
    }
  }
  await expect(open(object, source(frame))).rejects.toThrow(CorruptError);
  expect(closed).toBe(1);
  await open(object, source(object));
  expect(closed).toBe(2);
  const { content } = await openObject(source(object), object.length, identity, noKeys);
  for await (const _chunk of content) break;
  expect(closed).toBe(3);
});

describe('a content beyond the limit of what is held', () => {
  /** Until the test ends, so little is held that its content must be compressed twice. */
  function holdAtMost(heldBytes: number): void {
    const settable = limits as { heldBytes: number };
    const before = settable.heldBytes;
    settable.heldBytes = heldBytes;
    onTestFinished(() => {
      settable.heldBytes = before;
    });
  }

  it('is compressed twice and sent as the same bytes', async () => {
    const content = Buffer.concat([Buffer.alloc(3_000_000, 'wal'), small]);
    const once = await seal(content);
    let readings = 0;
    const read = (): Bytes => {
      readings += 1;
      return bytesOf(content);
    };
    expect((await sealObject(read, sealOptions)).body()).toBeInstanceOf(Uint8Array);
    expect(readings).toBe(1);
    holdAtMost(100);
    const sealed = await sealObject(read, sealOptions);
    expect(readings).toBe(2);
    expect(sealed.body()).not.toBeInstanceOf(Uint8Array);
    expect(await bytesOfSealed(sealed)).toEqual(once);
    expect(await bytesOfSealed(sealed)).toEqual(once); // another attempt
  });

  const changes: readonly (readonly [string, Buffer])[] = [
    ['other bytes of the same length', Buffer.from(small.map((byte) => byte ^ 1))],
    ['a bit more', Buffer.concat([small, Buffer.from('x')])],
    ['a bit less', small.subarray(1)],
    ['nothing at all', Buffer.alloc(0)],
  ];
  it.each(changes)('is refused when it changes in between to %s', async (_what, second) => {
    holdAtMost(10);
    const readings = [small, second];
    const sealed = await sealObject(() => bytesOf(readings.shift() ?? second), sealOptions);
    await expect(bytesOfSealed(sealed)).rejects.toThrow('the file changed while it was pushed');
  });

  it('is not held: 70 MiB of noise', async () => {
    const block = createHash('shake256', { outputLength: 2 ** 20 })
      .update('noise')
      .digest();
    async function* noise(): AsyncGenerator<Uint8Array> {
      for (let count = 0; count < 70; count += 1) {
        block.writeUInt32LE(count, 0);
        yield Buffer.from(block);
      }
    }
    const sealed = await sealObject(noise, { ...sealOptions, level: 1 });
    const body = sealed.body();
    if (body instanceof Uint8Array) throw new Error('70 MiB are held');
    const { content } = await openObject(body, sealed.header.stored, identity, noKeys);
    let sizeBytes = 0;
    for await (const chunk of content) sizeBytes += chunk.length; // checked against the hash of the first pass
    expect(sizeBytes).toBe(70 * 2 ** 20);
    const first = await compress(noise(), 1).next();
    expect(sealed.header.stored).toBeGreaterThan(70 * (first.value?.length ?? 0) - 70 * 1024);
  });
});
