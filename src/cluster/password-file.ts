/** `.pgpass`, as libpq reads it; the one of package `pg` is deprecated, knows no sockets and writes to stderr. @see https://www.postgresql.org/docs/current/libpq-pgpass.html */
import { readFile, stat } from 'node:fs/promises';
import { systemErrorCode, systemErrorReason } from '../errors.ts';
import type { Log } from '../log.ts';

export interface PasswordQuestion {
  /** As libpq compares it: the name or address that was set, a socket's folder, or `localhost` for the usual socket. */
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

/** The password that the file at `path` has; undefined when it has none, is not there, or is open to others. */
export async function readPasswordFile(
  path: string,
  question: PasswordQuestion,
  log: Log,
): Promise<string | undefined> {
  try {
    const found = await stat(path);
    const fault = found.isFile() ? openToOthers(found.mode) : 'is not a plain file';
    if (fault === undefined) return findPassword(await readFile(path, 'utf8'), question);
    log.warning(`the password file "${path}" ${fault}; it is not used`, { hint: `Run chmod 0600 "${path}".` });
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') {
      log.warning(`could not read the password file "${path}": ${systemErrorReason(error)}`);
    }
  }
  return undefined;
}

function openToOthers(mode: number): string | undefined {
  return (mode & 0o077) === 0 ? undefined : 'is open to its group or to others';
}

/** The first line that matches wins: host:port:database:user:password, `*` for any, `\:` and `\\` for the characters themselves. */
export function findPassword(text: string, { host, port, database, user }: PasswordQuestion): string | undefined {
  const wanted = [host, String(port), database, user];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith('#')) continue;
    const fields = splitFields(line);
    const password = fields[wanted.length];
    if (password === undefined) continue;
    if (wanted.every((word, n) => fields[n] === '*' || unescaped(fields[n] ?? '') === word)) return unescaped(password);
  }
  return undefined;
}

/** At each colon that no backslash stands before. */
function splitFields(line: string): readonly string[] {
  const fields: string[] = [];
  let start = 0;
  for (let at = 0; at <= line.length; at += line[at] === '\\' ? 2 : 1) {
    if (at < line.length && line[at] !== ':') continue;
    fields.push(line.slice(start, at));
    start = at + 1;
  }
  return fields;
}

function unescaped(field: string): string {
  return field.replace(/\\(.)/g, '$1');
}
