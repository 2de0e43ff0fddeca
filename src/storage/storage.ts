/** The contract of every storage: four verbs over opaque keys. What the keys mean is decided in `archive/`. */
import { strict as assert } from 'node:assert';
import type { Bytes } from '../bytes.ts';
import type { WalTError } from '../errors.ts';

/**
 * Keys are relative, '/'-separated, of printable ASCII; no key is another one's folder. Every method may be repeated.
 * Whatever does not answer in time, refuses, or is full, is a StorageError; absence is never inferred from one.
 */
export interface Storage {
  /** Where it is, for messages: never with a secret. */
  readonly url: string;

  /**
   * Stores an object, whole or not at all, and durable when it returns.
   * @throws ObjectExists when `ifAbsent` is set and the key is taken; that object is then as durable as a put would have made it.
   * A storage that cannot replace objects, or must not, throws it without `ifAbsent` too.
   */
  put(key: string, body: Uint8Array | Bytes, options?: PutOptions): Promise<void>;

  /**
   * Opens an object. A range is cut at the object's end, and empty where it begins beyond.
   * @throws ObjectNotFound before the first byte.
   */
  get(key: string, options?: GetOptions): Promise<StoredBody>;

  /** All objects whose key begins with `prefix`, ascending by the bytes of the key, from behind `after`. */
  list(prefix: string, options?: ListOptions): AsyncIterable<StoredObject>;

  /** Deletes what is there; an absent key is fine, and every key that could not be deleted is named. */
  delete(keys: readonly string[], options?: RequestOptions): Promise<DeleteReport>;

  /**
   * Takes back uploads that were broken off, and that no listing shows. `isOrphan` is asked for each key and when it was begun, by the
   * storage's clock. A folder's temporary files go with the next put. @throws UnsupportedError when the storage cannot tell what there is.
   */
  sweep?(isOrphan: (key: string, begunAt: Date) => boolean, options?: RequestOptions): Promise<SweepReport>;

  /** Where the settings ask for a way to store (storage class, encryption by the storage): @throws StorageError when this object is not. */
  expectStoredAsSet?(key: string, options?: RequestOptions): Promise<void>;
}

export interface RequestOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface PutOptions extends RequestOptions {
  readonly ifAbsent?: boolean;
  /** About how many bytes a streamed body has. */
  readonly sizeHint?: number;
  /** Nobody needs the body's chunks any more: the memory of each may be given back when it was stored, and not before the next is asked for. */
  readonly spend?: boolean;
}

export interface GetOptions extends RequestOptions {
  readonly range?: { readonly offset: number; readonly length: number };
}

export interface ListOptions extends RequestOptions {
  readonly after?: string;
}

export interface StoredBody {
  /** The whole object's, for a range too. */
  readonly sizeBytes: number;
  readonly body: Bytes;
}

export interface StoredObject {
  readonly key: string;
  readonly sizeBytes: number;
  readonly modifiedAt: Date;
}

export interface DeleteReport {
  readonly failed: readonly { readonly key: string; readonly error: WalTError }[];
}

export interface SweepReport {
  readonly removed: number;
  readonly failed: readonly { readonly what: string; readonly error: WalTError }[];
}

const component = /^[!-.0-~]+$/; // printable ASCII without '/' and space

/** A key from a name that was not checked is a programmer's error, and on a folder a way out of it. */
export function assertKey(key: string): void {
  for (const part of key.split('/')) {
    assert(component.test(part) && !part.startsWith('.'), `not a key: ${JSON.stringify(key)}`);
  }
}
