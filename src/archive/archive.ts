/** One cluster's archive: where it is, whose it is, and what it is sealed with. Every other file of this folder works on one. */
import type { Keys } from '../codec/keys.ts';
import { CorruptError, WrongKeyError } from '../errors.ts';
import type { Storage } from '../storage/storage.ts';

export interface Archive {
  readonly storage: Storage;
  /** Decimal. */
  readonly systemIdentifier: string;
  readonly keys: Keys;
}

const usualHint = 'Bring this object back from another copy of the repository, or recover to a point before it.';

/** The codec says what is wrong; here it is said of which object. */
export function about(error: unknown, { storage }: Archive, key: string, hint: string = usualHint): unknown {
  if (!(error instanceof CorruptError)) return error;
  if (error instanceof WrongKeyError) {
    return new WrongKeyError(`"${key}" in ${storage.url} cannot be opened: ${error.message}`, {
      hint: error.hint,
      cause: error,
    });
  }
  return new CorruptError(`"${key}" in ${storage.url} is damaged: ${error.message}`, {
    detail: error.detail,
    hint: error.hint ?? hint,
    cause: error,
  });
}
