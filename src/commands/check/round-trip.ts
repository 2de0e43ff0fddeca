/** The proof: a segment is ended, seen to arrive in the archive, read back and compared with pg_wal. On a primary alone; leaves nothing behind. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Archive } from '../../archive/archive.ts';
import { describeWalFile, openWalFile, walIdentity } from '../../archive/wal-archive.ts';
import type { Bytes } from '../../bytes.ts';
import { inspectWalFile } from '../../cluster/wal-file.ts';
import { isSameContent } from '../../codec/keys.ts';
import { ObjectNotFound, PostgresError, WalTError } from '../../errors.ts';
import { checkRoundTripMs } from '../../limits.ts';
import { parseWalFileName, type SegmentName } from '../../postgres/wal-file-name.ts';
import { formatDuration } from '../../quantities.ts';
import { describeArchiver } from '../basebackup-push/archived-wal.ts';
import { type ArchiverState, readArchiverState, readReadyFiles } from './archiver-state.ts';
import { expectArchiving } from './archiving.ts';
import { type Check, type Finding, failed, NotLookedAt, ok } from './finding.ts';
import type { RunningServer } from './running-server.ts';
import type { Subject } from './subject.ts';

export const roundTrip: Check = {
  name: 'round-trip',
  about: 'a segment that is ended now arrives in the archive, and comes back as it was',
  async look(subject) {
    const server = await subject.server.get();
    if (server.inRecovery) throw new NotLookedAt('a standby cannot end a segment: check its primary');
    expectArchiving(server);
    const archive = await subject.archive.get();
    // it would wait in vain, and a full disk is not to be filled further
    if (subject.isDone('archiver') && (await subject.archiver.get()).problem !== undefined) {
      throw new NotLookedAt('see "archiver"');
    }
    const startedMs = performance.now();
    const file = await endSegment(server);
    const own = await readOwn(server, file);
    const missing = await waitFor(file, { archive, server, subject });
    if (missing !== undefined) return missing;
    const seconds = (performance.now() - startedMs) / 1000;
    return { ...(await compare(file, { archive, own, subject })), figures: { round_trip_seconds: seconds } };
  },
};

/** Its arguments are others since PostgreSQL 17, and two of that name take text and bytea. */
const privilegesQuestion = `
  select bool_and(has_function_privilege(current_user, oid, 'EXECUTE')) as may
    from pg_proc where pronamespace = 'pg_catalog'::regnamespace and proname in ('pg_switch_wal', 'pg_logical_emit_message')`;
/** Without a record of its own the segment of an idle server would not be ended. */
const emit = `select pg_logical_emit_message(false, 'wal-t', 'check')`;
/** Where the switch ended, which is at a segment's end: the name is of the segment before it. */
const endIt = `select pg_walfile_name(pg_switch_wal()) as name`;

async function endSegment({ session }: RunningServer): Promise<SegmentName> {
  const [privileges] = await session.query<{ may: boolean }>('look at the privileges of the role', privilegesQuestion);
  if (privileges?.may !== true) throw new NotLookedAt('the role may not switch WAL: see "privileges"');
  await session.query('write a record of WAL', emit);
  const [row] = await session.query<{ name: string }>('switch WAL', endIt);
  const file = parseWalFileName(row?.name ?? '');
  if (file?.kind !== 'segment') throw new PostgresError(`the server gives no name of a segment: "${row?.name}"`);
  return file;
}

interface Own {
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** As it stands in pg_wal, which is until it was archived; undefined where that cannot be read. */
async function readOwn({ dataDirectory }: RunningServer, file: SegmentName): Promise<Own | undefined> {
  if (dataDirectory === undefined) return undefined;
  const path = join(dataDirectory, 'pg_wal', file.name);
  try {
    const own = await hashOf((await inspectWalFile(path, file)).read());
    await inspectWalFile(path, file); // was it this segment to the end?
    return own;
  } catch (error) {
    if (error instanceof WalTError) return undefined; // recycled meanwhile, or not readable by this account
    throw error;
  }
}

async function hashOf(content: Bytes): Promise<Own> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of content) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { bytes, sha256: hash.digest('hex') };
}

