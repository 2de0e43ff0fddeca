/** Sizes and times as people read them. */
import { expect, it } from 'vitest';
import { formatBytes, formatDuration } from '../src/quantities.ts';

it.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1.0 KiB'],
  [1536, '1.5 KiB'],
  [99.94 * 1024, '99.9 KiB'],
  [99.96 * 1024, '100 KiB'],
  [1023.4 * 1024, '1023 KiB'],
  [1023.6 * 1024, '1.0 MiB'],
  [85 * 2 ** 20, '85.0 MiB'],
  [12.34 * 2 ** 30, '12.3 GiB'],
  [312 * 2 ** 30, '312 GiB'],
  [10 * 2 ** 40, '10.0 TiB'],
  [2 ** 63, '8192 PiB'],
  [1234.5678, '1.2 KiB'],
  [0.4, '0 B'],
])('writes %d bytes as %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

it.each([
  [0, '0.0 s'],
  [420, '0.4 s'],
  [9949, '9.9 s'],
  [9950, '10 s'],
  [59_499, '59 s'],
  [59_500, '1 min'],
  [310_000, '5 min 10 s'],
  [3_599_499, '59 min 59 s'],
  [3_599_500, '1 h'],
  [3_900_000, '1 h 5 min'],
  [7_199_999, '2 h'],
  [86_400_000, '1 d'],
  [86_369_999, '23 h 59 min'],
  [86_370_000, '1 d'],
  [183_600_000, '2 d 3 h'],
])('writes %d ms as %s', (milliseconds, text) => expect(formatDuration(milliseconds)).toBe(text));
