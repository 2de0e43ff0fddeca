/** What PostgreSQL's archiver says of itself: `pg_stat_archiver`, which every role may read. */
import type { Session } from './connection.ts';

/** `pg_stat_archiver`, all times by the server's clock. */
export interface ArchiverStatus {
  readonly lastArchived?: string;
  readonly lastArchivedAt?: Date;
  readonly lastFailed?: string;
  readonly lastFailedAt?: Date;
  readonly archivedCount: number;
  readonly failedCount: number;
  /** Was a failure the last that happened? */
  readonly isFailing: boolean;
  /** When the server was asked. */
  readonly askedAt: Date;
}

/** @throws PostgresError */
export async function readArchiverStatus(session: Session): Promise<ArchiverStatus> {
  const [row] = await session.query<ArchiverRow>('look at the archiver', question);
  return {
    ...(row?.last_archived ? { lastArchived: row.last_archived } : {}),
    ...(row?.last_archived_at ? { lastArchivedAt: new Date(row.last_archived_at) } : {}),
    ...(row?.last_failed ? { lastFailed: row.last_failed } : {}),
    ...(row?.last_failed_at ? { lastFailedAt: new Date(row.last_failed_at) } : {}),
    archivedCount: Number(row?.archived_count ?? 0),
    failedCount: Number(row?.failed_count ?? 0),
    isFailing: row?.is_failing ?? false,
    askedAt: new Date(row?.asked_at ?? 0),
  };
}

interface ArchiverRow {
  readonly last_archived: string | null;
  /** Epoch milliseconds. */
  readonly last_archived_at: number | null;
  readonly last_failed: string | null;
  readonly last_failed_at: number | null;
  readonly archived_count: string;
  readonly failed_count: string;
  readonly is_failing: boolean;
  readonly asked_at: number;
}

const question = `
  select last_archived_wal as last_archived, (extract(epoch from last_archived_time) * 1000)::float8 as last_archived_at,
         last_failed_wal as last_failed, (extract(epoch from last_failed_time) * 1000)::float8 as last_failed_at,
         archived_count, failed_count,
         last_failed_time is not null and (last_archived_time is null or last_failed_time > last_archived_time) as is_failing,
         (extract(epoch from clock_timestamp()) * 1000)::float8 as asked_at
    from pg_stat_archiver`;
