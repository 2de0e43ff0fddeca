/**
 * WAL summaries of PostgreSQL 17 and later, by SQL: which blocks WAL changed between two backups, or why that cannot be told. Decides nothing else,
 * and never guesses: what summaries do not cover without a gap is not told at all.
 * @see PostgreSQL `src/backend/postmaster/walsummarizer.c`, `PrepareForIncrementalBackup` (basebackup_incremental.c)
 */
import { setTimeout as pause } from 'node:timers/promises';
import { PostgresError } from '../errors.ts';
import type { Log } from '../log.ts';
import { ChangedBlocks } from '../postgres/changed-blocks.ts';
import { formatLsn, type Lsn, parseLsn } from '../postgres/lsn.ts';
import type { Session } from './connection.ts';

/** From `startLsn` to before `endLsn`, of a timeline. */
export interface WalPiece {
  readonly timeline: number;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface SummariesOptions {
  /** The server's history from the parent's start LSN to our own, in ascending order: a piece of each timeline. */
  readonly history: readonly WalPiece[];
  /** So long is waited for the summarizer. */
  readonly limitMs: number;
  readonly signal: AbortSignal;
  readonly log: Log;
}

/** `reason` goes on from "because": lower case, without a full stop. */
export type SummarizedChanges = { readonly changes: ChangedBlocks } | { readonly reason: string };

/**
 * Waits until all of `history` is summarized, then reads it; as soon as it is known to stay incomplete, and for whatever else the server refuses,
 * there is a reason instead. The session stays fit for use.
 * @throws PostgresError when the connection is lost. @throws the signal's reason.
 */
export async function readChangedBlocks(session: Session, options: SummariesOptions): Promise<SummarizedChanges> {
  try {
    const found = (await whyNotAllowed(session)) ?? (await waitForSummaries(session, options));
    if ('reason' in found) return found;
    const changes = new ChangedBlocks();
    for (const summary of found.summaries) await readSummary(session, summary, changes);
    return { changes };
  } catch (error) {
    options.signal.throwIfAborted();
    if (!(error instanceof PostgresError)) throw error;
    await session.query('go on after that', 'select 1'); // the refusal may have been a farewell
    return { reason: error.message }; // one was removed since it was listed, or is broken; or temp_file_limit, or the like
  }
}

interface Refusal {
  readonly reason: string;
}

const functions = [
  'pg_available_wal_summaries()',
  'pg_get_wal_summarizer_state()',
  'pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)',
];

const privilegesQuestion = `
  select format('%I', current_user) as role, current_database() as database,
         bool_and(function is not null) as known,
         coalesce(array_agg(signature order by place)
                    filter (where not has_function_privilege(current_user, function::oid, 'EXECUTE')), '{}') as lacking
    from (select signature, place, to_regprocedure('pg_catalog.' || signature) as function
            from unnest($1::text[]) with ordinality as wanted(signature, place)) as looked_up`;

/** PUBLIC may call all three, unless a hardened server says otherwise. */
async function whyNotAllowed(session: Session): Promise<Refusal | undefined> {
  interface Found {
    readonly role: string;
    readonly database: string;
    readonly known: boolean;
    readonly lacking: readonly string[];
  }
  const [found] = await session.query<Found>('look at the privileges of the role', privilegesQuestion, [functions]);
  if (found?.known !== true) return { reason: 'WAL summaries begin with PostgreSQL 17' };
  if (found.lacking.length === 0) return undefined;
  const grants = found.lacking.map(
    (signature) => `GRANT EXECUTE ON FUNCTION pg_catalog.${signature} TO ${found.role};`,
  );
  return {
    reason: `role ${found.role} may not read WAL summaries; in database "${found.database}": ${grants.join(' ')}`,
  };
}

const pollMs = 200;
const reminderMs = 30_000;

/** All that overlap the history, which they cover without a gap. */
async function waitForSummaries(
  session: Session,
  { history, limitMs, signal, log }: SummariesOptions,
): Promise<{ readonly summaries: readonly WalPiece[] } | Refusal> {
  const startedMs = performance.now();
  for (let reminders = 1; ; ) {
    // asked first: what it is beyond and the list lacks will not come any more
    const summarizer = await readSummarizer(session);
    const summaries = await listSummaries(session, history);
    const gap = findGap(history, summaries);
    if (gap === undefined) return { summaries };
    const reason = whyItStays(gap, summarizer);
    if (reason !== undefined) return { reason };
    const waitedMs = performance.now() - startedMs;
    const wanted = `WAL summaries up to ${formatLsn(gap.endLsn)} of timeline ${gap.timeline}`;
    const detail = `They reach ${formatLsn(gap.startLsn)}; the summarizer ${summarizer.pid === null ? 'does not run' : `is process ${summarizer.pid}`}.`;
    if (waitedMs >= limitMs) {
      return { reason: `${wanted} were not there within ${limitMs / 1000} s: they reach ${formatLsn(gap.startLsn)}` };
    }
    if (waitedMs >= reminders * reminderMs) {
      log.info(`still waiting for ${wanted}`, { detail });
      reminders += 1;
    }
    await pause(Math.min(pollMs, limitMs - waitedMs), undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

interface Summarizer {
  readonly isOn: boolean;
  /** Null when it does not run: it is off, or starts again after an error. */
  readonly pid: number | null;
  /** Up to where it has written summaries; 0 when it has not begun. */
  readonly timeline: number;
  readonly lsn: Lsn;
}

const summarizerQuestion = `
  select current_setting('summarize_wal') = 'on' as is_on, summarizer_pid as pid, summarized_tli::float8 as timeline, summarized_lsn::text as lsn
    from pg_get_wal_summarizer_state()`;

async function readSummarizer(session: Session): Promise<Summarizer> {
  interface Row extends Pick<Summarizer, 'pid' | 'timeline'> {
    readonly is_on: boolean;
    readonly lsn: string;
  }
  const [row] = await session.query<Row>('look at the WAL summarizer', summarizerQuestion);
  if (row === undefined) throw new PostgresError('the server says nothing of its WAL summarizer');
  return { isOn: row.is_on, pid: row.pid, timeline: row.timeline, lsn: parsed(row.lsn) };
}

const listQuestion = `
  select tli::float8 as timeline, start_lsn::text, end_lsn::text from pg_available_wal_summaries()
   where end_lsn > $1::pg_lsn and start_lsn < $2::pg_lsn`;

async function listSummaries(session: Session, history: readonly WalPiece[]): Promise<readonly WalPiece[]> {
  interface Row {
    readonly timeline: number;
    readonly start_lsn: string;
    readonly end_lsn: string;
  }
  const bounds = [history[0]?.startLsn, history.at(-1)?.endLsn].map((lsn) => formatLsn(lsn ?? 0n));
  const rows = await session.query<Row>('list WAL summaries', listQuestion, bounds);
  return rows
    .map(({ timeline, start_lsn, end_lsn }) => ({ timeline, startLsn: parsed(start_lsn), endLsn: parsed(end_lsn) }))
    .filter((summary) => history.some((piece) => overlap(piece, summary)))
    .sort((one, other) => Number(one.startLsn - other.startLsn));
}

function overlap(one: WalPiece, other: WalPiece): boolean {
  return one.timeline === other.timeline && one.startLsn < other.endLsn && other.startLsn < one.endLsn;
}

/** The first piece of `history` that is not covered; of its timeline to the end. `summaries` ascend, and may overlap. @see `WalSummariesAreComplete` */
export function findGap(history: readonly WalPiece[], summaries: readonly WalPiece[]): WalPiece | undefined {
  for (const piece of history) {
    let reached = piece.startLsn;
    for (const { timeline, startLsn, endLsn } of summaries) {
      if (timeline === piece.timeline && startLsn <= reached && endLsn > reached) reached = endLsn;
    }
    if (reached < piece.endLsn) return { ...piece, startLsn: reached };
  }
  return undefined;
}

function whyItStays({ timeline, startLsn }: WalPiece, summarizer: Summarizer): string | undefined {
  const isBeyond = summarizer.timeline > timeline || (summarizer.timeline === timeline && summarizer.lsn > startLsn);
  if (isBeyond) {
    return `WAL of timeline ${timeline} from ${formatLsn(startLsn)} on has no summary: it was removed (wal_summary_keep_time), or summarize_wal was off`;
  }
  return summarizer.isOn ? undefined : 'summarize_wal is off';
}

/**
 * A row for each 16,384 blocks of a relation, so that rows are of bounded size: `offsets` are places among 65,536 blocks, of two bytes each, less 2^15
 * since PostgreSQL's have a sign. The server itself may keep the blocks of the one summary, which is one checkpoint's, in a temporary file meanwhile.
 */
const contentsQuestion = `
  declare wal_t_summary no scroll cursor for
   select reltablespace as tablespace, reldatabase as database, relfilenode, is_limit_block, min(relblocknumber)::float8 as block,
          string_agg(int2send((relblocknumber % 65536 - 32768)::int2), ''::bytea) as offsets
     from pg_wal_summary_contents($1::bigint, $2::pg_lsn, $3::pg_lsn)
    where relforknumber = 0
    group by reltablespace, reldatabase, relfilenode, is_limit_block, relblocknumber / 16384`;
/** At most 2 MiB of offsets, as text twice as much. */
const fetchQuestion = 'fetch forward 64 from wal_t_summary';

interface ContentsRow {
  readonly tablespace: number;
  readonly database: number;
  readonly relfilenode: number;
  readonly is_limit_block: boolean;
  /** The limit, else the first block. */
  readonly block: number;
  readonly offsets: Buffer;
}

async function readSummary(session: Session, { timeline, startLsn, endLsn }: WalPiece, changes: ChangedBlocks) {
  const action = 'read a WAL summary';
  await session.query(action, 'begin read only');
  try {
    await session.query(action, contentsQuestion, [timeline, formatLsn(startLsn), formatLsn(endLsn)]);
    for (;;) {
      const rows = await session.query<ContentsRow>(action, fetchQuestion);
      if (rows.length === 0) return;
      for (const row of rows) take(row, changes);
    }
  } finally {
    await session.query(action, 'rollback');
  }
}

function take(
  { tablespace, database, relfilenode, is_limit_block, block, offsets }: ContentsRow,
  changes: ChangedBlocks,
) {
  const relation = { tablespaceOid: tablespace, databaseOid: database, relfilenode };
  if (is_limit_block) changes.setLimit(relation, block);
  else changes.add(relation, blocksOf(block, offsets));
}

function* blocksOf(block: number, offsets: Buffer): Generator<number> {
  const chunkStart = block - (block % 65_536);
  for (let at = 0; at < offsets.length; at += 2) yield chunkStart + offsets.readInt16BE(at) + 32_768;
}

function parsed(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined) throw new PostgresError(`the server gives no LSN: "${text}"`);
  return lsn;
}
