/** WAL locations are read and printed as PostgreSQL does. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { formatLsn, parseLsn } from '../../src/postgres/lsn.ts';

const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

it('reads back every LSN that it prints', () => {
  fc.assert(
    fc.property(anyLsn, (lsn) => {
      expect(parseLsn(formatLsn(lsn))).toBe(lsn);
    }),
  );
});

it.each([
  ['0/0', 0n, '0/0'],
  ['16/B374D848', 0x16_b374_d848n, '16/B374D848'],
  ['16/b374d848', 0x16_b374_d848n, '16/B374D848'],
  ['1/00000028', 0x1_0000_0028n, '1/28'], // PostgreSQL 19 pads
  ['FFFFFFFF/FFFFFFFF', 2n ** 64n - 1n, 'FFFFFFFF/FFFFFFFF'],
])('reads %s', (text, lsn, printed) => {
  expect(parseLsn(text)).toBe(lsn);
  expect(formatLsn(lsn)).toBe(printed);
});

it.each([
  '',
  '/',
  '0',
  '0/',
  '/0',
  '1/2/3',
  '123456789/0',
  '0/123456789',
  '-1/0',
  '0x1/0',
  ' 1/2',
  '1/2 ',
  '1/2\n',
  'G/0',
])('refuses %j', (text) => expect(parseLsn(text)).toBeUndefined());
