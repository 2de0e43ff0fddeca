/** Backup history files (`*.backup`), which PostgreSQL archives at the end of a base backup. @see PostgreSQL `xlogbackup.c` */
import { CorruptError } from '../errors.ts';
import type { BackupHistoryName } from './wal-file-name.ts';

const startLine = /^START WAL LOCATION: ([0-9A-F]+\/[0-9A-F]+) \(file ([0-9A-F]{24})\)$/m;

/** @throws CorruptError when the text is not the backup history file that its name says. */
export function checkBackupHistory({ name, segment }: BackupHistoryName, text: string): void {
  const start = startLine.exec(text);
  if (start === null) {
    throw new CorruptError(`"${name}" is not a backup history file`, {
      detail: 'it has no line "START WAL LOCATION"',
    });
  }
  if (start[2] !== segment) {
    throw new CorruptError(`"${name}" belongs to another segment`, {
      detail: `its START WAL LOCATION is in ${start[2]}`,
    });
  }
}
