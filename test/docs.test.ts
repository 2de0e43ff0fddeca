/** The documents tell the truth: each command line of ours in them is one that the parser takes, and each setting is one that there is. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../src/cli/options.ts';
import { checks } from '../src/commands/check.ts';
import { mergeEntries } from '../src/config.ts';
import { settingsTable } from '../src/settings.ts';
import { candidatesIn, commandsIn } from './support/command-lines.ts';
import { checkout } from './support/installation.ts';

const read = (path: string) => readFileSync(join(checkout, path), 'utf8');
const documents = ['README.md', ...readdirSync(join(checkout, 'docs')).map((name) => `docs/${name}`)];
const known = settingsTable.map(({ name }) => name);

describe.each(documents)('%s', (path) => {
  const text = read(path);

  it('names settings that there are', () => {
    const named = [...new Set(text.match(/\bWALT_[A-Z0-9_]*[A-Z0-9]\b(?!_|…|\*)/g))];
    expect(known).toEqual(expect.arrayContaining(named));
  });

  it('names checks that there are', () => {
    const named = [...text.matchAll(/--(?:only|skip) ([a-z,-]+)/g)].flatMap(([, names = '']) => names.split(','));
    expect(checks.map(({ name }) => name)).toEqual(expect.arrayContaining(named));
  });

  it('has commands that there are', async () => {
    for (const words of commandsIn(candidatesIn(text))) {
      const about = `${path}: ${words.join(' ')}`;
      // help and version are shown at once; a flag without its command is one of the command that is spoken of
      if (words.includes('--help') || words.includes('--version') || words[0]?.startsWith('-')) continue;
      await expect(parseCommandLine([...words, '--unheard-of']), about).rejects.toThrow(/unheard|not enough/);
      if (words.length === 1 || words.includes('…')) continue; // only named, or only a part of it
      const parsed = await parseCommandLine(words).catch((error: Error) => error);
      expect(parsed, about).not.toBeInstanceOf(Error);
    }
  });
});

it('the manual for a change of tools speaks of all of our commands that matter for it', () => {
  const commands = new Set(commandsIn(candidatesIn(read('docs/MIGRATE.md'))).map(([name]) => name));
  const expected = ['init', 'check', 'wal-push', 'wal-fetch', 'basebackup-push', 'backup-list', 'restore', 'delete'];
  expect([...commands]).toEqual(expect.arrayContaining([...expected, 'verify', 'pin', 'basebackup-fetch']));
});

it("WAL-G's names that it calls understood are", () => {
  const [sentence = ''] = /^WAL-G's names are understood[^.]*?\)/ms.exec(read('docs/MIGRATE.md')) ?? [];
  const names = sentence.match(/WALG_[A-Z0-9_]+/g) ?? [];
  expect(names.length).toBeGreaterThan(3);
  for (const name of names) {
    const entries = mergeEntries({ [name]: '1' }, undefined);
    expect(
      Object.keys(entries).filter((entry) => known.includes(entry)),
      name,
    ).toHaveLength(1);
  }
  expect(mergeEntries({ WALG_S3_PREFIX: 's3://a', WALT_REPO: 's3://b' }, undefined).WALT_REPO?.value).toBe('s3://b');
});

it('the README installs as docs/PACKAGE.md does, whose commands are run', () => {
  const [, section = ''] = /^## Ten minutes\n(.*?)^## /ms.exec(read('README.md')) ?? [];
  const commands = [...section.matchAll(/^ *```console\n(.*?)^ *```$/gms)].flatMap(([, block = '']) =>
    block.trim().split(/\n */),
  );
  expect(commands.length).toBeGreaterThan(5);
  const run = read('docs/PACKAGE.md').replaceAll('runuser -u postgres -- ', '');
  for (const command of commands) expect(run).toContain(`\n   ${command}\n`);
});
