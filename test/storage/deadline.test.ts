/** The limit on a storage's own time, by a clock that the test turns: nothing here waits. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { StorageError } from '../../src/errors.ts';
import { beforeDeadline, Limit } from '../../src/storage/deadline.ts';
import { FileStorage } from '../../src/storage/file.ts';
import { temporaryFolder } from '../support/folders.ts';
import { waitFor } from '../support/wait.ts';
import { contentOf, pattern } from './conformance.ts';

const limitMs = 1000;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
});

describe('the limit of a put into a folder', () => {
  it('does not count the time that its body takes, before, between and after the chunks', async () => {
    const storage = new FileStorage(temporaryFolder(), { idleMs: limitMs, requestMs: limitMs });
    const body = async function* () {
      await vi.advanceTimersByTimeAsync(10 * limitMs);
      yield pattern(100_000);
      await vi.advanceTimersByTimeAsync(10 * limitMs);
      yield pattern(100_000);
      await vi.advanceTimersByTimeAsync(10 * limitMs);
    };
    await storage.put('part/slow', body(), { ifAbsent: true });
    expect(await contentOf(storage, 'part/slow')).toEqual(Buffer.concat([pattern(100_000), pattern(100_000)]));
    expect(vi.getTimerCount()).toBe(0);
  });

  it('ends at once when it is aborted while its body does not come, and names nothing', async () => {
    const root = temporaryFolder();
    const storage = new FileStorage(root, { idleMs: limitMs, requestMs: limitMs });
    const controller = new AbortController();
    const body = async function* () {
      yield pattern(10);
      controller.abort(new Error('stopped'));
      await new Promise(() => undefined);
    };
    const putting = storage.put('part/never', body(), { ifAbsent: true, signal: controller.signal });
    await expect(putting).rejects.toThrow('stopped');
    await waitFor('its temporary file to go', () => readdirSync(join(root, '.tmp')).length === 0);
    await expect(storage.get('part/never')).rejects.toMatchObject({ message: expect.stringContaining('part/never') });
  });
});

describe('a limit', () => {
  const late = () => new StorageError('no answer');

  /** Whether it is over after each of these steps: a number waits so many milliseconds. */
  const overAfter = async (steps: readonly (number | 'pause' | 'resume')[]): Promise<boolean> => {
    const limit = new Limit(limitMs);
    const never = new Promise<never>(() => undefined);
    const outcome = { isOver: false };
    const stop = new AbortController();
    const waiting = beforeDeadline(never, { signal: stop.signal, limitMs, late, limit }).catch((error: unknown) => {
      outcome.isOver = error instanceof StorageError;
    });
    for (const step of steps) {
      if (typeof step === 'number') await vi.advanceTimersByTimeAsync(step);
      else limit[step]();
    }
    const { isOver } = outcome;
    stop.abort(new Error('the test is over'));
    await waiting;
    expect(vi.getTimerCount()).toBe(0);
    return isOver;
  };

  it.each<readonly [(number | 'pause' | 'resume')[], boolean]>([
    [[999], false],
    [[1000], true],
    [['pause', 100_000], false],
    [['pause', 100_000, 'resume', 999], false],
    [['pause', 100_000, 'resume', 1000], true],
    [[900, 'pause', 5000, 'resume', 900], false],
    [[900, 'pause', 5000, 'resume', 900, 'pause', 5000, 'resume', 1000], true],
    [['pause', 'pause', 'resume', 'resume', 1000], true],
    [['pause', 'resume', 'resume', 'pause', 100_000], false],
  ])('after %j is over: %s', async (steps, isOver) => expect(await overAfter(steps)).toBe(isOver));

  it('is forgotten when the work has ended', async () => {
    expect(await beforeDeadline(Promise.resolve('done'), { signal: undefined, limitMs, late })).toBe('done');
    expect(vi.getTimerCount()).toBe(0);
  });
});
