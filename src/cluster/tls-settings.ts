/** PGSSL…: libpq's rules of when TLS is used and what is verified, which are not those of package `pg`. @see https://www.postgresql.org/docs/current/libpq-ssl.html */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ConnectionOptions, SecureVersion } from 'node:tls';
import { ConfigurationError, systemErrorCode, systemErrorReason } from '../errors.ts';

type Variables = Readonly<Record<string, string | undefined>>;

export interface TlsSubject {
  /** The name that the server's certificate must bear; empty when only an address was set. */
  readonly name: string;
  readonly home: string | undefined;
}

const modes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'] as const;
const versions = ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'] as const;

/** What to try in turn; `false` is without TLS. @throws ConfigurationError when a variable is wrong or its file cannot be read. */
export async function tlsChoices(
  environment: Variables,
  subject: TlsSubject,
): Promise<readonly (ConnectionOptions | false)[]> {
  const root = environment.PGSSLROOTCERT || undefined;
  const mode = environment.PGSSLMODE || (root === 'system' ? 'verify-full' : 'prefer');
  if (!isOneOf(modes, mode)) throw wrong('PGSSLMODE', mode, modes);
  if (mode === 'disable') return [false];
  const tls = await tlsOptions(environment, { ...subject, mode });
  if (mode === 'allow') return [false, tls];
  return mode === 'prefer' ? [tls, false] : [tls];
}

async function tlsOptions(
  environment: Variables,
  { name, home, mode }: TlsSubject & { readonly mode: (typeof modes)[number] },
): Promise<ConnectionOptions> {
  const files = { environment, home };
  const [ca, crl, cert, key] = await Promise.all([
    environment.PGSSLROOTCERT === 'system' ? undefined : readOwn(files, 'PGSSLROOTCERT', 'root.crt'),
    readOwn(files, 'PGSSLCRL', 'root.crl'),
    readOwn(files, 'PGSSLCERT', 'postgresql.crt'),
    readOwn(files, 'PGSSLKEY', 'postgresql.key'),
  ]);
  return {
    ...verification(environment, { name, mode, hasRoot: ca !== undefined }),
    ...(ca === undefined ? {} : { ca }),
    ...(crl === undefined || ca === undefined ? {} : { crl }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
    // pg gives an address as the name to verify where PGHOSTADDR names the host
    ...(name === '' ? {} : { host: name, servername: name }),
    ...versionBound(environment, 'PGSSLMINPROTOCOLVERSION', 'minVersion'),
    ...versionBound(environment, 'PGSSLMAXPROTOCOLVERSION', 'maxVersion'),
  };
}

interface Verification {
  readonly name: string;
  readonly mode: (typeof modes)[number];
  readonly hasRoot: boolean;
}

function verification(environment: Variables, { name, mode, hasRoot }: Verification): ConnectionOptions {
  const isSystem = environment.PGSSLROOTCERT === 'system';
  if (isSystem && mode !== 'verify-full') {
    throw new ConfigurationError(`PGSSLROOTCERT=system does not go with PGSSLMODE=${mode}`, {
      hint: 'Set PGSSLMODE=verify-full: anyone can have a certificate from an authority that the system trusts.',
    });
  }
  if (mode === 'verify-full') {
    if (!hasRoot && !isSystem) throw noRoot(mode);
    if (name !== '') return { rejectUnauthorized: true };
    throw new ConfigurationError('there is no host name to verify', { hint: 'Set PGHOST beside PGHOSTADDR.' });
  }
  if (mode === 'verify-ca' && !hasRoot) throw noRoot(mode);
  // with a root certificate libpq verifies the chain in mode require as well, for compatibility
  if (mode === 'verify-ca' || (mode === 'require' && hasRoot)) {
    return { rejectUnauthorized: true, checkServerIdentity: () => undefined };
  }
  return { rejectUnauthorized: false };
}

function noRoot(mode: string): ConfigurationError {
  return new ConfigurationError(`PGSSLMODE=${mode}, and there is no root certificate`, {
    hint: 'Name it in PGSSLROOTCERT, or put it into ~/.postgresql/root.crt.',
  });
}

interface Files {
  readonly environment: Variables;
  readonly home: string | undefined;
}

/** The file that a variable names, or the one of that use in `~/.postgresql`, which may be absent. */
async function readOwn({ environment, home }: Files, name: string, usual: string): Promise<Buffer | undefined> {
  const set = environment[name] || undefined;
  if (set === undefined && home === undefined) return undefined;
  const path = set ?? join(home ?? '', '.postgresql', usual);
  try {
    return await readFile(path);
  } catch (error) {
    const isAbsent = ['ENOENT', 'ENOTDIR', 'EACCES'].includes(systemErrorCode(error) ?? '');
    if (set === undefined && isAbsent) return undefined;
    throw new ConfigurationError(`could not read "${path}" (${name}): ${systemErrorReason(error)}`, { cause: error });
  }
}

function versionBound(environment: Variables, name: string, option: 'minVersion' | 'maxVersion'): ConnectionOptions {
  const version = environment[name] || undefined;
  if (version === undefined) return {};
  if (!isOneOf(versions, version)) throw wrong(name, version, versions);
  return { [option]: version satisfies SecureVersion };
}

function isOneOf<T extends string>(words: readonly T[], word: string): word is T {
  return words.some((known) => known === word);
}

function wrong(name: string, value: string, words: readonly string[]): ConfigurationError {
  return new ConfigurationError(`${name}=${value} is not known`, { hint: `Set it to one of ${words.join(', ')}.` });
}
