/** A cluster that archives, its backups, and what is restored from them: as the tests of `wal-t restore` do it. All of it goes with the test, unless it is shared. */
import { expect, onTestFinished } from 'vitest';
import { copyFolder } from './copy-folder.ts';
import { makeFolder, removeFolder } from './folders.ts';
import { PostgresServer } from './postgres.ts';
import { rowsOf } from './recovery.ts';
import { TestRepository } from './repository.ts';

export const env = { PGUSER: 'postgres', WALT_WORKERS: '1' };

export interface Archived {
  readonly repository: TestRepository;
  readonly primary: PostgresServer;
}

interface Choices {
  readonly major?: number;
  readonly settings?: Readonly<Record<string, string>>;
  readonly repositorySettings?: Readonly<Record<string, string>>;
}

/** A primary that runs and archives. */
export async function startPrimary(choices: Choices = {}): Promise<Archived> {
  const { remove, ...archived } = await startSharedPrimary(choices);
  onTestFinished(remove);
  return archived;
}

export interface SharedPrimary extends Archived {
  remove(): Promise<void>;
}

/** The same for several tests, whose hooks make and remove it. */
export async function startSharedPrimary({
  major = 17,
  settings = {},
  repositorySettings = {},
}: Choices = {}): Promise<SharedPrimary> {
  const folder = makeFolder('primary');
  const repository = await new TestRepository({ folder, settings: repositorySettings }).init();
  const archiving = { ...repository.serverSettings, ...settings };
  const primary = PostgresServer.create({ major, isSmall: true, settings: archiving });
  const remove = async () => {
    await primary.remove();
    removeFolder(folder);
  };
  try {
    await primary.start();
  } catch (error) {
    await remove();
    throw error;
  }
  return { repository, primary, remove };
}

/** The same with a copy of the repository that the running test may spoil. */
export async function withCopy(
  { repository, primary }: Archived,
  settings: Readonly<Record<string, string>> = {},
): Promise<Archived> {
  const copy = new TestRepository({ settings });
  await copyFolder(repository.root, copy.root);
  return { repository: copy, primary };
}

export function keep(server: PostgresServer): PostgresServer {
  onTestFinished(() => server.remove());
  return server;
}

/** @returns the backup's name. */
export async function pushBackup({ repository, primary }: Archived): Promise<string> {
  const { code, stdout, stderr } = await repository.run('basebackup-push', [primary.dataDirectory, '--json'], { env });
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout).manifest.id;
}

/** A copy, not started, and how `wal-t restore` ended. */
export async function restore({ repository, primary }: Archived, words: readonly string[] = []) {
  const copy = keep(primary.elsewhere());
  const ended = await repository.run('wal-t', ['restore', copy.dataDirectory, ...words], { env });
  return { copy, ended };
}

/** The rows of a copy that was restored and has opened. */
export async function rowsAt(archived: Archived, words: readonly string[] = []): Promise<string> {
  const { copy, ended } = await restore(archived, words);
  expect(ended, ended.stderr).toMatchObject({ code: 0 });
  await copy.open();
  return rowsOf(copy);
}
