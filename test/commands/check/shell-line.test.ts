/** The reading of shell lines, compared with sh itself: what it makes of words is what is told here. */
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseShellLine, type ShellCommand } from '../../../src/commands/check/shell-line.ts';

const one: ShellCommand = {
  assignments: {},
  words: [],
  redirections: [],
  isNegated: false,
  next: undefined,
};

describe('a line of sh', () => {
  it.each<[string, readonly Partial<ShellCommand>[]]>([
    ['', []],
    ['   ', []],
    ['wal-push %p %f', [{ words: ['wal-push', '%p', '%f'] }]],
    ['A=1 B="x y" /bin/p "%p"', [{ assignments: { A: '1', B: 'x y' }, words: ['/bin/p', '%p'] }]],
    ["A='it'\\''s' p", [{ assignments: { A: "it's" }, words: ['p'] }]],
    ['p;', [{ words: ['p'] }]],
    ['p &', [{ words: ['p'], next: '&' }]],
    ['p || true', [{ words: ['p'], next: '||' }, { words: ['true'] }]],
    [
      'a&&b|c;d',
      [{ words: ['a'], next: '&&' }, { words: ['b'], next: '|' }, { words: ['c'], next: ';' }, { words: ['d'] }],
    ],
    ['! p', [{ words: ['p'], isNegated: true }]],
    ['p 2>/dev/null >> log 2>&1', [{ words: ['p'], redirections: ['2>/dev/null', '>>log', '2>&1'] }]],
    ['p # || true', [{ words: ['p'] }]],
    ['p a#b', [{ words: ['p', 'a#b'] }]],
    ['p \\\n  q', [{ words: ['p', 'q'] }]],
    ['a\nb', [{ words: ['a'], next: ';' }, { words: ['b'] }]],
    ['"a b"=c', [{ words: ['a b=c'] }]],
    ['p "a\\"b\\c"', [{ words: ['p', 'a"b\\c'] }]],
    ["p ''", [{ words: ['p', ''] }]],
    ['$HOME/p', [{ words: ['$HOME/p'] }]],
  ])('%j', (text, commands) => {
    expect(parseShellLine(text)).toEqual(commands.map((command) => ({ ...one, ...command })));
  });

  it.each([
    "p 'x",
    'p "x',
    'p \\',
    '(p)',
    '{ p; }',
    'if a; then b; fi',
    'for a in b; do c; done',
    'p $(q)',
    'p "$(q)"',
    'p `q`',
    'p <<E',
    'p ||',
    '&& p',
    'p ;; q',
  ])('%j is left to the shell', (text) => {
    expect(parseShellLine(text)).toBeUndefined();
  });

  it('has the words that sh makes of it, however they are quoted', () => {
    const plain = fc.stringMatching(/^[A-Za-z0-9_/.:@%+,-]{1,8}$/);
    const odd = fc.stringMatching(/^[ A-Za-z0-9;|&<>()#*?"~!{}=[\]-]{0,8}$/);
    const word = fc.oneof(
      plain,
      odd.map((text) => `'${text}'`),
      odd.map((text) => `"${text.replaceAll('"', '\\"')}"`),
      odd.map((text) => text.replace(/[^A-Za-z0-9]/g, '\\$&') || "''"),
      fc.tuple(plain, odd).map(([bare, quoted]) => `${bare}'${quoted}'`),
    );
    const lines = fc.sample(fc.array(word, { minLength: 1, maxLength: 6 }), { numRuns: 300, seed: 1 });
    const texts = lines.map((words) => `p ${words.join(' ')}`);
    const script = texts.map((text) => `${text}\necho end\n`).join('');
    const { stdout } = spawnSync('sh', ['-c', `p() { printf '<%s>\\n' "$@"; }\n${script}`], { encoding: 'utf8' });
    const said = stdout.split('end\n');
    for (const [index, text] of texts.entries()) {
      const [command] = parseShellLine(text) ?? [];
      expect(
        command?.words
          .slice(1)
          .map((found) => `<${found}>\n`)
          .join(''),
        text,
      ).toBe(said[index]);
    }
  });

  it('never throws', () => {
    fc.assert(fc.property(fc.string({ maxLength: 60, unit: 'grapheme' }), (text) => void parseShellLine(text)));
    const shellish = fc.string({ unit: fc.constantFrom(...'ap%f &|;<>()\'"\\$`#!=\n2'), maxLength: 30 });
    fc.assert(
      fc.property(shellish, (text) => void parseShellLine(text)),
      { numRuns: 2000 },
    );
  });
});
