/** PD_ALL_VISIBLE of the pages of one file, collected while it is read: VACUUM may set it and leave the LSN (H36). */
import type { FileLine } from '../../archive/files-line.ts';
import { visibleBits } from '../../postgres/page-changes.ts';

export class VisiblePages {
  readonly #bits: Buffer;
  readonly #pageBytes: number;
  #page = 0;

  private constructor(bits: Buffer, pageBytes: number) {
    this.#bits = bits;
    this.#pageBytes = pageBytes;
  }

  /** With a parent's line, what it knows stands for the pages that are not looked at; undefined when it knows nothing. */
  static of(
    { sizeBytes, pageBytes }: { readonly sizeBytes: number; readonly pageBytes: number },
    line?: FileLine,
  ): VisiblePages | undefined {
    const bits = Buffer.alloc(Math.ceil(Math.floor(sizeBytes / pageBytes) / 8));
    if (line !== undefined && line.sizeBytes >= pageBytes && line.allVisible === undefined) return undefined;
    Buffer.from(line?.allVisible ?? '', 'base64').copy(bits);
    return new VisiblePages(bits, pageBytes);
  }

  /** The next chunk begins there. */
  goTo(offset: number): void {
    this.#page = offset / this.#pageBytes;
  }

  look(chunk: Uint8Array): void {
    const bits = visibleBits(chunk, this.#pageBytes);
    const pages = Math.floor(chunk.length / this.#pageBytes);
    for (let index = 0; index < pages; index += 1, this.#page += 1) {
      const [byte, bit] = [this.#page >> 3, 1 << (this.#page & 7)];
      const isVisible = ((bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
      this.#bits[byte] = isVisible ? (this.#bits[byte] ?? 0) | bit : (this.#bits[byte] ?? 0) & ~bit;
    }
  }

  get text(): string {
    return this.#bits.toString('base64');
  }
}
