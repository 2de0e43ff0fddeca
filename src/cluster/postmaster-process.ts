/** The postmaster as this host's system shows it: is it here, and with which environment was it started? Linux alone tells. */
import { access, readFile } from 'node:fs/promises';
import { readPostmasterPid } from './postmaster-pid.ts';

export interface PostmasterProcess {
  /** False in another container than its own: paths of its configuration are other files here. */
  readonly isHere: boolean;
  /** What its commands inherit; undefined where this account may not see it. */
  readonly environment: Readonly<Record<string, string>> | undefined;
}

/** Undefined data directory: a server elsewhere. @throws HostError when `postmaster.pid` cannot be read. */
export async function findPostmaster(dataDirectory: string | undefined): Promise<PostmasterProcess> {
  const running = dataDirectory === undefined ? undefined : await readPostmasterPid(dataDirectory);
  if (running === undefined) return { isHere: false, environment: undefined };
  const folder = `/proc/${running.pid}`;
  const name = await readFile(`${folder}/comm`, 'utf8').catch(() => undefined);
  if (name === undefined) return { isHere: !(await hasProcesses()), environment: undefined };
  if (!/^(?:postgres|postmaster)$/m.test(name)) return { isHere: false, environment: undefined };
  const environment = await readFile(`${folder}/environ`, 'utf8').catch(() => undefined);
  return { isHere: true, environment: environment === undefined ? undefined : parseEnvironment(environment) };
}

/** Without `/proc` nobody knows: containers are Linux's, so it is here. */
function hasProcesses(): Promise<boolean> {
  return access('/proc/self').then(
    () => true,
    () => false,
  );
}

function parseEnvironment(text: string): Record<string, string> {
  const pairs = text.split('\0').flatMap((line) => {
    const at = line.indexOf('=');
    return at > 0 ? [[line.slice(0, at), line.slice(at + 1)] as const] : [];
  });
  return Object.fromEntries(pairs);
}
