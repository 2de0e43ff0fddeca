/** Which parts a backup needs, of itself and of earlier ones: ranges of their numbers, as manifests and leases hold them. */
import { parseBackupId } from './backup-id.ts';

/** For each backup that stored any, ranges of part numbers: both ends included. */
export type PartUses = Readonly<Record<string, readonly (readonly [first: number, last: number])[]>>;

/** The parts, one by one. */
export function* usedParts({ uses }: { readonly uses: PartUses }): Generator<{ backup: string; number: number }> {
  for (const [backup, ranges] of Object.entries(uses)) {
    for (const [first, last] of ranges) {
      for (let number = first; number <= last; number += 1) yield { backup, number };
    }
  }
}

/** As few ranges as there can be. */
export function usesOf(parts: Iterable<{ readonly backup: string; readonly number: number }>): PartUses {
  const numbers = new Map<string, number[]>();
  for (const { backup, number } of parts) {
    const known = numbers.get(backup);
    if (known === undefined) numbers.set(backup, [number]);
    else known.push(number);
  }
  const uses: Record<string, [number, number][]> = {};
  for (const [backup, found] of [...numbers].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const ranges: [number, number][] = [];
    for (const number of found.sort((a, b) => a - b)) {
      const last = ranges.at(-1);
      if (last !== undefined && number <= last[1] + 1) last[1] = number;
      else ranges.push([number, number]);
    }
    uses[backup] = ranges;
  }
  return uses;
}

/** A manifest may name no more parts than so many: a number of an enemy must not become a loop without end. */
const maxParts = 10_000_000;

export function isUses(value: unknown): value is PartUses {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  let parts = 0;
  for (const [backup, ranges] of Object.entries(value)) {
    if (parseBackupId(backup) === undefined || !Array.isArray(ranges)) return false;
    for (const range of ranges as unknown[]) {
      const [first, last] = Array.isArray(range) ? (range as unknown[]) : [];
      if (!isCount(first) || !isCount(last) || (first as number) < 1 || (last as number) < (first as number))
        return false;
      parts += (last as number) - (first as number) + 1;
    }
  }
  return parts <= maxParts;
}

const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
