/** What hangs must not keep the rest of `wal-t check` from being told. What is waited for in vain ends with the process. */
import { CheckError } from '../../errors.ts';

/** @throws CheckError after `limitMs`. */
export async function inTime<T>(looking: Promise<T>, limitMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LateError(limitMs)), limitMs);
  });
  try {
    return await Promise.race([looking, late]);
  } finally {
    clearTimeout(timer);
  }
}

export class LateError extends CheckError {
  constructor(limitMs: number) {
    super(`there was no answer within ${limitMs / 1000} s`, { hint: 'Something hangs: look at what this check asks.' });
  }
}
