/** Paths as bytes: every name that a file system can hold, to and from what is stored and shown. */
import { readdirSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { formatPath, parsePath, showPath, toBytePath, toFilePath } from '../src/byte-path.ts';
import { temporaryFolder } from './support/folders.ts';

const anyPath = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
  fc.string({ minLength: 1, unit: 'grapheme' }).map(toBytePath),
);

it('H24: brings back any name through the members of a line, which are JSON', () => {
  fc.assert(
    fc.property(anyPath, (path) => {
      expect(parsePath(JSON.parse(JSON.stringify(formatPath(path))))).toBe(path);
      expect(toFilePath(path).toString('latin1')).toBe(path);
    }),
  );
});

it('orders paths as their bytes', () => {
  fc.assert(
    fc.property(anyPath, anyPath, (a, b) => {
      expect(a < b).toBe(Buffer.compare(toFilePath(a), toFilePath(b)) < 0);
    }),
  );
});

it.each([
  ['base', { path: 'base' }, 'base'],
  ['caf\xc3\xa9', { path: 'café' }, 'café'],
  ['caf\xe9', { pathHex: '636166e9' }, 'caf\\xe9'],
  ['\xff/\n', { pathHex: 'ff2f0a' }, '\\xff/\\x0a'],
  ['', { path: '' }, ''],
])('stores and shows %j', (path, members, shown) => {
  expect(formatPath(path)).toEqual(members);
  expect(parsePath(members)).toBe(path);
  expect(showPath(path)).toBe(shown);
});

it.each<[string, object]>([
  ['no member', {}],
  ['both members', { path: 'a', pathHex: 'ff' }],
  ['UTF-8 as hexadecimal: a path has one form', { pathHex: '61' }],
  ['no hexadecimal', { pathHex: 'f' }],
  ['hexadecimal in capitals', { pathHex: 'FF' }],
  ['empty hexadecimal', { pathHex: '' }],
  ['half a surrogate pair', { path: '\ud800' }],
  ['a number', { path: 1 }],
  ['a list', { pathHex: ['ff'] }],
])('takes no path from %s', (_, members) => expect(parsePath(members)).toBeUndefined());

it('H24: finds and writes the very file that bears the name', () => {
  const folder = temporaryFolder();
  const names = ['\xff\xfe', 'caf\xe9', 'caf\xc3\xa9'];
  for (const name of names) writeFileSync(toFilePath(`${toBytePath(folder)}/${name}`), '');
  expect(readdirSync(folder, { encoding: 'latin1' }).sort()).toEqual([...names].sort());
});
