/** Which stored parts nothing needs any more: arithmetic on ranges of their numbers. Pure. */
import type { PartRange, RetainedBackup } from './retention-state.ts';

type PartsByBackup = ReadonlyMap<string, readonly PartRange[]>;

/**
 * Of the stored parts (or, where nobody listed them, of those of the backups that go) the ones that no staying backup uses.
 * One that stays without being confirmed keeps all that it has stored: its list of parts may not be whole yet.
 */
export function unusedParts(
  staying: readonly RetainedBackup[],
  going: readonly RetainedBackup[],
  storedParts: ReadonlyMap<string, readonly number[]> | undefined,
): PartsByBackup {
  const used = partsUsedBy(staying);
  const unfinished = new Set(staying.filter(({ state }) => state !== 'confirmed').map(({ id }) => id));
  const unused = new Map<string, readonly PartRange[]>();
  for (const [id, ranges] of storedParts === undefined ? partsUsedBy(going) : rangesOf(storedParts)) {
    if (unfinished.has(id)) continue;
    const left = without(ranges, used.get(id) ?? []);
    if (left.length > 0) unused.set(id, left);
  }
  return unused;
}

function partsUsedBy(backups: readonly RetainedBackup[]): PartsByBackup {
  const used = new Map<string, PartRange[]>();
  for (const { uses } of backups) {
    for (const [id, ranges] of uses) used.set(id, [...(used.get(id) ?? []), ...ranges]);
  }
  return new Map([...used].map(([id, ranges]) => [id, merged(ranges)]));
}

function rangesOf(numbers: ReadonlyMap<string, readonly number[]>): PartsByBackup {
  return new Map([...numbers].map(([id, parts]) => [id, merged(parts.map((part): PartRange => [part, part]))]));
}

/** Ascending, none touching the next. */
function merged(ranges: readonly PartRange[]): PartRange[] {
  const result: [number, number][] = [];
  for (const [first, last] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const before = result.at(-1);
    if (before !== undefined && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else result.push([first, last]);
  }
  return result;
}

/** Both ascending and merged. */
function without(ranges: readonly PartRange[], taken: readonly PartRange[]): PartRange[] {
  return ranges.flatMap(([first, last]) => {
    const left: PartRange[] = [];
    let next = first;
    for (const [from, to] of taken) {
      if (to < next || from > last) continue;
      if (from > next) left.push([next, from - 1]);
      next = to + 1;
    }
    if (next <= last) left.push([next, last]);
    return left;
  });
}
