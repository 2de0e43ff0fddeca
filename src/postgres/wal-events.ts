/**
 * What a restore has to know of the WAL: ends of transactions, restore points, checkpoints, switches, new timelines and tablespaces.
 * @see PostgreSQL `src/include/access/xact.h`, `xlog_internal.h`, `src/include/catalog/pg_control.h`, `src/include/access/rmgrlist.h`
 */
import type { BytePath } from '../byte-path.ts';
import type { Bytes } from '../bytes.ts';
import type { Lsn } from './lsn.ts';
import { scanWal, type WalEnd, type WalOptions, type WalRecord } from './wal-record.ts';

export type WalEvent = {
  /** Where the record begins. */
  readonly lsn: Lsn;
  /** Where it ends, padding included, and the next begins; before that page's header at a page's edge. */
  readonly endLsn: Lsn;
  readonly xid: number;
} & WalEventKind;

export type WalEventKind =
  | TransactionEnd
  | { readonly kind: 'restore point'; readonly time: bigint; readonly name: BytePath }
  | CheckpointEvent
  | {
      readonly kind: 'end of recovery';
      readonly timeline: number;
      readonly previousTimeline: number;
      readonly time: bigint;
    }
  | { readonly kind: 'backup end'; readonly startLsn: Lsn }
  | { readonly kind: 'switch' }
  | { readonly kind: 'tablespace create'; readonly oid: number; readonly location: BytePath }
  | FileCopyEvent;

/** With `prepared`, of COMMIT PREPARED and ROLLBACK PREPARED, `xid` is the prepared transaction's. */
export interface TransactionEnd {
  readonly kind: 'commit' | 'abort';
  /** Microseconds since 2000-01-01 UTC, as PostgreSQL has it. */
  readonly time: bigint;
  readonly prepared: boolean;
}

export interface CheckpointEvent {
  readonly kind: 'checkpoint';
  readonly online: boolean;
  readonly redo: Lsn;
  readonly timeline: number;
  /** In whole seconds, though in the unit of the others. */
  readonly time: bigint;
}

/** `CREATE DATABASE … STRATEGY file_copy`, whose replay reads the files of the template. */
export interface FileCopyEvent {
  readonly kind: 'database create (file copy)';
  readonly oid: number;
  readonly tablespaceOid: number;
  readonly sourceOid: number;
  readonly sourceTablespaceOid: number;
}

/**
 * The events in whole segments that follow one another, in their order.
 * A record that began before `startLsn` is passed over. The source is not asked for more once the WAL has ended.
 */
export function readWalEvents(bytes: Bytes, options: WalOptions): AsyncGenerator<WalEvent, WalEnd> {
  return scanWal(bytes, options, (resourceManager, info) => {
    const reader = readerOf(resourceManager, info);
    return reader === undefined ? undefined : (record) => eventOf(record, reader);
  });
}

/** PostgreSQL's time as the rest of the program has it, cut to milliseconds. */
export function walTimeToDate(time: bigint): Date {
  return new Date(Number((time + epochMicroseconds) / 1000n));
}

/** The inverse of `walTimeToDate`. */
export function dateToWalTime(date: Date): bigint {
  return BigInt(date.getTime()) * 1000n - epochMicroseconds;
}

/** From 1970-01-01 to 2000-01-01 UTC. */
const epochMicroseconds = 946_684_800_000_000n;

function eventOf(record: WalRecord, { minBytes, read }: Reader): WalEvent | undefined {
  const data = mainDataOf(record.body);
  if (data === undefined || data.length < minBytes) return undefined;
  const { lsn, endLsn, xid } = record;
  return { lsn, endLsn, xid, ...read(data, record) };
}

/**
 * The resource manager's own data in a record without blocks; undefined where there are blocks.
 * Before it: an id of 1 byte with, by id, the data's length (255: 1 byte, 254: 4), the replication origin (253: 2) or the top-level transaction (252: 4).
 */
function mainDataOf(body: Buffer): Buffer | undefined {
  let at = 0;
  while (at < body.length) {
    const id = body[at];
    if (id === 255) return body.subarray(at + 2);
    if (id === 254) return body.subarray(at + 5);
    if (id !== 253 && id !== 252) return undefined;
    at += id === 253 ? 3 : 5;
  }
  return body.subarray(at);
}

interface Reader {
  /** Shorter data is that of a version to come, and no event. */
  readonly minBytes: number;
  readonly read: (data: Buffer, record: WalRecord) => WalEventKind & { readonly xid?: number };
}

