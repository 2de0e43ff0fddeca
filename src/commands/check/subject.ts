/** What the checks look at: each thing is opened once, by the first check that needs it, and told of by the one whose matter it is. */
import { resolve } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import { noRepository, type RepositoryDocument, readRepository } from '../../archive/repository.ts';
import type { ReadyFiles } from '../../cluster/archive-status.ts';
import { readControlFile } from '../../cluster/data-directory.ts';
import { type Keys, noKeys } from '../../codec/keys.ts';
import { ObjectNotFound } from '../../errors.ts';
import { checkIdleMs, checkPatienceMs, checkSharedMs } from '../../limits.ts';
import type { Log } from '../../log.ts';
import type { Patience } from '../../storage/open.ts';
import type { Storage } from '../../storage/storage.ts';
import { type ListedBackup, readCatalogue } from '../backups.ts';
import { type Context, repositoryUrl, storageOf } from '../context.ts';
import { loadKeys } from '../keys.ts';
import { type Choice, choiceIn } from '../restore/choice.ts';
import { expectCluster, whichCluster } from '../which-cluster.ts';
import { type ArchiverState, readArchiverState, readReadyFiles } from './archiver-state.ts';
import { type Finding, NotLookedAt, warning } from './finding.ts';
import { inTime } from './in-time.ts';
import { mayDelete } from './only-object.ts';
import { openRunningServer, type RunningServer } from './running-server.ts';
import { type NewestWal, readWalNames, type WalNames } from './wal-names.ts';

export interface CheckLimits {
  /** The newest confirmed backup may be this old. */
  readonly maxBackupAgeMs: number;
  /** The newest archived WAL may be this old. */
  readonly maxWalAgeMs: number;
}

export interface SubjectOptions extends CheckLimits {
  /** As it was given, else as the settings or the environment have it. */
  readonly dataDirectory: string | undefined;
  /** Is this check among those that are done, or was it left out by its name, or not asked for? */
  readonly isDone: (check: string) => 'done' | 'left out' | 'not asked for';
}

/** Where the archive is, without what opens it. */
export type Place = Pick<Archive, 'storage' | 'systemIdentifier'>;

/** A thing that is made once. */
export class Shared<T> {
  readonly #owner: string;
  readonly #make: () => Promise<T>;
  readonly #isDone: SubjectOptions['isDone'];
  #made: Promise<T> | undefined;
  #settled: T | undefined;

  /** `owner` is the check that tells when it cannot be made. */
  constructor(owner: string, make: () => Promise<T>, isDone: SubjectOptions['isDone']) {
    this.#owner = owner;
    this.#make = make;
    this.#isDone = isDone;
  }

  /** For its owner: fails as it fails. */
  own(): Promise<T> {
    this.#made ??= inTime(
      this.#make().then((made) => {
        this.#settled = made;
        return made;
      }),
      checkSharedMs,
    );
    return this.#made;
  }

  /** For all others. @throws NotLookedAt when its owner tells what is wrong, or was left out on purpose; else as it fails. */
  async get(): Promise<T> {
    const state = this.#isDone(this.#owner);
    if (state === 'left out') throw new NotLookedAt(`"${this.#owner}" was left out`);
    try {
      return await this.own();
    } catch (error) {
      if (state === 'not asked for' || error instanceof NotLookedAt) throw error;
      throw new NotLookedAt(`see "${this.#owner}"`);
    }
  }

  /** What was made so far, to be closed. */
  get made(): T | undefined {
    return this.#settled;
  }
}

export class Subject {
  readonly context: Context;
  readonly limits: CheckLimits;
  readonly url: Shared<string>;
  readonly storage: Shared<{ readonly storage: Storage; readonly repository: RepositoryDocument }>;
  /** That it can be listed. */
  readonly listing: Shared<void>;
  /** Found out by trying. */
  readonly mayDelete: Shared<boolean>;
  readonly keys: Shared<Keys>;
  readonly place: Shared<Place>;
  readonly archive: Shared<Archive>;
  readonly walNames: Shared<WalNames>;
  readonly newestWal: Shared<NewestWal | undefined>;
  /** Oldest first. */
  readonly backups: Shared<readonly ListedBackup[]>;
  /** All that is stored, manifests read: needs an identity where manifests are encrypted. */
  readonly stored: Shared<Choice>;
  readonly server: Shared<RunningServer>;
  readonly readyFiles: Shared<ReadyFiles>;
  readonly archiver: Shared<ArchiverState>;
  /** Is this check among those that are done? */
  readonly isDone: (check: string) => boolean;
  /** Undefined where none is known. */
  readonly dataDirectory: string | undefined;
  /** What was said while keys and manifests were read. */
  readonly keyWarnings: Finding[] = [];
  readonly manifestWarnings: Finding[] = [];

