/** Bytes on their way: exact amounts from any chunks, limits kept, sources closed. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ByteReader, bytesOf, canGiveBack, collect, compareBytes, giveBack, joined } from '../src/bytes.ts';
import { CorruptError } from '../src/errors.ts';
import { cut } from './support/objects.ts';

const anyContent = fc.uint8Array({ maxLength: 300 });
const anyCuts = fc.array(fc.nat(400), { maxLength: 10 });

/** Counts how often it was closed. */
function closable(chunks: readonly Uint8Array[]) {
  const state = { closed: 0 };
  async function* source(): AsyncGenerator<Uint8Array> {
    try {
      yield* chunks;
    } finally {
      state.closed += 1;
    }
  }
  return { state, source: source() };
}

it('collects a stream, whatever its chunks', async () => {
  await fc.assert(
    fc.asyncProperty(anyContent, anyCuts, async (content, cuts) => {
      expect((await collect(cut(content, cuts), content.length)).equals(content)).toBe(true);
    }),
  );
});

it('collects no more than its limit, and closes the source then', async () => {
  const { state, source } = closable([Buffer.alloc(10), Buffer.alloc(1), Buffer.alloc(2 ** 20)]);
  await expect(collect(source, 10)).rejects.toThrow(CorruptError);
  expect(state.closed).toBe(1);
});

it('joins pieces of one memory without a copy where each begins at the end of the one before, and no others', () => {
  const memory = Buffer.alloc(10); // of its own
  memory.write('0123456789');
  const piece = (from: number, to: number) => memory.subarray(from, to);
  for (const pieces of [[piece(2, 5)], [piece(2, 4), piece(4, 4), piece(4, 9)], [piece(0, 5), piece(5, 10)]]) {
    expect(joined(pieces).toString()).toBe(pieces.join(''));
    expect(joined(pieces).buffer).toBe(memory.buffer);
  }
  const other = Buffer.from(memory);
  for (const pieces of [
    [],
    [piece(2, 4), piece(5, 9)],
    [piece(4, 9), piece(2, 4)],
    [piece(2, 4), other.subarray(4, 9)],
  ]) {
    expect(joined(pieces).toString()).toBe(pieces.join(''));
    expect(joined(pieces).buffer).not.toBe(memory.buffer);
  }
});

it('gives exact amounts, in order, and says where it stands', async () => {
  await fc.assert(
    fc.asyncProperty(anyContent, anyCuts, fc.array(fc.nat(60)), async (content, cuts, amounts) => {
      const reader = new ByteReader(cut(content, cuts));
      let offset = 0;
      for (const amount of amounts) {
        const whole = offset + amount <= content.length;
        const reading = reader.read(amount);
        if (!whole) {
          await expect(reading).rejects.toThrow('ends too early');
          return;
        }
        expect((await reading).equals(content.subarray(offset, offset + amount))).toBe(true);
        offset += amount;
        expect(reader.offset).toBe(offset);
        expect(await reader.ended()).toBe(offset === content.length);
      }
      const rest: Uint8Array[] = [];
      while (!(await reader.ended())) {
        const piece = await reader.readSome(7);
        expect(piece.length).toBeGreaterThan(0);
        expect(piece.length).toBeLessThanOrEqual(7);
        rest.push(piece);
      }
      expect(Buffer.concat(rest).equals(content.subarray(offset))).toBe(true);
      expect(await reader.readSome(7)).toHaveLength(0);
    }),
  );
});

it('says how much is missing, and where', async () => {
  const reader = new ByteReader(bytesOf(Buffer.from('abc'), Buffer.from('de')));
  await reader.read(1);
  await expect(reader.read(10)).rejects.toMatchObject({ detail: '6 of 10 bytes are missing at offset 5' });
});

it('closes its source, and passes its errors on', async () => {
  const { state, source } = closable([Buffer.from('abc')]);
  const reader = new ByteReader(source);
  await reader.read(1);
  await reader.close();
  expect(state.closed).toBe(1);
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('a');
    throw new Error('the line is cut');
  }
  await expect(new ByteReader(failing()).read(2)).rejects.toThrow('the line is cut');
});

it.runIf(canGiveBack)('gives memory back once', () => {
  const bytes = new Uint8Array(65_536);
  for (let time = 0; time < 2; time += 1) giveBack(bytes);
  expect(bytes.buffer.byteLength).toBe(0);
});

it('H47: orders keys by their UTF-8 bytes, which is not the order of JavaScript', () => {
  const keys = ['a', 'a-b', 'a.b', 'a/b', 'a0', 'é', '\uffee', '😀'];
  expect([...keys].reverse().sort(compareBytes)).toEqual(keys);
  expect([...keys].sort()).not.toEqual(keys);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
      expect(Math.sign(compareBytes(a, b))).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)));
    }),
  );
});
