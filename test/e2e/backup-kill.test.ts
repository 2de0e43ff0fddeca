/** A base backup or a restore that is killed at any moment: nothing half is believed, nothing half starts, and the next one succeeds. */
import { type ChildProcess, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { crc32c } from '@node-rs/crc32';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listBackups, stateOf } from '../../src/archive/backup-catalogue.ts';
import { parseLines } from '../../src/archive/files-list.ts';
import { readManifest } from '../../src/archive/manifest.ts';
import { readStream } from '../../src/archive/part.ts';
import { toFilePath } from '../../src/byte-path.ts';
import { chooseBackup, chooseNamed, openArchive, readCatalogue } from '../../src/commands/backups.ts';
import { tasksOf } from '../../src/commands/basebackup-fetch/tasks.ts';
import { basebackupFetch } from '../../src/commands/basebackup-fetch.ts';
import { basebackupPush } from '../../src/commands/basebackup-push.ts';
import { verify } from '../../src/commands/verify.ts';
import { CheckError, HostError } from '../../src/errors.ts';
import { leaseExpiryMs, limits } from '../../src/limits.ts';
import { account, giveAway } from '../support/account.ts';
import { verifyBackup } from '../support/backup-manifest.ts';
import { makeContext } from '../support/context.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { PostgresServer } from '../support/postgres.ts';
import { seededRandom } from '../support/random.ts';
import { TestRepository } from '../support/repository.ts';
import { type Ended, launcher, run } from '../support/run.ts';
import { hasTool } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';

const isTorture = process.env.TORTURE === '1';
const env = { PGUSER: 'postgres', WALT_WORKERS: isTorture ? '2' : '1' };
/** A run that has ended before its moment does not count, and is repeated; so often at most. */
const attempts = 10;

let folder: string;
/** Restores are made in memory where there is such a place: these never have to survive. */
let restores: string;
let repository: TestRepository;
let server: PostgresServer;
/** The confirmed backup: of many small parts, and for increments one itself. */
let whole: string;
/** The last that was confirmed: also one that has ended before it could be killed. */
let latest: string;
/** What the backups that are killed are told. */
let pushWords: readonly string[];
/** How far a run comes that nobody kills. */
let pushedBytes: number;
let restoredNames: number;
const lengthsMs = { push: 0, fetch: 0 };
/** Kills that came while something was under way. */
const hits = { push: 0, fetch: 0, missed: 0 };

type BackupType = 'full' | 'incremental';

async function makeScene(type: BackupType): Promise<void> {
  folder = makeFolder('kill');
  restores = realpathSync(mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'kill-')));
  giveAway(restores);
  repository = await new TestRepository({ folder }).init();
  server = PostgresServer.create({
    major: 17,
    settings: repository.serverSettings,
    checksums: true,
    walSegmentSize: 16, // each segment is a command of its own
  });
  const many = join(server.dataDirectory, 'many');
  mkdirSync(many);
  for (let n = 0; n < 1200; n += 1) writeFileSync(join(many, String(n)), `${n}`); // for a second part
  if (account.uid !== undefined) spawnSync('chown', ['-R', `${account.uid}:${account.gid}`, many]);
  await server.start();
  await server.query('create table t as select n, md5(n::text) m from generate_series(1, 20000) n');
  whole = await pushSmallParts();
  pushWords = [];
  if (type === 'incremental') {
    await server.query('update t set m = md5(m) where n % 10 = 0');
    whole = await pushSmallParts(whole);
    // what each increment finds changed, as long as its parent is the same
    await server.query('create table later as select n, md5(random()::text) m from generate_series(1, 100000) n');
    pushWords = ['--incremental', '--parent', whole];
  }
  latest = whole;
  await measure();
}

async function removeScene(): Promise<void> {
  if (isTorture)
    process.stderr.write(
      `struck while under way: ${hits.push} backups, ${hits.fetch} restores; ${hits.missed} ended before\n`,
    );
  await server.remove();
  for (const made of [folder, restores]) removeFolder(made);
}

