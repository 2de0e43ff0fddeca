/** Commands that make a contender ready: outside of any measurement. */
import { spawnSync } from 'node:child_process';
import { account } from '../../test/support/account.ts';
import { plainEnvironment } from '../../test/support/run.ts';

/** As the servers' account. @returns what it printed. @throws when it fails. */
export function call(command: string, words: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  const { status, stdout, stderr } = spawnSync(command, words, {
    ...account,
    cwd: '/',
    env: { ...plainEnvironment(), ...env },
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${command} ended with ${status}: ${stderr}${stdout}`);
  return stdout;
}
