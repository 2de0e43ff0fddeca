/** Process namespaces, as a container has one: a command as PID 1 of a new one, another that joins it, and who runs in it. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { account } from './account.ts';
import { orFailInCi } from './tools.ts';

const isRoot = process.getuid?.() === 0;

/** Puts what a new process namespace takes before a command. Root becomes the servers' account; anybody else needs user namespaces. */
export function asPidOne(command: readonly string[]): string[] {
  const fresh = ['--pid', '--fork', '--mount-proc'];
  return isRoot
    ? ['unshare', ...fresh, ...asAccount, ...command]
    : ['unshare', '--user', '--map-current-user', ...fresh, ...command];
}

/** Puts what joins the namespace of a process before a command, as `docker exec` does. */
export function joining(processId: number, command: readonly string[]): string[] {
  const words = ['nsenter', `--target=${processId}`, '--pid', '--mount'];
  return isRoot ? [...words, ...asAccount, ...command] : [...words, '--user', '--preserve-credentials', ...command];
}

const asAccount = ['setpriv', `--reuid=${account.uid}`, `--regid=${account.gid}`, '--clear-groups'];

/** Can the tests make process namespaces here? */
export const hasPidNamespaces = orFailInCi(
  spawnSync('sh', ['-c', asPidOne(['true']).join(' ')], { stdio: 'ignore' }).status === 0,
  'process namespaces are not to be had (unshare, setpriv; root or user namespaces)',
);

/** The one child of `unshare`; undefined while there is none. */
export function childOf(processId: number): number | undefined {
  const children = readFileSync(`/proc/${processId}/task/${processId}/children`, 'latin1').trim();
  return children === '' ? undefined : Number(children.split(' ')[0]);
}

export interface NamespaceProcess {
  /** As it is seen from here. */
  readonly processId: number;
  /** Within the namespace. */
  readonly innerId: number;
  readonly parentId: number;
  readonly words: readonly string[];
}

/** All processes of the namespace that `processId` is of; those that end meanwhile are left out. */
export function processesBeside(processId: number): NamespaceProcess[] {
  const namespace = readlinkSync(`/proc/${processId}/ns/pid`);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        if (readlinkSync(`/proc/${name}/ns/pid`) !== namespace) return [];
        const status = readFileSync(`/proc/${name}/status`, 'latin1');
        const numbers = (member: string) =>
          status.match(new RegExp(`^${member}:\\s+(.*)$`, 'm'))?.[1]?.split(/\s+/) ?? [];
        const words = readFileSync(`/proc/${name}/cmdline`, 'latin1').split('\0').slice(0, -1);
        return [
          {
            processId: Number(name),
            innerId: Number(numbers('NSpid').at(-1)),
            parentId: Number(numbers('PPid')[0]),
            words,
          },
        ];
      } catch {
        return []; // it has ended, or is somebody else's
      }
    });
}