interface Waiting {
  readonly archive: Archive;
  readonly server: RunningServer;
  readonly subject: Subject;
}

/** Undefined when it is there; else why it is not. Ends as soon as PostgreSQL says how its archiving went. */
async function waitFor(file: SegmentName, { archive, server, subject }: Waiting): Promise<Finding | undefined> {
  const { signal, settings } = subject.context;
  const limitMs = Math.min(checkRoundTripMs, settings.times.backupWalMs);
  const startedMs = performance.now();
  for (let pauseMs = 50; ; pauseMs = Math.min(pauseMs * 1.5, 2000)) {
    const ready = await readReadyFiles(server).catch(() => undefined);
    const state = await readArchiverState(server, ready);
    if (await isStored(file, archive, signal)) return undefined;
    const isLate = performance.now() - startedMs >= limitMs;
    if (isLate || isDecided(file, state)) {
      return failed(`segment "${file.name}" did not arrive in the archive`, {
        detail: `waited for ${formatDuration(performance.now() - startedMs)}; ${describeArchiver(state.status)}`,
        hint: whyNot(file, state),
      });
    }
    await sleep(Math.min(pauseMs, limitMs), undefined, { signal });
  }
}

async function isStored(file: SegmentName, archive: Archive, signal: AbortSignal): Promise<boolean> {
  try {
    await describeWalFile(archive, file, { signal });
    return true;
  } catch (error) {
    if (error instanceof ObjectNotFound) return false;
    throw error;
  }
}

/** The state was read before the archive was: what PostgreSQL called archived then must have been there. */
function isDecided(file: SegmentName, { status, problem }: ArchiverState): boolean {
  return isCalledArchived(file, status.lastArchived) || problem === 'failing' || problem === 'absent';
}

function isCalledArchived({ name }: SegmentName, lastArchived = ''): boolean {
  return lastArchived.length === name.length && lastArchived >= name;
}

function whyNot(file: SegmentName, { status, problem, ready }: ArchiverState): string {
  if (isCalledArchived(file, status.lastArchived)) {
    return 'PostgreSQL was told that it was archived, but not into this repository: archive_command must run wal-push, with the same settings (WALT_REPO) as this command, and nothing must hide how it ends.';
  }
  if (problem === 'failing')
    return `archive_command fails: PostgreSQL's log has the reason, in lines that begin with "wal-push:".`;
  if (problem === 'absent') {
    return "archive_command kills the archiver: it is not found, not executable or killed; the server's log says which.";
  }
  if ((ready?.count ?? 0) > 1) return `${ready?.count} files wait to be archived, this one among them: see "backlog".`;
  return 'archive_command has neither succeeded nor failed: it hangs, or its storage is slow. Look at the processes below "postgres: archiver".';
}

interface Comparison {
  readonly archive: Archive;
  readonly own: Own | undefined;
  readonly subject: Subject;
}

async function compare(file: SegmentName, { archive, own, subject }: Comparison): Promise<Finding> {
  const { signal } = subject.context;
  const { recipients, identities } = archive.keys;
  const arrived = `segment "${file.name}" arrived in the archive`;
  if (recipients.length > 0 && identities.length === 0) {
    const stored = await describeWalFile(archive, file, { signal });
    if (own === undefined) return ok(arrived, { detail: 'it was not read back: this host has no identity' });
    if (!isSameContent(stored, { ...walIdentity(archive, file), ...own }, archive.keys)) return differs(file);
    return ok(`${arrived}, and says that it holds what pg_wal has`, {
      detail: 'it was not read back: this host has no identity',
    });
  }
  const { content } = await openWalFile(archive, file, { signal });
  const back = await hashOf(content);
  if (own === undefined)
    return ok(`${arrived}, and can be read`, { detail: 'pg_wal does not have it to compare with' });
  return back.sha256 === own.sha256 ? ok(`${arrived}, and is what pg_wal has`) : differs(file);
}

function differs({ name }: SegmentName): Finding {
  return failed(`segment "${name}" is archived with other content than pg_wal has`, {
    hint: `Two servers write the same timeline: "wal-t wal-diff ${name} pg_wal/${name}" in the data directory says who wrote what.`,
  });
}
