/** `backup_label` and `tablespace_map`: where a base backup's replay begins, and where its tablespaces were. @see PostgreSQL `xlogbackup.c`, `xlogrecovery.c` */
import assert from 'node:assert';
import type { BytePath } from '../byte-path.ts';
import { CorruptError } from '../errors.ts';
import { type Lsn, parseLsn } from './lsn.ts';

export interface BackupLabel {
  readonly startLsn: Lsn;
  /** The name of the segment that holds `startLsn`. */
  readonly startSegment: string;
  readonly checkpointLsn: Lsn;
  readonly timeline: number;
  readonly backupFrom: 'primary' | 'standby';
  /** What `pg_backup_start` was given: any text, lines of its own included. */
  readonly label: string;
  /** As the server printed it, in its `log_timezone`: "2026-11-20 08:30:00 UTC". */
  readonly startTime: string;
}

/** The lines in their order, and nothing else, since a label may imitate any of them. PostgreSQL 17's increments add lines, which no full backup has. */
const labelPattern = new RegExp(
  [
    '^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \\(file ([0-9A-F]{24})\\)',
    'CHECKPOINT LOCATION: ([0-9A-F]+/[0-9A-F]+)',
    'BACKUP METHOD: streamed',
    'BACKUP FROM: (primary|standby)',
    'START TIME: (.+)',
    'LABEL: ([\\s\\S]*)',
    'START TIMELINE: ([0-9]{1,10})\n$',
  ].join('\n'),
);

/** Reads the label file that `pg_backup_stop` returns. @throws CorruptError when it is not the label of a full backup as PostgreSQL 15 to 18 write it. */
export function parseBackupLabel(text: string): BackupLabel {
  const match = labelPattern.exec(text);
  if (match === null) {
    const detail = `it begins with ${JSON.stringify(text.slice(0, 60))}`;
    throw new CorruptError('the backup label is none that PostgreSQL writes', { detail });
  }
  const [, start = '', startSegment = '', checkpoint = '', from, startTime = '', label = '', timeline] = match;
  const startLsn = parseLsn(start);
  const checkpointLsn = parseLsn(checkpoint);
  if (startLsn === undefined || checkpointLsn === undefined) {
    throw new CorruptError('the backup label has no sound WAL location', { detail: `it says ${start}, ${checkpoint}` });
  }
  const backupFrom = from === 'standby' ? 'standby' : 'primary';
  return { startLsn, startSegment, checkpointLsn, timeline: Number(timeline), backupFrom, label, startTime };
}

export interface TablespaceLocation {
  /** Decimal, the name of its link in `pg_tblspc`. */
  readonly oid: string;
  /** Where the link leads: an absolute path. */
  readonly location: BytePath;
}

const oidPattern = /^[0-9]{1,10}$/;

/** Reads `tablespace_map`: lines of OID, one space, location. @throws CorruptError for anything that PostgreSQL would refuse. */
export function parseTablespaceMap(text: Buffer): readonly TablespaceLocation[] {
  const tablespaces: TablespaceLocation[] = [];
  let line = '';
  let isEscaped = false;
  for (const char of text.toString('latin1')) {
    if (!isEscaped && (char === '\n' || char === '\r')) {
      if (line !== '') tablespaces.push(parseMapLine(line));
      line = '';
    } else if (!isEscaped && char === '\\') {
      isEscaped = true;
    } else {
      line += char;
      isEscaped = false;
    }
  }
  if (line !== '' || isEscaped) throw unsoundMap(line);
  return tablespaces;
}

function parseMapLine(line: string): TablespaceLocation {
  const space = line.indexOf(' ');
  const [oid, location] = [line.slice(0, space), line.slice(space + 1)];
  if (space === -1 || !oidPattern.test(oid) || location === '' || location.includes('\0')) throw unsoundMap(line);
  return { oid, location };
}

function unsoundMap(line: string): CorruptError {
  return new CorruptError('the tablespace map is none that PostgreSQL writes', {
    detail: `one line is ${JSON.stringify(line.slice(0, 60))}`,
  });
}

/** The inverse of `parseTablespaceMap`: a backslash stands before every newline, carriage return and backslash of a location. */
export function formatTablespaceMap(tablespaces: readonly TablespaceLocation[]): Buffer {
  const lines = tablespaces.map(({ oid, location }) => {
    assert(oidPattern.test(oid) && location !== '' && !location.includes('\0'));
    return `${oid} ${location.replace(/[\\\r\n]/g, '\\$&')}\n`;
  });
  return Buffer.from(lines.join(''), 'latin1');
}
