/** Values of flags, read as PostgreSQL's own programs read theirs. */
import { posix } from 'node:path';
import { UsageError } from '../errors.ts';

const rateKilobytes = { least: 32, most: 1048576 } as const;

/**
 * `--max-rate`, in bytes per second: kilobytes of 1024 bytes, or with a suffix `k` or `M`.
 * @see https://www.postgresql.org/docs/current/app-pgbasebackup.html
 */
export function parseMaxRate(text: string): number {
  const [, number, suffix] = /^\s*(\d+(?:\.\d*)?|\.\d+)\s*([kM]?)\s*$/.exec(text) ?? [];
  const kilobytes = Math.floor(Number(number) * (suffix === 'M' ? 1024 : 1));
  if (kilobytes >= rateKilobytes.least && kilobytes <= rateKilobytes.most) return kilobytes * 1024;
  throw new UsageError(`--max-rate cannot be "${text}"`, {
    hint: 'Give kilobytes per second, 32 to 1048576, or with a suffix, such as 512k or 100M.',
  });
}

const ageUnits: Readonly<Record<string, number>> = { h: 3_600_000, d: 24 * 3_600_000, w: 7 * 24 * 3_600_000 };

/** An age such as `12h`, `7d` or `4w`, in milliseconds. `flag` for the message. */
export function parseAge(flag: string, text: string): number {
  const [, number, unit = ''] = /^\s*(\d{1,6})\s*([hdw])\s*$/.exec(text) ?? [];
  const ageMs = Number(number) * (ageUnits[unit] ?? Number.NaN);
  if (ageMs > 0) return ageMs;
  throw new UsageError(`${flag} cannot be "${text}"`, { hint: 'Give hours, days or weeks, such as 12h, 7d or 4w.' });
}

/** `--annotate k=v`, each key once. */
export function parseAnnotations(texts: readonly string[]): Readonly<Record<string, string>> {
  const annotations = new Map<string, string>();
  for (const text of texts) {
    const at = text.indexOf('=');
    const key = text.slice(0, Math.max(at, 0));
    if (key === '') throw new UsageError(`--annotate cannot be "${text}"`, { hint: 'Give key=value.' });
    if (annotations.has(key)) throw new UsageError(`--annotate gives "${key}" twice`, { hint: 'Give each key once.' });
    annotations.set(key, text.slice(at + 1));
  }
  return Object.fromEntries(annotations);
}

/**
 * `--tablespace-mapping OLD=NEW`, each OLD once; an `=` in a path is written `\=`.
 * @returns where the content of a tablespace goes, by where it was: absolute paths without a slash at the end.
 */
export function parseTablespaceMapping(texts: readonly string[]): ReadonlyMap<string, string> {
  const mapping = new Map<string, string>();
  for (const [from, to] of texts.map(parseMapping)) {
    if (mapping.has(from)) {
      throw new UsageError(`--tablespace-mapping gives "${from}" twice`, { hint: 'Give each tablespace once.' });
    }
    mapping.set(from, to);
  }
  return mapping;
}

function parseMapping(text: string): readonly [from: string, to: string] {
  const words = text.split(/(?<!\\)=/).map((word) => word.replaceAll('\\=', '='));
  const [from = '', to = ''] = words;
  if (words.length !== 2 || !from.startsWith('/') || !to.startsWith('/')) {
    throw new UsageError(`--tablespace-mapping cannot be "${text}"`, {
      hint: 'Give /old/folder=/new/folder, both absolute; an = within one of them is written \\=.',
    });
  }
  return [canonical(from), canonical(to)];
}

function canonical(path: string): string {
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}
