/**
 * Restored files whose content comes in pieces, in any order and from many places: made with their length, so that what is never written is zeros, or
 * there already, and written at any position. Few are open at the same time. Durable only after `syncFiles`.
 */
import { closeSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import type { BytePath } from '../byte-path.ts';
import { limits } from '../limits.ts';
import {
  attempt,
  type FileAttributes,
  type OpenFile,
  openAgain,
  openNew,
  setAttributes,
  unwritable,
} from './restored-file.ts';

export class ScatteredFiles {
  /** The one that was used last stands last. */
  readonly #open = new Map<BytePath, OpenFile>();

  /** @throws HostError when it cannot be made, or when something is there. */
  async make(target: BytePath, sizeBytes: number): Promise<void> {
    await this.#makeRoom();
    const file = openNew(target);
    this.#open.set(target, file);
    attempt(target, () => ftruncateSync(file.fd, sizeBytes));
  }

  /** One that is there: of its old content as much stays as there is room for. */
  async resize(target: BytePath, sizeBytes: number): Promise<void> {
    const { fd } = await this.#take(target);
    attempt(target, () => ftruncateSync(fd, sizeBytes));
  }

  /** Is this there at `position`? `memory` is at least as long. */
  async holds(target: BytePath, chunk: Uint8Array, { position, memory }: { position: number; memory: Buffer }) {
    const { fd } = await this.#take(target);
    return attempt(target, () => {
      let read = 0;
      for (let more = -1; more !== 0 && read < chunk.length; read += more) {
        more = readSync(fd, memory, read, chunk.length - read, position + read);
      }
      return memory.subarray(0, read).equals(chunk);
    });
  }

  /** Ready when it returns, unless the file has to be opened: there are very many pieces, and few files. */
  write(target: BytePath, chunk: Uint8Array, position: number): Promise<void> | undefined {
    const file = this.#known(target);
    if (file !== undefined) return writeAt(target, file, chunk, position);
    return this.#take(target).then((opened) => writeAt(target, opened, chunk, position));
  }

  /** Nothing more is written to it: it may go to the disk. Not before: while pieces are missing, it would be laid out in pieces there. */
  async settle(target: BytePath, sizeBytes: number): Promise<void> {
    const { behind } = await this.#take(target);
    attempt(target, () => behind.wrote(sizeBytes));
  }

  /** Its content is whole. */
  async end(target: BytePath, attributes: FileAttributes): Promise<void> {
    const { fd } = await this.#take(target);
    attempt(target, () => setAttributes(fd, attributes));
    await this.#close(target);
  }

  /** Closes what is open. */
  async abandon(): Promise<void> {
    for (const target of [...this.#open.keys()]) await this.#close(target).catch(() => undefined);
  }

  async #take(target: BytePath): Promise<OpenFile> {
    const known = this.#known(target);
    if (known !== undefined) return known;
    await this.#makeRoom();
    const file = openAgain(target);
    this.#open.set(target, file);
    return file;
  }

  /** If it is open. */
  #known(target: BytePath): OpenFile | undefined {
    const file = this.#open.get(target);
    if (file === undefined) return undefined;
    this.#open.delete(target);
    this.#open.set(target, file);
    return file;
  }

  async #makeRoom(): Promise<void> {
    const [oldest] = this.#open.keys();
    if (oldest !== undefined && this.#open.size >= limits.filesOpen) await this.#close(oldest);
  }

  async #close(target: BytePath): Promise<void> {
    const file = this.#open.get(target);
    this.#open.delete(target);
    try {
      await file?.behind.end();
    } catch (error) {
      throw unwritable(target, error);
    } finally {
      if (file !== undefined) closeSync(file.fd);
    }
  }
}

function writeAt(target: BytePath, { fd }: OpenFile, chunk: Uint8Array, position: number): undefined {
  attempt(target, () => {
    for (let written = 0; written < chunk.length; ) {
      written += writeSync(fd, chunk, written, chunk.length - written, position + written);
    }
  });
}
