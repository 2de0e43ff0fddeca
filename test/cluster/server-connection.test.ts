/** How a backup finds and enters its server: libpq's variables and files as libpq reads them, and no surprise where `pg` reads them otherwise. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findPassword } from '../../src/cluster/password-file.ts';
import { parsePostmasterPid } from '../../src/cluster/postmaster-pid.ts';
import { ConfigurationError, PostgresError } from '../../src/errors.ts';
import { giveAway } from '../support/account.ts';
import { temporaryFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { hasTool } from '../support/tools.ts';
import { type Environment, failureOf, openTo, quietLog, startProxy } from './server-support.ts';

let server: PostgresServer;
const password = 'a:b\\c';

beforeAll(async () => {
  server = PostgresServer.create({ major: 17 });
  const hba = join(server.dataDirectory, 'pg_hba.conf');
  const lines = 'local all secret scram-sha-256\nlocal all shut reject\n';
  writeFileSync(hba, lines + readFileSync(hba, 'utf8'));
  await server.start();
  await server.query(`create role secret superuser login password '${password.replaceAll("'", "''")}'`);
  await server.query('create role shut login');
  await server.query(`create role "${userInfo().username}" superuser login`).catch(() => undefined); // we may be postgres
});
afterAll(() => server.remove());

it('without any variable, the socket and the port come from postmaster.pid, the user is the account, the database postgres', async () => {
  const session = await openTo(server, { PGUSER: undefined, PGHOST: '' });
  expect(session.facts.dataDirectory).toBe(server.dataDirectory);
  const seen = await server.query(`select usename, datname from pg_stat_activity where application_name = 'wal-t'`);
  expect(seen).toEqual([[userInfo().username, 'postgres']]);
});

it.each([
  { environment: { PGSERVICE: 'main' }, hint: 'Set PGHOST' },
  { environment: { PGHOST: 'one,two' }, hint: 'one server' },
  { environment: { PGHOST: '@abstract' }, hint: 'one server' },
  { environment: { PGHOSTADDR: '::1,::2' }, hint: 'one server' },
  { environment: { PGTARGETSESSIONATTRS: 'primary' }, hint: 'Set PGHOST' },
  { environment: { PGLOADBALANCEHOSTS: 'random' }, hint: 'Set PGHOST' },
  { environment: { PGREQUIREPEER: 'postgres' }, hint: 'Unset it' },
  { environment: { PGREQUIREAUTH: 'scram-sha-256' }, hint: 'Unset it' },
  { environment: { PGCHANNELBINDING: 'require' }, hint: 'PGSSLMODE' },
  { environment: { PGGSSENCMODE: 'require' }, hint: 'PGSSLMODE' },
  { environment: { PGPORT: '5432x' }, hint: 'such as 5432' },
  { environment: { PGPORT: '70000' }, hint: 'such as 5432' },
  { environment: { PGCONNECT_TIMEOUT: 'soon' }, hint: 'Set it to 10' },
  { environment: { PGHOST: 'db', PGSSLMODE: 'always' }, hint: 'verify-full' },
  { environment: { PGHOST: 'db', PGSSLMODE: 'verify-full' }, hint: 'PGSSLROOTCERT' },
  { environment: { PGHOST: 'db', PGSSLMODE: 'verify-ca' }, hint: 'PGSSLROOTCERT' },
  { environment: { PGHOST: 'db', PGSSLMODE: 'require', PGSSLROOTCERT: 'system' }, hint: 'verify-full' },
  { environment: { PGHOSTADDR: '::1', PGSSLMODE: 'verify-full', PGSSLROOTCERT: 'system' }, hint: 'PGHOST' },
  { environment: { PGHOST: 'db', PGSSLMODE: 'require', PGSSLROOTCERT: '/nonexistent/root.crt' }, hint: '' },
  { environment: { PGHOST: 'db', PGSSLMINPROTOCOLVERSION: 'SSLv3' }, hint: 'TLSv1.2' },
])('what would be ignored or misread is refused: $environment', async ({ environment, hint }) => {
  const { error } = await failureOf(openTo(server, environment));
  expect(error).toBeInstanceOf(ConfigurationError);
  expect(error.hint ?? '').toContain(hint);
  const names = Object.keys(environment);
  expect(names.some((name) => error.message.includes(name)) || error.message.includes('host name')).toBe(true);
});

it.each([
  { what: 'an address beside a name that does not exist', more: { PGHOST: 'nowhere.invalid' } },
  { what: 'an address alone', more: {} },
  { what: 'the usual sslmode, where the server has no TLS', more: { PGSSLMODE: 'prefer' } },
  { what: 'no TLS unless it is asked for', more: { PGSSLMODE: 'allow' } },
])('connects by TCP with $what', async ({ more }) => {
  const proxy = await startProxy(server);
  await openTo(server, { ...proxy.environment, ...more });
});

it('does not go without TLS where it is required', async () => {
  const proxy = await startProxy(server);
  const { error, text } = await failureOf(openTo(server, { ...proxy.environment, PGSSLMODE: 'require' }));
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toContain('does not support SSL');
});

it.each([
  {
    what: 'a role that is not there',
    environment: { PGUSER: 'nobody_here' },
    words: 'role "nobody_here" does not exist',
  },
  { what: 'a database that is not there', environment: { PGDATABASE: 'none' }, words: 'Set PGDATABASE' },
  { what: 'pg_hba.conf', environment: { PGUSER: 'shut' }, words: 'pg_hba.conf' },
  {
    what: 'a folder without a socket',
    environment: { PGHOST: '/nonexistent' },
    words: 'socket "/nonexistent", port 5432: no such file',
  },
  { what: 'a port where nobody listens', environment: { PGPORT: '5999' }, words: 'PGPORT' },
])('names what keeps it out: $what', async ({ environment, words }) => {
  const { error, text } = await failureOf(openTo(server, environment));
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toMatch(/^could not connect to /);
  expect(text).toContain(words);
});

describe('the password', () => {
  const line = (host: string): string => `${host}:*:postgres:secret:a\\:b\\\\c\n`;
  const file = (content: string, mode = 0o600): Environment => {
    const home = temporaryFolder();
    writeFileSync(join(home, '.pgpass'), content);
    chmodSync(join(home, '.pgpass'), mode);
    return { PGUSER: 'secret', HOME: home };
  };

  it('comes from PGPASSWORD, from ~/.pgpass or from PGPASSFILE', async () => {
    await openTo(server, { PGUSER: 'secret', PGPASSWORD: password });
    const environment = file(`# comment\n*:*:*:another:wrong\n${line(server.folder)}*:*:*:*:wrong\n`);
    await openTo(server, environment);
    await openTo(server, { PGUSER: 'secret', PGPASSFILE: join(environment.HOME ?? '', '.pgpass') });
  });

  it('that is wrong, or missing, or open to others, says what to do', async () => {
    const wrong = await failureOf(openTo(server, { PGUSER: 'secret', PGPASSWORD: 'wrong' }));
    expect(wrong.error).toBeInstanceOf(PostgresError);
    expect(wrong.text).toContain('.pgpass');
    const missing = await failureOf(openTo(server, { PGUSER: 'secret' }));
    expect(missing.error).toBeInstanceOf(ConfigurationError);
    expect(missing.text).toContain(`and in "/nonexistent/.pgpass" for ${server.folder}:5432:postgres:secret`);
    const warnings: string[] = [];
    const log = { ...quietLog, warning: (message: string) => warnings.push(message) };
    const open = await failureOf(openTo(server, file(line('*'), 0o644), { log }));
    expect(open.error).toBeInstanceOf(ConfigurationError);
    expect(warnings.join()).toContain('open to its group or to others');
    expect([wrong, missing, open].map(({ text }) => text).join()).not.toContain(password);
  });

  it.each([
    { text: 'db:5432:postgres:me:pw', found: 'pw' },
    { text: '*:*:*:*:first\ndb:5432:postgres:me:second', found: 'first' },
    { text: 'db:5432:postgres:me:p\\:w\\\\', found: 'p:w\\' },
    { text: 'db:5432:postgres:me:pw:more', found: 'pw' },
    { text: 'db:5432:postgres:me:pw\r\n', found: 'pw' },
    { text: '\\*:*:*:*:pw', found: undefined },
    { text: 'd\\b:*:*:*:pw', found: 'pw' },
    { text: 'db:5433:postgres:me:pw', found: undefined },
    { text: '#db:5432:postgres:me:pw', found: undefined },
    { text: 'db:5432:postgres', found: undefined },
    { text: '', found: undefined },
  ])('of "$text" is $found', ({ text, found }) => {
    expect(findPassword(text, { host: 'db', port: 5432, database: 'postgres', user: 'me' })).toBe(found);
  });
});

it.each([
  { listen: '*', connect: 'localhost' },
  { listen: '0.0.0.0', connect: 'localhost' },
  { listen: '::', connect: '::1' },
  { listen: '10.0.0.1', connect: '10.0.0.1' },
  { listen: '', connect: undefined },
])(
  'postmaster.pid of a server that listens on "$listen", with a socket in a relative folder',
  ({ listen, connect }) => {
    const text = `4711\n/data\n1700000000\n5433\nrun\n${listen}\n  5432001         3\nready   \n`;
    expect(parsePostmasterPid(text, '/data')).toEqual({
      pid: 4711,
      startedAt: new Date(1_700_000_000_000),
      port: 5433,
      socketDirectory: '/data/run',
      listenAddress: connect,
    });
    expect(parsePostmasterPid('', '/data')).toBeUndefined();
  },
);

it('is told of a method of authentication that is not known, and lives', async () => {
  const demandGssapi = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 7]);
  const other = createServer((client) => void client.once('data', () => client.write(demandGssapi)));
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void other.close());
  const address = other.address();
  const PGPORT = typeof address === 'object' && address !== null ? String(address.port) : '';
  const { error, text } = await failureOf(openTo(server, { PGHOST: '127.0.0.1', PGPORT, PGSSLMODE: 'disable' }));
  expect(error).toBeInstanceOf(PostgresError);
  expect(text).toContain('Let pg_hba.conf offer');
});

it('gives up on a server that accepts and says nothing, and when it is told to', async () => {
  const deaf = createServer(() => undefined);
  await new Promise<void>((resolve) => deaf.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void deaf.close());
  const address = deaf.address();
  const PGPORT = typeof address === 'object' && address !== null ? String(address.port) : '';
  for (const PGSSLMODE of ['disable', 'prefer']) {
    const environment = { PGHOST: '127.0.0.1', PGPORT, PGSSLMODE };
    const { error, text } = await failureOf(openTo(server, environment, { connectMs: 100 }));
    expect(error).toBeInstanceOf(PostgresError);
    expect(text).toContain('timeout expired');
    const stop = new AbortController();
    const opening = openTo(server, environment, { signal: stop.signal, connectMs: 600_000 });
    const outcome = Promise.allSettled([opening]);
    deaf.once('connection', () => stop.abort(new Error('told to stop')));
    expect(await outcome).toMatchObject([{ status: 'rejected', reason: { message: 'told to stop' } }]);
  }
  const stopped = AbortSignal.abort(new Error('before it began'));
  await expect(openTo(server, {}, { signal: stopped })).rejects.toThrow('before it began');
});

describe.skipIf(!hasTool('openssl'))('with TLS', () => {
  let secure: PostgresServer;
  let [root, home]: string[] = [];
  // an address of its own, for the port is everybody's
  const address = `127.54.${(process.pid >> 8) % 256}.${process.pid % 256}`;

  beforeAll(async () => {
    secure = PostgresServer.create({ major: 17 });
    root = join(secure.dataDirectory, 'server.crt');
    const key = join(secure.dataDirectory, 'server.key');
    const words = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=db.example'];
    const names = ['-addext', 'subjectAltName=DNS:db.example'];
    const { status, stderr } = spawnSync('openssl', [...words, ...names, '-keyout', key, '-out', root]);
    if (status !== 0) throw new Error(String(stderr));
    chmodSync(key, 0o600);
    for (const path of [key, root]) giveAway(path);
    const hba = 'local all all trust\nhostssl all all 127.0.0.0/8 trust\n';
    writeFileSync(join(secure.dataDirectory, 'pg_hba.conf'), hba);
    secure.configure({ ssl: 'on', listen_addresses: address });
    await secure.start();
    home = join(secure.folder, 'home');
    mkdirSync(join(home, '.postgresql'), { recursive: true });
  });
  afterAll(() => secure.remove());

  const base: Environment = { PGHOSTADDR: address };

  it.each([
    { what: 'by default', more: () => ({}) },
    { what: 'that pg_hba.conf wants, after trying without', more: () => ({ PGSSLMODE: 'allow' }) },
    { what: 'unverified', more: () => ({ PGSSLMODE: 'require' }) },
    { what: 'of a known authority', more: () => ({ PGSSLMODE: 'verify-ca', PGSSLROOTCERT: root }) },
    {
      what: 'of a known authority and name',
      more: () => ({ PGHOST: 'db.example', PGSSLMODE: 'verify-full', PGSSLROOTCERT: root }),
    },
    { what: 'from the first byte', more: () => ({ PGSSLMODE: 'require', PGSSLNEGOTIATION: 'direct' }) },
    { what: 'of one version', more: () => ({ PGSSLMODE: 'require', PGSSLMINPROTOCOLVERSION: 'TLSv1.3' }) },
  ])('it is used $what', async ({ more }) => {
    await openTo(secure, { ...base, ...more() });
    const used = `select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'wal-t'`;
    expect(await secure.query(used)).toEqual([['true']]);
  });

  it.each([
    {
      what: 'another name',
      more: () => ({ PGHOST: 'other.example', PGSSLMODE: 'verify-full', PGSSLROOTCERT: root }),
      words: 'other.example',
    },
    {
      what: 'no authority of the system',
      more: () => ({ PGHOST: 'db.example', PGSSLROOTCERT: 'system' }),
      words: 'self-signed certificate',
    },
    { what: 'no TLS', more: () => ({ PGSSLMODE: 'disable' }), words: 'no pg_hba.conf entry' },
  ])('it is refused with $what', async ({ more, words }) => {
    const { error, text } = await failureOf(openTo(secure, { ...base, ...more() }));
    expect(error).toBeInstanceOf(PostgresError);
    expect(text).toContain(words);
  });

  it('with the root certificate in ~/.postgresql, require verifies the authority', async () => {
    const other = spawnSync('openssl', [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-subj',
      '/CN=x',
      '-keyout',
      '/dev/null',
    ]);
    writeFileSync(join(home ?? '', '.postgresql/root.crt'), other.stdout);
    const { text } = await failureOf(openTo(secure, { ...base, PGSSLMODE: 'require', HOME: home }));
    expect(text).toContain('certificate');
    writeFileSync(join(home ?? '', '.postgresql/root.crt'), readFileSync(root ?? ''));
    await openTo(secure, { ...base, PGSSLMODE: 'require', HOME: home });
  });
});
