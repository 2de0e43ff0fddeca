/**
 * A stopped data directory that a backup is restored over (H31): is it one, whose, and what a restore over it has done already. From the moment
 * its pg_control has another name no server starts there.
 */
import { lstat, readdir, readFile, readlink, realpath, rename, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type BytePath, toBytePath, toFilePath } from '../byte-path.ts';
import { bytesOf } from '../bytes.ts';
import { replaceFile, syncFolder } from '../durable-file.ts';
import { HostError, systemErrorCode } from '../errors.ts';
import { type ControlFile, parseControlFile } from '../postgres/control-file.ts';
import { type AsideWal, isOwnAside } from './old-wal.ts';
import { unwritable } from './restore-places.ts';
import { temporaryEnding } from './restored-file.ts';
import { expectNoServer } from './running-server.ts';

/** Says that a restore over this directory is under way. */
export const overName = '.wal-t-delta.json';
const plainMark = '.wal-t-restore.json';

export interface OldIdentity {
  readonly systemIdentifier: string;
  readonly major: number;
  readonly catalogVersion: number;
}

/** What is remembered in the directory itself until all is done. */
export interface OverMark extends OldIdentity {
  /** Where its pg_wal was, and where it was put: oldest first. */
  readonly aside: readonly AsideWal[];
  /** Places of tablespaces that are this directory's. */
  readonly places: readonly BytePath[];
}

export interface OldCluster extends OverMark {
  /** Its real path. */
  readonly root: string;
  /** Was an earlier restore over it interrupted? */
  readonly isInterrupted: boolean;
  /** Where its pg_wal is, when a link leads there. */
  readonly linkedWal: string | undefined;
}

/**
 * Undefined: there is nothing, or what an interrupted restore into an empty folder has left.
 * @throws HostError when something else is there than a data directory.
 */
export async function openOldCluster(path: string): Promise<OldCluster | undefined> {
  const names = await readdir(path).catch((error: unknown): string[] => {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw unwritable(toBytePath(path), error);
  });
  const isEmpty = names.every((name) => name.startsWith(`${plainMark}.wal-t-`));
  if (isEmpty || (names.includes(plainMark) && !names.includes(overName))) return undefined;
  const root = await realpath(path);
  const mark = names.includes(overName) ? await readMark(root) : undefined;
  const hasControl = (await lstat(controlPath(root)).catch(() => undefined)) !== undefined;
  const identity = mark ?? (await identify(root));
  const linkedWal = await linkedFolder(join(root, 'pg_wal'));
  const last = hasControl ? undefined : mark?.aside.at(-1);
  if (last !== undefined && !isOwnAside({ root, linkedWal }, last)) throw damagedMark(root);
  const links = await tablespaceLinks(root);
  return {
    ...identity,
    root,
    isInterrupted: mark !== undefined && !hasControl,
    aside: mark?.aside ?? [],
    places: [...new Set([...(mark?.places ?? []), ...links])],
    linkedWal,
  };
}

function controlPath(root: string): string {
  return join(root, 'global', 'pg_control');
}

async function readMark(root: string): Promise<OverMark> {
  const path = join(root, overName);
  try {
    const mark = JSON.parse(await readFile(path, 'utf8')) as OverMark;
    if (typeof mark.systemIdentifier === 'string' && Array.isArray(mark.aside) && Array.isArray(mark.places))
      return mark;
  } catch (error) {
    if (systemErrorCode(error) !== undefined) throw unwritable(toBytePath(path), error);
  }
  throw damagedMark(root);
}

function damagedMark(root: string): HostError {
  return new HostError(`"${join(root, overName)}" is damaged`, {
    hint: 'It tells where the old pg_wal is. Restore into another folder, and keep this one. Nothing was changed.',
  });
}

