/** What of a data directory goes into a base backup: beside pg_basebackup, in order, and with everything that may lie or happen there. */
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type BytePath, toBytePath, toFilePath } from '../../src/byte-path.ts';
import { surveyDataDirectory } from '../../src/cluster/backup-survey.ts';
import { type WalkEntry, type WalkOptions, walkDataDirectory } from '../../src/cluster/backup-walk.ts';
import { HostError } from '../../src/errors.ts';
import { account, giveAway } from '../support/account.ts';
import { FaultyFs, hasFaultyFs } from '../support/faulty-fs.ts';
import { makeFolder, removeFolder, temporaryFolder } from '../support/folders.ts';
import { checkout } from '../support/installation.ts';
import { PostgresServer } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { hasTool, orFailInCi } from '../support/tools.ts';

const debianBin = '/usr/lib/postgresql/15/bin';
const version = 'PG_15_202209061';

/** A folder with these files (name → content; `null`: a folder), names as latin1 strings of bytes. */
function tree(files: Readonly<Record<BytePath, string | null>>, folder = temporaryFolder('walk')): string {
  for (const [path, content] of Object.entries(files)) {
    const whole = `${toBytePath(folder)}/${path}`;
    mkdirSync(toFilePath(content === null ? whole : dirname(whole)), { recursive: true });
    if (content !== null) writeFileSync(toFilePath(whole), content);
  }
  return folder;
}

function optionsOf(dataDirectory: string, warnings: string[] = []): WalkOptions {
  const warn: WalkOptions['warn'] = (message) => warnings.push(message);
  return { dataDirectory, postgresMajor: 15, catalogVersion: 202209061, warn };
}

async function walk(dataDirectory: string, options: Partial<WalkOptions> = {}) {
  const warnings: string[] = [];
  const entries: WalkEntry[] = [];
  for await (const entry of walkDataDirectory({ ...optionsOf(dataDirectory, warnings), ...options }))
    entries.push(entry);
  return { entries, warnings, paths: entries.map(({ path }) => path) };
}

/** Each file with its size, each folder with a slash, sorted. Follows the links in pg_tblspc. */
function listing(folder: Buffer, prefix = ''): string[] {
  const lines = readdirSync(folder, { encoding: 'latin1' }).flatMap((name) => {
    const path = toFilePath(`${folder.toString('latin1')}/${name}`);
    const stats = statSync(path);
    if (!stats.isDirectory()) return [`${prefix}${name} ${stats.size}`];
    return [`${prefix}${name}/`, ...listing(path, `${prefix}${name}/`)];
  });
  return lines.sort();
}

function lineOf(entry: WalkEntry): string {
  return entry.type === 'file' ? `${entry.path} ${entry.sizeBytes}` : `${entry.path}/`;
}

/** Two tablespaces, one in place; unlogged and temporary tables in each place; several segments; odd names; pg_wal elsewhere. */
async function furnish(
  server: PostgresServer,
): Promise<{ readonly tablespace: string; readonly end: () => Promise<void> }> {
  const tablespace = join(server.folder, 'tablespace');
  mkdirSync(tablespace);
  giveAway(tablespace);
  renameSync(join(server.dataDirectory, 'pg_wal'), join(server.folder, 'wal'));
  symlinkSync(join(server.folder, 'wal'), join(server.dataDirectory, 'pg_wal'));
  await server.start();
  await server.query(`create tablespace beside location '${tablespace}'`);
  await server.query('create database second');
  await server.query('create database third tablespace beside');
  const client = await server.connect();
  await client.query('set allow_in_place_tablespaces = on');
  await client.query(`create tablespace within location ''`);
  for (const place of ['pg_default', 'beside', 'within']) {
    await client.query(`create table l_${place} tablespace ${place} as select * from generate_series(1, 9999) i`);
    await client.query(`create unlogged table u_${place} (i int primary key, t text) tablespace ${place}`);
    await client.query(`insert into u_${place} select i, 'x' from generate_series(1, 9999) i`);
    await client.query(`create temporary table t_${place} (i int) tablespace ${place}`);
    await client.query(`insert into t_${place} select 1`);
  }
  await client.query('vacuum');
  await client.query('checkpoint');
  const pathOf = async (table: string) =>
    join(server.dataDirectory, await server.value(`select pg_relation_filepath('${table}')`));
  for (const table of ['l_pg_default', 'u_pg_default', 'l_within', 'u_within']) {
    const path = await pathOf(table);
    for (const suffix of ['.1', '.2', '_fsm.1']) writeFileSync(`${path}${suffix}`, Buffer.alloc(8192));
  }
  return { tablespace, end: () => client.end() };
}

