/** H14: a timeline history file is believed only when PostgreSQL would believe it. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CorruptError } from '../../src/errors.ts';
import { formatLsn } from '../../src/postgres/lsn.ts';
import { parseTimelineHistory, type TimelineSwitch } from '../../src/postgres/timeline-history.ts';

const anyAncestors = fc
  .uniqueArray(
    fc.record({
      timeline: fc.integer({ min: 1, max: 2 ** 32 - 2 }),
      end: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    }),
    { minLength: 1, maxLength: 20, selector: ({ timeline }) => timeline },
  )
  .map((switches) => switches.sort((a, b) => a.timeline - b.timeline));

/** As `writeTimeLineHistory` does, with an empty line between. */
function format(ancestors: readonly TimelineSwitch[], reason: string): string {
  return ancestors.map(({ timeline, end }) => `${timeline}\t${formatLsn(end)}\t${reason}\n`).join('\n');
}

it('reads back every history that PostgreSQL writes, whatever the reason says', () => {
  const anyReason = fc.string().map((text) => text.replaceAll(/[\r\n\u2028\u2029]/g, ' '));
  fc.assert(
    fc.property(anyAncestors, anyReason, (ancestors, reason) => {
      const timeline = (ancestors.at(-1)?.timeline ?? 0) + 1;
      expect(parseTimelineHistory(timeline, format(ancestors, reason))).toEqual({ timeline, ancestors });
    }),
  );
});

it('skips comments, empty lines and the ends of lines of another system', () => {
  const text = '# a comment\r\n\r\n1\t0/3000000\tno recovery target specified\r\n\n  # another\n2 0/5000028\n';
  expect(parseTimelineHistory(3, text).ancestors).toEqual([
    { timeline: 1, end: 0x300_0000n },
    { timeline: 2, end: 0x500_0028n },
  ]);
});

it.each([
  ['nothing at all', 3, ''],
  ['comments alone', 3, '# 1\t0/3000000\n'],
  ['zeros', 3, '\0'.repeat(512)],
  ['HTML', 3, '<html>404</html>'],
  ['a timeline that is no number', 3, 'one\t0/3000000\tx\n'],
  ['a hexadecimal timeline', 12, 'A\t0/3000000\tx\n'],
  ['no LSN', 3, '1\n'],
  ['half an LSN', 3, '1\t0\tx\n'],
  ['an LSN with more behind it', 3, '1\t0/3000000x\tx\n'],
  ['timeline 0', 3, '0\t0/3000000\tx\n'],
  ['a timeline twice', 3, '1\t0/3000000\tx\n1\t0/4000000\tx\n'],
  ['timelines that fall', 4, '2\t0/3000000\tx\n1\t0/4000000\tx\n'],
  ['itself as ancestor', 3, '1\t0/3000000\tx\n3\t0/4000000\tx\n'],
  ['a later timeline as ancestor', 3, '1\t0/3000000\tx\n4\t0/4000000\tx\n'],
  ['a sound line and a torn one', 3, '1\t0/3000000\tx\n2\t0/'],
])('refuses %s', (_what, timeline, text) => {
  expect(() => parseTimelineHistory(timeline, text)).toThrow(CorruptError);
  expect(() => parseTimelineHistory(timeline, text)).toThrow(/^[0-9A-F]{8}\.history is not a timeline history file$/);
});