async function identify(root: string): Promise<OldIdentity> {
  const version = await readFile(join(root, 'PG_VERSION'), 'utf8').catch(() => '');
  const global = await lstat(join(root, 'global')).catch(() => undefined);
  const control =
    global?.isDirectory() === true // a link may lead into a live cluster
      ? ((await controlIn(controlPath(root))) ?? (await controlIn(`${controlPath(root)}${temporaryEnding}`)))
      : undefined;
  if (!/^\d+\s*$/.test(version) || control === undefined) {
    throw new HostError(`"${root}" is not a data directory`, {
      detail: `it holds files, but no sound ${control === undefined ? 'global/pg_control' : 'PG_VERSION'}`,
      hint: 'Only a stopped cluster is restored over. Give its data directory, or an empty folder. Nothing was changed.',
    });
  }
  return {
    systemIdentifier: control.systemIdentifier,
    major: Number(version),
    catalogVersion: control.catalogVersion,
  };
}

async function controlIn(path: string): Promise<ControlFile | undefined> {
  const found = await lstat(path).catch(() => undefined);
  return found?.isFile() === true ? parseControlFile(await readFile(path)) : undefined;
}

async function linkedFolder(path: string): Promise<string | undefined> {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isSymbolicLink() !== true) return undefined;
  // moved, and not made anew yet, it leads nowhere
  return realpath(path).catch(async () => {
    const target = resolve(dirname(path), await readlink(path));
    return join(await realpath(dirname(target)).catch(() => dirname(target)), basename(target));
  });
}

/** Where the links of its tablespaces lead. */
async function tablespaceLinks(root: string): Promise<BytePath[]> {
  const folder = `${toBytePath(root)}/pg_tblspc`;
  const found = await lstat(toFilePath(folder)).catch(() => undefined);
  if (found?.isDirectory() !== true) return [];
  const names = await readdir(toFilePath(folder), 'latin1');
  const targets = names.map((name) =>
    readlink(toFilePath(`${folder}/${name}`), { encoding: 'latin1' }).catch(() => undefined),
  );
  return (await Promise.all(targets)).filter((target) => target !== undefined);
}

/** @throws HostError when a server uses it, or what it keeps elsewhere. */
export async function expectStopped({ root, linkedWal }: OldCluster, places: readonly BytePath[]): Promise<void> {
  const folders = await Promise.all(places.map((place) => realpath(toFilePath(place)).catch(() => place)));
  await expectNoServer(root, [...folders.map(String), ...(linkedWal === undefined ? [] : [linkedWal])]);
}

/**
 * Takes pg_control its name, durable when it returns: from then on nothing starts there.
 * @throws HostError when a server has been started meanwhile.
 */
export async function disarm(old: OldCluster, places: readonly BytePath[]): Promise<void> {
  const control = controlPath(old.root);
  const global = await lstat(join(old.root, 'global')).catch(() => undefined);
  if (global?.isDirectory() !== true) return; // an earlier restore over it has come no further
  try {
    await rename(control, `${control}${temporaryEnding}`);
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw unwritable(toBytePath(control), error);
  }
  try {
    await syncFolder(join(old.root, 'global'));
    await expectStopped(old, places);
  } catch (error) {
    await rename(`${control}${temporaryEnding}`, control);
    throw error;
  }
}

/** Durable when it returns. */
export async function writeOverMark(
  root: string,
  { systemIdentifier, major, catalogVersion, aside, places }: OverMark,
) {
  const text = `${JSON.stringify({ systemIdentifier, major, catalogVersion, aside, places })}\n`;
  try {
    await replaceFile(join(root, overName), bytesOf(Buffer.from(text)));
  } catch (error) {
    throw unwritable(toBytePath(root), error);
  }
}

/** Does `pg_wal` lead to a folder elsewhere? */
export async function isWalLink(root: string): Promise<boolean> {
  const path = join(root, 'pg_wal');
  const [found, target] = await Promise.all([lstat(path), stat(path)].map((one) => one.catch(() => undefined)));
  return found?.isSymbolicLink() === true && target?.isDirectory() === true;
}
