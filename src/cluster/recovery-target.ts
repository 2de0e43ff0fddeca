/** Where a recovery is told to stop, by the configuration: a server that is still recovering cannot be asked. */
import { type Lsn, parseLsn } from '../postgres/lsn.ts';
import { readServerConfiguration } from './configuration-files.ts';

export interface ConfiguredTarget {
  /** `recovery_target_lsn`, where it stops before that record: `recovery_target_inclusive = off`. */
  readonly beforeLsn: Lsn | undefined;
}

/** Each of these alone, where it is not empty, makes PostgreSQL stop, or fail when it cannot. */
const targetPattern = /^recovery_target(?:_lsn|_name|_time|_xid)?$/;

/** Undefined when the recovery goes to the end of the WAL. */
export async function readRecoveryTarget(dataDirectory: string): Promise<ConfiguredTarget | undefined> {
  const settings = await readServerConfiguration(dataDirectory);
  const isSet = [...settings].some(([name, value]) => targetPattern.test(name) && value !== '');
  if (!isSet) return undefined;
  const exclusive = /^(?:off?|f|fa|fal|fals|false|n|no|0)$/i.test(settings.get('recovery_target_inclusive') ?? '');
  const lsn = parseLsn(settings.get('recovery_target_lsn') ?? '');
  return { beforeLsn: exclusive ? lsn : undefined };
}
