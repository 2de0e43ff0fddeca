/** `pg_wal/archive_status`: what PostgreSQL has still to archive, and what it calls done. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, systemErrorCode, systemErrorReason } from '../errors.ts';
import { parseWalFileName, type WalFileName } from '../postgres/wal-file-name.ts';

/** Files that wait to be archived. */
export interface ReadyFiles {
  readonly count: number;
  /** Full and unfinished segments among them. */
  readonly segments: number;
  /** Undefined where none waits. */
  readonly oldest: { readonly name: string; readonly since: Date } | undefined;
}

/** @throws HostError when it cannot be read. */
export async function findReadyFiles(dataDirectory: string): Promise<ReadyFiles> {
  const folder = join(dataDirectory, 'pg_wal', 'archive_status');
  const marks = (await list(folder)).filter((mark) => mark.endsWith('.ready'));
  const found: { readonly name: string; readonly since: Date }[] = [];
  for (const mark of marks) {
    const since = await stat(join(folder, mark)).catch((error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return undefined; // archived meanwhile
      throw unreadable(folder, error);
    });
    if (since !== undefined) found.push({ name: mark.slice(0, -'.ready'.length), since: since.mtime });
  }
  return summarize(found);
}

/**
 * The files that wait to be archived, in the order in which PostgreSQL's archiver takes them: histories first, then by name.
 * @throws HostError when they cannot be read.
 */
export async function findWaitingFiles(walFolder: string): Promise<WalFileName[]> {
  const marks = (await list(join(walFolder, 'archive_status'))).filter((mark) => mark.endsWith('.ready')).sort();
  const files = marks.map((mark) => parseWalFileName(mark.slice(0, -'.ready'.length)));
  return historiesFirst(files.filter((file) => file !== undefined));
}

function historiesFirst(files: readonly WalFileName[]): WalFileName[] {
  return [...files.filter(({ kind }) => kind === 'history'), ...files.filter(({ kind }) => kind !== 'history')];
}

export function summarize(files: readonly { readonly name: string; readonly since: Date }[]): ReadyFiles {
  const oldest = files.reduce<ReadyFiles['oldest']>(
    (first, file) => (first === undefined || file.since < first.since ? file : first),
    undefined,
  );
  const segments = files.filter(({ name }) => {
    const kind = parseWalFileName(name)?.kind;
    return kind === 'segment' || kind === 'partial';
  }).length;
  return { count: files.length, segments, oldest };
}

/**
 * Files in pg_wal that are finished, and that PostgreSQL will not ask for again: histories first, then in the order of their names.
 * @throws HostError when they cannot be read.
 */
export async function findDoneFiles(dataDirectory: string): Promise<WalFileName[]> {
  const folder = join(dataDirectory, 'pg_wal');
  const there = new Set(await list(folder));
  const marks = await list(join(folder, 'archive_status'));
  const names = marks.filter((mark) => mark.endsWith('.done')).map((mark) => mark.slice(0, -'.done'.length));
  const files = names
    .filter((name) => there.has(name))
    .sort()
    .map(parseWalFileName);
  return historiesFirst(files.filter((file) => file !== undefined));
}

function list(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    throw unreadable(folder, error);
  });
}

function unreadable(folder: string, error: unknown): HostError {
  return new HostError(`could not read "${folder}": ${systemErrorReason(error)}`, {
    hint: 'Run it as the user that PostgreSQL runs as.',
    cause: error,
  });
}
