/** Checksums of restored files whose lines have none, for `backup_manifest`: held as bytes, given in the order of the list however their tasks end. */
import { type ManifestChecksums, makeChecksum } from '../../postgres/file-checksum.ts';

export class ComputedChecksums {
  readonly #digestBytes: number;
  readonly #batches: Uint8Array[] = [];

  constructor(algorithm: ManifestChecksums) {
    this.#digestBytes = (makeChecksum(algorithm).end() ?? '').length / 2;
  }

  /** To be called for one batch after the other, in the order of the list. @returns what takes its checksums. */
  expect(): (checksums: Uint8Array) => void {
    const index = this.#batches.push(new Uint8Array()) - 1;
    return (checksums) => {
      this.#batches[index] = checksums;
    };
  }

  /** Hexadecimal; none where the algorithm is NONE. */
  *inOrder(): Generator<string, undefined> {
    if (this.#digestBytes === 0) return;
    for (const batch of this.#batches) {
      for (let at = 0; at < batch.length; at += this.#digestBytes) {
        yield Buffer.from(batch.subarray(at, at + this.#digestBytes)).toString('hex');
      }
    }
  }
}
