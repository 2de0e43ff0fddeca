/** Sizes and times in words for people: one form, in every message. */

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** `0 B`, `12.3 GiB`, `312 MiB`: powers of 1024, three digits. */
export function formatBytes(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (rounded(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit > 0 && value < 99.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** As it will be shown, so that no `1024 KiB` is. */
function rounded(value: number): number {
  return value < 99.95 ? value : Math.round(value);
}

/** `0.4 s`, `42 s`, `5 min 10 s`, `1 h 5 min`, `2 d 3 h`. */
export function formatDuration(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.round(seconds / 60);
  const hours = Math.round(seconds / 3600);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two([Math.floor(whole / 60), 'min'], [whole % 60, 's']);
  if (minutes < 24 * 60) return two([Math.floor(minutes / 60), 'h'], [minutes % 60, 'min']);
  return two([Math.floor(hours / 24), 'd'], [hours % 24, 'h']);
}

type Part = readonly [count: number, unit: string];

function two([first, unit]: Part, [second, smaller]: Part): string {
  return second === 0 ? `${first} ${unit}` : `${first} ${unit} ${second} ${smaller}`;
}
