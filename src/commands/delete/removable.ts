/** From a retention plan to the keys that go. */
import type { Removal } from '../../archive/deletion-plan.ts';
import type { RetentionPlan } from '../../archive/retention-state.ts';
import { isWalNeeded } from '../../archive/retention-wal.ts';
import { type Inventory, placeOf, type StoredKey } from './inventory.ts';

export interface Removable {
  /** These go first: without them nothing refers to the others. */
  readonly manifests: readonly string[];
  readonly others: readonly string[];
  /** Of all of them. */
  readonly bytes: number;
  /** Of each, by its key. */
  readonly sizes: ReadonlyMap<string, number>;
  readonly partObjects: number;
  readonly walObjects: number;
  readonly walBytes: number;
  /** What is removed, as ranges. */
  readonly removal: Removal;
}

export function removableOf(inventory: Inventory, plan: RetentionPlan): Removable {
  const going = new Set(plan.remove.map(({ id }) => id));
  const manifests: StoredKey[] = [];
  const others: StoredKey[] = [];
  let partObjects = 0;
  for (const [id, keys] of inventory.keys) {
    const ranges = plan.parts.get(id) ?? [];
    for (const one of keys) {
      const number = one.kind === 'part' ? Number(one.key.slice(one.key.lastIndexOf('/') + 1)) : 0;
      if (one.kind === 'manifest' && going.has(id)) manifests.push(one);
      else if (one.kind === 'part' && ranges.some(([first, last]) => first <= number && number <= last)) {
        others.push(one);
        partObjects += 1;
      } else if (one.kind !== 'part' && one.kind !== 'manifest' && going.has(id)) others.push(one);
    }
  }
  const wal = inventory.walKeys.filter(({ key }) => isUnneeded(inventory, plan, key));
  const names = wal.map(({ key }) => key.slice(key.lastIndexOf('/') + 1)).filter((name) => name.length === 24);
  others.push(...inventory.oldVerifications);
  const all = [...manifests, ...others, ...wal];
  return {
    manifests: manifests.map(({ key }) => key),
    others: [...others, ...wal].map(({ key }) => key),
    bytes: all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    sizes: new Map(all.map(({ key, sizeBytes }) => [key, sizeBytes])),
    partObjects,
    walObjects: wal.length,
    walBytes: wal.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    removal: { parts: plan.parts, wal: runsOf(names, inventory.segmentNames) },
  };
}

/** What is not there any more. */
export interface Gone {
  readonly objects: number;
  readonly bytes: number;
}

/** Of the keys that were to go, without those that could not be removed. */
export function goneOf(
  { sizes }: Removable,
  keys: readonly string[],
  failed: readonly { readonly key: string }[],
): Gone {
  const left = new Set(failed.map(({ key }) => key));
  const gone = keys.filter((key) => !left.has(key));
  return { objects: gone.length, bytes: gone.reduce((sum, key) => sum + (sizes.get(key) ?? 0), 0) };
}

export function removalOf({ removal }: Removable): Removal {
  return removal;
}

function isUnneeded({ wal }: Inventory, plan: RetentionPlan, key: string): boolean {
  const place = wal === undefined ? undefined : placeOf(wal, key.slice(key.lastIndexOf('/') + 1));
  return place !== undefined && !isWalNeeded(plan, place);
}

/** Runs of names that follow each other among all that are stored. */
function runsOf(names: readonly string[], stored: readonly string[]): [string, string][] {
  const going = new Set(names);
  const runs: [string, string][] = [];
  let isOpen = false;
  for (const name of stored) {
    const last = runs.at(-1);
    if (!going.has(name)) isOpen = false;
    else if (isOpen && last !== undefined && last[0].slice(0, 8) === name.slice(0, 8)) last[1] = name;
    else {
      runs.push([name, name]);
      isOpen = true;
    }
  }
  return runs;
}
