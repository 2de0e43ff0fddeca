/**
 * The sum behind a page's checksum: FNV-1a in 32 lanes, as WebAssembly that computes four lanes with one instruction, ten times as fast as
 * JavaScript. Knows no page's layout. @see PostgreSQL `src/include/storage/checksum_impl.h`, WebAssembly 2.0, "Binary Format"
 */

/** FNV-1a's. */
const prime = 16777619;
/** `checksumBaseOffsets`: where each of the 32 lanes begins. */
const baseOffsets = [
  ...[0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c],
  ...[0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb],
  ...[0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4],
  ...[0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756],
];

/** Four lanes each. */
const vectors = baseOffsets.length / 4;
const vectorBytes = 16;
/** Memory comes in pieces of 64 KiB: one holds the offsets and the largest page, of 32 KiB. */
const pageAt = vectors * vectorBytes;

export interface PageSum {
  /** Where a page's bytes are to be put: so many as `sum` is told. */
  readonly memory: Uint8Array;
  /** All lanes folded together, as a number of 32 bits with a sign. `sizeBytes` is a multiple of 128. */
  readonly sum: (sizeBytes: number) => number;
}

/** Of this thread. */
export function makePageSum(): PageSum {
  const { Module, Instance } = (globalThis as unknown as { readonly WebAssembly: Engine }).WebAssembly;
  const { memory, sum } = new Instance(new Module(encodeModule())).exports;
  new Uint32Array(memory.buffer, 0, baseOffsets.length).set(baseOffsets);
  return { memory: new Uint8Array(memory.buffer, pageAt), sum: (sizeBytes) => sum(pageAt, pageAt + sizeBytes) };
}

/** What is used of JavaScript's `WebAssembly`, which TypeScript knows of browsers alone. */
interface Engine {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: {
      readonly memory: { readonly buffer: ArrayBuffer };
      readonly sum: (from: number, end: number) => number;
    };
  };
}

const code = {
  loop: [0x03, 0x40],
  end: [0x0b],
  branchIf: [0x0d, 0x00],
  get: (local: number) => [0x20, local],
  set: (local: number) => [0x21, local],
  tee: (local: number) => [0x22, local],
  constant: (value: number) => [0x41, ...signed(value)],
  isBelow: [0x49],
  add: [0x6a],
  xor: [0x73],
  load: (offset: number) => [0xfd, 0x00, 0x04, ...unsigned(offset)],
  splat: [0xfd, 0x11],
  lane: (index: number) => [0xfd, 0x1b, index],
  xorLanes: [0xfd, 0x51],
  shiftLanes: [0xfd, ...unsigned(0xad)],
  multiplyLanes: [0xfd, ...unsigned(0xb5)],
} as const;

/** Locals: the two parameters, the vectors, and the prime in each lane. */
const [from, end, firstVector] = [0, 1, 2];
const primes = firstVector + vectors;

/** `sum(from, end)`: each word is mixed into its lane, then two rounds of zeros, then all lanes into one. */
function encodeModule(): Uint8Array<ArrayBuffer> {
  const locals = Array.from({ length: vectors }, (_, index) => firstVector + index);
  const body = [
    ...[...code.constant(prime), ...code.splat, ...code.set(primes)],
    ...locals.flatMap((local, index) => [...code.constant(0), ...code.load(index * vectorBytes), ...code.set(local)]),
    ...code.loop,
    ...locals.flatMap((local, index) =>
      mix(local, [...code.get(from), ...code.load(index * vectorBytes), ...code.xorLanes]),
    ),
    ...[...code.get(from), ...code.constant(pageAt), ...code.add, ...code.tee(from)],
    ...[...code.get(end), ...code.isBelow, ...code.branchIf, ...code.end],
    ...[...locals, ...locals].flatMap((local) => mix(local, [])),
    ...locals.flatMap((local, index) => [...code.get(local), ...(index === 0 ? [] : code.xorLanes)]),
    ...code.set(firstVector),
    ...[0, 1, 2, 3].flatMap((index) => [
      ...[...code.get(firstVector), ...code.lane(index)],
      ...(index === 0 ? [] : code.xor),
    ]),
    ...code.end,
  ];
  const text = (name: string) => sized([...Buffer.from(name)]);
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, ...sized([1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f])], // the type: two numbers to one
    ...[3, ...sized([1, 0])], // a function of it
    ...[5, ...sized([1, 0, 1])], // a memory of 64 KiB
    ...[7, ...sized([2, ...text('memory'), 2, 0, ...text('sum'), 0, 0])], // both are exported
    ...[10, ...sized([1, ...sized([1, vectors + 1, 0x7b, ...body])])], // the code, its locals first
  ]);
}

/** `local` with what `words` leaves mixed in: the product with the prime, and what is shifted. */
function mix(local: number, words: readonly number[]): number[] {
  return [
    ...[...code.get(local), ...words, ...code.tee(local), ...code.get(primes), ...code.multiplyLanes],
    ...[...code.get(local), ...code.constant(17), ...code.shiftLanes, ...code.xorLanes, ...code.set(local)],
  ];
}

function sized(bytes: readonly number[]): number[] {
  return [...unsigned(bytes.length), ...bytes];
}

/** LEB128. */
function unsigned(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

/** LEB128 of a number that is not negative: its last byte must not look like one that is. */
function signed(value: number): number[] {
  return value < 0x40 ? [value] : [(value & 0x7f) | 0x80, ...signed(value >>> 7)];
}
