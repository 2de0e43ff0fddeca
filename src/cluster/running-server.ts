/**
 * Does a server use these folders? By its lock files, and by what Linux tells of its processes: also one that lost its `postmaster.pid`, backends
 * that outlive a killed postmaster, and a server in a container, as far as this account may look into it.
 */
import { access, readdir, readFile, readlink, stat } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { HostError } from '../errors.ts';
import { isAlive } from '../left-overs.ts';
import { type PostmasterPid, readPostmasterPid } from './postmaster-pid.ts';

/**
 * @param dataDirectory  a real path
 * @param folders        other folders that a server of it writes to, real paths
 * @throws HostError when a server uses one of them.
 */
export async function expectNoServer(dataDirectory: string, folders: readonly string[]): Promise<void> {
  const running = await readPostmasterPid(dataDirectory);
  if (running !== undefined && (await isPostmaster(running, dataDirectory))) {
    throw inUse(dataDirectory, `"postmaster.pid" names process ${running.pid}, and it lives`);
  }
  if (running !== undefined && (await answers(running, dataDirectory))) {
    throw inUse(dataDirectory, `a server answers at its socket in "${running.socketDirectory}"`);
  }
  const user = await findUser(dataDirectory, folders);
  if (user !== undefined) throw inUse(user.folder, `process ${user.pid} of PostgreSQL uses it`);
}

function inUse(folder: string, detail: string): HostError {
  return new HostError(`a server runs on "${folder}"`, {
    detail,
    hint: 'Stop it first. Nothing was changed.',
  });
}

async function isPostmaster({ pid }: PostmasterPid, dataDirectory: string): Promise<boolean> {
  if (!(await hasProcesses())) return isAlive(pid);
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => undefined);
  if (name === undefined) return isAlive(pid); // hidden from this account, perhaps
  if (!isServerName(name)) return false; // the number was given to something else
  const isIn = await isSame(`/proc/${pid}/cwd`, dataDirectory);
  return isIn !== false;
}

const hasProcesses = () =>
  access('/proc/self/comm').then(
    () => true,
    () => false,
  );

const isServerName = (name: string) => /postgres|postmaster/.test(name);

/** One and the same folder, by whatever path? Undefined where this account may not look. */
async function isSame(link: string, folder: string): Promise<boolean | undefined> {
  try {
    const [one, other] = await Promise.all([stat(link), stat(folder)]);
    return one.dev === other.dev && one.ino === other.ino;
  } catch {
    return undefined;
  }
}

/** The socket's lock file says whose it is: another server may have taken the place meanwhile. */
async function answers({ socketDirectory, port }: PostmasterPid, dataDirectory: string): Promise<boolean> {
  if (socketDirectory === undefined || port === undefined) return false;
  const socket = `${socketDirectory}/.s.PGSQL.${port}`;
  const [, owner = ''] = (await readFile(`${socket}.lock`, 'utf8').catch(() => '')).split('\n');
  if (owner === '' || (await isSame(owner, dataDirectory)) !== true) return false;
  return new Promise((resolve) => {
    const connection = createConnection(socket);
    const end = (isThere: boolean) => {
      connection.destroy();
      resolve(isThere);
    };
    connection.once('connect', () => end(true));
    connection.once('error', () => end(false));
  });
}

/** A process of PostgreSQL that works in the data directory, or has a file open below one of the folders. */
async function findUser(dataDirectory: string, folders: readonly string[]) {
  const pids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name));
  for (const pid of pids) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (!isServerName(name)) continue;
    if ((await isSame(`/proc/${pid}/cwd`, dataDirectory)) === true) return { pid, folder: dataDirectory };
    for (const descriptor of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const path = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '');
      const folder = [dataDirectory, ...folders].find((one) => path.startsWith(`${one}/`));
      if (folder !== undefined) return { pid, folder };
    }
  }
  return undefined;
}
