/** What the files of a data directory hold, as a backup sees them: to compare a restored one with the cluster as it was. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { toFilePath } from '../../src/byte-path.ts';
import { walkDataDirectory } from '../../src/cluster/backup-walk.ts';
import { readControlFile } from '../../src/cluster/data-directory.ts';

/** SHA-256 of each file of the walk but those that a restore writes anew, by path. Nothing may write to the cluster meanwhile. */
export async function hashFiles(dataDirectory: string, major: number): Promise<Map<string, string>> {
  const control = await readControlFile(dataDirectory);
  if (control === undefined) throw new Error(`no control file in ${dataDirectory}`);
  const { catalogVersion } = control;
  const hashes = new Map<string, string>();
  const options = { dataDirectory, postgresMajor: major, catalogVersion, warn: () => undefined };
  for await (const entry of walkDataDirectory(options)) {
    if (entry.type !== 'file' || /^(?:postgresql\.auto\.conf|recovery\.signal|pg_stat\/.*|log.*)$/.test(entry.path))
      continue;
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(toFilePath(entry.source))) hash.update(chunk as Buffer);
    hashes.set(entry.path, hash.digest('hex'));
  }
  return hashes;
}

/** Paths that differ, with what differs. */
export function differences(expected: ReadonlyMap<string, string>, found: ReadonlyMap<string, string>): string[] {
  const missing = [...expected.keys()].filter((path) => !found.has(path)).map((path) => `${path} is missing`);
  const more = [...found.keys()].filter((path) => !expected.has(path)).map((path) => `${path} is new`);
  const other = [...found].filter(([path, hash]) => expected.has(path) && expected.get(path) !== hash);
  return [...missing, ...more, ...other.map(([path]) => `${path} differs`)];
}
