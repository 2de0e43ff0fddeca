/** What a command is given when a test calls it in its own process: a repository's settings, and a log that is kept. */
import type { Context } from '../../src/commands/context.ts';
import { inlineCrew } from '../../src/commands/crew.ts';
import { performTask } from '../../src/commands/crew-tasks.ts';
import { readSettings } from '../../src/config.ts';
import { openLog } from '../../src/log.ts';

export interface TestContext extends Context {
  /** All that was logged. */
  readonly lines: string[];
}

/** Retries nothing. `members` are the context's own, where a test has others. */
export function makeContext(
  settings: Readonly<Record<string, string>>,
  members: Partial<Context> & Pick<Context, 'workingDirectory'>,
): TestContext {
  const impatient = { WALT_WAL_FETCH_TIMEOUT: '1ms', WALT_WAL_FETCH_STANDBY_TIMEOUT: '1ms' };
  const entries = Object.entries({ ...impatient, ...settings }).map(([name, value]) => [
    name,
    { value, source: 'test' },
  ]);
  const lines: string[] = [];
  const context: TestContext = {
    settings: readSettings(Object.fromEntries(entries)),
    log: openLog({ program: 'test', level: 'debug', format: 'text', write: (line) => lines.push(line) }),
    signal: new AbortController().signal,
    host: 'test-host',
    libpq: {},
    crew: (size) =>
      inlineCrew((task, progress, signal) => {
        const any = AbortSignal.any([context.signal, signal]);
        return performTask({ ...context, signal: any }, task, progress);
      }, size),
    ...members,
    lines,
  };
  return context;
}