  constructor(context: Context, options: SubjectOptions) {
    const { dataDirectory, isDone } = options;
    const directory = dataDirectory === undefined ? undefined : resolve(context.workingDirectory, dataDirectory);
    this.limits = options;
    this.dataDirectory = directory;
    const times = { ...context.settings.times, idleMs: Math.min(context.settings.times.idleMs, checkIdleMs) };
    this.context = { ...context, settings: { ...context.settings, dataDirectory: directory, times } };
    const keeping = (warnings: Finding[]): Context => ({ ...this.context, log: keepingLog(context.log, warnings) });
    this.url = new Shared('settings', async () => repositoryUrl(this.context), isDone);
    this.storage = new Shared('storage', () => this.#openStorage(), isDone);
    this.listing = new Shared('storage', () => this.#list(), isDone);
    this.mayDelete = new Shared('storage', () => this.#tryToDelete(), isDone);
    this.keys = new Shared('encryption', () => loadKeys(keeping(this.keyWarnings)), isDone);
    this.place = new Shared('archive', () => this.#findPlace(), isDone);
    this.archive = new Shared('archive', () => this.#openArchive(), isDone);
    this.walNames = new Shared('wal', async () => readWalNames(await this.listed(), this.context), isDone);
    this.newestWal = new Shared('wal', async () => (await this.walNames.own()).newest, isDone);
    this.backups = new Shared(
      'backups',
      async () => readCatalogue(this.context, { ...(await this.listed()), keys: noKeys }), // tells by keys alone
      isDone,
    );
    this.stored = new Shared(
      'holes',
      async () => choiceIn(keeping(this.manifestWarnings), await this.archive.get()),
      isDone,
    );
    this.server = new Shared('server', () => openRunningServer(this.context, directory), isDone);
    this.readyFiles = new Shared('backlog', async () => readReadyFiles(await this.server.get()), isDone);
    this.archiver = new Shared('archiver', () => this.#lookAtArchiver(), isDone);
    this.isDone = (check) => isDone(check) === 'done';
  }

  /** For whoever looks for keys. */
  async listed(): Promise<Place> {
    await this.listing.get();
    return this.place.get();
  }

  async close(): Promise<void> {
    await this.server.made?.session.close();
  }

  async #openStorage() {
    const { signal } = this.context;
    await this.url.get();
    const storage = await storageOf(this.context, makePatience());
    const repository = await readRepository(storage, { signal }).catch((error: unknown) => {
      throw error instanceof ObjectNotFound ? noRepository(storage) : error;
    });
    return { storage, repository };
  }

  async #list(): Promise<void> {
    const { storage } = await this.storage.own();
    for await (const _ of storage.list('probe/', { signal: this.context.signal })) return;
  }

  async #tryToDelete(): Promise<boolean> {
    const { storage, repository } = await this.storage.own();
    return mayDelete(storage, repository.storage, { signal: this.context.signal });
  }

  async #findPlace(): Promise<Place> {
    const { storage } = await this.storage.get();
    const { context, dataDirectory } = this;
    const control = dataDirectory === undefined ? undefined : await readControlFile(dataDirectory);
    let own = control?.systemIdentifier;
    if (own === undefined && context.settings.systemIdentifier === undefined) {
      own = (await this.server.get().catch(() => undefined))?.systemIdentifier;
    }
    const systemIdentifier = await whichCluster(context, storage, { own, dataDirectory });
    await expectCluster({ storage, systemIdentifier, keys: noKeys }, context);
    return { storage, systemIdentifier };
  }

  async #lookAtArchiver(): Promise<ArchiverState> {
    const server = await this.server.get();
    return readArchiverState(server, await this.readyFiles.own().catch(() => undefined));
  }

  async #openArchive(): Promise<Archive> {
    return { ...(await this.place.get()), keys: await this.keys.get() };
  }
}

/** Each time that something begins to fail it may be tried again for a moment. */
function makePatience(): Patience {
  let [firstMs, lastMs] = [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
  return () => {
    const nowMs = performance.now();
    if (nowMs - lastMs > 2 * checkIdleMs + checkPatienceMs) firstMs = nowMs;
    lastMs = nowMs;
    return firstMs + checkPatienceMs - nowMs;
  };
}

/** Warnings are findings here. */
function keepingLog(log: Log, warnings: Finding[]): Log {
  return { ...log, warning: (message, details) => warnings.push(warning(message, details)) };
}
