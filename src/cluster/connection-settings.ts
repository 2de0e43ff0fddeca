/** Where the server is and who asks, from libpq's variables as libpq reads them; what package `pg` would ignore is refused. Connects to nothing. */
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { ConnectionOptions } from 'node:tls';
import { ConfigurationError } from '../errors.ts';
import type { Log } from '../log.ts';
import { readPasswordFile } from './password-file.ts';
import { readPostmasterPid } from './postmaster-pid.ts';
import { tlsChoices } from './tls-settings.ts';

export type Variables = Readonly<Record<string, string | undefined>>;

export interface ConnectionSettings {
  /** Tried in turn while nothing listens there. */
  readonly targets: readonly Target[];
  readonly user: string;
  readonly database: string;
  /** PGOPTIONS */
  readonly options: string | undefined;
  readonly connectMs: number;
  /** Called when the server asks. @throws ConfigurationError when there is none. */
  readonly password: (target: Target) => Promise<string>;
}

export interface Target {
  /** A name, an address, or the folder of a socket. */
  readonly host: string;
  readonly port: number;
  /** Tried in turn; `false` is without TLS. */
  readonly tls: readonly (ConnectionOptions | false)[];
  readonly negotiation: 'postgres' | 'direct';
  /** What the password file calls it. */
  readonly passwordHost: string;
}

export interface SettingsSource {
  readonly environment: Variables;
  readonly dataDirectory: string;
  readonly connectMs: number;
  readonly log: Log;
}

/** libpq's own default differs by who built it. */
const usualSocketFolders = ['/var/run/postgresql', '/tmp'];
const defaultPort = 5432;

/** @throws ConfigurationError when a variable is wrong, or asks for what `pg` cannot do. */
export async function readConnectionSettings(source: SettingsSource): Promise<ConnectionSettings> {
  const { environment } = source;
  refuseUnsupported(environment);
  const user = variable(environment, 'PGUSER') ?? ownName();
  const database = variable(environment, 'PGDATABASE') ?? 'postgres';
  return {
    targets: await findTargets(source),
    user,
    database,
    options: variable(environment, 'PGOPTIONS'),
    connectMs: connectLimitMs(environment, source.connectMs),
    password: (target) => findPasswordFor({ ...target, user, database }, source),
  };
}

/** An empty variable is an unset one, as for libpq. */
function variable(environment: Variables, name: string): string | undefined {
  return environment[name] || undefined;
}

/** The account's home folder; `~` for libpq. */
function homeFolder(environment: Variables): string | undefined {
  return variable(environment, 'HOME') ?? accountInfo()?.homedir;
}

async function findTargets({ environment, dataDirectory }: SettingsSource): Promise<readonly Target[]> {
  const host = variable(environment, 'PGHOST');
  const address = variable(environment, 'PGHOSTADDR');
  const port = portNumber(environment);
  if (host !== undefined || address !== undefined) {
    return [await target(environment, { host: address ?? host ?? '', name: host ?? '', port: port ?? defaultPort })];
  }
  const running = await readPostmasterPid(dataDirectory);
  const own = running?.socketDirectory ?? running?.listenAddress;
  const hosts = own === undefined ? [...usualSocketFolders, 'localhost'] : [own];
  const usedPort = port ?? running?.port ?? defaultPort;
  return Promise.all(hosts.map((found) => target(environment, { host: found, name: found, port: usedPort })));
}

interface Place {
  readonly host: string;
  /** What a certificate and the password file call it: PGHOST where PGHOSTADDR is the address. */
  readonly name: string;
  readonly port: number;
}

async function target(environment: Variables, { host, name, port }: Place): Promise<Target> {
  const isSocket = host.startsWith('/');
  const isUsual = usualSocketFolders.includes(host);
  const negotiation = variable(environment, 'PGSSLNEGOTIATION') === 'direct' && !isSocket ? 'direct' : 'postgres';
  return {
    host,
    port,
    negotiation,
    tls: isSocket ? [false] : await tlsChoices(environment, { name, home: homeFolder(environment) }),
    passwordHost: isUsual ? 'localhost' : name || host,
  };
}

function portNumber(environment: Variables): number | undefined {
  const text = variable(environment, 'PGPORT');
  if (text === undefined) return undefined;
  const port = /^\s*[0-9]{1,5}\s*$/.test(text) ? Number(text) : 0;
  if (port >= 1 && port <= 65_535) return port;
  throw new ConfigurationError(`PGPORT is no port: "${text}"`, { hint: 'Set it to one number, such as 5432.' });
}

