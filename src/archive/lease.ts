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
import { isUses, type PartUses } from './part-uses.ts';
import { type DocumentWriter, getDocument, putDocument } from './sealed-document.ts';

export interface LeaseOptions extends DocumentWriter {
  readonly id: string;
  /** No WAL from here on may be deleted: pg_control's redo location before the backup began (H27). */
  readonly walFloor: Lsn;
  readonly timeline: number;
  readonly log: Log;
}

/** What an increment refers to. */
export interface LeasedParent {
  readonly parent: string;
  /** The parts that the parent needs: the increment may come to need any of them. */
  readonly uses: PartUses;
}

/** A lease that is held: renewed by itself until it is released. */
export interface Lease {
  /** Says so in a record of its own: when this returns, no deletion that begins takes any of these parts (H27). */
  nameParent(parent: LeasedParent): Promise<void>;
  /** The backup is whole, and all that it needs was seen in the archive: it counts from now on. */
  close(): Promise<void>;
  /** The backup is given up. Says so if the storage lets it, and never throws: the reason is told elsewhere. */
  fail(reason: string): Promise<void>;
}

/** Writes the first record, and further ones while the backup goes on. */
export async function takeLease(archive: Archive, options: LeaseOptions): Promise<Lease> {
  const { id, walFloor, timeline, host, signal, log } = options;
  let count = 0;
  let leased: LeasedParent | undefined;
  const put = (record: number | 'closed' | 'failed', members: object, writer: DocumentWriter) =>
    putDocument(archive, { kind: 'lease', name: leaseName(id, record) }, { id, host, ...members }, writer);
  const renew = (): Promise<void> => {
    count += 1;
    const members = { record: count, walFloor: formatLsn(walFloor), timeline, ...leased };
    return put(count, { ...members, writtenAt: new Date().toISOString() }, { host, signal });
  };
  await renew();
  const timer = setInterval(() => {
    renew().catch((error: unknown) => {
      if (signal?.aborted !== true) log.warning(`could not renew the backup's lease: ${(error as Error).message}`);
    });
  }, leaseRenewalMs);
  timer.unref();
  return {
    nameParent: async (parent) => {
      leased = parent;
      await renew();
    },
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
  /** Parts of earlier backups that it may need; none unless it is an increment that has chosen its parent. */
  readonly uses: PartUses;
}

/** @param record  the number of its last one. @throws CorruptError when it cannot be understood (H28). */
export async function readLease(
  archive: Archive,
  id: string,
  { record, signal }: RequestOptions & { readonly record: number },
): Promise<LeaseRecord> {
  const name = leaseName(id, record);
  const { walFloor, timeline, uses = {} } = await getDocument(archive, { kind: 'lease', name }, { signal });
  if (
    typeof walFloor === 'string' &&
    parseLsn(walFloor) !== undefined &&
    Number.isSafeInteger(timeline) &&
    isUses(uses)
  ) {
    return { walFloor, timeline: timeline as number, uses };
  }
  throw new CorruptError(`"${name}" does not say which WAL and which parts the backup needs`);
}