const strays: Readonly<Record<BytePath, string | null>> = {
  'caf\xe9': 'x',
  'log/\xff\xfe': 'x',
  'base/1.x': 'x',
  'base/pgsql_tmp/pgsql_tmp1.0': 'x',
  'base/5/t9_16384': 'x',
  'base/5/t9_16384_vm.1': 'x',
  'base/5/pg_internal.init.99': 'x',
  'base/5/pg_notify/x': 'x',
  'pg_subtrans/x': 'x',
  'pg_stat_tmp/x': 'x',
  'postgresql.auto.conf.tmp': 'x',
  'current_logfiles.tmp': 'x',
  'log/backup_label': 'x',
  'backup_label.old': 'x',
  'global/pg_internal.init': 'x',
  'global/5_init': 'x',
};

describe('the walk beside pg_basebackup', () => {
  it.skipIf(!hasTool(join(debianBin, 'pg_basebackup')))(
    'H23 H24: finds what pg_basebackup takes, byte for byte of each name',
    async () => {
      const server = PostgresServer.create({ major: 15, bin: debianBin });
      onTestFinished(() => server.remove());
      const { tablespace, end } = await furnish(server);
      onTestFinished(end);
      tree(strays, server.dataDirectory);
      tree({ 'PG_14_202107181/5/1': 'x', 'lost+found': null }, tablespace);
      await run('chown', ['-R', `${account.uid ?? ''}:${account.gid ?? ''}`, server.folder], { asRoot: true });
      const [ours, theirs] = [join(server.folder, 'ours'), join(server.folder, 'theirs')];
      const { code, stderr } = await run(join(debianBin, 'pg_basebackup'), [
        ...['-h', server.folder, '-U', 'postgres', '-D', theirs, '-X', 'none', '-c', 'fast', '--no-sync'],
        ...['--tablespace-mapping', `${tablespace}=${ours}`],
      ]);
      expect(stderr).not.toMatch(/error|warning/);
      expect(code).toBe(0);
      const { entries, warnings } = await walk(server.dataDirectory);
      const own = /^(?:backup_label|backup_manifest|global\/pg_control) \d+$/;
      expect(entries.map(lineOf).sort()).toEqual(listing(Buffer.from(theirs)).filter((line) => !own.test(line)));
      expect(warnings).toEqual([]);

      const paths = entries.map(({ path }) => path);
      expect(paths).toEqual([...paths].sort());
      expect(entries.filter(({ type }) => type === 'tablespace')).toMatchObject([{ target: tablespace }]);
      expect(paths.filter((path) => path.endsWith('_init')).length).toBeGreaterThanOrEqual(6); // of each unlogged table and its index
      const survey = await surveyDataDirectory(optionsOf(server.dataDirectory));
      const sizes = entries.flatMap((entry) => (entry.type === 'file' ? [entry.sizeBytes] : []));
      expect(survey.files).toBe(sizes.length);
      expect(survey.largestFileBytes).toBe(Math.max(...sizes));
    },
  );

  it.each([
    [15, ['pg_wal', 'pg_wal/archive_status']],
    [17, ['pg_wal', 'pg_wal/archive_status', 'pg_wal/summaries']],
  ])(
    'stores pg_wal of version %d as an empty folder with what a server expects in it',
    async (postgresMajor, expected) => {
      const data = tree({ 'wal/000000010000000000000001': 'x', 'data/PG_VERSION': '' });
      chmodSync(join(data, 'wal'), 0o750);
      symlinkSync('../wal', join(data, 'data/pg_wal'));
      const { entries, warnings } = await walk(join(data, 'data'), { postgresMajor });
      const folders = entries.filter(({ type }) => type === 'folder');
      expect(folders.map(({ path }) => path)).toEqual(expected);
      for (const folder of folders) expect(folder).toMatchObject({ mode: 0o750, mtimeNs: expect.any(BigInt) });
      expect(warnings).toEqual([]);
    },
  );
});

