/** Bytes on their way: the one currency between modules, and a reader that takes exact amounts from it. No formats. */
import { CorruptError } from './errors.ts';

/**
 * A stream of bytes in chunks of any size. A transform is a function from `Bytes` to `Bytes`.
 * A chunk belongs to whoever took it: its source neither writes to it again nor keeps it.
 */
export type Bytes = AsyncIterable<Uint8Array>;

/** A stream of chunks that are already there. */
export async function* bytesOf(...chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

/**
 * The whole stream in one buffer.
 * @throws CorruptError when it holds more than `limitBytes`: nothing is collected without a limit.
 */
export async function collect(bytes: Bytes, limitBytes: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of bytes) {
    sizeBytes += chunk.length;
    if (sizeBytes > limitBytes) {
      throw new CorruptError(`more than the ${limitBytes} bytes that may be here`);
    }
    chunks.push(chunk);
  }
  return joined(chunks);
}

/** In one buffer: the very memory of the pieces where they lie there one behind the other, else a copy. */
export function joined(pieces: readonly Uint8Array[]): Buffer {
  const [first] = pieces;
  if (first === undefined) return Buffer.alloc(0);
  let end = first.byteOffset;
  for (const { buffer, byteOffset, length } of pieces) {
    if (buffer !== first.buffer || byteOffset !== end) return Buffer.concat(pieces);
    end += length;
  }
  return Buffer.from(first.buffer, first.byteOffset, end - first.byteOffset);
}

/** Newer than the types of the oldest Node.js that is supported. */
interface TransferableBuffer extends ArrayBuffer {
  transfer?(newLength: number): ArrayBuffer;
}

/**
 * Gives memory back now, where Node.js can (22 and later), not when the garbage collector finds it: then the array is empty. Only for what
 * nobody uses any more, no thread of Node.js either. What fills a small piece of memory only in part, or lies behind something else, may share
 * it with others, and stays. Node.js's own pool is never filled by one array, and may be as large as what a socket gives at once.
 */
export function giveBack({ buffer, byteOffset, length }: Uint8Array): void {
  const fillsIt = length > 0 && length === buffer.byteLength;
  if (byteOffset === 0 && (fillsIt || buffer.byteLength > Buffer.poolSize)) {
    (buffer as TransferableBuffer).transfer?.(0);
  }
}

/** Gives the memory of each chunk back when the next one is asked for. */
export async function* spent(bytes: Bytes): AsyncGenerator<Uint8Array> {
  for await (const chunk of bytes) {
    yield chunk;
    giveBack(chunk);
  }
}

/** Gives the memory of a chunk back when `keptBytes` behind it were taken and more is asked for. */
export async function* spentBehind(bytes: Bytes, keptBytes: number): AsyncGenerator<Uint8Array> {
  const kept: Uint8Array[] = [];
  let behind = 0;
  for await (const chunk of bytes) {
    kept.push(chunk);
    behind += chunk.length;
    yield chunk;
    for (let [first] = kept; first !== undefined && behind - first.length >= keptBytes; [first] = kept) {
      behind -= first.length;
      kept.shift();
      if (first.length === first.buffer.byteLength) giveBack(first); // else something else may lie there, too
    }
  }
}

export const canGiveBack = 'transfer' in ArrayBuffer.prototype;

/** The bytes in memory that can be given back when they were used, where that can be: a copy when something else lies there, too. */
export function apart(bytes: Uint8Array): Uint8Array {
  return canGiveBack && bytes.length < bytes.buffer.byteLength ? Buffer.concat([bytes]) : bytes;
}

/** Takes exact amounts from a stream; holds back at most one chunk. */
export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = Buffer.alloc(0);
  #offset = 0;

  constructor(source: Bytes) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** How many bytes were taken. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * Exactly `sizeBytes` bytes.
   * @throws CorruptError when the stream ends before.
   */
  async read(sizeBytes: number): Promise<Buffer> {
    return joined(await this.readPieces(sizeBytes));
  }

  /** The same in the pieces in which they came. */
  async readPieces(sizeBytes: number): Promise<readonly Uint8Array[]> {
    const pieces: Uint8Array[] = [];
    let missing = sizeBytes;
    while (missing > 0) {
      if (this.#rest.length === 0 && !(await this.#pull())) {
        throw new CorruptError('ends too early', {
          detail: `${missing} of ${sizeBytes} bytes are missing at offset ${this.#offset}`,
        });
      }
      const piece = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(piece.length);
      this.#offset += piece.length;
      missing -= piece.length;
      pieces.push(piece);
    }
    return pieces;
  }

  /** `sizeBytes` bytes, fewer only when the stream ends before. */
  async readUpTo(sizeBytes: number): Promise<Buffer> {
    const pieces: Uint8Array[] = [];
    for (let missing = sizeBytes; missing > 0; ) {
      const piece = await this.readSome(missing);
      if (piece.length === 0) break;
      missing -= piece.length;
      pieces.push(piece);
    }
    return joined(pieces);
  }

  /** Between one and `limitBytes` bytes, none only at the end. */
  async readSome(limitBytes: number): Promise<Buffer> {
    if (this.#rest.length === 0) await this.#pull();
    return this.read(Math.min(limitBytes, this.#rest.length));
  }

  /** The next `sizeBytes` bytes, fewer only at the end, which stay to be read. */
  async peek(sizeBytes: number): Promise<Buffer> {
    if (this.#rest.length >= sizeBytes) {
      return Buffer.from(this.#rest.buffer, this.#rest.byteOffset, sizeBytes);
    }
    const ahead = await this.readUpTo(sizeBytes);
    this.#rest = Buffer.concat([ahead, this.#rest]);
    this.#offset -= ahead.length;
    return ahead;
  }

  /**
   * What stands before the next byte `end`, which is taken as well; undefined when the stream ends before one.
   * @throws CorruptError when none comes within `limitBytes`.
   */
  async readUntil(end: number, limitBytes: number): Promise<Buffer | undefined> {
    const pieces: Uint8Array[] = [];
    let sizeBytes = 0;
    while (!(await this.ended())) {
      const index = this.#rest.indexOf(end);
      const piece = await this.read(index === -1 ? this.#rest.length : index);
      sizeBytes += piece.length;
      if (sizeBytes > limitBytes) throw new CorruptError(`more than the ${limitBytes} bytes that may be here`);
      pieces.push(piece);
      if (index === -1) continue;
      await this.read(1);
      return joined(pieces);
    }
    return undefined;
  }

  /** Is there nothing left? */
  async ended(): Promise<boolean> {
    return this.#rest.length === 0 && !(await this.#pull());
  }

  /** Tells the source that no more will be taken. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }

  async #pull(): Promise<boolean> {
    for (;;) {
      const next = await this.#source.next();
      if (next.done === true) return false;
      this.#rest = next.value;
      if (this.#rest.length > 0) return true;
    }
  }
}

/** Order of two strings by their UTF-8 bytes, which is the order of every listing. */
export function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
