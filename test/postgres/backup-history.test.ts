/** A backup history file is archived only under its own name. */
import { expect, it } from 'vitest';
import { CorruptError } from '../../src/errors.ts';
import { checkBackupHistory } from '../../src/postgres/backup-history.ts';
import { parseWalFileName } from '../../src/postgres/wal-file-name.ts';

const segment = '000000010000000000000002';
const sound = `START WAL LOCATION: 0/2000028 (file ${segment})
STOP WAL LOCATION: 0/2000138 (file ${segment})
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 08:30:00 UTC
LABEL: test
START TIMELINE: 1
STOP TIME: 2026-11-20 08:30:01 UTC
STOP TIMELINE: 1
`;

function check(text: string): void {
  const name = parseWalFileName(`${segment}.00000028.backup`);
  if (name?.kind !== 'backup') throw new Error('no backup history name');
  checkBackupHistory(name, text);
}

it('accepts the file of its name', () => expect(check(sound)).toBeUndefined());

it.each([
  ['empty', '', /is not a backup history file/],
  ['zeros', '\0'.repeat(300), /is not a backup history file/],
  ['without its first line', sound.slice(sound.indexOf('\n') + 1), /is not a backup history file/],
  ['with a label that imitates the line', `LABEL: ${sound.split('\n')[0]}`, /is not a backup history file/],
  ['of another segment', sound.replaceAll('0002)', '0003)'), /belongs to another segment/],
  ['of another timeline', sound.replaceAll('file 00000001', 'file 00000002'), /belongs to another segment/],
])('refuses a file that is %s', (_what, text, message) => {
  expect(() => check(text)).toThrow(CorruptError);
  expect(() => check(text)).toThrow(message);
});