describe('the order of the walk', () => {
  it('is that of path bytes: a folder, siblings such as 1.x, its contents', async () => {
    const files = ['1-a/x', '1-a.b', '1-a/x.y', '1/0', '1.x/y', '1.x-', '10/a', '1\x01', '1\xff/z', '1!/1!/1', '1!/1'];
    const { paths } = await walk(tree(Object.fromEntries(files.map((name) => [`base/${name}`, 'x']))));
    expect(paths.slice(0, 8)).toEqual(
      ['base', 'base/1', 'base/1\x01', 'base/1!', 'base/1!/1', 'base/1!/1!', 'base/1!/1!/1', 'base/1-a'].sort(),
    );
    expect(paths).toEqual([...paths].sort());
    expect(new Set(paths).size).toBe(paths.length);
  });

  it('is that of a plain sort over any tree, and misses nothing', async () => {
    const name = fc.string({
      unit: fc.constantFrom('-', '.', '0', '1', '!', '\xff', '\x01'),
      minLength: 1,
      maxLength: 3,
    });
    const anyPath = fc.array(
      name.filter((text) => text !== '.' && text !== '..'),
      { minLength: 1, maxLength: 4 },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(anyPath, { maxLength: 25 }), async (paths) => {
        const folder = makeFolder('walk');
        try {
          const expected = new Set<BytePath>();
          for (const parts of paths) {
            tree({ [parts.join('/')]: null }, folder);
            for (let depth = 1; depth <= parts.length; depth++) expected.add(parts.slice(0, depth).join('/'));
          }
          expect((await walk(folder)).paths).toEqual([...expected].sort());
        } finally {
          removeFolder(folder);
        }
      }),
      { numRuns: 60 },
    );
  });

  it('holds over a folder of more names than are looked at together, each with its size', async () => {
    const files = Array.from({ length: 1000 }, (_, n) => [`base/5/${20_000 - n}`, 'x'.repeat(n % 7)] as const);
    const { entries } = await walk(tree(Object.fromEntries(files)));
    const expected = files.map(([path, content]) => `${path} ${content.length}`).sort();
    expect(entries.map(lineOf)).toEqual(['base/', 'base/5/', ...expected]);
  });
});

describe('tablespaces', () => {
  it('H23: walks of a tablespace its own version alone, behind a link and in place', async () => {
    const place = tree({ [`${version}/5/1`]: 'x', 'PG_14_202107181/5/1': 'x', 'caf\xe9': 'x' });
    const data = tree({ [`pg_tblspc/16385/${version}/5/2`]: 'x', 'pg_tblspc/16385/stray': 'x', 'pg_tblspc/note': 'x' });
    symlinkSync(place, join(data, 'pg_tblspc/16384'));
    const { entries, warnings } = await walk(data);
    expect(entries.map(({ type, path }) => `${type} ${path}`)).toEqual([
      'folder pg_tblspc',
      'tablespace pg_tblspc/16384',
      `folder pg_tblspc/16384/${version}`,
      `folder pg_tblspc/16384/${version}/5`,
      `file pg_tblspc/16384/${version}/5/1`,
      'folder pg_tblspc/16385',
      `folder pg_tblspc/16385/${version}`,
      `folder pg_tblspc/16385/${version}/5`,
      `file pg_tblspc/16385/${version}/5/2`,
      'file pg_tblspc/note',
    ]);
    const { mode, uid, mtimeNs } = statSync(place, { bigint: true });
    const like = { target: place, mode: Number(mode & 0o7777n), uid: Number(uid), mtimeNs };
    expect(entries[1]).toMatchObject(like);
    expect(warnings).toEqual([]);
  });

  it('H24: gives a target of any bytes, and an absolute one for a relative link', async () => {
    const data = tree({ 'caf\xe9/x': 'x', 'd/pg_tblspc': null });
    symlinkSync(toFilePath(`${toBytePath(data)}/caf\xe9`), join(data, 'd/pg_tblspc/16384'));
    symlinkSync(toFilePath('../../caf\xe9'), join(data, 'd/pg_tblspc/16385'));
    const { entries, warnings } = await walk(join(data, 'd'));
    const target = `${toBytePath(data)}/caf\xe9`;
    expect(entries.filter(({ type }) => type === 'tablespace')).toMatchObject([{ target }, { target }]);
    expect(warnings[0]).toMatch(`the tablespace "pg_tblspc/16384" holds no folder "${version}"`);
  });

  it('does not warn of a tablespace that is being dropped: its folder goes first, then the link', async () => {
    const data = tree({ 'd/pg_tblspc': null, 'd/z': 'x', place: null });
    const link = join(data, 'd/pg_tblspc/16384');
    symlinkSync(join(data, 'place'), link);
    const warnings: string[] = [];
    for await (const { path } of walkDataDirectory(optionsOf(join(data, 'd'), warnings))) {
      if (path === 'z') rmSync(link);
    }
    expect(warnings).toEqual([]);
  });

  it('stores a tablespace inside the data directory once', async () => {
    const data = tree({ [`inside/${version}/5/1`]: 'x', 'inside/y': 'x', pg_tblspc: null });
    symlinkSync(join(data, 'inside'), join(data, 'pg_tblspc/16384'));
    const { paths } = await walk(data);
    expect(paths.filter((path) => path.endsWith('/1'))).toEqual([`pg_tblspc/16384/${version}/5/1`]);
    expect(paths).toContain('inside/y');
  });

  it('refuses a tablespace whose link leads nowhere, by name', async () => {
    for (const target of ['/nowhere/at all', '16384', '../file']) {
      const data = tree({ pg_tblspc: null, file: 'x' });
      symlinkSync(target, join(data, 'pg_tblspc/16384'));
      const refused = walk(data);
      await expect(refused).rejects.toThrow(HostError);
      await expect(refused).rejects.toThrow('"pg_tblspc/16384"');
      await expect(surveyDataDirectory(optionsOf(data))).rejects.toThrow('"pg_tblspc/16384"');
    }
  });
});

