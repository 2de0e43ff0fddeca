/** What the main thread and a worker thread say to each other, and how an error gets across whole. */

import type { Context } from '../commands/context.ts';
import type { CrewTask } from '../commands/crew.ts';
import * as errors from '../errors.ts';
import type { LogDetails, LogLevel } from '../log.ts';

/** What a worker's context is made of. */
export type WorkerData = Pick<Context, 'settings' | 'host' | 'workingDirectory' | 'libpq'>;

export type ToWorker =
  | { readonly type: 'perform'; readonly task: CrewTask }
  | { readonly type: 'abort'; readonly reason: PackedError };

export type FromWorker =
  | { readonly type: 'log'; readonly severity: LogLevel; readonly message: string; readonly details: LogDetails }
  | { readonly type: 'progress'; readonly bytes: number }
  | { readonly type: 'done'; readonly result: unknown }
  | { readonly type: 'failed'; readonly error: PackedError };

/** An error that can be cloned; its cause, too, so deep. */
export interface PackedError {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  /** The operating system's code, where it has one. */
  readonly code: string | undefined;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  /** Of an `ObjectNotFound` or `ObjectExists`. */
  readonly key: string | undefined;
  readonly cause: PackedError | undefined;
}

const causesPacked = 5;

export function packError(error: unknown, depth = causesPacked): PackedError {
  if (!(error instanceof Error)) return packError(new Error(String(error)), depth);
  const { name, message, stack, cause } = error;
  const { code, detail, hint, key } = error as unknown as Readonly<Record<string, unknown>>;
  return {
    name,
    message,
    stack,
    code: textOf(code),
    detail: textOf(detail),
    hint: textOf(hint),
    key: textOf(key),
    cause: cause === undefined || depth === 0 ? undefined : packError(cause, depth - 1),
  };
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

type ErrorClass = new (about: string, details: errors.ErrorDetails) => errors.WalTError;

/** By name: every class of errors.ts that an error can have. */
const errorClasses = new Map<string, ErrorClass>(
  Object.entries(errors).flatMap(([name, value]) =>
    typeof value === 'function' && value.prototype instanceof errors.WalTError ? [[name, value as ErrorClass]] : [],
  ),
);

/** The inverse of `packError`: an error of the same class. */
export function unpackError(packed: PackedError): Error {
  const { name, message, stack, code, detail, hint, key } = packed;
  const cause = packed.cause === undefined ? undefined : unpackError(packed.cause);
  const Class = errorClasses.get(name);
  const error =
    Class === undefined
      ? Object.assign(new Error(message, cause === undefined ? {} : { cause }), { name })
      : new Class(key ?? message, { detail, hint, cause });
  if (stack !== undefined) error.stack = stack;
  return code === undefined ? error : Object.assign(error, { code });
}
