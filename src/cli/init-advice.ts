/** What `wal-t init` prints: what was found, and the lines to paste, right for where these executables and settings are. */
import { accessSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { InitResult } from '../commands/init.ts';
import type { Entries } from '../config.ts';
import { defaultConfigFile } from '../settings.ts';

/** The PATH that a service manager gives to PostgreSQL, at worst. */
const servicePath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export function describeInit({ url, repository, created, adoptedFrom }: InitResult, entries: Entries): string {
  const { conditionalPut, delete: deletes } = repository.storage;
  const lines = [
    `repository ${repository.repository} ${created ? 'made' : 'found'} at ${url}`,
    `  conditional writes: ${conditionalPut}`,
    `  deleting:           ${deletes}`,
  ];
  if (adoptedFrom !== undefined) lines.push(`  adopted: the cluster was archived into ${adoptedFrom} before`);
  const environment = settingsPrefix(entries);
  const bin = resolve(fileURLToPath(new URL('../bin', import.meta.url)));
  const command = (name: string, words: string) => {
    const plain = `${environment}${shellQuoted(join(bin, name))}`;
    return configQuoted(`${plain.replaceAll('%', '%%')} ${words}`); // a single % is PostgreSQL's own sign
  };
  lines.push(
    '',
    'postgresql.conf (archive_mode needs a restart, the others a reload):',
    '',
    'archive_mode = on',
    `archive_command = ${command('wal-push', '%p %f')}`,
    `restore_command = ${command('wal-fetch', '%f %p')}`,
    'archive_timeout = 60s    # what a lost host may cost at most; each segment is compressed',
  );
  return [...lines, ...environmentAdvice(entries)].join('\n');
}

/** Settings of this shell are no settings of PostgreSQL. Values are not repeated here: they may be secret. */
function environmentAdvice(entries: Entries): string[] {
  const names = Object.entries(entries)
    .filter(([name, { source }]) => source === 'environment' && name !== 'WALT_CONFIG' && name !== 'WALT_NODE')
    .map(([name]) => name);
  if (names.length === 0) return [];
  const file = entries.WALT_CONFIG?.value ?? defaultConfigFile;
  return [
    '',
    `PostgreSQL does not see this shell's environment. Put into ${file}, readable by the user it runs as:`,
    '',
    ...names.map((name) => (name === 'WALT_REPO' ? `${name}=${entries[name]?.value}` : `${name}=…`)),
  ];
}

function settingsPrefix(entries: Entries): string {
  const config = entries.WALT_CONFIG?.value;
  const words = [];
  if (config !== undefined) words.push(`WALT_CONFIG=${shellQuoted(resolve(config))}`);
  if (!isOnServicePath()) words.push(`WALT_NODE=${shellQuoted(process.execPath)}`);
  return words.map((word) => `${word} `).join('');
}

/** Would the launcher find this very Node.js without help? */
function isOnServicePath(): boolean {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const candidates = [join(root, 'node', 'bin'), ...servicePath.split(':')].map((folder) => join(folder, 'node'));
  return candidates.some((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** A word of the shell, plain where it can be. */
function shellQuoted(word: string): string {
  return /^[A-Za-z0-9_/.:@=+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A string of postgresql.conf, in which a backslash escapes as in C. */
function configQuoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}
