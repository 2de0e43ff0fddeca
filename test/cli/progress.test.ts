/** Progress: words for a log, and a bar that neither tears a line of the log nor leaves anything behind. */
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { barDisplay, type Display, describeProgress, lineDisplay } from '../../src/cli/progress.ts';
import type { Progress } from '../../src/commands/context.ts';
import { waitFor } from '../support/wait.ts';

const gibibyte = 2 ** 30;
const mebibyte = 2 ** 20;

function progressOf(doneBytes: number, totalBytes: number): Progress {
  return { what: 'copied', doneBytes, totalBytes, files: 1234 };
}

it.each([
  [12.34 * gibibyte, 40 * gibibyte, 85 * mebibyte, 'copied 12.3 GiB of 40.0 GiB (30 %), 85.0 MiB/s, 5 min 33 s left'],
  [0, 40 * gibibyte, 0, 'copied 0 B of 40.0 GiB (0 %), 0 B/s'],
  [40 * gibibyte - 1, 40 * gibibyte, 1, 'copied 40.0 GiB of 40.0 GiB (99 %), 1 B/s, 1.0 s left'],
  [40 * gibibyte, 40 * gibibyte, mebibyte, 'copied 40.0 GiB of 40.0 GiB (100 %), 1.0 MiB/s'],
  [41 * gibibyte, 40 * gibibyte, mebibyte, 'copied 41.0 GiB of 41.0 GiB (100 %), 1.0 MiB/s'],
  [5 * mebibyte, 0, mebibyte, 'copied 5.0 MiB, 1.0 MiB/s'],
])('describes %d of %d bytes at %d a second', (done, total, rate, text) => {
  expect(describeProgress(progressOf(done, total), rate)).toBe(text);
});

/** What stands on a terminal after all that was written to it. */
class Terminal {
  readonly columns: number;
  readonly lines: string[] = [''];
  #column = 0;
  /** Everything that ever stood in the last line. */
  seen = '';

  constructor(columns = 120) {
    this.columns = columns;
  }

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal is told
    for (const [piece] of text.matchAll(/\u001b\[[0-9;]*[A-Za-z]|\u001b.|./gsu)) this.#put(piece);
    this.seen += `${this.lines.at(-1)}\n`;
  }

  #put(piece: string): void {
    const line = [...(this.lines.pop() ?? '')];
    if (piece === '\r') this.#column = 0;
    else if (piece === '\u001b[K') line.length = Math.min(line.length, this.#column);
    else if (piece.startsWith('\u001b')) throw new Error(`the terminal was told ${JSON.stringify(piece)}`);
    else if (piece !== '\n') line[this.#column++] = piece;
    if (line.length >= this.columns) throw new Error(`a line is wrapped: ${line.join('')}`);
    this.lines.push(line.join(''));
    if (piece !== '\n') return;
    this.lines.push('');
    this.#column = 0;
  }
}

function open(columns?: number): { readonly terminal: Terminal; readonly display: Display } {
  const terminal = new Terminal(columns);
  const display = barDisplay(terminal);
  onTestFinished(() => display.end());
  return { terminal, display };
}

describe('a bar', () => {
  it('shows how much is done, of what, how fast and how long it will take', async () => {
    const { terminal, display } = open();
    display.report(progressOf(0, 4 * gibibyte));
    await waitFor('the bar', () => terminal.seen.includes(' 0 % copied 0 B of 4.0 GiB, 0 B/s, 1234 files'));
    display.report(progressOf(gibibyte, 4 * gibibyte));
    await waitFor('progress', () =>
      /█{6}░{18} {2}25 % copied 1\.0 GiB of 4\.0 GiB, .+\/s, .+ left/.test(terminal.seen),
    );
    display.end();
  });

  it.each([20, 60, 80])('does not wrap in %d columns, and the words come first', async (columns) => {
    const { terminal, display } = open(columns);
    display.report(progressOf(gibibyte / 2, gibibyte));
    const words = ' 50 % copied 512 MiB of 1.0 GiB, 0 B/s, 1234 files'.slice(0, columns - 2);
    await waitFor('the bar', () => terminal.seen.includes(words));
    display.end();
    expect(terminal.seen.includes('█')).toBe(columns > 52);
  });

  it('lets every line of the log stand whole, and leaves nothing behind', async () => {
    const { terminal, display } = open();
    const written: string[] = [];
    const say = (line: string): void => {
      written.push(line);
      display.write(`${line}\n`);
    };
    say('before the bar');
    display.report(progressOf(0, gibibyte));
    await waitFor('the bar', () => terminal.seen.includes('%'));
    for (const part of [1, 2, 3]) {
      display.report(progressOf((part * gibibyte) / 4, gibibyte));
      say(`line ${part}, which is shorter`);
      expect(terminal.lines.at(-1)).toMatch(/^[█░]{24} .* %/); // and the bar is there again
      say(`line ${part} ${'and longer '.repeat(8)}`.trimEnd());
      await waitFor('the next frame', () => terminal.lines.at(-1)?.includes(`${part * 25} %`) ?? false);
    }
    display.end();
    say('after the bar');
    expect(terminal.lines).toEqual([...written, '']);
  });

  it('that was ended while its package was being loaded is never drawn', async () => {
    const { terminal, display } = open();
    display.report(progressOf(0, gibibyte));
    display.end();
    display.report(progressOf(1, gibibyte));
    await import('cli-progress');
    await new Promise(setImmediate);
    expect(terminal.lines).toEqual(['']);
  });
});

describe('a log', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('is told every half minute what was reported last and the rate since, and nothing when it is over', () => {
    const said: string[] = [];
    const display = lineDisplay(new Terminal(), (line) => said.push(line));
    for (let second = 0; second <= 130; second += 1) {
      display.report(progressOf(second < 60 ? second * mebibyte : 60 * mebibyte, 160 * mebibyte));
      vi.advanceTimersByTime(1000);
    }
    expect(said).toEqual([
      'copied 29.0 MiB of 160 MiB (18 %), 990 KiB/s, 2 min 16 s left',
      'copied 59.0 MiB of 160 MiB (36 %), 992 KiB/s, 1 min 44 s left',
      'copied 60.0 MiB of 160 MiB (37 %), 64.0 KiB/s, 26 min 40 s left',
      'copied 60.0 MiB of 160 MiB (37 %), 0 B/s',
    ]);
    display.end();
    vi.advanceTimersByTime(600_000);
    expect(said).toHaveLength(4);
  });

  it('is told nothing where nothing was reported', () => {
    const said: string[] = [];
    const display = lineDisplay(new Terminal(), (line) => said.push(line));
    vi.advanceTimersByTime(600_000);
    display.end();
    expect(said).toEqual([]);
  });
});
