/**
 * wal-t wal-set-aside NAME --confirm: moves a stored WAL file out of the way, so that another of its name can be archived. It is copied
 * below `set-aside/` first, byte for byte, and never lost.
 *
 * One at a time, and none beside a deletion: a second one that had looked before the first removed the wrong file would remove the right
 * one, which was archived in between and which PostgreSQL has recycled. Keys are not needed: it is bytes that are moved.
 */
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Archive } from '../archive/archive.ts';
import { publishPlan, type Removal } from '../archive/deletion-plan.ts';
import { kindPrefix, objectKey, walObjectName } from '../archive/keys.ts';
import { openWalFile } from '../archive/wal-archive.ts';
import { type Bytes, collect } from '../bytes.ts';
import { findDataDirectory } from '../cluster/data-directory.ts';
import { removeMarkers } from '../cluster/push-markers.ts';
import {
  CheckError,
  CorruptError,
  NotFoundError,
  ObjectNotFound,
  StorageError,
  UsageError,
  WrongKeyError,
} from '../errors.ts';
import { limits } from '../limits.ts';
import { parseTimelineHistory } from '../postgres/timeline-history.ts';
import { type HistoryName, parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';
import type { StoredBody } from '../storage/storage.ts';
import { openArchive } from './backups.ts';
import type { Context } from './context.ts';
import { deadPlans, expectNoOther, withdraw } from './delete/own-plans.ts';

export interface SetAsideArguments {
  readonly name: string;
  readonly confirm: boolean;
}

export interface SetAsideResult {
  readonly key: string;
  /** Where it is, or would be. */
  readonly asideKey: string;
  readonly sizeBytes: number;
  readonly moved: boolean;
}

/**
 * @throws UsageError for a history that can be read: a removed one means that its timeline's number is taken again (H14).
 * @throws CheckError while another one, or a deletion, is at it.
 */
export async function walSetAside(context: Context, { name, confirm }: SetAsideArguments): Promise<SetAsideResult> {
  const file = parseWalFileName(name);
  if (file === undefined) throw new UsageError(`"${name}" is not the name of a file that PostgreSQL archives`);
  const archive = await openArchive(context);
  if (file.kind === 'history') await expectDamaged(context, archive, file);
  const { systemIdentifier } = archive;
  const key = objectKey(systemIdentifier, walObjectName(file));
  const time = new Date().toISOString().replaceAll(/[-:.]/g, '');
  const asideKey = objectKey(systemIdentifier, `set-aside/${time}-${randomBytes(4).toString('hex')}/${file.name}`);
  const seen = await look(context, archive, { key, name });
  const result = { key, asideKey, sizeBytes: seen.sizeBytes };
  if (!confirm) return { ...result, moved: false };
  await alone(context, archive, file, () => move(context, archive, { ...result, name, sha256: seen.sha256 }));
  await forgetMarkers(context, name);
  return { ...result, moved: true };
}

/** On the host of the server itself: it archives its own at its next attempt. Another host's markers end by themselves. */
async function forgetMarkers({ workingDirectory, settings }: Context, name: string): Promise<void> {
  const configured = settings.dataDirectory;
  const dataDirectory = await findDataDirectory(`pg_wal/${name}`, { workingDirectory, configured });
  if (dataDirectory !== undefined) await removeMarkers(join(dataDirectory, 'pg_wal'));
}

/** A damaged history tells nothing, and is in the way of a sound copy that some server still has. @throws UsageError when it is sound. */
async function expectDamaged(context: Context, archive: Archive, file: HistoryName): Promise<void> {
  try {
    const { content } = await openWalFile(archive, file, context);
    parseTimelineHistory(file.timeline, (await collect(content, limits.smallFileBytes)).toString('utf8'));
  } catch (error) {
    if (error instanceof ObjectNotFound) return; // said below
    if (error instanceof CorruptError && !(error instanceof WrongKeyError)) return;
    throw error;
  }
  throw new UsageError(`"${file.name}" cannot be set aside: the timeline's number would be taken a second time`);
}

/** @throws NotFoundError */
async function look(context: Context, archive: Archive, file: { readonly key: string; readonly name: string }) {
  const { sizeBytes, body } = await read(context, archive, file);
  return { sizeBytes, sha256: await hashOf(body) };
}

/** @throws NotFoundError */
async function read(
  { signal }: Context,
  { storage }: Archive,
  { key, name }: { readonly key: string; readonly name: string },
): Promise<StoredBody> {
  try {
    return await storage.get(key, { signal });
  } catch (error) {
    if (!(error instanceof ObjectNotFound)) throw error;
    throw new NotFoundError(`"${name}" is not archived`, { hint: 'wal-list shows what is.' });
  }
}

/** Does the work when nobody else removes anything; a backup that needs the file is not confirmed meanwhile. */
async function alone<T>(context: Context, archive: Archive, file: WalFileName, work: () => Promise<T>): Promise<T> {
  const removal: Removal = { parts: new Map(), wal: file.kind === 'segment' ? [[file.name, file.name]] : [] };
  const plan = await publishPlan(archive, removal, { host: context.host, signal: context.signal });
  const own = [plan];
  try {
    const others = await hasOthers(context, archive, plan);
    const now = others ? await expectNoOther(context, archive, own) : undefined;
    const result = await work();
    // those of one that died while it moved this file
    const dead = now === undefined ? [] : await deadPlans(context, archive, now);
    const isSame = (one: Removal) => one.parts.size === 0 && one.wal.flat().join() === removal.wal.flat().join();
    own.push(...dead.filter(isSame).map(({ name }) => name));
    return result;
  } finally {
    await withdraw(context, archive, own);
  }
}

/** A host that writes the archive can find them by their names, and need not be able to read them. */
async function hasOthers({ signal }: Context, { storage, systemIdentifier }: Archive, plan: string): Promise<boolean> {
  for await (const { key } of storage.list(kindPrefix(systemIdentifier, 'plan'), { signal })) {
    if (key !== objectKey(systemIdentifier, plan)) return true;
  }
  return false;
}

interface Move {
  readonly key: string;
  readonly asideKey: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Of what is to be moved, and nothing else. */
  readonly sha256: string;
}

async function move(context: Context, archive: Archive, { key, asideKey, name, sizeBytes, sha256 }: Move) {
  const { storage } = archive;
  const { signal } = context;
  const again = await look(context, archive, { key, name });
  if (again.sha256 !== sha256) {
    throw new CheckError(`"${name}" was set aside and archived anew meanwhile: it stays where it is`, {
      hint: 'Compare it once more with "wal-t wal-diff" before it is set aside, too.',
    });
  }
  const { body } = await read(context, archive, { key, name });
  await storage.put(asideKey, body, { sizeHint: sizeBytes, signal });
  if ((await hashOf((await storage.get(asideKey, { signal })).body)) !== sha256) {
    throw new StorageError(`"${asideKey}" is not what was copied there: "${key}" stays where it is`);
  }
  const [failure] = (await storage.delete([key], { signal })).failed;
  if (failure !== undefined) throw failure.error;
}

async function hashOf(content: Bytes): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of content) hash.update(chunk);
  return hash.digest('hex');
}
