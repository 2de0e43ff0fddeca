/** How far a long command is: a bar on a terminal, a line now and then in a log. */
import type { SingleBar } from 'cli-progress';
import type { Progress } from '../commands/context.ts';
import { reminderMs } from '../limits.ts';
import { formatBytes, formatDuration } from '../quantities.ts';

export interface Display {
  readonly report: (progress: Progress) => void;
  /** Writes a line of the log where it does not tear the bar. */
  readonly write: (line: string) => void;
  /** Leaves nothing of the bar behind. Nothing is shown afterwards but what is written. */
  readonly end: () => void;
}

/** Where it is shown: standard error. */
export interface Screen {
  readonly columns?: number;
  write(text: string): unknown;
}

/** At most. */
const barWidth = 24;
const framesPerSecond = 4;

/** A bar, drawn by cli-progress, which is loaded with the first report. */
export function barDisplay(screen: Screen): Display {
  const pace = new Pace();
  let latest: Progress | undefined;
  let bar: SingleBar | undefined;
  let isLoading = false;
  let isEnded = false;

  async function load(): Promise<void> {
    isLoading = true;
    const made = await makeBar(screen, () => (latest === undefined ? '' : describeBar(latest, pace.bytesPerSecond())));
    if (isEnded) return;
    bar = made;
    bar.start(1, 0);
    show();
  }

  function show(): void {
    if (latest !== undefined) bar?.update(fraction(latest));
  }

  return {
    report: (progress) => {
      latest = progress;
      pace.note(progress);
      if (!isLoading) load().catch(() => undefined); // without the package there is no bar, and that is all
      show();
    },
    write: (line) => {
      screen.write(bar === undefined ? line : `${lineStart}${line}`);
      bar?.render();
    },
    end: () => {
      isEnded = true;
      bar?.stop();
      bar = undefined;
    },
  };
}

/** An info line every `everyMs`; none when nothing was reported. */
export function lineDisplay(screen: Screen, info: (line: string) => void, everyMs: number = reminderMs): Display {
  const pace = new Pace();
  let latest: Progress | undefined;
  const timer = setInterval(() => {
    if (latest !== undefined) info(describeProgress(latest, pace.bytesPerSecond()));
  }, everyMs);
  timer.unref();
  return {
    report: (progress) => {
      latest = progress;
      pace.note(progress);
    },
    write: (line) => screen.write(line),
    end: () => clearInterval(timer),
  };
}

/** `copied 12.3 GiB of 40.0 GiB (30 %), 85.0 MiB/s, 5 min 34 s left` */
export function describeProgress(progress: Progress, bytesPerSecond: number): string {
  const { what, doneBytes, totalBytes } = progress;
  const share = totalBytes === 0 ? '' : ` of ${formatBytes(Math.max(totalBytes, doneBytes))} (${percent(progress)} %)`;
  return [`${what} ${formatBytes(doneBytes)}${share}`, ...paceWords(progress, bytesPerSecond)].join(', ');
}

function describeBar(progress: Progress, bytesPerSecond: number): string {
  const { what, doneBytes, totalBytes, files } = progress;
  const total = totalBytes === 0 ? '' : ` of ${formatBytes(Math.max(totalBytes, doneBytes))}`;
  const words = [`${formatBytes(doneBytes)}${total}`, ...paceWords(progress, bytesPerSecond), `${files} files`];
  return ` ${String(percent(progress)).padStart(3)} % ${what} ${words.join(', ')}`;
}

function paceWords({ doneBytes, totalBytes }: Progress, bytesPerSecond: number): string[] {
  const leftMs = (1000 * (totalBytes - doneBytes)) / bytesPerSecond;
  const left = Number.isFinite(leftMs) && leftMs > 0 ? [`${formatDuration(leftMs)} left`] : [];
  return [`${formatBytes(bytesPerSecond)}/s`, ...left];
}

/** Rounded down: 100 only when all is done. */
function percent(progress: Progress): number {
  return Math.floor(100 * fraction(progress));
}

function fraction({ doneBytes, totalBytes }: Progress): number {
  return totalBytes === 0 ? 0 : Math.min(1, doneBytes / totalBytes);
}

/** The rate of the last half minute: what counts for the time that is left. */
class Pace {
  readonly #windowMs = 30_000;
  readonly #samples: { readonly atMs: number; readonly bytes: number }[] = [];
  #what = '';

  note({ what, doneBytes: bytes }: Progress, atMs = performance.now()): void {
    if (what !== this.#what) this.#samples.length = 0;
    this.#what = what;
    const last = this.#samples.at(-1);
    // one sample a second, and always the newest
    if (this.#samples.length > 1 && last !== undefined && atMs - (this.#samples.at(-2)?.atMs ?? 0) < 1000)
      this.#samples.pop();
    this.#samples.push({ atMs, bytes });
    while ((this.#samples[1]?.atMs ?? atMs) < atMs - this.#windowMs) this.#samples.shift();
  }

  bytesPerSecond(nowMs = performance.now()): number {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (first === undefined || last === undefined || nowMs <= first.atMs) return 0;
    return (1000 * (last.bytes - first.bytes)) / (nowMs - first.atMs);
  }
}

const lineStart = '\r\u001b[K';

/** A bar whose text is asked for at every frame. */
async function makeBar(screen: Screen, text: () => string): Promise<SingleBar> {
  const { default: cliProgress } = await import('cli-progress');
  /** Its timer keeps no process alive. */
  class UnheldBar extends cliProgress.SingleBar {
    declare timer: NodeJS.Timeout | null;
    override render(): void {
      super.render();
      this.timer?.unref();
    }
  }
  const options = {
    terminal: lineTerminal(screen),
    fps: framesPerSecond,
    barsize: barWidth,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    forceRedraw: true,
    clearOnComplete: true,
    format: (own: object, { progress, maxWidth }: { readonly progress: number; readonly maxWidth: number }) => {
      const words = text();
      const barsize = Math.max(0, Math.min(barWidth, maxWidth - 1 - words.length)); // the words matter more
      return `${cliProgress.Format.BarFormat(progress, { ...own, barsize })}${words}`;
    },
  };
  return new UnheldBar(options);
}

/**
 * cli-progress's own terminal puts the cursor back to where the bar began, which is another line once the log has scrolled, and turns
 * the wrapping of lines off, which nobody would turn on again after a signal.
 */
function lineTerminal(screen: Screen): object {
  const nothing = (): void => undefined;
  const width = (): number => screen.columns || 80;
  return {
    isTTY: () => true,
    getWidth: width,
    cursorSave: nothing,
    cursorRestore: nothing,
    cursor: nothing,
    lineWrapping: nothing,
    cursorTo: () => screen.write('\r'),
    clearRight: () => screen.write('\u001b[K'),
    clearLine: () => screen.write(lineStart),
    newline: () => screen.write('\n'),
    write: (line: string) => screen.write([...line].slice(0, width() - 1).join('')),
  };
}