/** In this process, with this repository. */
const context = () =>
  makeContext(
    { WALT_REPO: `file://${repository.root}`, WALT_WORKERS: '2' },
    { workingDirectory: folder, libpq: { PGHOST: server.folder, PGUSER: 'postgres' } },
  );

async function pushSmallParts(parent?: string): Promise<string> {
  const changed = limits as { partFiles: number };
  const { partFiles } = changed;
  changed.partFiles = 150;
  try {
    const choices = { checkpoint: 'fast', annotations: {}, manifestChecksums: 'CRC32C' } as const;
    const { manifest } = await basebackupPush(context(), {
      pgdata: server.dataDirectory,
      ...choices,
      incremental: parent !== undefined,
      parent,
    });
    expect(manifest.type).toBe(parent === undefined ? 'full' : 'incremental');
    // root has made files here, too
    if (account.uid !== undefined) spawnSync('chown', ['-R', `${account.uid}:${account.gid}`, repository.root]);
    return manifest.id;
  } finally {
    changed.partFiles = partFiles;
  }
}

/** One of each, not killed. */
async function measure(): Promise<void> {
  const known = leases();
  const target = join(restores, 'measured');
  for (const [what, start] of [
    ['push', push],
    ['fetch', fetchInto(target)],
  ] as const) {
    const startedMs = performance.now();
    expect(await start(() => undefined)).toMatchObject({ code: 0 });
    lengthsMs[what] = performance.now() - startedMs;
  }
  const id = newest(known) ?? '';
  pushedBytes = storedBytes(id);
  restoredNames = namesIn(target).length;
  removeFolder(target);
  // the killed ones are compared with the other, of many parts
  for (const kind of ['manifest', 'lease', 'files', 'part']) rmSync(inCluster(kind, id), { recursive: true });
}

const systemIdentifier = () => readdirSync(repository.root).find((name) => /^\d+$/.test(name)) ?? '';
const inCluster = (...names: string[]) => join(repository.root, systemIdentifier(), ...names);
const leases = (): ReadonlySet<string> => new Set(namesIn(inCluster('lease'), false));
/** A backup that is not among them, and has given a sign of life: a folder alone is none. */
const newest = (known: ReadonlySet<string>) =>
  namesIn(inCluster('lease'), false).find((id) => !known.has(id) && namesIn(inCluster('lease', id), false).length > 0);
const isConfirmed = (id: string) => existsSync(inCluster('lease', id, 'closed'));

/** All there is at one moment; what goes while it is looked at is not there. */
function namesIn(path: string, recursive = true): string[] {
  try {
    return readdirSync(path, { recursive, encoding: 'utf8' });
  } catch {
    return [];
  }
}

