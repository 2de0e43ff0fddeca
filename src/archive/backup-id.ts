/** The name of a base backup: when it began, from which WAL segment on it needs WAL at most, and a few random digits. Both directions. */
import { randomBytes } from 'node:crypto';

export type BackupType = 'full' | 'incremental';

export interface BackupId {
  /** `<start, UTC>-<segment>-<full|incr>-<8 hex digits>`: its own order is the order in time, on one clock. */
  readonly id: string;
  /** To the second. */
  readonly startedAt: Date;
  /** The segment of pg_control's redo location when the backup began: it needs no WAL before. */
  readonly segment: string;
  readonly timeline: number;
  readonly type: BackupType;
}

const pattern = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-([0-9A-F]{24})-(full|incr)-([0-9a-f]{8})$/;

/** A new id. Two standbys at 02:00:00 share second, timeline and segment: the random digits tell them apart (H26). */
export function makeBackupId({ startedAt, segment, type }: Pick<BackupId, 'startedAt' | 'segment' | 'type'>): string {
  const time = startedAt.toISOString().replace(/\.\d+/, '').replaceAll(/[-:]/g, '');
  return `${time}-${segment}-${type === 'full' ? 'full' : 'incr'}-${randomBytes(4).toString('hex')}`;
}

/** Undefined when it is none. */
export function parseBackupId(id: string): BackupId | undefined {
  const match = pattern.exec(id);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second, segment = '', kind] = match;
  const time = `${year}-${month}-${day}T${hour}:${minute}:${second}.000Z`;
  const startedAt = new Date(time);
  const timeline = Number.parseInt(segment.slice(0, 8), 16);
  if (Number.isNaN(startedAt.getTime()) || startedAt.toISOString() !== time || timeline === 0) return undefined; // 31 February
  return { id, startedAt, segment, timeline, type: kind === 'full' ? 'full' : 'incremental' };
}
