/** Many archived segments with a row each, and servers that recover from them, whose starts of Node.js are counted. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { copyFolder } from './copy-folder.ts';
import { CountedNode } from './counted-node.ts';
import { makeFolder, temporaryFolder } from './folders.ts';
import { PostgresServer } from './postgres.ts';
import { insertRow } from './recovery.ts';
import { TestRepository } from './repository.ts';
import { launcher } from './run.ts';

export const rows = 24;
/** What a complete recovery has. */
export const allRows = Array.from({ length: rows }, (_, index) => index + 1).join(' ');

export interface ArchivedRows {
  readonly folder: string;
  readonly repository: TestRepository;
  /** A cold copy from before the rows. */
  readonly base: PostgresServer;
  /** Of the rows, by their numbers from 1. There is a restore point `middle` behind row 12. */
  readonly segments: readonly string[];
}

export async function archiveRows(major: number): Promise<ArchivedRows> {
  const folder = makeFolder('archived');
  const repository = await new TestRepository({ folder }).init();
  const { archive_command = '', ...settings } = repository.serverSettings;
  const server = PostgresServer.create({ major, settings });
  await server.start();
  await server.query('create table t (n int)');
  await server.stop();
  const base = server.copy();
  await server.start();
  const segments: string[] = [''];
  for (let n = 1; n <= rows; n += 1) {
    await insertRow(server, n);
    if (n === 12) await server.query(`select pg_create_restore_point('middle')`);
    segments.push(await server.switchWal());
  }
  await server.archiveAtOnce(archive_command);
  await server.remove();
  return { folder, repository, base, segments };
}

/** A server that is to recover from a copy of the archive. */
export async function recoveringFrom(archived: ArchivedRows, settings: Readonly<Record<string, string>> = {}) {
  const repository = new TestRepository({ settings });
  await copyFolder(archived.repository.root, repository.root);
  const node = new CountedNode(temporaryFolder());
  const server = archived.base.copy();
  onTestFinished(() => server.remove());
  const command = `WALT_NODE=${node.path} WALT_CONFIG=${repository.config} ${launcher('wal-fetch')} %f %p`;
  server.configure({ archive_mode: 'off', restore_command: command });
  return { server, repository, node, command };
}

export const prefetchIn = ({ dataDirectory }: PostgresServer): string => join(dataDirectory, 'pg_wal/.wal-t/prefetch');

/** The names of the segments that lie ready. */
export function prefetchedIn(server: PostgresServer): string[] {
  if (!existsSync(prefetchIn(server))) return [];
  return readdirSync(prefetchIn(server)).filter((name) => /^[0-9A-F]{24}$/.test(name));
}
