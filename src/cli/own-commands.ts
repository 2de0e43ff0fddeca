/** Command lines of our own executables for PostgreSQL's configuration: right for where these executables and settings are. */
import { accessSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { Entries } from '../config.ts';
import { defaultConfigFile } from '../settings.ts';

/** The PATH that a service manager gives to PostgreSQL, at worst. */
const servicePath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The folder of the launchers: as this command was called, so that a link that upgrades switch stays in it; else beside the
 * bundle's own, or above that of its chunks.
 */
function binFolder(): string {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const beside = resolve(here, '../bin');
  const candidates = [resolve(process.env.WAL_T_BIN ?? beside), beside, resolve(here, '../../bin')];
  return candidates.find((path) => isExecutable(join(path, 'wal-t'))) ?? beside;
}

/** The path of one of our launchers. */
export function launcherPath(name: string): string {
  return join(binFolder(), name);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A shell command that calls one of our executables by its absolute path, with the settings file that is in force here; `words` as PostgreSQL is to see them. */
export function ownCommand(entries: Entries, name: string, words: string): string {
  const plain = `${settingsPrefix(entries)}${shellQuoted(launcherPath(name))}`;
  return `${plain.replaceAll('%', '%%')} ${words}`; // a single % is PostgreSQL's own sign
}

/** Settings of this shell are no settings of PostgreSQL. Values are not repeated here: they may be secret. */
export function environmentAdvice(entries: Entries): string[] {
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
  const candidates = [join(binFolder(), '../node/bin'), ...servicePath.split(':')].map((folder) =>
    join(folder, 'node'),
  );
  return candidates.some(isExecutable);
}

/** A word of the shell, plain where it can be. */
export function shellQuoted(word: string): string {
  return /^[A-Za-z0-9_/.:@=+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A string of postgresql.conf, in which a backslash escapes as in C. */
export function configQuoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}
