/** What a restored cluster is told about its recovery: each setting by name, empty where it is unused, so that nothing older counts (H22). */
import { formatLsn } from '../../postgres/lsn.ts';
import { formatTime, type RecoveryTarget } from './target.ts';

/** Turned off in a copy that stands beside the production server (H30). */
export const besideValues = {
  archive_mode: 'off',
  max_logical_replication_workers: '0',
  synchronous_standby_names: '',
} as const;

const noTarget = {
  recovery_target: '',
  recovery_target_time: '',
  recovery_target_lsn: '',
  recovery_target_name: '',
  recovery_target_xid: '',
} as const;

/** All that every restore sets. */
export const recoveryNames = [
  'restore_command',
  'recovery_target',
  'recovery_target_time',
  'recovery_target_lsn',
  'recovery_target_name',
  'recovery_target_xid',
  'recovery_target_inclusive',
  'recovery_target_timeline',
  'recovery_target_action',
  'primary_conninfo',
  'primary_slot_name',
  'archive_cleanup_command',
  'recovery_end_command',
] as const;

type Values = Readonly<Record<(typeof recoveryNames)[number], string>>;

export interface Recovery {
  readonly restoreCommand: string;
  readonly target: RecoveryTarget;
  readonly inclusive: boolean;
  readonly timeline: number | 'latest';
  readonly action: string;
  readonly primaryConninfo: string | undefined;
  readonly beside: boolean;
}

/** Names and values of postgresql.conf, in the order in which they must stand there. */
export function recoveryValues(recovery: Recovery): Readonly<Record<string, string>> {
  const values: Values = {
    restore_command: recovery.restoreCommand,
    ...targetValues(recovery.target),
    recovery_target_inclusive: recovery.inclusive ? 'on' : 'off',
    recovery_target_timeline: String(recovery.timeline),
    recovery_target_action: recovery.action,
    primary_conninfo: recovery.primaryConninfo ?? '',
    primary_slot_name: '',
    archive_cleanup_command: '',
    recovery_end_command: '',
  };
  return { ...values, ...(recovery.beside ? besideValues : {}) };
}

/** The one that is set stands last: PostgreSQL takes them in their order, and an empty one behind it for a second target. */
function targetValues(target: RecoveryTarget): Record<keyof typeof noTarget, string> {
  const set = targetValue(target);
  if (set === undefined) return noTarget;
  const [name, value] = set;
  const { [name]: _, ...others } = noTarget;
  return { ...others, [name]: value } as Record<keyof typeof noTarget, string>;
}

function targetValue(target: RecoveryTarget): readonly [keyof typeof noTarget, string] | undefined {
  switch (target.kind) {
    case 'immediate':
      return ['recovery_target', 'immediate'];
    case 'time':
      return ['recovery_target_time', formatTime(target.time)];
    case 'lsn':
      return ['recovery_target_lsn', formatLsn(target.lsn)];
    case 'name':
      return ['recovery_target_name', target.name];
    case 'xid':
      return ['recovery_target_xid', target.xid];
    case 'end':
      return undefined;
  }
}
