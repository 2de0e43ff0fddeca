/** Retention: which backups, parts and WAL stay, and why; everything else may go. A pure function: it reads no clock and no storage (invariant 8). */
import type { Forks } from './backup-order.ts';
import { unusedParts } from './retention-parts.ts';
import { lastRestorable, pinned, policyRules, type Rule } from './retention-policy.ts';
import type { Decision, Policy, RetainedBackup, RetentionPlan, RetentionState } from './retention-state.ts';
import { allWal, type WalReader, walNeededBy } from './retention-wal.ts';

/**
 * Plans what a `delete` removes. A backup stays when any member of the policy keeps it, when it is pinned, running, or the last one to
 * restore from; one that is neither confirmed nor running is a left-over. Whatever stays keeps all that it uses.
 *
 * `state` must be whole: every manifest, pin, lease and history of one cluster was read and understood (H28), and stored parts were
 * listed before leases were. Backups of another system identifier are another cluster's.
 * @throws AssertionError for counts below 1 in the policy
 */
export function planRetention(state: RetentionState, policy: Policy, now: Date): RetentionPlan {
  const contradiction = disagreement(state);
  if (contradiction !== undefined) return nothingGoes(state, contradiction);
  const { backups } = state;
  const forks: Forks = new Map(state.forks.map((fork) => [fork.timeline, fork]));
  const confirmed = backups.filter(({ state: one }) => one === 'confirmed');
  const context = { confirmed, forks, state, now };
  const rules = policyRules(policy, context);
  const pins = pinned(state, now);
  const always = lastRestorable(policy, context);

  const refusal = unfitName(state, policy, { rules, pins, always });
  if (refusal !== undefined) return nothingGoes(state, refusal);

  const keep: Decision[] = [];
  const remove: Decision[] = [];
  for (const backup of backups) {
    const reasons = reasonsToKeep(backup, { rules, pins, always });
    if (reasons.length > 0) keep.push({ id: backup.id, reasons });
    else remove.push({ id: backup.id, reasons: reasonsToGo(backup, rules) });
  }
  const kept = new Set(keep.map(({ id }) => id));
  const staying = backups.filter(({ id }) => kept.has(id));
  const going = backups.filter(({ id }) => !kept.has(id));
  const timelines = judgedTimelines(state);
  const readers = staying.map((backup) => readerOf(backup, [...rules, always]));
  return {
    keep,
    remove,
    parts: unusedParts(staying, going, state.storedParts),
    walNeeded:
      confirmed.length === 0
        ? allWal(timelines, 'there is no confirmed backup')
        : walNeededBy(readers, forks, timelines),
    timelines,
  };
}

interface Rules {
  readonly rules: readonly Rule[];
  readonly pins: Rule;
  /** What holds whatever the policy says: named as a reason only where nothing else is one. */
  readonly always: Rule;
}

function reasonsToKeep({ id, state }: RetainedBackup, { rules, pins, always }: Rules): string[] {
  if (state === 'running') return ['it is being taken'];
  const saying = state === 'confirmed' ? [...rules, pins] : [pins];
  const reasons = saying.map(({ keeps }) => keeps.get(id)).filter((reason) => reason !== undefined);
  if (reasons.length > 0 || state !== 'confirmed') return reasons;
  return [always.keeps.get(id)].filter((reason) => reason !== undefined);
}

function reasonsToGo({ state }: RetainedBackup, rules: readonly Rule[]): string[] {
  if (state === 'failed') return ['left over: it was given up, or its lease has died'];
  if (state === 'unconfirmed') return ['left over: it was never confirmed, and its lease has died'];
  return rules.map(({ otherwise }) => otherwise);
}

/** The WAL that a staying backup needs: to the end when a rule promises that, else until it is consistent. */
function readerOf(backup: RetainedBackup, rules: readonly Rule[]): WalReader {
  const { id, timeline, startLsn, consistentLsn, state, walFloor } = backup;
  if (state === 'running') {
    const floor = walFloor !== undefined && walFloor < startLsn ? walFloor : startLsn;
    return { timeline, startLsn: floor, endLsn: 'open', why: `${id} is being taken` };
  }
  if (rules.some(({ keeps, isOpen }) => isOpen && keeps.has(id))) {
    return { timeline, startLsn, endLsn: 'open', why: `${id} and what follows it` };
  }
  return { timeline, startLsn, endLsn: consistentLsn, why: `${id} alone` };
}

/** Histories that contradict each other leave it open which WAL belongs to which backup. */
function disagreement({ forks }: RetentionState): string | undefined {
  const seen = new Map<number, { readonly parent: number; readonly switchLsn: bigint }>();
  for (const { timeline, parent, switchLsn } of forks) {
    const other = seen.get(timeline) ?? { parent, switchLsn };
    if (parent >= timeline || other.parent !== parent || other.switchLsn !== switchLsn) {
      return `the histories contradict each other about where timeline ${timeline} begins`;
    }
    seen.set(timeline, other);
  }
  return undefined;
}

/** Why a backup that the user named cannot be what it was named for. */
function unfitName(state: RetentionState, { before, backup }: Policy, rules: Rules): string | undefined {
  const find = (name: string) => state.backups.find(({ id }) => id === name);
  if (typeof before === 'string' && find(before)?.state !== 'confirmed') {
    return `there is no confirmed backup "${before}"`;
  }
  if (backup === undefined) return undefined;
  const named = find(backup);
  if (named === undefined) return `there is no backup "${backup}"`;
  if (named.state === 'running') return `"${backup}" is being taken`;
  const pin = rules.pins.keeps.get(backup);
  if (pin !== undefined) return `"${backup}" is ${pin}`;
  const isKept = named.state !== 'confirmed' || rules.rules.some(({ keeps }) => keeps.has(backup));
  const last = isKept ? undefined : rules.always.keeps.get(backup);
  return last === undefined ? undefined : `"${backup}" is ${last}`;
}

function nothingGoes(state: RetentionState, refusal: string): RetentionPlan {
  const timelines = judgedTimelines(state);
  return {
    keep: state.backups.map(({ id }) => ({ id, reasons: ['nothing goes'] })),
    remove: [],
    parts: new Map(),
    walNeeded: allWal(timelines, 'nothing goes'),
    timelines,
    refusal,
  };
}

function judgedTimelines({ timelines, forks, backups }: RetentionState): number[] {
  const known = [
    ...timelines,
    ...forks.flatMap((one) => [one.timeline, one.parent]),
    ...backups.map((one) => one.timeline),
  ];
  return [...new Set(known)].sort((a, b) => a - b);
}
