/** `backup_label` and `tablespace_map`, as PostgreSQL writes and reads them. */
import { mkdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, onTestFinished } from 'vitest';
import { CorruptError } from '../../src/errors.ts';
import { formatTablespaceMap, parseBackupLabel, parseTablespaceMap } from '../../src/postgres/backup-label.ts';
import { segmentNameAt } from '../../src/postgres/wal-file-name.ts';
import { giveAway } from '../support/account.ts';
import { PostgresServer } from '../support/postgres.ts';

const sound = `START WAL LOCATION: 16/B374D848 (file 0000000200000016000000B3)
CHECKPOINT LOCATION: 16/B374D8A0
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-20 08:30:00 UTC
LABEL: nightly
START TIMELINE: 2
`;

it('reads every line', () => {
  expect(parseBackupLabel(sound)).toEqual({
    startLsn: 0x16b374d848n,
    startSegment: '0000000200000016000000B3',
    checkpointLsn: 0x16b374d8a0n,
    timeline: 2,
    backupFrom: 'standby',
    label: 'nightly',
    startTime: '2026-11-20 08:30:00 UTC',
  });
});

it.each([
  '',
  'ü',
  ' a ',
  'x\nSTART TIMELINE: 7',
  'x\nBACKUP FROM: primary\nSTART TIME: never\nLABEL: y\nSTART TIMELINE: 9\n',
])('is not led astray by the label %j', (label) => {
  const parsed = parseBackupLabel(sound.replace('nightly', () => label));
  expect(parsed).toMatchObject({ label, timeline: 2, backupFrom: 'standby', startTime: '2026-11-20 08:30:00 UTC' });
});

it.each([
  ['empty', ''],
  ['cut', sound.slice(0, -1)],
  ['without its first line', sound.slice(sound.indexOf('\n') + 1)],
  ['without its timeline', sound.replace(/START TIMELINE.*\n/, '')],
  ['preceded by another line', `x\n${sound}`],
  ['followed by another line', `${sound}x\n`],
  ['of an increment', `${sound}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n`],
  ['from somewhere else', sound.replace('standby', 'nowhere')],
  ['by another method', sound.replace('streamed', 'pg_start_backup')],
  ['with an LSN that is none', sound.replace('16/B374D848', '123456789/0')],
])('refuses a label that is %s', (_what, text) => expect(() => parseBackupLabel(text)).toThrow(CorruptError));

it('reads a map with every character that is escaped', () => {
  expect(parseTablespaceMap(Buffer.from('16384 /a b\n\r\n16385 /x\\\ny\\\rz\\\\\\q\xff \n', 'latin1'))).toEqual([
    { oid: '16384', location: '/a b' },
    { oid: '16385', location: '/x\ny\rz\\q\xff ' },
  ]);
  expect(parseTablespaceMap(Buffer.alloc(0))).toEqual([]);
});

it('gives back every map that it writes', () => {
  const char = fc.oneof(
    fc.constantFrom('\\', '\n', '\r', ' ', '/', '\xff'),
    fc.integer({ min: 1, max: 255 }).map((byte) => String.fromCharCode(byte)),
  );
  const oid = fc.integer({ min: 1, max: 0xffff_ffff }).map(String);
  const tablespace = fc.record({ oid, location: fc.string({ unit: char, minLength: 1 }) }, { noNullPrototype: true });
  fc.assert(
    fc.property(fc.array(tablespace), (tablespaces) => {
      expect(parseTablespaceMap(formatTablespaceMap(tablespaces))).toEqual(tablespaces);
    }),
  );
});

it.each([
  '16384',
  '16384 ',
  '16384\n',
  '16384 \n',
  ' /a\n',
  '/a\n',
  'x /a\n',
  '16384 /a',
  '16384 /a\\\n',
  '1 /a\\',
  '12345678901 /a\n',
  '1 /a\0\n',
  '-1 /a\n',
])('refuses the map %j', (text) => expect(() => parseTablespaceMap(Buffer.from(text))).toThrow(CorruptError));

it.each([15, 17, 18])(
  'reads what pg_backup_stop of PostgreSQL %i returns, and writes the map byte for byte',
  async (major) => {
    const server = PostgresServer.create({ major });
    onTestFinished(() => server.remove());
    await server.start();
    const client = await server.connect();
    const locations = ['plain', 'back\\slash', 'new\nline\rs', 'ü '].map((name) => join(server.folder, name));
    for (const [index, location] of locations.entries()) {
      mkdirSync(location, { mode: 0o700 });
      giveAway(location);
      await client.query(`create tablespace space${index} location '${location}'`);
    }
    const {
      rows: [started],
    } = await client.query(`select lsn::text, pg_walfile_name(lsn) as segment from pg_backup_start($1, true) lsn`, [
      'two\nlines',
    ]);
    const {
      rows: [stopped],
    } = await client.query('select labelfile, spcmapfile from pg_backup_stop(false)');
    await client.end();
    const { startLsn, checkpointLsn, ...label } = parseBackupLabel(stopped.labelfile);
    expect(label).toMatchObject({
      startSegment: started.segment,
      timeline: 1,
      backupFrom: 'primary',
      label: 'two\nlines',
    });
    expect(segmentNameAt(1, startLsn, 2 ** 20)).toBe(started.segment);
    expect(started.lsn).toBe(`0/${startLsn.toString(16).toUpperCase()}`);
    expect(checkpointLsn).toBeGreaterThanOrEqual(startLsn);

    const map = Buffer.from(stopped.spcmapfile);
    const tablespaces = parseTablespaceMap(map);
    expect(formatTablespaceMap(tablespaces)).toEqual(map);
    const links = tablespaces.map(({ oid }) => readlinkSync(join(server.dataDirectory, 'pg_tblspc', oid), 'latin1'));
    expect(tablespaces.map(({ location }) => location)).toEqual(links);
    expect(links.map((link) => Buffer.from(link, 'latin1').toString()).sort()).toEqual([...locations].sort());
  },
);
