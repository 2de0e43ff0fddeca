/** Messages: one line each, in PostgreSQL's form or as JSON, and no text of others can forge one. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type LogLevel, type LogOptions, logLevels, openLog } from '../src/log.ts';

function logged(options: Partial<LogOptions>, say: (log: ReturnType<typeof openLog>) => void): string {
  let text = '';
  const write = (line: string): void => {
    text += line;
  };
  say(openLog({ program: 'wal-push', level: 'debug', format: 'text', ...options, write }));
  return text;
}

it('prints a message, its detail and its hint, a line each', () => {
  const text = logged({}, (log) => log.error('no repository is set', { detail: 'a fact', hint: 'Set it.' }));
  expect(text).toBe('wal-push: error: no repository is set\nwal-push: detail: a fact\nwal-push: hint: Set it.\n');
  expect(logged({ program: 'wal-t' }, (log) => log.warning('late'))).toBe('wal-t: warning: late\n');
});

it.each(logLevels)('prints what is as urgent as the level or more so: %s', (level) => {
  const text = logged({ level }, (log) => {
    for (const severity of logLevels) log[severity]('said');
  });
  const severities: readonly LogLevel[] = logLevels.slice(0, logLevels.indexOf(level) + 1);
  expect(text).toBe(severities.map((severity) => `wal-push: ${severity}: said\n`).join(''));
});

/** All that a terminal or a log reader may take for more than text: C0, DEL, C1, and Unicode's own ends of lines. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
const anyText = fc.array(
  fc.oneof(
    fc.string(),
    fc.constantFrom('\n', '\r\n', '\0', '\t', '\u001b[2J', '\u007f', '\u0085', '\u009b31m', '\u2028', '\u2029'),
    fc.constantFrom('\nwal-push: error: forged', 'grüße', '日本'),
  ),
);

it('prints nothing but one line, whatever stands in the text', () => {
  fc.assert(
    fc.property(anyText, anyText, (message, detail) => {
      const text = logged({}, (log) => log.error(message.join(''), { detail: detail.join('') }));
      const lines = text.split('\n');
      expect(lines).toHaveLength(3);
      expect(lines[0]).toMatch(/^wal-push: error:/);
      expect(lines[1]).toMatch(/^wal-push: detail:/);
      for (const line of lines) expect(line).not.toMatch(control);
    }),
  );
});

it('keeps the text itself', () => {
  const text = logged({}, (log) => log.error('could not read "grüße\t日本"\n\n  at once\n'));
  expect(text).toBe('wal-push: error: could not read "grüße 日本"   at once\n');
});

it('prints JSON, one object a line, that gives every text back', () => {
  fc.assert(
    fc.property(anyText, anyText, (message, hint) => {
      const before = Date.now();
      const text = logged({ format: 'json' }, (log) => log.info(message.join(''), { hint: hint.join('') }));
      expect(text.indexOf('\n')).toBe(text.length - 1);
      const { time, ...entry } = JSON.parse(text) as Record<string, string>;
      expect(entry).toEqual({ program: 'wal-push', severity: 'info', message: message.join(''), hint: hint.join('') });
      expect(Date.parse(time ?? '')).toBeGreaterThanOrEqual(before);
    }),
  );
});