describe('links and strange files', () => {
  it('stores what a link leads to in its place, and says so once for each', async () => {
    const outside = tree({ 'conf/a.conf': 'xyz', 'conf/deep/b': 'x' });
    const data = tree({ conf: 'x' });
    symlinkSync(join(outside, 'conf/a.conf'), join(data, 'postgresql.conf'));
    symlinkSync(join(outside, 'conf'), join(data, 'conf.d'));
    symlinkSync('conf', join(data, 'same'));
    const { entries, warnings } = await walk(data);
    const found = [
      'conf 1',
      'conf.d/',
      'conf.d/a.conf 3',
      'conf.d/deep/',
      'conf.d/deep/b 1',
      'postgresql.conf 3',
      'same 1',
    ];
    expect(entries.map(lineOf)).toEqual(found);
    expect(entries.map(({ source }) => readableAt(source))).toEqual(entries.map(() => true));
    expect(warnings.sort()).toEqual(
      ['conf.d', 'postgresql.conf', 'same'].map((name) => `"${name}" is a symbolic link`),
    );
  });

  it.each([
    ['to the data directory', (data: string) => data],
    ['to a folder of it', (data: string) => join(data, 'base')],
    ['to a folder that contains it', (data: string) => dirname(data)],
    ['to the root', () => '/'],
    ['to the folder that it lies in', () => '.'],
  ])('does not follow a link %s, and says so', async (_, target) => {
    const data = join(tree({ 'data/base/5/1': 'x' }), 'data');
    symlinkSync(target(data), join(data, 'base/loop'));
    const { paths, warnings } = await walk(data);
    expect(paths).toEqual(['base', 'base/5', 'base/5/1']);
    expect(warnings).toEqual([expect.stringContaining('left out "base/loop": a symbolic link into')]);
  });

  it('ends when links outside lead round in a circle', async () => {
    const outside = tree({ 'a/x': 'x', 'b/y': 'x' });
    symlinkSync('../b', join(outside, 'a/to-b'));
    symlinkSync('../a', join(outside, 'b/to-a'));
    symlinkSync('..', join(outside, 'b/up'));
    const data = tree({});
    symlinkSync(join(outside, 'a'), join(data, 'a'));
    const { paths, warnings } = await walk(data);
    expect(paths).toEqual(['a', 'a/to-b', 'a/to-b/y', 'a/x']);
    expect(warnings.filter((text) => text.startsWith('left out'))).toHaveLength(2);
  });

  it('leaves out broken links, pipes and sockets, each with a warning', async () => {
    const data = tree({ 'base/x': 'x' });
    symlinkSync('nowhere', join(data, 'broken'));
    symlinkSync('itself', join(data, 'itself'));
    symlinkSync('/dev/null', join(data, 'null'));
    await run('mkfifo', [join(data, 'pipe')], { asRoot: true });
    const socket = createServer().listen(join(data, '.s.PGSQL.5432'));
    onTestFinished(() => void socket.close());
    const { paths, warnings } = await walk(data);
    expect(paths).toEqual(['base', 'base/x']);
    expect(warnings.map((text) => /^left out "([^"]+)"/.exec(text)?.[1]).sort()).toEqual(
      ['.s.PGSQL.5432', 'broken', 'itself', 'null', 'pipe'].sort(),
    );
  });
});

function readableAt(source: BytePath): boolean {
  return statSync(toFilePath(source)).isDirectory() || readFileSync(toFilePath(source)).length > 0;
}

