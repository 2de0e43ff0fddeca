/** Where a recovery is told to stop, by the configuration files: a server that is still recovering cannot be asked. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, parseLsn } from '../postgres/lsn.ts';

export interface ConfiguredTarget {
  /** `recovery_target_lsn`, where it stops before that record: `recovery_target_inclusive = off`. */
  readonly beforeLsn: Lsn | undefined;
}

/** Lines `name = 'value'`; the equals sign and the quotes may be missing. */
const linePattern = /^\s*(recovery_target\w*)(?:\s*=\s*|\s+)(?:'([^']*)'|([^\s#']+))/;
/** Each of these alone, where it is not empty, makes PostgreSQL stop, or fail when it cannot. */
const targetPattern = /^recovery_target(?:_lsn|_name|_time|_xid)?$/;

/** Undefined when the recovery goes to the end of the WAL. What the command line says, or an included file, is not seen. */
export async function readRecoveryTarget(dataDirectory: string): Promise<ConfiguredTarget | undefined> {
  const settings = new Map<string, string>();
  for (const file of ['postgresql.conf', 'postgresql.auto.conf']) {
    const text = await readFile(join(dataDirectory, file), 'latin1').catch(() => ''); // Debian has the first elsewhere
    for (const line of text.split('\n')) {
      const [, name, quoted, plain] = linePattern.exec(line.toLowerCase()) ?? [];
      if (name !== undefined) settings.set(name, quoted ?? plain ?? '');
    }
  }
  const isSet = [...settings].some(([name, value]) => targetPattern.test(name) && value !== '');
  if (!isSet) return undefined;
  const exclusive = /^(?:off|false|no|0|f|n)$/.test(settings.get('recovery_target_inclusive') ?? '');
  const lsn = parseLsn((settings.get('recovery_target_lsn') ?? '').toUpperCase());
  return { beforeLsn: exclusive ? lsn : undefined };
}
