/**
 * File names are bytes: PostgreSQL and its users make names that are no UTF-8, and Node.js would turn them into names that do not exist (H24).
 * A `BytePath` is a string of one character (U+0000 to U+00FF) for each byte, so `<` is the order of the bytes.
 */
import { isUtf8 } from 'node:buffer';

export type BytePath = string;

/** The path as the file system takes it. */
export function toFilePath(path: BytePath): Buffer {
  return Buffer.from(path, 'latin1');
}

/** A path of this program's own, such as a setting, as bytes. */
export function toBytePath(text: string): BytePath {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** For people: UTF-8 where it is, else each odd byte as `\xNN`. */
export function showPath(path: BytePath): string {
  const bytes = toFilePath(path);
  if (isUtf8(bytes)) return bytes.toString('utf8');
  return path.replace(/[^ -~]/g, (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** The members of a JSON object that name a path: `path` where it is UTF-8, else `pathHex`. */
export function formatPath(path: BytePath): { readonly path: string } | { readonly pathHex: string } {
  const bytes = toFilePath(path);
  return isUtf8(bytes) ? { path: bytes.toString('utf8') } : { pathHex: bytes.toString('hex') };
}

/** The inverse of `formatPath`; undefined when the members name no path, or not in the one form it has. */
export function parsePath(members: { readonly path?: unknown; readonly pathHex?: unknown }): BytePath | undefined {
  const { path, pathHex } = members;
  if (typeof path === 'string' && pathHex === undefined) {
    const bytes = Buffer.from(path, 'utf8');
    return bytes.toString('utf8') === path ? bytes.toString('latin1') : undefined; // half a surrogate pair is no text
  }
  if (typeof pathHex !== 'string' || path !== undefined || !/^(?:[0-9a-f]{2})+$/.test(pathHex)) return undefined;
  const bytes = Buffer.from(pathHex, 'hex');
  return isUtf8(bytes) ? undefined : bytes.toString('latin1');
}
