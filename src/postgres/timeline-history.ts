/** Timeline history files: where each ancestor of a timeline ended. @see PostgreSQL `src/backend/access/transam/timeline.c` */
import { CorruptError } from '../errors.ts';
import { type Lsn, parseLsn } from './lsn.ts';
import { formatHistoryName } from './wal-file-name.ts';

/** An ancestor, and the LSN at which the next timeline leaves it. */
export interface TimelineSwitch {
  readonly timeline: number;
  readonly end: Lsn;
}

/** A timeline and its ancestors, the oldest first. */
export interface TimelineHistory {
  readonly timeline: number;
  readonly ancestors: readonly TimelineSwitch[];
}

/**
 * Reads lines of `<timeline, decimal> <TAB> <LSN> <TAB> <reason>`; `#` begins a comment.
 * @throws CorruptError for anything that PostgreSQL would not accept, and for a file without a single ancestor, which it never writes.
 */
export function parseTimelineHistory(timeline: number, text: string): TimelineHistory {
  const ancestors: TimelineSwitch[] = [];
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    if (trimmed === '' || trimmed.startsWith('#')) continue;
    const [id = '', lsn = ''] = trimmed.split(/\s+/);
    const end = parseLsn(lsn);
    if (!/^\d{1,10}$/.test(id) || end === undefined) throw unsound(timeline, trimmed);
    const ancestor = { timeline: Number(id), end };
    const before = ancestors.at(-1)?.timeline ?? 0;
    if (ancestor.timeline <= before || ancestor.timeline >= timeline) {
      throw unsound(timeline, trimmed);
    }
    ancestors.push(ancestor);
  }
  if (ancestors.length === 0) throw unsound(timeline, 'it names no ancestor');
  return { timeline, ancestors };
}

function unsound(timeline: number, detail: string): CorruptError {
  const name = formatHistoryName(timeline);
  return new CorruptError(`${name} is not a timeline history file`, { detail });
}
