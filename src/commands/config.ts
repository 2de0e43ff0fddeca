/** wal-t config: which settings are in force, and where each comes from. Secrets are never shown. */
import type { Entries } from '../config.ts';
import { settingsTable } from '../settings.ts';

export interface ConfigLine {
  readonly name: string;
  readonly value: string;
  readonly source: string;
}

export function describeConfig(entries: Entries): readonly ConfigLine[] {
  return settingsTable.map(({ name, secret, default: standard }) => {
    const entry = entries[name];
    const value = entry?.value ?? standard ?? '';
    const source = entry?.source ?? (standard === undefined ? 'not set' : 'default');
    return { name, value: secret === true && value !== '' ? '***' : withoutPassword(value), source };
  });
}

/** `http://user:password@host` → `http://***@host` */
function withoutPassword(value: string): string {
  return value.replace(/(:\/\/)[^/@\s]+@/, '$1***@');
}
