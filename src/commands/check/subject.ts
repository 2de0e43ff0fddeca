/** What the checks look at: each thing is opened once, by the first check that needs it, and told of by the one whose matter it is. */
import { resolve } from 'node:path';
import type { Archive } from '../../archive/archive.ts';
import { noRepository, type RepositoryDocument, readRepository } from '../../archive/repository.ts';
import { connect, type Session } from '../../cluster/connection.ts';
import { readConnectionSettings } from '../../cluster/connection-settings.ts';
import { readControlFile } from '../../cluster/data-directory.ts';
import type { Keys } from '../../codec/keys.ts';
import { ObjectNotFound, PostgresError } from '../../errors.ts';
import type { Storage } from '../../storage/storage.ts';
import { type ListedBackup, openArchive, readCatalogue } from '../backups.ts';
import { type Context, storageOf } from '../context.ts';
import { keysToSeal } from '../keys.ts';
import type { Choice } from '../restore/plan.ts';
import { choiceIn } from '../restore.ts';
import { NotLookedAt } from './finding.ts';
import { findNewestWal, type NewestWal } from './newest-wal.ts';

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

/** Where the server runs that is looked at. */
export interface RunningServer {
  readonly session: Session;
  /** Undefined where it was not given, and the role may not ask for it. */
  readonly dataDirectory: string | undefined;
  readonly systemIdentifier: string;
}

/** A thing that is made once. */
export class Shared<T> {
  readonly #owner: string;
  readonly #make: () => Promise<T>;
  readonly #isDone: SubjectOptions['isDone'];
  #made: Promise<T> | undefined;

  /** `owner` is the check that tells when it cannot be made. */
  constructor(owner: string, make: () => Promise<T>, isDone: SubjectOptions['isDone']) {
    this.#owner = owner;
    this.#make = make;
    this.#isDone = isDone;
  }

  /** For its owner: fails as it fails. */
  own(): Promise<T> {
    this.#made ??= this.#make();
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

  /** What was made, to be closed. */
  async made(): Promise<T | undefined> {
    return this.#made?.catch(() => undefined);
  }
}

export class Subject {
  readonly context: Context;
  readonly limits: CheckLimits;
  readonly storage: Shared<{ readonly storage: Storage; readonly repository: RepositoryDocument }>;
  readonly keys: Shared<Keys>;
  readonly archive: Shared<Archive>;
  readonly newestWal: Shared<NewestWal | undefined>;
  /** Oldest first. */
  readonly backups: Shared<readonly ListedBackup[]>;
  /** All that is stored, manifests read: needs an identity where manifests are encrypted. */
  readonly stored: Shared<Choice>;
  readonly server: Shared<RunningServer>;
  /** Undefined where none is known. */
  readonly dataDirectory: string | undefined;

  constructor(context: Context, options: SubjectOptions) {
    const { dataDirectory, isDone } = options;
    const directory = dataDirectory === undefined ? undefined : resolve(context.workingDirectory, dataDirectory);
    this.limits = options;
    this.dataDirectory = directory;
    this.context = { ...context, settings: { ...context.settings, dataDirectory: directory } };
    this.storage = new Shared('storage', () => this.#openStorage(), isDone);
    this.keys = new Shared('encryption', () => keysToSeal(this.context), isDone);
    this.archive = new Shared('archive', () => this.#openArchive(), isDone);
    this.newestWal = new Shared('wal', async () => findNewestWal(await this.archive.get(), context), isDone);
    this.backups = new Shared('backups', async () => readCatalogue(this.context, await this.archive.get()), isDone);
    this.stored = new Shared('wal', async () => choiceIn(this.context, await this.archive.get()), isDone);
    this.server = new Shared('server', () => this.#openServer(), isDone);
  }

  async close(): Promise<void> {
    await (await this.server.made())?.session.close();
  }

  async #openStorage() {
    const { signal } = this.context;
    const storage = await storageOf(this.context);
    const repository = await readRepository(storage, { signal }).catch((error: unknown) => {
      throw error instanceof ObjectNotFound ? noRepository(storage) : error;
    });
    return { storage, repository };
  }

  async #openArchive(): Promise<Archive> {
    await this.storage.get();
    const { context, dataDirectory } = this;
    if (dataDirectory !== undefined || context.settings.systemIdentifier !== undefined) return openArchive(context);
    const systemIdentifier = (await this.server.get().catch(() => undefined))?.systemIdentifier;
    return openArchive({ ...context, settings: { ...context.settings, systemIdentifier } });
  }

  /** By libpq's variables; without them where the data directory's own server listens, or any on this host's usual socket. */
  async #openServer(): Promise<RunningServer> {
    const { context, dataDirectory: known } = this;
    const { libpq: environment, log, signal, settings } = context;
    const options = { environment, log, signal, connectMs: settings.times.connectMs };
    const session = await connect(
      await readConnectionSettings({ ...options, dataDirectory: known ?? context.workingDirectory }),
      options,
    );
    try {
      const control = known === undefined ? undefined : await readControlFile(known);
      const [row] = await session.query<{ system: string; directory: string | null }>(
        'ask the server who it is',
        whoAreYou,
      );
      if (control !== undefined && row?.system !== control.systemIdentifier) {
        throw new PostgresError(`the server at ${session.place} is not the one of "${known}"`, {
          detail: `the server is system ${row?.system}, the data directory of system ${control.systemIdentifier}`,
          hint: 'Correct PGHOST and PGPORT, or WALT_PGDATA.',
        });
      }
      const systemIdentifier = row?.system ?? '';
      return { session, systemIdentifier, dataDirectory: known ?? row?.directory ?? undefined };
    } catch (error) {
      await session.close();
      throw error;
    }
  }
}

/** `data_directory` is shown to members of pg_read_all_settings only. */
const whoAreYou = `
  select system_identifier::text as system,
         case when pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') then current_setting('data_directory') end as directory
    from pg_control_system()`;
