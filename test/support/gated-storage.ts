/** A storage that waits before one of its requests until the test lets it on: another command runs through meanwhile. */
import type { Bytes } from '../../src/bytes.ts';
import type { DeleteReport, GetOptions, ListOptions, PutOptions, Storage } from '../../src/storage/storage.ts';

/** Lets requests pass, each key of a deletion for itself, until the one before which it waits. */
export class GatedStorage implements Storage {
  readonly url: string;
  readonly #inner: Storage;
  readonly #stop: number;
  #requests = 0;
  #letOn: () => void = () => undefined;
  readonly #gone = new Promise<void>((resolve) => {
    this.#letOn = resolve;
  });
  #reach: () => void = () => undefined;
  readonly reached = new Promise<void>((resolve) => {
    this.#reach = resolve;
  });

  constructor(inner: Storage, stop: number) {
    [this.url, this.#inner, this.#stop] = [inner.url, inner, stop];
  }

  /** The keys and prefixes of the requests that were let through, in their order. */
  readonly passed: string[] = [];

  get hasStopped(): boolean {
    return this.#requests >= this.#stop;
  }

  letOn(): void {
    this.#letOn();
  }

  async #pass(key: string): Promise<void> {
    this.#requests += 1;
    if (this.#requests === this.#stop) {
      this.#reach();
      await this.#gone;
    }
    this.passed.push(key);
  }

  async put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void> {
    await this.#pass(key);
    return this.#inner.put(key, body, options);
  }

  async get(key: string, options?: GetOptions) {
    await this.#pass(key);
    return this.#inner.get(key, options);
  }

  async *list(prefix: string, options?: ListOptions) {
    await this.#pass(prefix);
    yield* this.#inner.list(prefix, options);
  }

  async delete(keys: readonly string[]): Promise<DeleteReport> {
    for (const key of keys) {
      await this.#pass(key);
      await this.#inner.delete([key]);
    }
    return { failed: [] };
  }
}
