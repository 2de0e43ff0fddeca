/** The folder that a backup is restored into, with its tablespaces: empty at the beginning, and marked as unfinished until all is durable. */
import { constants } from 'node:fs';
import { lstat, mkdir, open, readdir, readFile, readlink, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type BytePath, showPath, toBytePath, toFilePath } from '../byte-path.ts';
import { type Bytes, bytesOf } from '../bytes.ts';
import { makeFolders, replaceFile, syncFolder } from '../durable-file.ts';
import { CorruptError, HostError, systemErrorCode } from '../errors.ts';
import { overName } from './old-cluster.ts';
import { expectFreePlaces, expectSpace, namesIn, type TablespacePlace, unwritable } from './restore-places.ts';
import { type FileAttributes, temporaryEnding } from './restored-file.ts';

export interface FolderOptions {
  /** The backup's name: an interrupted restore is only gone on with when it was of the same. */
  readonly backup: string;
  readonly resume: boolean;
  /** Length of all files. */
  readonly rawBytes: number;
  readonly tablespaces: readonly TablespacePlace[];
  /** The command that goes on with this restore. */
  readonly again: string;
}

export interface FolderEntry {
  readonly type: 'folder' | 'tablespace';
  /** Relative; of a tablespace `pg_tblspc/<oid>`. */
  readonly path: BytePath;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Says of which backup the restore is that is under way here. */
const markName = '.wal-t-restore.json';
/** A line for each task that is done: a part, or files that were made together. */
const finishedName = '.wal-t-restore.parts';

export class RestoredFolder {
  /** Absolute. */
  readonly root: BytePath;
  /** Was anything there before? */
  readonly isResumed: boolean;
  /** Whom everything is given to instead of the owners in the backup; undefined when it belongs to whoever restores. */
  readonly #owner: 'as backed up' | NonNullable<FileAttributes['owner']> | undefined;
  readonly #path: string;
  readonly #locations: ReadonlyMap<string, BytePath>;
  /** Tasks whose files are all there and durable: an interrupted restore may have left others', of which nobody knows what they are. */
  readonly #finished: ReadonlySet<string>;
  /** Is `pg_wal` a link that was there before, and stays? */
  readonly #keepsWalLink: boolean;

  private constructor(
    path: string,
    { tablespaces }: Pick<FolderOptions, 'tablespaces'>,
    found: Pick<RestoredFolder, 'isResumed'> & {
      owner: OwnerRule;
      finished: ReadonlySet<string>;
      keepsWalLink: boolean;
    },
  ) {
    this.#path = path;
    this.root = toBytePath(path);
    this.isResumed = found.isResumed;
    this.#owner = found.owner;
    this.#finished = found.finished;
    this.#keepsWalLink = found.keepsWalLink;
    this.#locations = new Map(tablespaces.map(({ oid, location }) => [oid, location]));
  }

  /**
   * Looks whether there is place, makes the folder and marks it.
   * @throws HostError when something else is there, or not enough space; UsageError when two tablespaces share a place.
   */
  static async prepare(path: string, options: FolderOptions): Promise<RestoredFolder> {
    const names = await namesIn(toBytePath(path));
    const isResumed = await expectOwn(path, names, options);
    if (!isResumed) await expectFreePlaces(toBytePath(path), options.tablespaces);
    if (!options.resume) await expectSpace(path, options); // else a part of it is there already
    try {
      if (isResumed) await takeControlFile(path);
      await makeFolders(path, 0o700);
      await replaceFile(`${path}/${markName}`, bytesOf(Buffer.from(`${JSON.stringify({ backup: options.backup })}\n`)));
    } catch (error) {
      throw unwritable(toBytePath(path), error);
    }
    const finished = isResumed ? await readFinished(path) : new Set<string>();
    return new RestoredFolder(path, options, {
      isResumed,
      owner: await ownerRule(path, markName),
      finished,
      keepsWalLink: false,
    });
  }

  /** A data directory that is restored over: it is marked, and has no pg_control any more. */
  static async over(
    path: string,
    options: Pick<FolderOptions, 'tablespaces'> & { readonly keepsWalLink: boolean },
  ): Promise<RestoredFolder> {
    const found = { isResumed: true, finished: new Set<string>(), keepsWalLink: options.keepsWalLink };
    return new RestoredFolder(path, options, { ...found, owner: await ownerRule(path, overName) });
  }

