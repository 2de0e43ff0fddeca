/** Tasks for the crews of workers.test.ts: they behave, and misbehave, as real ones may. Run in the test's thread, or bundled for a worker's. */
import { writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { threadId } from 'node:worker_threads';
import type { Context } from '../../src/commands/context.ts';
import type { CrewTask } from '../../src/commands/crew.ts';
import * as errors from '../../src/errors.ts';

type Progress = (bytes: number) => void;

let kept: Uint8Array | undefined;

const tasks: Readonly<Record<string, (task: CrewTask, context: Context, progress: Progress) => unknown>> = {
  echo: ({ value }) => value,
  context: (_, { settings, host, workingDirectory, libpq }) => ({ settings, host, workingDirectory, libpq }),
  /** Ends when so many run at the same time. */
  meet: async ({ counter, count }, { signal }) => {
    const present = new Int32Array(counter as SharedArrayBuffer);
    Atomics.add(present, 0, 1);
    while (Atomics.load(present, 0) < Number(count)) await sleep(5, undefined, { signal });
    return threadId;
  },
  /** How many run at the same time while it does. */
  crowd: async ({ counter }) => {
    const present = new Int32Array(counter as SharedArrayBuffer);
    const others = Atomics.add(present, 0, 1);
    await sleep(5);
    Atomics.sub(present, 0, 1);
    return others + 1;
  },
  log: (_, { log }) =>
    log.warning('a warning', new errors.StorageError('unused', { detail: 'a detail', hint: 'Mend.' })),
  progress: ({ times }, _, progress) => {
    for (let time = 0; time < Number(times); time += 1) progress(3);
  },
  /** Memory that is this result's alone, and a small Buffer, which is a piece of Node's pool. */
  memory: () => {
    kept = new Uint8Array(1_000_000).fill(7);
    return { large: kept, small: Buffer.from('small'), count: 1 };
  },
  isHandedOver: () => kept?.byteLength === 0,
  throw: ({ name, about }) => {
    const Class = Reflect.get(errors, String(name)) as new (about: unknown, details: object) => Error;
    throw new Class(about, { detail: 'a detail', hint: 'Mend.', cause: new TypeError('the cause') });
  },
  throwPlain: () => {
    throw Object.assign(new RangeError('plain'), { code: 'ENOSPC' });
  },
  throwText: () => {
    throw 'a text';
  },
  /** Notes that it runs, waits to be aborted, cleans up, and notes that. */
  wait: async ({ folder }, { signal }) => {
    writeFileSync(`${folder}/running`, '');
    await sleep(600_000, undefined, { signal }).catch(() => undefined);
    await sleep(50);
    writeFileSync(`${folder}/cleaned`, '');
    signal.throwIfAborted();
  },
  /** A system call that does not come back, whatever the task is told. */
  hang: async ({ folder }) => {
    writeFileSync(`${folder}/running`, '');
    await readFile(`${folder}/pipe`);
  },
  unclonable: () => () => undefined,
  exit: () => process.exit(3),
  crash: async () => {
    setTimeout(() => {
      throw new Error('nobody catches it');
    });
    await sleep(600_000);
  },
  eat: () => {
    for (const all = []; ; ) all.push(new Array(1e5).fill(0.5));
  },
};

export async function performTestTask(context: Context, task: CrewTask, progress: Progress): Promise<unknown> {
  return tasks[task.kind]?.(task, context, progress);
}
