/** The histories of a backup's timelines: without them PostgreSQL cannot follow its timeline, or takes a number that is taken (H14). */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import { historyKey } from '../../archive/keys.ts';
import { CheckError, HostError, systemErrorCode, systemErrorReason } from '../../errors.ts';
import { parseTimelineHistory } from '../../postgres/timeline-history.ts';
import { formatHistoryName } from '../../postgres/wal-file-name.ts';
import type { Context } from '../context.ts';
import { walPush } from '../wal-push.ts';

/**
 * Proves that the history of `timeline` is stored, and those of its ancestors; pushes what is only in pg_wal, as for a server whose first
 * archive was another one.
 * @throws CheckError when the timeline's own is nowhere. Of an ancestor's it is only warned: this backup can be restored without.
 */
export async function ensureHistories(
  context: Context,
  archive: Archive,
  { timeline, dataDirectory }: { readonly timeline: number; readonly dataDirectory: string },
): Promise<void> {
  if (timeline === 1) return; // the first one has none
  const walFolder = join(dataDirectory, 'pg_wal');
  if (!(await ensureHistory(context, archive, walFolder, timeline))) {
    throw new CheckError(`"${formatHistoryName(timeline)}" is neither archived nor in pg_wal`, {
      detail: `without it nothing can be restored on timeline ${timeline}`,
      hint: `Find it on another server of this cluster, put it into "${walFolder}", and take the backup again.`,
    });
  }
  for (const ancestor of await ancestorsOf(timeline, walFolder)) {
    if (await ensureHistory(context, archive, walFolder, ancestor)) continue;
    context.log.warning(`"${formatHistoryName(ancestor)}" is neither archived nor in pg_wal`, {
      detail: 'this backup does not need it; a recovery that ends on that timeline would',
    });
  }
}

/** Is the history stored, now at the latest? Its key tells: a host that cannot decrypt cannot look inside. */
async function ensureHistory(
  context: Context,
  archive: Archive,
  walFolder: string,
  timeline: number,
): Promise<boolean> {
  if (await isStored(context, archive, timeline)) return true;
  const name = formatHistoryName(timeline);
  const path = join(walFolder, name);
  if ((await readIfThere(path)) === undefined) return false;
  await walPush(context, { path });
  context.log.info(`"${name}" was missing in the archive and has been pushed from pg_wal`);
  return isStored(context, archive, timeline);
}

async function isStored(
  { signal }: Context,
  { storage, systemIdentifier }: Archive,
  timeline: number,
): Promise<boolean> {
  const key = historyKey(systemIdentifier, timeline);
  for await (const found of storage.list(key, { signal })) return found.key === key;
  return false;
}

/** The later timelines that this one descends from, as its history in pg_wal tells. */
async function ancestorsOf(timeline: number, walFolder: string): Promise<number[]> {
  const text = await readIfThere(join(walFolder, formatHistoryName(timeline)));
  if (text === undefined) return [];
  return parseTimelineHistory(timeline, text).ancestors.flatMap((one) => (one.timeline === 1 ? [] : [one.timeline]));
}

function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw new HostError(`could not read "${path}": ${systemErrorReason(error)}`, { cause: error });
  });
}