/** As libpq: seconds, no bound when zero (here the setting's), and never less than two. */
function connectLimitMs(environment: Variables, connectMs: number): number {
  const text = variable(environment, 'PGCONNECT_TIMEOUT');
  if (text === undefined) return connectMs;
  const seconds = /^\s*-?[0-9]{1,6}\s*$/.test(text) ? Number(text) : undefined;
  if (seconds === undefined) {
    throw new ConfigurationError(`PGCONNECT_TIMEOUT is no number of seconds: "${text}"`, {
      hint: 'Set it to 10, or unset it.',
    });
  }
  return seconds <= 0 ? connectMs : Math.max(2, seconds) * 1000;
}

/** What `pg` would connect in spite of, each with the values that mean nothing else than it does, and what to do instead. */
const unsupported: readonly { readonly name: string; readonly fine: readonly string[]; readonly hint: string }[] = [
  { name: 'PGSERVICE', fine: [], hint: 'Set PGHOST, PGPORT, PGUSER and PGDATABASE to what that service says.' },
  { name: 'PGTARGETSESSIONATTRS', fine: ['any'], hint: 'Set PGHOST to the server whose data directory is backed up.' },
  {
    name: 'PGLOADBALANCEHOSTS',
    fine: ['disable'],
    hint: 'Set PGHOST to the server whose data directory is backed up.',
  },
  {
    name: 'PGREQUIREPEER',
    fine: [],
    hint: 'Unset it: that the server is the right one is proved by its data directory.',
  },
  { name: 'PGREQUIREAUTH', fine: [], hint: 'Unset it, and demand the method in pg_hba.conf.' },
  { name: 'PGCHANNELBINDING', fine: ['prefer', 'disable'], hint: 'Set PGSSLMODE=verify-full instead.' },
  { name: 'PGGSSENCMODE', fine: ['prefer', 'disable'], hint: 'Set PGSSLMODE=verify-full instead.' },
  { name: 'PGSSLCRLDIR', fine: [], hint: 'Name one file in PGSSLCRL instead.' },
  { name: 'PGSSLCERTMODE', fine: ['allow'], hint: 'Set PGSSLCERT and PGSSLKEY, or unset them.' },
  { name: 'PGSSLSNI', fine: ['1'], hint: 'Set PGHOST to an address: no name is sent then.' },
  { name: 'PGREQUIRESSL', fine: ['0'], hint: 'Set PGSSLMODE=require.' },
  { name: 'PGMINPROTOCOLVERSION', fine: ['3.0'], hint: 'Unset it: version 3.0 is spoken.' },
  { name: 'PGMAXPROTOCOLVERSION', fine: ['3.0', '3.2', 'latest'], hint: 'Unset it: version 3.0 is spoken.' },
];

function refuseUnsupported(environment: Variables): void {
  for (const { name, fine, hint } of unsupported) {
    const value = variable(environment, name);
    if (value === undefined || fine.includes(value)) continue;
    throw new ConfigurationError(`${name}=${value} is not supported`, { hint });
  }
  for (const name of ['PGHOST', 'PGHOSTADDR', 'PGPORT']) {
    const value = variable(environment, name);
    if (value === undefined || !(value.includes(',') || value.startsWith('@'))) continue;
    throw new ConfigurationError(`${name}=${value} is not supported`, {
      hint: 'A base backup is of one server: name that one, by its name, its address or the folder of its socket.',
    });
  }
}

async function findPasswordFor(
  { passwordHost, port, database, user }: Target & { readonly database: string; readonly user: string },
  { environment, log }: SettingsSource,
): Promise<string> {
  const set = variable(environment, 'PGPASSWORD');
  if (set !== undefined) return set;
  const home = homeFolder(environment);
  const path = variable(environment, 'PGPASSFILE') ?? (home === undefined ? undefined : join(home, '.pgpass'));
  const question = { host: passwordHost, port, database, user };
  const found = path === undefined ? undefined : await readPasswordFile(path, question, log);
  if (found !== undefined) return found;
  throw new ConfigurationError(`the server asks for a password of "${user}", and there is none`, {
    detail:
      path === undefined
        ? undefined
        : `Looked for in PGPASSWORD, and in "${path}" for ${passwordHost}:${port}:${database}:${user}.`,
    hint: 'Put the password into ~/.pgpass (mode 0600), or let pg_hba.conf accept that account without (peer).',
  });
}

function ownName(): string {
  const name = accountInfo()?.username;
  if (name !== undefined) return name;
  throw new ConfigurationError('the account that runs this has no name', { hint: 'Set PGUSER.' });
}

/** Undefined for an account that is not in the system's list, as in a container. */
function accountInfo(): { readonly username: string; readonly homedir: string } | undefined {
  try {
    return userInfo();
  } catch {
    return undefined;
  }
}
