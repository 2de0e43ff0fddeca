/** PostgreSQL refuses to run as root: where the tests are root, servers and the commands that they call run as another account. */
import { spawnSync } from 'node:child_process';
import { chownSync } from 'node:fs';

export interface Account {
  readonly uid?: number;
  readonly gid?: number;
}

function idOf(user: string, flag: '-u' | '-g'): number | undefined {
  const { status, stdout } = spawnSync('id', [flag, user], { encoding: 'utf8' });
  return status === 0 ? Number(stdout) : undefined;
}

function findAccount(): Account {
  if (process.getuid?.() !== 0) return {};
  const user = idOf('postgres', '-u') === undefined ? 'nobody' : 'postgres';
  return { uid: idOf(user, '-u') ?? 65534, gid: idOf(user, '-g') ?? 65534 };
}

/** For `spawn`: whom servers run as. Empty for an ordinary user, who is good enough. */
export const account: Account = findAccount();

/** Gives a file or folder to the servers' account. */
export function giveAway(path: string): void {
  if (account.uid !== undefined && account.gid !== undefined) chownSync(path, account.uid, account.gid);
}
