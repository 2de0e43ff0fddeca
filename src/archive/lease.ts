/**
 * Leases: what a backup says of itself while it is taken, and how it ended. Each record is a new object, nothing is overwritten.
 * `lease/<id>/000001 …` signs of life, from before the first byte is copied; `closed` the backup is confirmed; `failed` it was given up.
 */

import { CorruptError } from '../errors.ts';
import { leaseRenewalMs } from '../limits.ts';
import type { Log } from '../log.ts';
import { formatLsn, type Lsn, parseLsn } from '../postgres/lsn.ts';
import type { RequestOptions } from '../storage/storage.ts';
import type { Archive } from './archive.ts';
import { leaseName } from './keys.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

export interface LeaseOptions extends DocumentWriter {
  readonly id: string;
  /** No WAL from here on may be deleted: pg_control's redo location before the backup began (H27). */
  readonly walFloor: Lsn;
  readonly timeline: number;
  readonly log: Log;
}

/** A lease that is held: renewed by itself until it is released. */
export interface Lease {
  /** The backup is whole, and all that it needs was seen in the archive: it counts from now on. */
  close(): Promise<void>;
  /** The backup is given up. Says so if the storage lets it, and never throws: the reason is told elsewhere. */
  fail(reason: string): Promise<void>;
}

/** Writes the first record, and further ones while the backup goes on. */
export async function takeLease(archive: Archive, options: LeaseOptions): Promise<Lease> {
  const { id, walFloor, timeline, host, signal, log } = options;
  let count = 0;
  const put = (record: number | 'closed' | 'failed', members: object, writer: DocumentWriter) =>
    putDocument(archive, { kind: 'lease', name: leaseName(id, record) }, { id, host, ...members }, writer);
  const renew = (): Promise<void> => {
    count += 1;
    const members = { record: count, walFloor: formatLsn(walFloor), timeline, writtenAt: new Date().toISOString() };
    return put(count, members, { host, signal });
  };
  await renew();
  const timer = setInterval(() => {
    renew().catch((error: unknown) => {
      if (signal?.aborted !== true) log.warning(`could not renew the backup's lease: ${(error as Error).message}`);
    });
  }, leaseRenewalMs);
  timer.unref();
  return {
    close: async () => {
      clearInterval(timer);
      await put('closed', { closedAt: new Date().toISOString() }, { host, signal });
    },
    fail: async (reason) => {
      clearInterval(timer);
      // the command's own signal may be what ended the backup
      const members = { failedAt: new Date().toISOString(), reason };
      await put('failed', members, { host, signal: AbortSignal.timeout(failLimitMs) }).catch(() => undefined);
    },
  };
}

/** Within the time that a command has to clean up. */
const failLimitMs = 1500;

/** What a running backup's last sign of life says. */
export interface LeaseRecord {
  /** An LSN: no WAL from there on may be deleted. */
  readonly walFloor: string;
  readonly timeline: number;
}

/** @throws CorruptError when none can be understood (H28). */
export async function readLease(archive: Archive, id: string, options: RequestOptions): Promise<LeaseRecord> {
  const name = leaseName(id, 1); // what they say is the same in all of them
  const { walFloor, timeline } = await getDocument(archive, { kind: 'lease', name }, options);
  if (typeof walFloor === 'string' && parseLsn(walFloor) !== undefined && Number.isSafeInteger(timeline)) {
    return { walFloor, timeline: timeline as number };
  }
  throw new CorruptError(`"${name}" does not say which WAL the backup needs`);
}