  /** Did an interrupted restore come to the end of this task? Its name tells it from every other. */
  isFinished(name: string): boolean {
    return this.#finished.has(name);
  }

  /** Remembers a task whose files are all there and durable. */
  async noteFinished(name: string): Promise<void> {
    try {
      const handle = await open(`${this.#path}/${finishedName}`, 'a', 0o600);
      try {
        await handle.write(`${name}\n`);
        await handle.sync();
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw unwritable(this.root, error);
    }
  }

  /** Whose a file is to be that belonged to `backedUp`. */
  ownerOf(backedUp: NonNullable<FileAttributes['owner']>): FileAttributes['owner'] {
    return this.#owner === 'as backed up' ? backedUp : this.#owner;
  }

  /** Gives a file that was made here to whom the control file belongs: the server. */
  async giveFile(path: string): Promise<void> {
    const { uid, gid } = await stat(`${this.#path}/global/pg_control${temporaryEnding}`);
    await this.#give(toBytePath(path), { mode: 0o600, uid, gid });
  }

  /** Whose all files are to be; 'as backed up' where each has its own. */
  get owner(): OwnerRule {
    return this.#owner;
  }

  /** Open to nobody else until it is finished. */
  async makeFolder({ path }: FolderEntry): Promise<void> {
    if (path === 'pg_wal' && this.#keepsWalLink) return;
    await makePlainFolder(`${this.root}/${path}`);
  }

  /** The folder where the tablespace goes, and the link that leads there. @throws CorruptError when the manifest does not name it. */
  async makeTablespace({ path }: FolderEntry): Promise<void> {
    const location = this.#locationOf(path);
    const link = `${this.root}/${path}`;
    try {
      await makeFolders(toFilePath(location), 0o700);
      await symlink(toFilePath(location), toFilePath(link));
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST' || !this.isResumed) throw unwritable(link, error);
      const target = await readlink(toFilePath(link), { encoding: 'latin1' }).catch(() => undefined);
      if (target !== location) throw unwritable(link, error);
    }
  }

  #locationOf(path: BytePath): BytePath {
    const location = this.#locations.get(path.slice(path.lastIndexOf('/') + 1));
    if (location === undefined) throw new CorruptError(`the manifest names no tablespace for "${showPath(path)}"`);
    return location;
  }

  /** Owner and mode as they were, and durable with all that it names. */
  async finishFolder(entry: FolderEntry): Promise<void> {
    if (entry.path === 'pg_wal' && this.#keepsWalLink) return; // what it leads to was made anew
    const target = entry.type === 'folder' ? `${this.root}/${entry.path}` : this.#locationOf(entry.path);
    try {
      await this.#give(target, entry);
      await syncFolder(toFilePath(target));
      if (entry.type === 'tablespace') await syncFolder(toFilePath(target.slice(0, target.lastIndexOf('/')) || '/'));
    } catch (error) {
      throw unwritable(target, error);
    }
  }

  /** Through an open file, and never through a link that somebody has put there meanwhile. */
  async #give(target: BytePath, { mode, uid, gid }: Omit<FolderEntry, 'type' | 'path'>): Promise<void> {
    const owner = this.ownerOf({ uid, gid });
    const handle = await open(toFilePath(target), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      if (owner !== undefined) await handle.chown(owner.uid, owner.gid);
      await handle.chmod(mode);
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /**
   * Writes `backup_manifest`, and gives the control file its name, which makes a cluster of all this.
   * @param controlFile  relative; it stands there under its temporary name.
   */
  async finish(controlFile: BytePath, backupManifest: Bytes): Promise<void> {
    try {
      const written = `${this.#path}/backup_manifest`;
      await replaceFile(written, backupManifest);
      const control = `${this.root}/${controlFile}`;
      const attributes = await stat(toFilePath(`${control}${temporaryEnding}`));
      const folder = { mode: 0o700, uid: attributes.uid, gid: attributes.gid };
      await this.#give(toBytePath(written), { ...folder, mode: 0o600 });
      await this.#give(this.root, { ...folder, mode: (attributes.mode & 0o040) === 0 ? 0o700 : 0o750 });
      await syncFolder(this.#path);
      await syncFolder(dirname(this.#path));
      await rename(toFilePath(`${control}${temporaryEnding}`), toFilePath(control));
      await syncFolder(dirname(showPath(control)));
      await rm(`${this.#path}/${finishedName}`, { force: true });
      for (const mark of [markName, overName]) await rm(`${this.#path}/${mark}`, { force: true });
      await syncFolder(this.#path);
    } catch (error) {
      throw unwritable(this.root, error);
    }
  }
}

export type OwnerRule = 'as backed up' | NonNullable<FileAttributes['owner']> | undefined;

/** The lines that were written whole. */
async function readFinished(path: string): Promise<Set<string>> {
  const text = await readFile(`${path}/${finishedName}`, 'utf8').catch(() => '');
  return new Set(text.split('\n').slice(0, -1));
}

/** It was interrupted when it was a cluster already, but nobody had been told: it is none again. @throws HostError when a server was started there. */
async function takeControlFile(path: string): Promise<void> {
  const names = await readdir(path);
  const started = names.find((name) => name === 'postmaster.pid' || name === 'postmaster.opts');
  if (started !== undefined) {
    throw new HostError(`a server was started in "${path}"`, {
      detail: `"${started}" is there`,
      hint: 'The restore had come to its end. Use it as it is, or restore into another folder.',
    });
  }
  const global = await lstat(`${path}/global`).catch(() => undefined);
  if (global?.isDirectory() !== true) return; // a link may lead into a live cluster
  const control = `${path}/global/pg_control`;
  await rename(control, `${control}${temporaryEnding}`).catch((error: unknown) => {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
  });
}

/** Only root can give files away: to the owner that the folder has, or had before it was filled, else to whom they belonged. */
async function ownerRule(path: string, mark: string): Promise<OwnerRule> {
  const folder = await stat(path);
  const made = await stat(`${path}/${mark}`);
  if (made.uid !== 0) return undefined;
  return folder.uid === 0 ? 'as backed up' : { uid: folder.uid, gid: folder.gid };
}

/** @returns whether a restore of this very backup was begun here. */
async function expectOwn(
  path: string,
  names: readonly string[] | undefined,
  { backup, resume, again }: FolderOptions,
): Promise<boolean> {
  // killed before it was marked, a restore has left nothing but the mark's temporary file
  const isEmpty = names === undefined || names.every((name) => name.startsWith(`${markName}.wal-t-`));
  if (isEmpty) return false;
  if (names.includes(overName)) {
    throw new HostError(`"${path}" holds an unfinished restore with --delta`, {
      hint: 'Go on with --delta. Nothing was changed.',
    });
  }
  const begun = names.includes(markName) ? await readMark(`${path}/${markName}`) : undefined;
  if (resume && begun === backup) return true;
  if (begun === undefined) {
    throw new HostError(`"${path}" is not empty`, {
      detail: names.includes('PG_VERSION') ? 'it looks like the data directory of a cluster' : undefined,
      hint: 'Give an empty folder, or one that does not exist yet; or --delta, which changes a stopped cluster into the backup. Nothing was changed.',
    });
  }
  throw new HostError(`"${path}" holds an unfinished restore of backup ${begun}`, {
    hint:
      begun === backup
        ? `Go on with "${again}", or remove the folder.`
        : 'Go on with that one (--resume), or remove the folder.',
  });
}

async function readMark(path: string): Promise<string | undefined> {
  try {
    const mark: unknown = JSON.parse(await readFile(path, 'utf8'));
    return typeof mark === 'object' && mark !== null && 'backup' in mark ? String(mark.backup) : undefined;
  } catch {
    return undefined; // then it is a file like any other, and the folder not empty
  }
}

/** Never follows a link: what is there must be a folder. */
async function makePlainFolder(target: BytePath): Promise<void> {
  try {
    await mkdir(toFilePath(target), { mode: 0o700 });
  } catch (error) {
    const found = await lstat(toFilePath(target)).catch(() => undefined);
    if (systemErrorCode(error) !== 'EEXIST' || found?.isDirectory() !== true) throw unwritable(target, error);
  }
}
