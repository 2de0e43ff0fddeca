/** Whose temporary file is it? Processes of this host and others, and the threads of one process. */
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';
import { expect, it, onTestFinished } from 'vitest';
import { isAlive, ownerOf, temporarySuffix } from '../src/left-overs.ts';
import { temporaryFolder } from './support/folders.ts';
import { checkout } from './support/installation.ts';
import { suffixOf } from './support/left-overs.ts';

/** How many names each thread makes. */
const names = 1000;

interface Answers {
  readonly made: readonly string[];
  readonly ofParent: string;
  readonly ofOthers: string;
}

it('H47: takes no file of another thread of its process for a dead one’s, and gives no name twice', async () => {
  const bundle = pathToFileURL(join(temporaryFolder(), 'thread.mjs'));
  await build({
    stdin: {
      contents: `import { parentPort, workerData, Worker, isMainThread } from 'node:worker_threads';
        import { ownerOf, temporarySuffix } from './src/left-overs.ts';
        const made = Array.from({ length: ${names} }, () => temporarySuffix());
        parentPort.postMessage({ made, ofParent: ownerOf(workerData), ofOthers: '' });
        parentPort.once('message', (other) => parentPort.postMessage({ made, ofParent: '', ofOthers: ownerOf(other) }));`,
      resolveDir: checkout,
      loader: 'ts',
    },
    outfile: bundle.pathname,
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
  });
  const own = Array.from({ length: names }, () => temporarySuffix());
  const threads = [1, 2].map(() => new Worker(bundle, { workerData: own[0] }));
  onTestFinished(async () => void (await Promise.all(threads.map((thread) => thread.terminate()))));
  const next = (thread: Worker) =>
    new Promise<Answers>((resolve, reject) => thread.once('message', resolve).once('error', reject));
  const answers = await Promise.all(threads.map(next));
  expect(answers.map(({ ofParent }) => ofParent)).toEqual(['somebody', 'somebody']);
  const all = [...own, ...answers.flatMap(({ made }) => made)];
  expect(new Set(all).size).toBe(3 * names);
  expect([...new Set(all.map(ownerOf))]).toEqual(['somebody']);
  const others = threads.map((thread, index) => {
    thread.postMessage(answers[1 - index]?.made[0]);
    return next(thread);
  });
  expect((await Promise.all(others)).map(({ ofOthers }) => ofOthers)).toEqual(['somebody', 'somebody']);
});

it('tells its own earlier self, the dead and the living apart', () => {
  const living = spawn('sleep', ['60']);
  onTestFinished(() => void living.kill('SIGKILL'));
  expect(ownerOf(temporarySuffix())).toBe('somebody');
  expect(ownerOf(suffixOf(process.pid))).toBe('nobody');
  expect(ownerOf(suffixOf(spawnSync('true').pid))).toBe('nobody');
  expect(ownerOf(suffixOf(living.pid))).toBe('somebody');
});

it('judges nobody whom it cannot see: another container’s process, or a name of another kind', () => {
  expect(ownerOf(suffixOf(spawnSync('true').pid, '1'))).toBe('elsewhere');
  for (const suffix of ['', '1', '1-2-3-4', 'a-1-0123abcd-1', '1-1-0123abcd-1x', '1-1-0123ABCD-1', '-1-1-0123abcd-1']) {
    expect(ownerOf(suffix)).toBe('unknown');
  }
});

it.each([0, -1, 1.5, Number.NaN, 2 ** 53])('takes %d for no process', (processId) => {
  expect(isAlive(processId)).toBe(false);
});