/** By resource manager (`rmgrlist.h`) and info. */
function readerOf(resourceManager: number, info: number): Reader | undefined {
  switch (resourceManager) {
    case 0:
      return xlogReaders[info];
    case 1:
      return transactionReaders[info & 0x70];
    case 4:
      return info === 0x00 ? fileCopyReader : undefined;
    case 5:
      return info === 0x00 ? tablespaceReader : undefined;
    default:
      return undefined;
  }
}

/** RM_XLOG */
const xlogReaders: Readonly<Record<number, Reader>> = {
  0: { minBytes: 72, read: (data) => checkpointOf(data, false) },
  16: { minBytes: 72, read: (data) => checkpointOf(data, true) },
  64: { minBytes: 0, read: () => ({ kind: 'switch' }) },
  80: { minBytes: 8, read: (data) => ({ kind: 'backup end', startLsn: data.readBigUInt64LE(0) }) },
  112: {
    minBytes: 9,
    read: (data) => ({ kind: 'restore point', time: data.readBigInt64LE(0), name: textAt(data, 8) }),
  },
  144: {
    minBytes: 16,
    read: (data) => ({
      kind: 'end of recovery',
      timeline: data.readUInt32LE(8),
      previousTimeline: data.readUInt32LE(12),
      time: data.readBigInt64LE(0),
    }),
  },
};

/** `CheckPoint`: redo 8, timeline 4, …, at 64 the time, in seconds since 1970. */
function checkpointOf(data: Buffer, online: boolean): CheckpointEvent {
  const time = data.readBigInt64LE(64) * 1_000_000n - epochMicroseconds;
  return { kind: 'checkpoint', online, redo: data.readBigUInt64LE(0), timeline: data.readUInt32LE(8), time };
}

/** RM_XACT, by `XLOG_XACT_OPMASK`. */
const transactionReaders: Readonly<Record<number, Reader>> = {
  0: { minBytes: 8, read: (data) => ({ kind: 'commit', time: data.readBigInt64LE(0), prepared: false }) },
  32: { minBytes: 8, read: (data) => ({ kind: 'abort', time: data.readBigInt64LE(0), prepared: false }) },
  48: { minBytes: 12, read: (data, record) => preparedEnd('commit', data, record) },
  64: { minBytes: 12, read: (data, record) => preparedEnd('abort', data, record) },
};

function preparedEnd(
  kind: TransactionEnd['kind'],
  data: Buffer,
  { magic }: WalRecord,
): TransactionEnd & { readonly xid: number } {
  return { kind, xid: preparedXid(data, kind, magic), time: data.readBigInt64LE(0), prepared: true };
}

/**
 * Time 8, `xinfo` 4, then, each where its bit is set in `xinfo`: database 8; lists, each of a count of 4 and its members:
 * subtransactions, relation files, dropped statistics, invalidation messages; then the prepared transaction 4.
 */
function preparedXid(data: Buffer, kind: TransactionEnd['kind'], magic: number): number {
  const xinfo = data.readUInt32LE(8);
  const lists = [
    { bit: 1 << 1, memberBytes: 4 },
    { bit: 1 << 2, memberBytes: 12 },
    { bit: 1 << 8, memberBytes: magic > magic17 ? 16 : 12 },
    { bit: kind === 'commit' ? 1 << 3 : 0, memberBytes: 16 },
  ];
  let at = (xinfo & 1) === 0 ? 12 : 20;
  for (const { bit, memberBytes } of lists) {
    if ((xinfo & bit) === 0) continue;
    if (at + 4 > data.length) return 0;
    at += 4 + data.readUInt32LE(at) * memberBytes;
  }
  return (xinfo & (1 << 4)) === 0 || at + 4 > data.length ? 0 : data.readUInt32LE(at);
}

/** The `XLOG_PAGE_MAGIC` of PostgreSQL 17, the last in which a dropped statistic's object was named by 4 bytes. */
const magic17 = 0xd116;

/** RM_DBASE */
const fileCopyReader: Reader = {
  minBytes: 16,
  read: (data) => ({
    kind: 'database create (file copy)',
    oid: data.readUInt32LE(0),
    tablespaceOid: data.readUInt32LE(4),
    sourceOid: data.readUInt32LE(8),
    sourceTablespaceOid: data.readUInt32LE(12),
  }),
};

/** RM_TBLSPC */
const tablespaceReader: Reader = {
  minBytes: 5,
  read: (data) => ({ kind: 'tablespace create', oid: data.readUInt32LE(0), location: textAt(data, 4) }),
};

/** The bytes up to the next zero. */
function textAt(data: Buffer, start: number): BytePath {
  const end = data.indexOf(0, start);
  return data.toString('latin1', start, end === -1 ? data.length : end);
}
