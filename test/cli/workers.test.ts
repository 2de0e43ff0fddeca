/** Crews of worker threads: tasks, errors, progress, and every way in which a thread may end. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { hasThreads, type ThreadOptions, threadCrew } from '../../src/cli/workers.ts';
import { type Crew, inlineCrew } from '../../src/commands/crew.ts';
import * as errors from '../../src/errors.ts';
import { giveAway } from '../support/account.ts';
import { makeContext, type TestContext } from '../support/context.ts';
import { makeFolder, removeFolder } from '../support/folders.ts';
import { checkout } from '../support/installation.ts';
import { type RunOptions, run } from '../support/run.ts';
import { waitFor } from '../support/wait.ts';
import { performTestTask } from './worker-tasks.ts';

let folder: string;
let bundle: URL;
let count = 0;

beforeAll(async () => {
  folder = makeFolder();
  mkdirSync(join(folder, 'dist'));
  cpSync(join(checkout, 'bin'), join(folder, 'bin'), { recursive: true });
  const path = join(folder, 'dist/worker.mjs');
  await bundleTo(
    path,
    `import { serveCrew } from './src/cli/worker-thread.ts';
     import { performTestTask } from './test/cli/worker-tasks.ts';
     serveCrew(performTestTask);`,
  );
  bundle = pathToFileURL(path);
});
afterAll(() => removeFolder(folder));

async function bundleTo(outfile: string, contents: string): Promise<void> {
  await build({
    stdin: { contents, resolveDir: checkout, loader: 'ts' },
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    banner: { js: 'import{createRequire}from"node:module";const require=createRequire(import.meta.url);' },
    external: ['@mongodb-js/zstd/bindings.js', '@node-rs/crc32'],
    logLevel: 'error',
  });
}

function newFolder(): string {
  const path = join(folder, `folder ${++count}`);
  mkdirSync(path);
  giveAway(path);
  return path;
}

interface Opened {
  readonly crew: Crew;
  readonly context: TestContext;
  readonly stop: AbortController;
}

function openThreads(size: number, options: Partial<ThreadOptions> = {}): Opened {
  const stop = new AbortController();
  const context = makeContext(
    { WALT_REPO: 'file:///r', WALT_COMPRESSION_LEVEL: '5' },
    { workingDirectory: '/w', libpq: { PGHOST: '/run' }, signal: stop.signal },
  );
  const { settings, host, workingDirectory, libpq, log, signal } = context;
  const data = { settings, host, workingDirectory, libpq };
  const crew = threadCrew(size, { data, signal, log, bundle, ...options });
  onTestFinished(() => crew.close());
  return { crew, context, stop };
}

function openInline(size: number): Opened {
  const stop = new AbortController();
  const context = makeContext({}, { workingDirectory: '/w', signal: stop.signal });
  const crew = inlineCrew(
    (task, progress, signal) =>
      performTestTask({ ...context, signal: AbortSignal.any([signal, stop.signal]) }, task, progress),
    size,
  );
  return { crew, context, stop };
}

describe.each([
  ['of threads', openThreads],
  ['without threads', openInline],
] as const)('a crew %s', (_, open) => {
  it('does as many tasks at a time as it has members, and all of them in the end', async () => {
    const { crew } = open(3);
    const meet = { kind: 'meet', counter: new SharedArrayBuffer(4), count: 3 };
    const members = await Promise.all([meet, meet, meet].map((task) => crew.run<number>(task)));
    expect(new Set(members).size).toBe(open === openThreads ? 3 : 1);
    const values = Array.from({ length: 20 }, (_, value) => ({ kind: 'echo', value }));
    expect(await Promise.all(values.map((task) => crew.run(task)))).toEqual(values.map(({ value }) => value));

    const few = open(2).crew;
    const counter = new SharedArrayBuffer(4);
    const rows = [1, 2, 3].map(() => few.run({ kind: 'meet', counter, count: 3 }).catch(() => 'aborted'));
    await waitFor('two to have come', () => new Int32Array(counter)[0] === 2);
    await few.close(); // the third never came in
    expect([await Promise.all(rows), new Int32Array(counter)[0]]).toEqual([['aborted', 'aborted', 'aborted'], 2]);
  });

  it('never does more at a time, also when tasks come while others end', async () => {
    const { crew } = open(2);
    const crowd = { kind: 'crowd', counter: new SharedArrayBuffer(4) };
    const inTurn = async () => [
      await crew.run<number>(crowd),
      await crew.run<number>(crowd),
      await crew.run<number>(crowd),
    ];
    const seen = (await Promise.all([1, 2, 3, 4].map(inTurn))).flat();
    expect(seen.length).toBe(12);
    expect(Math.max(...seen)).toBeLessThanOrEqual(2); // one, where the other's thread came late
  });

  it('aborts what runs when it is closed, waits for the cleaning up, and takes no more', async () => {
    const { crew } = open(1);
    const place = newFolder();
    const running = crew.run({ kind: 'wait', folder: place });
    const waiting = crew.run({ kind: 'echo' });
    const both = Promise.allSettled([running, waiting]);
    await waitFor('the task to run', () => existsSync(join(place, 'running')));
    await Promise.all([crew.close(), crew.close()]);
    expect(existsSync(join(place, 'cleaned'))).toBe(true);
    const reason = expect.objectContaining({ message: 'the crew of workers is closed' });
    expect(await both).toEqual([
      { status: 'rejected', reason },
      { status: 'rejected', reason },
    ]);
    await expect(crew.run({ kind: 'echo' })).rejects.toThrow('is closed');
  });

  it('aborts what runs, with the reason, when the command must end', async () => {
    const { crew, stop } = open(2);
    const place = newFolder();
    const running = crew.run({ kind: 'wait', folder: place });
    await waitFor('the task to run', () => existsSync(join(place, 'running')));
    stop.abort(new errors.PostgresError('the session is lost', { hint: 'Look.' }));
    await expect(running).rejects.toMatchObject({ message: 'the session is lost', hint: 'Look.', exitCode: 7 });
    expect(existsSync(join(place, 'cleaned'))).toBe(true);
  });

  it('goes on after a task that failed', async () => {
    const { crew } = open(1);
    await expect(crew.run({ kind: 'throwText' })).rejects.toThrow();
    expect(await crew.run({ kind: 'echo', value: 1 })).toBe(1);
  });

  it('adds up to all progress that was made', async () => {
    let [bytes, calls] = [0, 0];
    await open(1).crew.run({ kind: 'progress', times: 20_000 }, (more) => {
      bytes += more;
      calls += 1;
    });
    expect(bytes).toBe(60_000);
    if (open === openThreads) expect(calls).toBeLessThan(200);
  });
});

describe('a crew of threads', () => {
  it('gives its workers what a context is made of', async () => {
    const { crew, context } = openThreads(1);
    const { settings, host, libpq } = context;
    expect(await crew.run({ kind: 'context' })).toEqual({ settings, host, libpq, workingDirectory: '/w' });
  });

  it('writes what they log into its own log, details and all', async () => {
    const { crew, context } = openThreads(1);
    await crew.run({ kind: 'log' });
    expect(context.lines).toEqual(['test: warning: a warning\n', 'test: detail: a detail\n', 'test: hint: Mend.\n']);
  });

  const classes = Object.entries(errors).flatMap(([name, value]) =>
    typeof value === 'function' && value.prototype instanceof errors.WalTError ? [name] : [],
  );
  it('throws every error of errors.ts as the task did', async () => {
    expect(classes.length).toBeGreaterThan(10);
    const { crew } = openThreads(1);
    const inline = openInline(1).crew;
    for (const name of classes) {
      const task = { kind: 'throw', name, about: 'wal/x' };
      const [thrown, expected] = await Promise.all(
        [crew, inline].map((one) =>
          one.run(task).catch((error: unknown) => error as errors.WalTError & { key?: string }),
        ),
      );
      const members = (error: unknown) => {
        const { message, detail, hint, key, exitCode, mayPass, cause } = error as errors.WalTError & { key?: string };
        const { name: causeName, message: because } = cause as Error;
        return { name: (error as Error).name, message, detail, hint, key, exitCode, mayPass, causeName, because };
      };
      expect(thrown).toBeInstanceOf(Reflect.get(errors, name));
      expect(members(thrown)).toEqual(members(expected));
      expect((thrown as Error).stack).toContain('worker.mjs');
    }
  });

  it('throws other errors with their name and system code, and whatever else was thrown as an error', async () => {
    const { crew } = openThreads(1);
    const error = await crew.run({ kind: 'throwPlain' }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'RangeError', message: 'plain', code: 'ENOSPC' });
    expect(errors.systemErrorReason(error)).toBe('no space left on device');
    await expect(crew.run({ kind: 'throwText' })).rejects.toThrow('a text');
    await expect(crew.run({ kind: 'unclonable' })).rejects.toThrow('could not be cloned');
    await expect(crew.run({ kind: 'echo', value: () => 1 })).rejects.toThrow('could not be cloned');
    expect(await crew.run({ kind: 'echo', value: 1n })).toBe(1n);
  });

  it("hands the memory of results over, but not Node's own", async () => {
    const { crew } = openThreads(1);
    for (const _ of [1, 2]) {
      const { large, small } = await crew.run<{ large: Uint8Array; small: Uint8Array }>({ kind: 'memory' });
      expect([large.length, large[999_999], Buffer.from(small).toString()]).toEqual([1_000_000, 7, 'small']);
      expect(await crew.run({ kind: 'isHandedOver' })).toBe(true);
    }
  });

  it.each([
    ['exits', 'exit', {}, 'exit code 3'],
    ['throws where nobody catches', 'crash', {}, 'nobody catches it'],
    ['runs out of memory', 'eat', { resourceLimits: { maxOldGenerationSizeMb: 20 } }, 'memory limit'],
    ['has no bundle', 'echo', { bundle: new URL('file:///nonexistent/worker.mjs') }, 'Cannot find module'],
  ] as const)('fails as a whole when a thread of it %s, and names it', async (_, kind, options, why) => {
    const { crew } = openThreads(1, options);
    const results = await Promise.allSettled([crew.run({ kind }), crew.run({ kind: 'echo' })]);
    const message = new RegExp(`^worker thread 1 ended: .*${why}`);
    for (const result of results) {
      expect(result).toMatchObject({ status: 'rejected', reason: { message: expect.stringMatching(message) } });
    }
    await expect(crew.run({ kind: 'echo' })).rejects.toThrow(message);
    await crew.close();
  });

  it('aborts the tasks of the others when one thread dies', async () => {
    const { crew } = openThreads(2);
    const place = newFolder();
    const other = crew.run({ kind: 'wait', folder: place });
    other.catch(() => undefined);
    await waitFor('the task to run', () => existsSync(join(place, 'running')));
    await expect(crew.run({ kind: 'exit' })).rejects.toThrow('worker thread 2 ended: exit code 3');
    await expect(other).rejects.toThrow('worker thread 2 ended: exit code 3');
    expect(existsSync(join(place, 'cleaned'))).toBe(true);
  });

  it('does not wait for ever for a system call that hangs, and knows that the thread has not ended', async () => {
    const { crew } = openThreads(1);
    const place = newFolder();
    spawnSync('mkfifo', [join(place, 'pipe')]);
    crew.run({ kind: 'hang', folder: place }).catch(() => undefined);
    await waitFor('the task to run', () => existsSync(join(place, 'running')));
    await crew.close();
    expect(hasThreads()).toBe(true);
    writeFileSync(join(place, 'pipe'), '');
    await waitFor('the thread to end', () => !hasThreads());
  });

  it('leaves no thread behind when it is closed', async () => {
    const { crew } = openThreads(2);
    await Promise.all([crew.run({ kind: 'echo' }), crew.run({ kind: 'echo' })]);
    expect(hasThreads()).toBe(true);
    await crew.close();
    expect(hasThreads()).toBe(false);
  });
});

describe('a command with worker threads', () => {
  /** Runs bin/wal-t over a bundle whose work is `body`, in a folder of its own. */
  async function runWork(body: string, options: RunOptions & { readonly cwd: string }) {
    await bundleTo(
      join(folder, 'dist/wal-t.mjs'),
      `import { run } from './src/cli/run.ts';
       import { longCommand } from './src/cli/long-command.ts';
       import { hasThreads } from './src/cli/workers.ts';
       import * as errors from './src/errors.ts';
       await run('test', () => ({ program: 'test', hasThreads, work: (context) => longCommand('test', context, async (context) => {
         const crew = context.crew(2);
         const folder = context.workingDirectory;
         ${body}
       })}));`,
    );
    return run(join(folder, 'bin/wal-t'), [], { ...options, env: { WALT_NODE: process.execPath, ...options.env } });
  }

  it('finds its workers beside its bundle, and gives them its settings and variables', async () => {
    const body = `const { libpq, settings } = await crew.run({ kind: 'context' });
      process.stdout.write(JSON.stringify([libpq.PGPORT, libpq.WALT_REPO, settings.repository, process.env.UV_THREADPOOL_SIZE]));
      await crew.run({ kind: 'log' });
      return 'done';`;
    const env = { PGPORT: '1', WALT_REPO: 'file:///r' };
    const { code, stdout, stderr } = await runWork(body, { cwd: newFolder(), env });
    expect([code, stdout]).toEqual([0, '["1",null,"file:///r","16"]']);
    expect(stderr).toBe('test: warning: a warning\ntest: detail: a detail\ntest: hint: Mend.\n');
  });

  it.each([
    ['a check that failed', `return 'checkFailed'`, 8],
    ['a thread that failed', `await crew.run({ kind: 'throw', name: 'StorageError', about: 'm' })`, 4],
    ['a thread that died', `await crew.run({ kind: 'exit' })`, 70],
    ['work that never ends, with idle threads', `await crew.run({ kind: 'echo' }); await new Promise(() => 1)`, 70],
    [
      'a failure while a thread hangs in a system call',
      `await crew.run({ kind: 'echo' });
       void crew.run({ kind: 'hang', folder }).catch(() => 1);
       throw new errors.StorageError('m')`,
      4,
    ],
  ])('ends with the code of %s', async (_, body, code) => {
    const cwd = newFolder();
    spawnSync('mkfifo', ['-m', '666', join(cwd, 'pipe')]);
    const ended = await runWork(body, { cwd });
    expect([ended.code, ended.signal], ended.stderr).toEqual([code, undefined]);
  });

  it('has them clean up on a signal, and dies by it', async () => {
    const cwd = newFolder();
    let pid = 0;
    const ended = runWork(`await crew.run({ kind: 'wait', folder }); return 'done'`, {
      cwd,
      onStart: (child) => {
        pid = child.pid ?? 0;
      },
    });
    await waitFor('the task to run', () => existsSync(join(cwd, 'running')));
    process.kill(pid, 'SIGTERM');
    expect(await ended).toMatchObject({ signal: 'SIGTERM', stderr: 'test: error: interrupted by SIGTERM\n' });
    expect(existsSync(join(cwd, 'cleaned'))).toBe(true);
  });
});
