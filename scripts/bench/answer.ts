/** One wal-push and one wal-fetch that a launcher answers without Node.js, beside the shells and Node.js alone. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { giveAway } from '../../test/support/account.ts';
import type { Calls } from './as-postgres.ts';
import { WaitingWal } from './waiting-wal.ts';

/** What the issue asks for, two shells included. */
const limitMs = 8;

/** Each is called by a shell, as PostgreSQL calls its commands. */
const controls = { 'sh -c true': 'true', "sh -c 'sh -c true'": 'sh -c true', 'node -e 0': 'node -e 0' };

interface Answer {
  readonly name: string;
  readonly calls: number;
  readonly medianMs: number;
  readonly minMs: number;
  readonly maxMs: number;
}

export async function benchAnswer({ segments }: { readonly segments: number }) {
  const wal = await WaitingWal.prepare({ segments });
  try {
    const counted = countStarts(wal.folder);
    const pushed = wal.push({ ...counted, controls });
    const fetched = await wal.fetch({ ...counted, controls });
    const results = [
      ...both('wal-push', pushed),
      ...both('wal-fetch', fetched),
      ...Object.keys(controls).map((name) =>
        summarise(name, [...(pushed.controls[name] ?? []), ...(fetched.controls[name] ?? [])]),
      ),
    ];
    return { text: `${format(results)}\n\n${verdict(results)}`, results };
  } finally {
    await wal.remove();
  }
}

/** A Node.js that notes each start in a file, by one byte: a call during which the file has not grown was answered by the launcher alone. */
function countStarts(folder: string): { readonly prefix: string; readonly counter: string } {
  const [node, counter] = [join(folder, 'node'), join(folder, 'starts')];
  writeFileSync(node, `#!/bin/sh\nprintf x >>${counter}\nexec node "$@"\n`);
  writeFileSync(counter, '');
  chmodSync(node, 0o755);
  for (const path of [node, counter]) giveAway(path);
  return { prefix: `WALT_NODE=${node} `, counter };
}

function both(name: string, { calls, answered }: Calls): Answer[] {
  const some = (wanted: boolean) => calls.filter((_, index) => answered[index] === wanted);
  return [summarise(`${name}, answered`, some(true)), summarise(`${name}, by Node.js`, some(false))];
}

function summarise(name: string, calls: readonly number[]): Answer {
  const sorted = [...calls].sort((a, b) => a - b);
  const at = (place: number) => sorted[place] ?? Number.NaN;
  return {
    name,
    calls: sorted.length,
    medianMs: at(sorted.length >> 1),
    minMs: at(0),
    maxMs: at(sorted.length - 1),
  };
}

function format(results: readonly Answer[]): string {
  const rows = results.map(({ name, calls, medianMs, minMs, maxMs }) =>
    calls === 0
      ? `${name.padEnd(24)} none`
      : [
          name.padEnd(24),
          `${calls}`.padStart(6),
          medianMs.toFixed(1).padStart(8),
          `${minMs.toFixed(1)}–${maxMs.toFixed(1)}`.padStart(14),
        ].join(' '),
  );
  return [`${''.padEnd(24)}  calls  median ms       min–max`, ...rows].join('\n');
}

function verdict(results: readonly Answer[]): string {
  return results
    .filter(({ name }) => name.endsWith(', answered'))
    .map(({ name, calls, medianMs }) => {
      if (calls === 0) return `${name}: not answered`;
      return `${name}: ${medianMs.toFixed(1)} ms (at most ${limitMs}): ${medianMs <= limitMs ? 'reached' : 'NOT reached'}`;
    })
    .join('\n');
}
