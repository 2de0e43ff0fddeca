/** Does a replication slot keep WAL from being recycled, or has one lost what it needs? */
import { formatBytes } from '../../quantities.ts';
import { type Check, type Finding, ok, warning } from './finding.ts';
import type { RunningServer } from './running-server.ts';

export const slots: Check = {
  name: 'slots',
  about: 'no replication slot holds more WAL than max_wal_size, or has lost it',
  async look(subject) {
    const found = await readSlots(await subject.server.get());
    const held = found.map(({ heldBytes }) => heldBytes);
    const figures = { replication_slots: found.length, slot_wal_bytes: Math.max(0, ...held) };
    const findings = found.flatMap(judge);
    if (findings.length > 0) return findings.map((finding, at) => (at === 0 ? { ...finding, figures } : finding));
    return ok(found.length === 0 ? 'there are no replication slots' : 'no replication slot holds much WAL', {
      figures,
    });
  },
};

export interface Slot {
  readonly name: string;
  readonly isActive: boolean;
  /** `reserved` is within max_wal_size; null where it never reserved any. */
  readonly status: 'reserved' | 'extended' | 'unreserved' | 'lost' | null;
  readonly heldBytes: number;
  /** Undefined where `max_slot_wal_keep_size` sets no limit. */
  readonly limitBytes: number | undefined;
}

interface Row {
  readonly name: string;
  readonly active: boolean;
  readonly status: Slot['status'];
  readonly held: number | null;
  /** MiB */
  readonly keep: number;
}

const question = `
  select slot_name as name, active, wal_status as status,
         (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end - restart_lsn)::float8 as held,
         (select setting::int from pg_settings where name = 'max_slot_wal_keep_size') as keep
    from pg_replication_slots order by slot_name`;

export async function readSlots({ session }: RunningServer): Promise<readonly Slot[]> {
  const rows = await session.query<Row>('look at the replication slots', question);
  return rows.map(({ name, active, status, held, keep }) => ({
    name,
    isActive: active,
    status,
    heldBytes: Math.max(0, held ?? 0),
    limitBytes: keep < 0 ? undefined : keep * 1024 * 1024,
  }));
}

/** Does it keep what an archived segment would otherwise leave to be recycled? */
export function isHolding({ status }: Slot): boolean {
  return status === 'extended' || status === 'unreserved';
}

function judge(slot: Slot): Finding[] {
  const { name, isActive, heldBytes, limitBytes, status } = slot;
  const drop = `If nobody is to use it any more: select pg_drop_replication_slot('${name}').`;
  if (status === 'lost') {
    const message = `replication slot "${name}" has lost the WAL that it needs`;
    return [warning(message, { hint: `Its standby goes on if it has a restore_command; else build it anew. ${drop}` })];
  }
  if (!isHolding(slot)) return [];
  const limit =
    limitBytes === undefined
      ? 'max_slot_wal_keep_size sets no limit: it will fill the disk'
      : `max_slot_wal_keep_size is ${formatBytes(limitBytes)}`;
  const use = isActive ? 'in use, but far behind' : 'not in use';
  return [
    warning(`replication slot "${name}", ${use}, holds ${formatBytes(heldBytes)} of WAL in pg_wal`, {
      detail: limit,
      hint: `Start what reads it, or see why that is slow. ${drop}`,
    }),
  ];
}
