/** What there is to restore from: the backups that can be read, the stored WAL, and the search in it. */
import type { Archive } from '../../archive/archive.ts';
import { type BackupManifest, readManifest } from '../../archive/manifest.ts';
import { readStoredWal, type StoredWal, withoutSegment } from '../../archive/stored-wal.ts';
import { WalSearch } from '../../archive/wal-search.ts';
import { UnreadableSegment } from '../../archive/wal-segments.ts';
import { CorruptError, NotFoundError, ObjectNotFound } from '../../errors.ts';
import { readCatalogue } from '../backups.ts';
import type { Context } from '../context.ts';

export interface Choice {
  readonly wal: StoredWal;
  readonly search: WalSearch;
  /** The confirmed ones, oldest first. */
  readonly backups: readonly BackupManifest[];
}

/**
 * Everything that can be restored from. What cannot be read is named, and the rest goes on.
 * @throws NotFoundError when there is nothing, CorruptError when there are backups and none can be read: the key may be wrong.
 */
export async function choiceIn(context: Context, archive: Archive): Promise<Choice> {
  const { signal, log } = context;
  const backups: BackupManifest[] = [];
  let unreadable: CorruptError | undefined;
  for (const { id, state } of await readCatalogue(context, archive)) {
    if (state !== 'confirmed') continue;
    try {
      backups.push(await readManifest(archive, id, { signal }));
    } catch (error) {
      if (error instanceof ObjectNotFound) continue; // deleted since it was listed
      if (!(error instanceof CorruptError)) throw error;
      unreadable ??= error;
      log.warning(error.message, error); // others may do
    }
  }
  if (backups.length === 0 && unreadable !== undefined) throw unreadable;
  const segmentSizeBytes = backups.at(-1)?.walSegmentBytes;
  const wal = await readStoredWal(archive, { signal, segmentSizeBytes });
  if (wal === undefined) {
    throw new NotFoundError('no WAL of this cluster is archived', {
      hint: 'Correct WALT_REPO, or --cluster: wal-t config shows what is in force.',
    });
  }
  for (const error of wal.unreadable.values()) log.warning(error.message, error);
  return { wal, backups, search: new WalSearch(archive, wal, { signal }) };
}

/** So many damaged segments are gone round; more, and something else is wrong. */
const damagedSegments = 100;

/** Does something with the choice, and again without each segment that turns out to be damaged: it is a hole like another. */
export async function withReadable<T>(
  { log }: Context,
  choice: Choice,
  attempt: (choice: Choice) => Promise<T>,
): Promise<T> {
  let left = choice;
  for (let count = 0; ; count += 1) {
    try {
      return await attempt(left);
    } catch (error) {
      if (!(error instanceof UnreadableSegment) || count === damagedSegments) throw error;
      log.warning(error.message, error);
      left = { ...left, wal: withoutSegment(left.wal, error.segment, error) };
    }
  }
}
