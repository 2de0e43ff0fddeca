/** Does WAL still arrive? The age of the newest segment alone does not tell: an idle server archives nothing. */
import { parseLsn } from '../../postgres/lsn.ts';
import { segmentStart } from '../../postgres/wal-file-name.ts';
import { formatDuration } from '../../quantities.ts';
import { type Check, type Finding, failed, ok, warning } from './finding.ts';
import type { Subject } from './subject.ts';
import type { NewestWal } from './wal-names.ts';

export const wal: Check = {
  name: 'wal',
  about: 'the newest archived WAL is young enough, or the server has written none since',
  async look(subject) {
    const newest = await subject.newestWal.own();
    if (newest === undefined) {
      return failed('no WAL segment of this cluster is archived', {
        hint: 'Look at the log of PostgreSQL: it says why archive_command fails. "select pg_switch_wal()" ends a segment now.',
      });
    }
    const ageMs = Math.max(0, Date.now() - newest.storedAt.getTime());
    const figures = { wal_age_seconds: Math.round(ageMs / 1000), wal_segments: newest.segments };
    const seen = { newest, ageMs, written: await writtenSince(subject, newest) };
    return { ...judge(subject, seen), figures };
  },
};

/** What the server has written that is not archived. */
interface Written {
  /** Segments that it has ended, and those it has begun behind the newest archived one: 1 is the one that it writes to. */
  readonly segments: number;
  /** In the one that it writes to. */
  readonly bytes: number;
  /** 0: off. */
  readonly archiveTimeoutSeconds: number;
}

const question = `
  select (case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
               else pg_current_wal_lsn() end)::text as lsn,
         (select setting from pg_settings where name = 'wal_segment_size') as size,
         (select setting from pg_settings where name = 'archive_timeout') as timeout`;

/** Undefined where no server is known, or it has not told. */
async function writtenSince(subject: Subject, { file }: NewestWal): Promise<Written | undefined> {
  const server = await subject.server.get().catch(() => undefined);
  if (server === undefined) return undefined;
  type Row = { readonly lsn: string | null; readonly size: string; readonly timeout: string };
  const [row] = await server.session.query<Row>('ask the server how far it has written', question);
  const lsn = parseLsn(row?.lsn ?? '');
  const size = Number(row?.size);
  const start = segmentStart(file, size);
  if (row === undefined || lsn === undefined || start === undefined) return undefined;
  return {
    segments: Number(lsn / BigInt(size) - start / BigInt(size)),
    bytes: Number(lsn % BigInt(size)),
    archiveTimeoutSeconds: Number(row.timeout),
  };
}

/** What an idle server writes into a new segment without a transaction: a checkpoint, the running transactions. */
const idleBytes = 8192;

interface Seen {
  readonly newest: NewestWal;
  readonly ageMs: number;
  readonly written: Written | undefined;
}

function judge({ limits: { maxWalAgeMs } }: Subject, { newest, ageMs, written }: Seen): Finding {
  const { name } = newest.file;
  const message = `the newest archived segment came ${formatDuration(ageMs)} ago`;
  if (ageMs <= maxWalAgeMs) return ok(message, { detail: name });
  const limit = `it may be ${formatDuration(maxWalAgeMs)} (--max-wal-age)`;
  if (written === undefined) {
    return warning(message, {
      detail: `${name}; ${limit}, unless nothing was written: no server could be asked`,
      hint: 'Run the check where the server is, or look there whether it archives: pg_stat_archiver.',
    });
  }
  if (written.segments > 1) {
    return failed(message, {
      detail: `${name}; ${limit}, and the server has ended ${written.segments - 1} segments since`,
      hint: 'Look at the log of PostgreSQL, which says why archive_command fails, and at pg_stat_archiver.',
    });
  }
  if (written.segments === 1 && written.bytes > idleBytes && written.archiveTimeoutSeconds === 0) {
    return warning(message, {
      detail: `${name}; ${limit}, and what was written since stands in a segment that is not full`,
      hint: 'Set archive_timeout = 60s in PostgreSQL: else it archives a segment only when it is full.',
    });
  }
  return ok('all WAL that the server has written is archived', { detail: `${name}, ${formatDuration(ageMs)} ago` });
}