/** Bytes of parts that are stored, and of those that are being written. */
function storedBytes(id: string): number {
  const sizes = [join(repository.root, '.tmp'), inCluster('part', id)].flatMap((path) =>
    namesIn(path, false).map((name) => statSync(join(path, name), { throwIfNoEntry: false })?.size ?? 0),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

type Start = (onStart: (child: ChildProcess) => void) => Promise<Ended>;

const push: Start = (onStart) =>
  repository.run('basebackup-push', [server.dataDirectory, ...pushWords], { env, ownGroup: true, onStart });
const fetchInto =
  (target: string, ...words: string[]): Start =>
  (onStart) =>
    repository.run('basebackup-fetch', [target, whole, ...words], { env, ownGroup: true, onStart });

type Whom = 'all' | 'node alone' | 'the launcher';

/** Signals as soon as `isThen`, `ms` being the time since the start. @returns how it ended, and whether it was signalled before it had. */
async function strike(
  start: Start,
  { signal, whom, isThen }: { signal: NodeJS.Signals; whom: Whom; isThen: (ms: number) => boolean },
): Promise<Ended & { wasSignalled: boolean }> {
  const startedMs = performance.now();
  let child: ChildProcess | undefined;
  let hasEnded = false;
  const ended = start((started) => {
    child = started;
  }).finally(() => {
    hasEnded = true;
  });
  while (!hasEnded && !isThen(performance.now() - startedMs)) await pause(1);
  const wasSignalled = !hasEnded && send(child?.pid ?? 0, signal, whom);
  return { ...(await ended), wasSignalled };
}

/** @returns whether there was anybody. */
function send(launcher: number, signal: NodeJS.Signals, whom: Whom): boolean {
  const pid = whom === 'all' ? -launcher : whom === 'node alone' ? childOf(launcher) : launcher;
  try {
    if (pid !== 0) process.kill(pid, signal);
    return pid !== 0;
  } catch {
    return false;
  }
}

/** A launcher waits for one child at a time. @returns 0 when there is none. */
function childOf(launcher: number): number {
  return Number(spawnSync('pgrep', ['-P', String(launcher)], { encoding: 'utf8' }).stdout.split('\n')[0]);
}

/** Runs again what has ended before it was struck, each time as if its clock went faster by a quarter. */
async function untilStruck<Struck>(attempt: (speed: number) => Promise<Struck | undefined>): Promise<Struck> {
  for (let count = 0; count < attempts; count += 1) {
    const struck = await attempt(1.25 ** count);
    if (struck !== undefined) return struck;
    hits.missed += 1;
  }
  throw new Error(`${attempts} runs have ended before they could be struck`);
}

const random = seededRandom(20_261_121);
/** A random moment in each of `count` equal spans, so that the whole run is met. */
const spread = (count: number) =>
  Array.from({ length: count }, (_, index) => (index + random(1000) / 1000) / count).map((share) => ({
    share,
    percent: Math.round(share * 100),
    whom: random(3) === 0 ? ('node alone' as const) : ('all' as const),
  }));

describe.each([{ type: 'full' }, { type: 'incremental' }] as const)('$type:', ({ type }) => {
  beforeAll(() => makeScene(type), 240_000);
  afterAll(removeScene);

  /** Of an increment the suite has what is done otherwise: how far it has come is told by its parts, what a signal does by the full one. */
  const hasAll = isTorture || type === 'full';

  describe('a backup that is killed', () => {
    /** Strikes one in the middle. @returns how it ended, and its name, unless it had none yet. */
    const struckBackup = (
      signal: NodeJS.Signals,
      { whom, isThen }: { whom: Whom; isThen: (id: string | undefined, ms: number) => boolean },
    ) =>
      untilStruck(async (speed) => {
        const known = leases();
        let id: string | undefined;
        const ended = await strike(push, {
          signal,
          whom,
          isThen: (ms) => {
            id ??= newest(known);
            return isThen(id, ms * speed);
          },
        });
        id ??= newest(known);
        if (id !== undefined && isConfirmed(id)) latest = id;
        return !ended.wasSignalled || ended.code === 0 || id === latest ? undefined : { ...ended, id };
      });

    const kill = async (whom: Whom, isThen: (id: string | undefined, ms: number) => boolean) => {
      const { id, code, signal } = await struckBackup('SIGKILL', { whom, isThen });
      expect([code, signal]).toEqual(whom === 'all' ? [undefined, 'SIGKILL'] : [70, undefined]);
      hits.push += 1;
      return id;
    };

    const expectNotBelieved = async (id: string) => {
      const archive = await openArchive(context());
      const entry = (await listBackups(archive)).find((one) => one.id === id);
      if (entry === undefined) throw new Error(`${id} is not in the catalogue`);
      const stateIn = (ms: number) => stateOf(entry, { now: new Date(Date.now() + ms), expiryMs: leaseExpiryMs });
      expect(stateIn(0)).toBe('running');
      expect(stateIn(leaseExpiryMs + 60_000)).toBe(entry.hasManifest ? 'unconfirmed' : 'failed');
      expect(chooseBackup(await readCatalogue(context(), archive), 'LATEST').id).toBe(latest);
      const dir = join(restores, 'never');
      const choices = { dir, name: id, tablespaceMapping: new Map(), resume: false };
      await expect(basebackupFetch(context(), choices)).rejects.toBeInstanceOf(CheckError);
      expect(existsSync(dir)).toBe(false);
    };

    /** Nobody holds the server in backup mode: that ends with its session. */
    const expectSessionEnds = () =>
      waitFor("the backup's session to end", async () => {
        const sessions = `select count(*) from pg_stat_activity where application_name = 'wal-t'`;
        return (await server.value(sessions)) === '0';
      });

    const expectNothingOf = async (id: string | undefined) => {
      if (id !== undefined) await expectNotBelieved(id);
      await expectSessionEnds();
    };

    it.each(spread(isTorture ? 18 : 1))(
      'is not believed: $percent % of its bytes stored, $whom',
      async ({ share, whom }) => {
        const id = await kill(whom, (name) => name !== undefined && storedBytes(name) > share * pushedBytes);
        expect(id).toBeDefined();
        await expectNothingOf(id);
      },
    );

    it.runIf(hasAll).each(spread(isTorture ? 10 : 1))(
      'is not believed: $percent % of its time, $whom',
      async ({ share, whom }) => {
        await expectNothingOf(await kill(whom, (_, ms) => ms > 0.9 * share * lengthsMs.push));
      },
    );

    const steps = [
      { step: 'its manifest is stored, and it is not confirmed', path: (id: string) => inCluster('manifest', id) },
      { step: 'it has said that it lives', path: (id: string) => inCluster('lease', id) },
      { step: 'its list of files is stored', path: (id: string) => inCluster('files', id) },
    ];
    it.each(hasAll ? steps : steps.slice(0, 1))('is not believed: $step', async ({ path }) => {
      const id = await kill('all', (name) => name !== undefined && existsSync(path(name)));
      expect(existsSync(path(id ?? ''))).toBe(true);
      await expectNothingOf(id);
    });

    it.runIf(hasAll).each([
      { signal: 'SIGTERM', whom: 'the launcher' },
      { signal: 'SIGINT', whom: 'all' },
    ] as const)('by $signal says that it failed, and dies by the signal', async ({ signal, whom }) => {
      const isThen = (name: string | undefined) => name !== undefined && storedBytes(name) > 0.2 * pushedBytes;
      const { id, ...ended } = await struckBackup(signal, { whom, isThen });
      expect(ended).toMatchObject({ code: undefined, signal });
      expect(ended.stderr).toMatch(new RegExp(`${id} was given up[\\s\\S]*interrupted by ${signal}`));
      expect(chooseNamed(await readCatalogue(context(), await openArchive(context())), id ?? '').state).toBe('failed');
      await expectSessionEnds();
    });

    it('stands in the way of none: the next one succeeds and can be restored', async () => {
      const known = leases();
      expect(await push(() => undefined)).toMatchObject({ code: 0 });
      const id = newest(known);
      const { verdicts } = await verify(context(), { name: 'LATEST', deep: true });
      expect(verdicts).toMatchObject([{ id, isRestorable: true, reasons: [] }]);
    });
  });

  /** A real server, asked to start from the folder. @returns what it said when it refused. */
  function refusedStart(target: string): string {
    const words = ['-D', target, '-k', folder, '-c', 'listen_addresses='];
    const { status, stderr } = spawnSync(join(server.bin, 'postgres'), words, {
      ...account,
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(status).not.toBe(0);
    return stderr;
  }

  async function expectWhole(target: string): Promise<void> {
    expect(await verifyBackup(target)).toEqual([]);
    expect(readdirSync(target).filter((name) => name.startsWith('.wal-t'))).toEqual([]);
  }

  async function expectStarts(target: string): Promise<void> {
    const copy = server.elsewhere();
    try {
      spawnSync('cp', ['-a', target, copy.dataDirectory]);
      copy.configure({ archive_mode: 'off' });
      copy.signal('recovery.signal');
      await copy.open();
      expect(await copy.value('select count(*) from t')).toBe('20000');
    } finally {
      await copy.remove();
    }
  }

  const fetchHere = (dir: string, resume: boolean) =>
    basebackupFetch(context(), { dir, name: whole, tablespaceMapping: new Map(), resume });

  const markName = '.wal-t-restore.json';
  const partsName = '.wal-t-restore.parts';
  const controlFile = 'global/pg_control';

  /** Runs `work` with a folder that does not exist yet. */
  async function withTarget(work: (target: string) => Promise<void>): Promise<void> {
    const target = join(restores, 'data');
    try {
      await work(target);
    } finally {
      removeFolder(target);
    }
  }

  /** The paths of all files by the task that makes them, as it is noted when it is done; the last one never is. */
  async function tasksOfWhole(): Promise<Map<string, string[]>> {
    const archive = await openArchive(context());
    const manifest = await readManifest(archive, whole);
    const lines = async function* () {
      for await (const line of parseLines(readStream(archive, { backup: whole, part: 'files' }, manifest.files, {}))) {
        if (line.type === 'file' || line.type === 'part') yield line;
      }
    };
    const tasks = new Map<string, string[]>();
    for await (const { name, files } of tasksOf(lines(), manifest)) {
      tasks.set(
        name,
        files.map(({ path }) => toFilePath(path).toString()),
      );
    }
    return tasks;
  }

  /** When each file was made or changed last: who puts the same content there anew cannot hide it. */
  const madeAt = (target: string, paths: readonly string[]) =>
    Object.fromEntries(
      paths.map((path) => [path, statSync(join(target, path), { bigint: true, throwIfNoEntry: false })?.ctimeNs]),
    );

  describe('a restore that is killed', () => {
    const struckRestore = (
      target: string,
      { signal, whom, isThen }: { signal: NodeJS.Signals; whom: Whom; isThen: (ms: number) => boolean },
    ) =>
      untilStruck(async (speed) => {
        removeFolder(target);
        const ended = await strike(fetchInto(target), { signal, whom, isThen: (ms) => isThen(ms * speed) });
        return !ended.wasSignalled || ended.code === 0 || isEnded(target) ? undefined : ended;
      });

    const kill = async (target: string, whom: Whom, isThen: (ms: number) => boolean) => {
      const { code, signal } = await struckRestore(target, { signal: 'SIGKILL', whom, isThen });
      expect([code, signal]).toEqual(whom === 'all' ? [undefined, 'SIGKILL'] : [70, undefined]);
      hits.fetch += 1;
    };

    /** Without its mark it is either not begun or done. */
    const isEnded = (target: string) => existsSync(join(target, controlFile)) && !existsSync(join(target, markName));

    const expectNoCluster = async (target: string, { starts }: { starts: boolean }) => {
      // the control file gets its name when all else is durable
      if (!existsSync(join(target, 'backup_manifest'))) expect(existsSync(join(target, controlFile))).toBe(false);
      const isBegun = existsSync(join(target, markName));
      if (starts && isBegun && !existsSync(join(target, controlFile))) {
        expect(refusedStart(target)).toMatch(
          /configuration file|control file|pg_control|not a valid data directory|does not exist/,
        );
      }
      if (!isBegun) return;
      await expect(fetchHere(target, false)).rejects.toThrow(/unfinished restore of backup/);
    };

    const expectGoneOnWith = async (target: string) => {
      const finished = namesIn(target).includes(partsName)
        ? readFileSync(join(target, partsName), 'utf8').split('\n').slice(0, -1)
        : [];
      const parts = await tasksOfWhole();
      const kept = finished.flatMap((part) => parts.get(part) ?? []);
      const before = madeAt(target, kept);
      await fetchHere(target, true);
      expect(madeAt(target, kept)).toEqual(before);
      await expectWhole(target);
    };

    it.each(spread(isTorture ? 20 : type === 'full' ? 2 : 1))(
      'starts no server and is gone on with: $percent % of its files, $whom',
      ({ share, whom }) =>
        withTarget(async (target) => {
          await kill(target, whom, () => namesIn(target).length >= share * restoredNames);
          await expectNoCluster(target, { starts: share > 0.5 });
          await expectGoneOnWith(target);
          if (share > 0.75) await expectStarts(target);
        }),
    );

    it.runIf(hasAll).each(spread(isTorture ? 10 : 1))(
      'starts no server and is gone on with: $percent % of its time, $whom',
      ({ share, whom }) =>
        withTarget(async (target) => {
          await kill(target, whom, (ms) => ms > 0.9 * share * lengthsMs.fetch);
          await expectNoCluster(target, { starts: false });
          await expectGoneOnWith(target);
        }),
    );

    it('starts no server when all but the control file is there, and says how to go on', () =>
      withTarget(async (target) => {
        await kill(target, 'all', () => existsSync(join(target, `${controlFile}.wal-t-restore`)));
        await expectNoCluster(target, { starts: true });
        const again = await fetchInto(target)(() => undefined);
        expect(again).toMatchObject({ code: 9, stderr: expect.stringMatching(/unfinished restore[\s\S]*--resume/) });
        expect(await fetchInto(target, '--resume')(() => undefined)).toMatchObject({ code: 0 });
        await expectWhole(target);
        await expectStarts(target);
      }));

    it.skipIf(!hasAll || !hasTool('strace'))(
      'finds no cluster whose files are not durable: the control file gets its name last',
      () =>
        withTarget(async (target) => {
          const trace = join(folder, 'trace');
          const words = ['-f', '-y', '-s', '500', '-e', 'trace=fsync,rename', '-o', trace];
          const settings = { ...env, WALT_CONFIG: repository.config };
          const fetch = [launcher('basebackup-fetch'), target, whole];
          const ended = await run('strace', [...words, ...fetch], { env: settings, asRoot: true });
          expect(ended).toMatchObject({ code: 0 });
          const before = readFileSync(trace, 'utf8').split(/rename\([^)]*pg_control"/)[0] ?? '';
          const synced = new Set([...before.matchAll(/fsync\(\d+<([^>]*)>/g)].map(([, path]) => path));
          const named = (name: string) => join(target, name === controlFile ? `${name}.wal-t-restore` : name);
          const notDurable = namesIn(target).filter((name) => !synced.has(named(name)));
          expect(notDurable.filter((name) => name !== 'backup_manifest')).toEqual([]);
          expect(synced.size).toBeGreaterThan(1200);
        }),
    );

    it.runIf(hasAll).each([
      { signal: 'SIGTERM', whom: 'the launcher' },
      { signal: 'SIGINT', whom: 'all' },
    ] as const)('by $signal says what is left, and dies by the signal', ({ signal, whom }) =>
      withTarget(async (target) => {
        const isThen = () => namesIn(target).length >= 0.2 * restoredNames;
        const ended = await struckRestore(target, { signal, whom, isThen });
        expect(ended).toMatchObject({ code: undefined, signal });
        expect(ended.stderr).toMatch(/is not complete: PostgreSQL cannot start from it[\s\S]*--resume/);
        expect(existsSync(join(target, controlFile))).toBe(false);
        await expectGoneOnWith(target);
      }),
    );
  });

  /** The CRC-32C of two contents is the same that differ by its polynomial, wherever that stands. */
  const polynomial = Buffer.from('f176ec0501', 'hex');

  function forge(path: string): void {
    const content = readFileSync(path);
    const forged = Buffer.from(content);
    for (const [index, byte] of polynomial.entries())
      forged.writeUInt8(forged.readUInt8(3000 + index) ^ byte, 3000 + index);
    expect([forged.equals(content), crc32c(forged)]).toEqual([false, crc32c(content)]);
    writeFileSync(path, forged);
  }

  describe.runIf(type === 'full')('what an interrupted restore has left', () => {
    /** A whole restore, made into one that was broken off before its last step, with these parts noted as done. */
    const interrupted = async (target: string, finished: readonly string[]) => {
      await fetchHere(target, false);
      unlinkSync(join(target, 'backup_manifest'));
      for (const [name, text] of [
        [markName, `${JSON.stringify({ backup: whole })}\n`],
        [partsName, finished.map((part) => `${part}\n`).join('')],
      ] as const) {
        writeFileSync(join(target, name), text);
        giveAway(join(target, name));
      }
    };

    const large = (target: string, paths: readonly string[]) => {
      const found = paths.find((path) => statSync(join(target, path)).size > 8192);
      if (found === undefined) throw new Error('no large file');
      return join(target, found);
    };

    it('is trusted only in parts that were done, and only by checksum', () =>
      withTarget(async (target) => {
        const parts = [...(await tasksOfWhole())];
        expect(parts.length).toBeGreaterThan(5);
        const isLarge = ([, paths]: [string, string[]]) => paths.some((path) => /^base\/\d+\/1259$/.test(path));
        const [done, open] = parts.filter(isLarge);
        if (done === undefined || open === undefined) throw new Error('too few parts');
        await interrupted(target, [done[0]]);
        const damaged = large(target, done[1]);
        const content = readFileSync(damaged);
        content.writeUInt8(content.readUInt8(5000) ^ 1, 5000);
        writeFileSync(damaged, content);
        const forged = large(target, open[1]);
        const backedUp = readFileSync(forged);
        forge(forged); // its CRC-32C says nothing: nobody knows who wrote it
        const sound = done[1].filter((path) => join(target, path) !== damaged);
        const others = parts
          .flatMap(([part, paths]) => (part === done[0] ? [] : paths))
          .filter((path) => path !== controlFile);
        const before = { sound: madeAt(target, sound), others: madeAt(target, others) };
        const { keptBytes } = await fetchHere(target, true);
        expect(keptBytes).toBe(sound.reduce((sum, path) => sum + statSync(join(target, path)).size, 0));
        expect(madeAt(target, sound)).toEqual(before.sound);
        const after = madeAt(target, others);
        expect(others.filter((path) => after[path] === before.others[path])).toEqual([]);
        expect(readFileSync(forged).equals(backedUp)).toBe(true);
        await expectWhole(target);
      }));

    it('is no cluster any more while it is gone on with, though its control file had its name', () =>
      withTarget(async (target) => {
        await untilStruck(async () => {
          removeFolder(target);
          await interrupted(target, []);
          expect(existsSync(join(target, controlFile))).toBe(true);
          const isThen = () => namesIn(target).includes(`${controlFile}.wal-t-restore`);
          const ended = await strike(fetchInto(target, '--resume'), { signal: 'SIGKILL', whom: 'all', isThen });
          return ended.wasSignalled && ended.code !== 0 ? true : undefined;
        });
        expect(existsSync(join(target, controlFile))).toBe(false);
        await fetchHere(target, true);
        await expectWhole(target);
      }));

    it.each(['postmaster.pid', 'postmaster.opts'])('is left alone when a server was started there: %s', (name) =>
      withTarget(async (target) => {
        await interrupted(target, []);
        writeFileSync(join(target, name), '');
        const before = madeAt(target, ['PG_VERSION', controlFile, markName]);
        await expect(fetchHere(target, true)).rejects.toThrow(/a server was started in/);
        expect(madeAt(target, ['PG_VERSION', controlFile, markName])).toEqual(before);
      }),
    );

    it.each([
      { of: 'of another backup', mark: { backup: 'another' }, says: /unfinished restore of backup another/ },
      { of: 'of nobody knows what', mark: 'nothing', says: /is not empty/ },
    ])('is not gone on with when it is $of', ({ mark, says }) =>
      withTarget(async (target) => {
        mkdirSync(target);
        writeFileSync(join(target, markName), JSON.stringify(mark));
        const error = await fetchHere(target, true).catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(HostError);
        expect((error as HostError).message).toMatch(says);
        expect(readdirSync(target)).toEqual([markName]);
      }),
    );

    it('is begun anew when it was killed before it had marked its folder', () =>
      withTarget(async (target) => {
        mkdirSync(target);
        writeFileSync(join(target, `${markName}.wal-t-99999999-0-0123abcd-1`), '');
        await fetchHere(target, true);
        expect(existsSync(join(target, controlFile))).toBe(true);
      }));
  });
});
