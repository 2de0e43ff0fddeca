/** Writes the README's tables from the source: `npm run readme`. The suite compares them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { exitCodeMeanings } from '../src/errors.ts';
import { settingsTable } from '../src/settings.ts';

const readme = new URL('../README.md', import.meta.url);

/** The README's text with its tables as they must be. */
export function withTables(text: string): string {
  return replaceBetween(replaceBetween(text, 'settings', settings()), 'exit codes', exitCodes());
}

function settings(): string {
  const rows = settingsTable.map(
    ({ name, meaning, default: standard }) =>
      `| \`${name}\` | ${meaning} | ${standard === undefined ? '' : `\`${standard}\``} |`,
  );
  return ['| setting | meaning | default |', '|---|---|---|', ...rows].join('\n');
}

function exitCodes(): string {
  const rows = Object.entries(exitCodeMeanings).map(([code, meaning]) => `| ${code} | ${meaning} |`);
  return ['| code | meaning |', '|---|---|', ...rows].join('\n');
}

function replaceBetween(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: written by npm run readme -->\n`, `<!-- /${name} -->`];
  const [start, stop] = [text.indexOf(begin), text.indexOf(end)];
  if (start < 0 || stop < start) throw new Error(`README.md has no place for ${name}`);
  return `${text.slice(0, start + begin.length)}${table}\n${text.slice(stop)}`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  writeFileSync(readme, withTables(readFileSync(readme, 'utf8')));
}