describe('bad luck', () => {
  it('leaves out what a running server removes meanwhile', async () => {
    const names = Array.from({ length: 200 }, (_, n) => `base/5/${10_000 + n}`);
    const place = tree({ [`${version}/5/1`]: 'x' });
    const files = Object.fromEntries([...names, 'base/6/1', 'base/7', 'zz/1'].map((name) => [name, 'x']));
    const data = tree({ ...files, 'base/7': null, pg_tblspc: null });
    symlinkSync(place, join(data, 'pg_tblspc/16384'));
    const paths: BytePath[] = [];
    for await (const { path } of walkDataDirectory(optionsOf(data))) {
      paths.push(path);
      if (path === 'base/5/10000') {
        for (const name of ['base/5/10150', 'base/6', `pg_tblspc/16384/${version}`, 'pg_tblspc/16384']) {
          rmSync(join(data, name), { recursive: true });
        }
        rmSync(join(data, 'zz'), { recursive: true });
        writeFileSync(join(data, 'zz'), 'a file now');
      }
    }
    const left = names.filter((name) => name !== 'base/5/10150');
    expect(paths).toEqual(['base', 'base/5', ...left, 'base/6', 'base/7', 'pg_tblspc', 'zz']);
  });

  it('refuses a data directory that is not there, or is none', async () => {
    const data = tree({ file: 'x' });
    for (const path of [join(data, 'nowhere'), join(data, 'file')]) {
      await expect(walk(path)).rejects.toThrow(HostError);
      await expect(surveyDataDirectory(optionsOf(path))).rejects.toThrow(`"${path}"`);
    }
  });

  it('stops when it is told to', async () => {
    const stop = new AbortController();
    const data = tree(Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`${n}`, 'x'])));
    const entries = walkDataDirectory({ ...optionsOf(data), signal: stop.signal });
    await entries.next();
    stop.abort(new Error('told to'));
    await expect(
      (async () => {
        for await (const _ of entries);
      })(),
    ).rejects.toThrow('told to');
  });

  it.skipIf(!hasFaultyFs).each([
    ['getattr', 'EIO', 'input/output error'],
    ['readdir', 'EIO', 'input/output error'],
  ] as const)('ends with an error, not with a gap, when a disk answers %s with %s', async (call, code, reason) => {
    const faulty = await FaultyFs.mount(tree({ 'base/5/1': 'x', 'base/6/1': 'x' }));
    expect((await walk(faulty.path)).paths).toHaveLength(5);
    const entries = walkDataDirectory(optionsOf(faulty.path));
    await entries.next();
    await faulty.set({ fail: { [call]: code } });
    const refused = (async () => {
      for await (const _ of entries);
    })();
    await expect(refused).rejects.toThrow(HostError);
    await expect(refused).rejects.toThrow(reason);
  });

  const asOrdinary = orFailInCi(process.getuid?.() !== 0 || account.uid !== 0, 'an ordinary account is missing');
  it.skipIf(!asOrdinary).each([
    ['file', 'base/5/1', 0o000],
    ['folder', 'base/5', 0o000],
    ['folder', 'base/5', 0o400],
  ])('finds an unreadable %s beforehand, by name', async (_, path, mode) => {
    const data = tree({ 'base/5/1': 'x', 'base/5/2': 'x', 'base/6/1': 'x' });
    chmodSync(join(data, path), mode);
    for (const name of ['base', 'base/5', 'base/6', 'base/5/1', 'base/5/2', 'base/6/1']) giveAway(join(data, name));
    onTestFinished(() => chmodSync(join(data, path), 0o700));
    const { stderr } = await survey(data);
    expect(stderr).toMatch(`HostError: could not read "${join(data, path)}`);
    expect(stderr).toMatch('permission denied');
    chmodSync(join(data, path), 0o700);
    expect(JSON.parse((await survey(data)).stdout)).toMatchObject({ files: 3, rawBytes: 3, largestFileBytes: 1 });
  });
});

/** Surveys in a process of its own, as the servers' account. */
async function survey(dataDirectory: string) {
  const folder = temporaryFolder('walk');
  await build({
    stdin: {
      contents: `
        import { surveyDataDirectory } from './src/cluster/backup-survey.ts';
        const options = { postgresMajor: 15, catalogVersion: 202209061, warn: () => undefined };
        surveyDataDirectory({ ...options, dataDirectory: process.argv[2] }).then(
          (found) => console.log(JSON.stringify(found)),
          (error) => console.error(\`\${error.name}: \${error.message}\`),
        );`,
      resolveDir: checkout,
    },
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile: join(folder, 'survey.mjs'),
    logLevel: 'error',
  });
  return run(process.execPath, [join(folder, 'survey.mjs'), dataDirectory]);
}
