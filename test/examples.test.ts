/** The examples tell the truth: each command line in them is one that the parser takes, and each unit one that systemd takes. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseCommandLine } from '../src/cli/options.ts';
import { candidatesIn, commandsIn } from './support/command-lines.ts';
import { temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { hasTool } from './support/tools.ts';

const folder = join(checkout, 'examples');
const read = (name: string) => readFileSync(join(folder, name), 'utf8');
const units = readdirSync(folder).filter((name) => /\.(service|timer)$/.test(name));

/** Whatever may hold a command of ours: the runbook, what systemd and cron are to run, what the comments of the manifests tell to type. */
function* candidates(): Generator<string> {
  yield* candidatesIn(read('RUNBOOK.md'));
  for (const unit of units) {
    for (const [, command = ''] of read(unit).matchAll(/^ExecStart=(.*)$/gm)) yield command;
  }
  for (const [, commands = ''] of read('crontab').matchAll(/^(?:\S+\s+){6}(\/.*)$/gm)) yield* commands.split('&&');
  for (const manifest of readdirSync(folder).filter((name) => name.endsWith('.yaml'))) {
    for (const [, command = ''] of read(manifest).matchAll(
      /^#.* (?:--|sidecar|postgres) (\S*(?:wal-t|backup-list)\b.*?)(?: {3,}.*)?$/gm,
    )) {
      yield command;
    }
  }
}

const commands = commandsIn(candidates());

it('finds the command lines', () => {
  const names = new Set(commands.map(([name]) => name));
  const expected = [
    'windows',
    'backup-list',
    'restore',
    'basebackup-push',
    'wal-push',
    'wal-diff',
    'wal-set-aside',
    'init',
  ];
  expect([...names]).toEqual(expect.arrayContaining([...expected, 'delete', 'verify', 'pin']));
  expect(commands.length).toBeGreaterThan(15);
});

it.each(commands.map((words) => [words.join(' '), words] as const))(
  'has a command that exists: %s',
  async (_, words) => {
    expect([words[0], 'wal-t']).toContain((await parseCommandLine(words)).program);
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
