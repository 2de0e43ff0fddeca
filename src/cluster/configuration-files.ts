/**
 * What configuration files set, for who cannot ask the server: it is recovering, or was not started yet. Read as PostgreSQL reads them,
 * with all that they include; what cannot be read is passed over.
 * @see PostgreSQL `src/backend/utils/misc/guc-file.l`, `src/backend/utils/misc/conffiles.c`
 */
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';

export interface ConfiguredSetting {
  /** Absolute path of the file that it stands in. */
  readonly file: string;
  /** In lower case. */
  readonly name: string;
  readonly value: string;
}

/** `name = 'value'`; the equals sign and the quotes may be missing. */
const linePattern = /^\s*([A-Za-z_][\w$.]*)(?:\s*=\s*|\s+|(?='))(?:'((?:[^'\\]|\\.|'')*)'|([^\s#']+))/;
/** PostgreSQL refuses files that include each other deeper than this. */
const maxDepth = 10;

/** All settings in these files, included ones in their place: of several of a name the last one counts. `include…` itself is among them. */
export async function readConfigurationFiles(paths: readonly string[], depth = 0): Promise<ConfiguredSetting[]> {
  const found: ConfiguredSetting[] = [];
  for (const file of paths) {
    const text = await readFile(file, 'utf8').catch(() => '');
    for (const line of text.split('\n')) {
      const match = linePattern.exec(line);
      if (match === null) continue;
      const setting = { file, name: (match[1] ?? '').toLowerCase(), value: unquoted(match) };
      found.push(setting);
      if (depth < maxDepth) found.push(...(await readConfigurationFiles(await includedBy(setting), depth + 1)));
    }
  }
  return found;
}

async function includedBy({ file, name, value }: ConfiguredSetting): Promise<string[]> {
  const path = resolve(dirname(file), value);
  if (name === 'include' || name === 'include_if_exists') return [path];
  if (name !== 'include_dir') return [];
  const names = await readdir(path).catch(() => []);
  const files = names.filter((one) => one.endsWith('.conf') && !one.startsWith('.'));
  return files.sort((a, b) => (a < b ? -1 : 1)).map((one) => join(path, one));
}

const escapes: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

function unquoted([, , quoted, plain = '']: RegExpExecArray): string {
  if (quoted === undefined) return plain;
  return quoted.replace(/''|\\([0-7]{1,3}|.)/g, (_, escaped: string | undefined) => {
    if (escaped === undefined) return "'";
    if (/^[0-7]/.test(escaped)) return String.fromCharCode(Number.parseInt(escaped, 8) & 0xff);
    return escapes[escaped] ?? escaped;
  });
}

/**
 * What is in force for the server that runs on a data directory, by name, as far as files and its command line tell: `postmaster.opts` holds
 * that, and says where `postgresql.conf` is when it is not in the data directory.
 */
export async function readServerConfiguration(dataDirectory: string): Promise<ReadonlyMap<string, string>> {
  const options = await readFile(join(dataDirectory, 'postmaster.opts'), 'utf8').catch(() => '');
  const words = [...options.matchAll(/"([^"]*)"/g)].map(([, word = '']) => word);
  const given = new Map<string, string>();
  let folder = dataDirectory;
  for (const [index, word] of words.entries()) {
    const next = words[index + 1] ?? '';
    if (word === '-D') folder = next;
    const assignment = word === '-c' ? next : /^(?:--|-c)(?=\w[^=]*=)/.test(word) ? word.replace(/^(?:--|-c)/, '') : '';
    const [, name, value] = /^([^=]+)=(.*)$/.exec(assignment) ?? [];
    if (name !== undefined) given.set(name.trim().toLowerCase().replaceAll('-', '_'), (value ?? '').trim());
  }
  const main = given.get('config_file') ?? join(folder, 'postgresql.conf');
  const files = await readConfigurationFiles([main, join(dataDirectory, 'postgresql.auto.conf')]);
  return new Map([...files.map(({ name, value }) => [name, value] as const), ...given]);
}
