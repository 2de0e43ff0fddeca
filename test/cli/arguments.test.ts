/** Values of flags: read as pg_basebackup reads them, and refused with a way out. */
import { expect, it } from 'vitest';
import { parseAnnotations, parseMaxRate, parseTablespaceMapping } from '../../src/cli/arguments.ts';

const refusal = (message: string) => expect.objectContaining({ name: 'UsageError', message, hint: expect.any(String) });

it.each([
  ['32', 32 * 1024],
  ['32k', 32 * 1024],
  ['1048576', 2 ** 30],
  ['1024M', 2 ** 30],
  ['1M', 2 ** 20],
  ['1.5M', 1536 * 1024],
  ['100.9', 100 * 1024],
  [' 64 k ', 64 * 1024],
])('reads the rate %j as %d bytes a second', (text, bytes) => expect(parseMaxRate(text)).toBe(bytes));

it.each([
  '',
  '0',
  '-64',
  '31',
  '31k',
  '1048577',
  '1025M',
  '1G',
  '64K',
  '64m',
  '64kk',
  '1e3',
  '0x40',
  'fast',
  'NaN',
  'M',
  '.',
])('refuses the rate %j', (text) =>
  expect(() => parseMaxRate(text)).toThrow(refusal(`--max-rate cannot be "${text}"`)),
);

it.each([
  [[], {}],
  [['a=b', 'why=before the update'], { a: 'b', why: 'before the update' }],
  [['a=b=c', 'empty='], { a: 'b=c', empty: '' }],
  [['__proto__=x'], JSON.parse('{"__proto__":"x"}')],
])('reads the annotations %j', (texts, annotations) => {
  expect(parseAnnotations(texts)).toEqual(annotations);
  expect(Object.keys(parseAnnotations(texts))).toEqual(Object.keys(annotations));
});

it.each([
  [['a'], '--annotate cannot be "a"'],
  [['=b'], '--annotate cannot be "=b"'],
  [[''], '--annotate cannot be ""'],
  [['a=1', 'a=1'], '--annotate gives "a" twice'],
])('refuses the annotations %j', (texts, message) => {
  expect(() => parseAnnotations(texts)).toThrow(refusal(message));
});

it.each([
  [[], []],
  [['/old=/new'], [['/old', '/new']]],
  [
    ['/a=/b', '/c/=/d//e/../f/'],
    [
      ['/a', '/b'],
      ['/c', '/d/f'],
    ],
  ],
  [['/with\\=sign=/to\\=that'], [['/with=sign', '/to=that']]],
  [['/back\\slash=/it\\stays'], [['/back\\slash', '/it\\stays']]],
  [['/two words=/to here'], [['/two words', '/to here']]],
  [['/=/'], [['/', '/']]],
])('reads the tablespace mapping %j', (texts, entries) => {
  expect([...parseTablespaceMapping(texts)]).toEqual(entries);
});

it.each([
  ...['', '/a', '/a=', '=/b', 'a=/b', '/a=b', '/a=/b=/c', '/a\\=/b', '='].map((text): [string[], string] => [
    [text],
    `--tablespace-mapping cannot be "${text}"`,
  ]),
  [['/a=/b', '/a/=/c'], '--tablespace-mapping gives "/a" twice'],
])('refuses the tablespace mapping %j', (texts, message) => {
  expect(() => parseTablespaceMapping(texts)).toThrow(refusal(message));
});
