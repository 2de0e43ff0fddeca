/** The examples tell the truth: each command line in them is one that the parser takes, and each unit one that systemd takes. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseCommandLine } from '../src/cli/options.ts';
import { temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { hasTool } from './support/tools.ts';

const folder = join(checkout, 'examples');
const read = (name: string) => readFileSync(join(folder, name), 'utf8');
const units = readdirSync(folder).filter((name) => /\.(service|timer)$/.test(name));

/** Whatever may hold a command of ours: the lines of shell blocks, what stands in backticks, what systemd and cron are to run. */
function* candidates(): Generator<string> {
  const runbook = read('RUNBOOK.md');
  for (const [, block = ''] of runbook.matchAll(/^```sh\n(.*?)^```$/gms)) yield* block.split('\n');
  for (const [, inline = ''] of runbook.replaceAll(/^```.*?^```$/gms, '').matchAll(/`([^`\n]+)`/g)) yield inline;
  for (const unit of units) {
    for (const [, command = ''] of read(unit).matchAll(/^ExecStart=(.*)$/gm)) yield command;
  }
  for (const [, commands = ''] of read('crontab').matchAll(/^(?:\S+\s+){6}(\/.*)$/gm)) yield* commands.split('&&');
}

/** The words of a command as a shell has them, without what it keeps to itself; `…` stands for something. */
function wordsOf(command: string): string[] {
  const words = command.matchAll(/'([^']*)'|((?:[^\s']|…)+)/g);
  const own = [...words].map(([word, quoted, plain]) => ({ word, text: quoted ?? plain ?? '' }));
  const end = own.findIndex(({ word }) => /^(#|>|\||;)/.test(word));
  return own.slice(0, end < 0 ? undefined : end).map(({ text }) => text);
}

const program = /^(?:\/opt\/wal-t\/bin\/)?(wal-t|wal-push|wal-fetch|basebackup-push|basebackup-fetch|backup-list)$/;

const commands = [...candidates()].map(wordsOf).flatMap(([first = '', ...words]) => {
  const name = program.exec(first)?.[1];
  if (name === undefined || words.length === 0) return name === 'backup-list' ? [[name]] : [];
  return [name === 'wal-t' ? words : [name, ...words]];
});

it('finds the command lines', () => {
  const names = new Set(commands.map(([name]) => name));
  const expected = ['windows', 'backup-list', 'restore', 'basebackup-push', 'wal-push', 'wal-diff', 'wal-set-aside'];
  expect([...names]).toEqual(expect.arrayContaining([...expected, 'delete', 'verify', 'pin']));
  expect(commands.length).toBeGreaterThan(15);
});

it.each(commands.map((words) => [words.join(' '), words] as const))(
  'has a command that exists: %s',
  async (_, words) => {
    expect((await parseCommandLine(words)).program).toBe(words[0]);
    await expect(parseCommandLine([...words, '--unheard-of'])).rejects.toThrow('unheard');
  },
);

it.skipIf(!hasTool('systemd-analyze'))('has units that systemd takes', () => {
  const copies = temporaryFolder('units');
  const paths = units.map((name) => join(copies, name));
  for (const name of units)
    writeFileSync(join(copies, name), read(name).replaceAll('/opt/wal-t', checkout.replace(/\/$/, '')));
  const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...paths], {
    encoding: 'utf8',
  });
  const own = `${stdout}${stderr}`.split('\n').filter((line) => line.includes('wal-t'));
  expect({ status, own }).toEqual({ status: 0, own: [] });
});
