/**
 * A server that archives what it restores (archive_mode = always) pushes back what wal-fetch gave it. Where a timeline was left within a
 * segment of which the old primary has archived a whole one, that is the beginning of it and then zeros (H2): other content under a taken
 * name, and refused for ever, though the archive holds all that is in it. So it counts as archived.
 * Loaded on a conflict alone: see test/bundles.test.ts.
 */
import { createHash } from 'node:crypto';
import type { Archive } from '../../archive/archive.ts';
import { openWalFile } from '../../archive/wal-archive.ts';
import { findSwitches, historiesAfter, type StoredSwitch } from '../../archive/wal-behind.ts';
import type { Bytes } from '../../bytes.ts';
import { ConfigurationError, ConflictError, CorruptError, WrongKeyError } from '../../errors.ts';
import { formatLsn } from '../../postgres/lsn.ts';
import { type SegmentName, segmentStart } from '../../postgres/wal-file-name.ts';
import { endingAt } from '../wal-fetch/deliver.ts';
import type { Push, Sealed } from './push.ts';

export interface Refused extends Sealed {
  readonly file: SegmentName;
  readonly conflict: ConflictError;
}

/**
 * Returns when what was refused is what is stored, up to where a later timeline left this one within the segment, and zeros from there on.
 * Decided by the histories that are stored, never by one that merely lies in pg_wal.
 * @throws the conflict where it is not, and where it cannot be told. @throws StorageError
 */
export async function acceptBeginning(push: Push, archive: Archive, refused: Refused): Promise<void> {
  const { file, sealed, conflict } = refused;
  const { signal } = push;
  try {
    const left = await findSwitch(archive, refused, signal);
    if (left === undefined) throw conflict;
    const { content } = await openWalFile(archive, file, { signal });
    if ((await hashOf(endingAt(content, left.endBytes))) !== sealed.header.sha256) throw conflict;
    const { child, end } = left;
    push.log.info(`"${file.name}" is archived already, with more behind the place where its timeline was left`, {
      detail: `"${child.name}" says that this was at ${formatLsn(end)}; what is archived has all that was before`,
    });
  } catch (error) {
    if (error instanceof ConfigurationError || error instanceof WrongKeyError) throw cannotTell(conflict);
    throw error instanceof CorruptError ? conflict : error;
  }
}

interface SwitchWithin extends StoredSwitch {
  /** Of the segment, before the place at which the timeline was left. */
  readonly endBytes: number;
}

/** The first one behind which the refused segment holds nothing: what is equal up to a later one is equal up to there. */
async function findSwitch(
  archive: Archive,
  { file, source }: Refused,
  signal: AbortSignal,
): Promise<SwitchWithin | undefined> {
  const start = segmentStart(file, source.sizeBytes);
  const usedBytes = await lengthWithoutZeros(source.read());
  if (start === undefined || usedBytes === source.sizeBytes) return undefined;
  const histories = await historiesAfter(archive, file.timeline, { signal });
  const { switches, unreadable } = await findSwitches(archive, file.timeline, { histories, signal });
  const within = switches
    .map((one) => ({ ...one, endBytes: Number(one.end - start) }))
    .filter(({ endBytes }) => endBytes >= usedBytes && endBytes < source.sizeBytes)
    .sort((one, other) => one.endBytes - other.endBytes);
  const [damaged] = unreadable;
  if (within[0] === undefined && damaged !== undefined) throw damaged.error;
  return within[0];
}

async function lengthWithoutZeros(content: Bytes): Promise<number> {
  let [sizeBytes, usedBytes] = [0, 0];
  for await (const chunk of content) {
    const last = chunk.findLastIndex((byte) => byte !== 0);
    if (last >= 0) usedBytes = sizeBytes + last + 1;
    sizeBytes += chunk.length;
  }
  return usedBytes;
}

async function hashOf(content: Bytes): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of content) hash.update(chunk);
  return hash.digest('hex');
}

/** A host with recipients alone: wal-fetch cannot have given it the segment with the same settings. */
function cannotTell(conflict: ConflictError): ConflictError {
  return new ConflictError(conflict.message, {
    detail: `${conflict.detail}; this host has no identity to look whether its own is the beginning of that`,
    hint: `${conflict.hint} A standby that archives, too: give wal-push the WALT_AGE_IDENTITY_FILE that its wal-fetch has.`,
    cause: conflict,
  });
}
