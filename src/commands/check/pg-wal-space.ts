/** How long until the file system of pg_wal is full, at which PostgreSQL stops? */
import { join } from 'node:path';
import { freeBytes } from '../../cluster/host-limits.ts';
import { readWalFolder, type WalFolder } from '../../cluster/wal-rate.ts';
import { checkThresholds } from '../../limits.ts';
import { parseLsn } from '../../postgres/lsn.ts';
import { formatBytes, formatDuration } from '../../quantities.ts';
import { isArchiving } from './archiving.ts';
import { type Check, type Figures, type Finding, failed, NotLookedAt, ok, warning } from './finding.ts';
import type { RunningServer } from './running-server.ts';
import { isHolding, readSlots } from './slots.ts';
import type { Subject } from './subject.ts';

export const pgWalSpace: Check = {
  name: 'pg-wal-space',
  about: 'pg_wal has room for what is written, the more where nothing is recycled',
  async look(subject) {
    const server = await subject.server.get();
    const { dataDirectory } = server;
    if (dataDirectory === undefined) throw new NotLookedAt('pg_wal cannot be seen from here: give the data directory');
    const free = await freeBytes(join(dataDirectory, 'pg_wal'));
    if (free === undefined) throw new NotLookedAt('the file system of pg_wal does not say how much is free');
    const { lsn, maxWalBytes } = await askServer(server);
    const folder = await readWalFolder(dataDirectory, {
      lsn,
      segmentSizeBytes: server.segmentSizeBytes,
      windowMs: checkThresholds.walRateMs,
      nowMs: Date.now(),
    });
    const room = { ...folder, freeBytes: free, maxWalBytes, leftBytes: free + folder.recycledBytes };
    const holder = await whoHolds(server, subject);
    return { ...judge(room, holder, server.segmentSizeBytes), figures: figuresOf(room) };
  },
};

interface Room extends WalFolder {
  readonly freeBytes: number;
  /** What may still be written. */
  readonly leftBytes: number;
  readonly maxWalBytes: number;
}

/** Units of `max_wal_size` are MiB. */
const question = `
  select (case when pg_is_in_recovery() then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
               else pg_current_wal_lsn() end)::text as lsn,
         (select setting::float8 * 1024 * 1024 from pg_settings where name = 'max_wal_size') as max_wal_size`;

async function askServer({ session }: RunningServer) {
  const [row] = await session.query<{ lsn: string | null; max_wal_size: number }>('ask where WAL ends', question);
  return { lsn: parseLsn(row?.lsn ?? '') ?? 0n, maxWalBytes: row?.max_wal_size ?? 0 };
}

/** What keeps WAL from being recycled; undefined where nothing does. */
async function whoHolds(server: RunningServer, subject: Subject): Promise<string | undefined> {
  const state = isArchiving(server) ? await subject.archiver.own().catch(() => undefined) : undefined;
  if (state?.problem !== undefined) return 'WAL is not archived';
  const slot = (await readSlots(server)).find((one) => isHolding(one) && one.limitBytes === undefined);
  return slot === undefined ? undefined : `replication slot "${slot.name}" holds WAL`;
}

function judge(room: Room, holder: string | undefined, segmentSizeBytes: number): Finding {
  const { freeBytes: free, sizeBytes, leftBytes, maxWalBytes } = room;
  const space = `pg_wal has ${formatBytes(sizeBytes)}, and ${formatBytes(free)} are free`;
  const hint =
    'PostgreSQL stops when it is full. Let it be archived again, or enlarge the file system; never delete from pg_wal by hand.';
  const untilMs = untilFullMs(room);
  if (leftBytes < 2 * segmentSizeBytes) return failed(`pg_wal is full: ${space}`, { hint });
  if (holder !== undefined) {
    const [warnMs, failMs] = checkThresholds.walSpaceMs;
    const time = untilMs === undefined ? '' : `: full in ${formatDuration(untilMs)} at the present rate`;
    const level = (untilMs ?? Infinity) < failMs ? failed : (untilMs ?? Infinity) < warnMs ? warning : ok;
    if (level !== ok) return level(`${holder}, and ${space}${time}`, { hint });
    return ok(space, { detail: `${holder}${time}` });
  }
  if (sizeBytes + free < maxWalBytes) {
    return warning(`${space}, less than max_wal_size lets it grow to`, {
      detail: `max_wal_size is ${formatBytes(maxWalBytes)}`,
      hint: 'Enlarge the file system, or set max_wal_size lower.',
    });
  }
  return ok(space);
}

function untilFullMs({ leftBytes, bytesPerSecond }: Room): number | undefined {
  return bytesPerSecond === undefined || bytesPerSecond <= 0 ? undefined : (leftBytes / bytesPerSecond) * 1000;
}

function figuresOf(room: Room): Figures {
  const untilMs = untilFullMs(room);
  return {
    pg_wal_bytes: room.sizeBytes,
    pg_wal_free_bytes: room.freeBytes,
    ...(untilMs === undefined ? {} : { pg_wal_seconds_until_full: untilMs / 1000 }),
  };
}
