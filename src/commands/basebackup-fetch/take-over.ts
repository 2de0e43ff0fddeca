/**
 * Makes a stopped data directory one that a backup may be restored over, in an order in which nothing is ever lost (H31), each step durable before
 * the next: looked at → pg_control has another name → pg_wal set aside → what it has unarchived is archived.
 */
import type { BackupManifest } from '../../archive/manifest.ts';
import { showPath, toBytePath } from '../../byte-path.ts';
import { disarm, expectStopped, isWalLink, type OldCluster, writeOverMark } from '../../cluster/old-cluster.ts';
import { type AsideWal, findUnarchived, planAside, setAside } from '../../cluster/old-wal.ts';
import { expectFreePlaces, type TablespacePlace } from '../../cluster/restore-places.ts';
import { RestoredFolder } from '../../cluster/restored-folder.ts';
import { Surplus } from '../../cluster/surplus.ts';
import { HostError, StorageError, WalTError } from '../../errors.ts';
import type { Context } from '../context.ts';
import { walPush } from '../wal-push.ts';

/** What became of the old pg_wal. */
export interface OldWal {
  /** Where it is now, the oldest first: more than one where a restore was interrupted, and a server started all the same. */
  readonly folders: readonly string[];
  /** What was archived of it. */
  readonly pushed: readonly string[];
  /** What could not be. */
  readonly failed: readonly string[];
}

export interface TakenOver {
  readonly target: RestoredFolder;
  readonly surplus: Surplus;
  readonly wal: OldWal;
}

export interface TakeOverOptions {
  readonly manifest: BackupManifest;
  readonly tablespaces: readonly TablespacePlace[];
  /** Reads the backup's list of files: nothing is changed for a backup that cannot be read. */
  readonly checkList: () => Promise<void>;
  /** Called when it fails after nothing can be started there any more. */
  readonly onIncomplete: () => void;
}

/** @throws HostError when it is another cluster, or a server runs there: nothing was changed then. */
export async function takeOver(
  context: Context,
  old: OldCluster,
  { manifest, tablespaces, checkList, onIncomplete }: TakeOverOptions,
): Promise<TakenOver> {
  const { root } = old;
  expectSameCluster(old, manifest);
  await expectFreePlaces(toBytePath(root), tablespaces, old.places);
  const own = tablespaces.map(({ location }) => location).filter((location) => old.places.includes(location));
  await expectStopped(old, own);
  const last = old.isInterrupted ? old.aside.at(-1) : undefined;
  const planned = last ?? (await planAside(old, new Date()));
  await checkList();
  await disarm(old, own);
  try {
    const aside = planned === undefined || planned === last ? old.aside : [...old.aside, planned];
    const places = [...new Set([...own, ...tablespaces.map(({ location }) => location)])];
    await writeOverMark(root, { ...old, aside, places });
    if (planned !== undefined) await setAside(planned);
    const done = await pushAll(context, old, aside);
    for (const place of old.places) {
      if (places.includes(place)) continue;
      context.log.info(`"${showPath(place)}" was a tablespace's place: it is left as it is`);
    }
    const keepsWalLink = await isWalLink(root);
    return {
      target: await RestoredFolder.over(root, { tablespaces, keepsWalLink }),
      surplus: new Surplus({
        ...old,
        places: new Map(tablespaces.map(({ oid, location }) => [`pg_tblspc/${oid}`, location])),
        keepsWalLink,
      }),
      wal: { ...done, folders: aside.map(({ to }) => to) },
    };
  } catch (error) {
    onIncomplete();
    throw error;
  }
}

function expectSameCluster(old: OldCluster, { id, systemIdentifier, postgres }: BackupManifest): void {
  const hint = 'Choose the right folder, or another backup. Nothing was changed.';
  if (old.systemIdentifier !== systemIdentifier) {
    throw new HostError(`"${old.root}" is another cluster's`, {
      detail: `it is of system ${old.systemIdentifier}, backup ${id} of system ${systemIdentifier}`,
      hint,
    });
  }
  const major = Math.floor(postgres.versionNumber / 10_000);
  if (old.major === major) return;
  throw new HostError(`"${old.root}" is of PostgreSQL ${old.major}, and backup ${id} of ${major}`, { hint });
}

/** What is not archived then stays where it is, and is named. */
async function pushAll(
  context: Context,
  { systemIdentifier }: OldCluster,
  aside: readonly AsideWal[],
): Promise<Pick<OldWal, 'pushed' | 'failed'>> {
  const settings = { ...context.settings, systemIdentifier, dataDirectory: undefined };
  const pushed: string[] = [];
  const failed: string[] = [];
  for (const { to } of aside) {
    const files = await findUnarchived(to, systemIdentifier);
    let error: WalTError | undefined;
    for (const { name } of files) {
      context.signal.throwIfAborted();
      error = error instanceof StorageError ? error : await push({ ...context, settings }, `${to}/${name}`);
      if (error === undefined) pushed.push(name);
      else failed.push(name);
    }
  }
  return { pushed, failed };
}

/** @returns why it was not archived. */
async function push(context: Context, path: string): Promise<WalTError | undefined> {
  try {
    await walPush(context, { path });
    return undefined;
  } catch (error) {
    if (!(error instanceof WalTError)) throw error;
    context.log.warning(`"${path}" was not archived: ${error.message}`, {
      detail: error.detail,
      hint: 'It stays there, and recovery does without it. Archive it with wal-push before you remove that folder.',
    });
    return error;
  }
}
