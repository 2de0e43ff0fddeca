/** Settings that came along with a backup and point to the host that it was taken on. Named, never changed: they may be meant. */
import { readFile, stat } from 'node:fs/promises';

export interface ForeignSetting {
  /** Relative to the folder. */
  readonly file: string;
  readonly name: string;
  readonly value: string;
  readonly why: string;
}

/** Those that make PostgreSQL use another folder than the one that it is started in. */
const places: readonly string[] = ['data_directory', 'hba_file', 'ident_file'];
/** A setting that names a place in the file system. */
const isPlace = (name: string) => /(?:_file|_directory|_directories|keyfile)$/.test(name) || /^include/.test(name);

/** Reads the configuration files of a restored folder, given relative to it. */
export async function findForeignSettings(
  folder: string,
  files: readonly string[],
  { takeOver }: { readonly takeOver: boolean },
): Promise<ForeignSetting[]> {
  const found: ForeignSetting[] = [];
  for (const file of files) {
    const text = await readFile(`${folder}/${file}`, 'utf8').catch(() => '');
    for (const [name, value] of parseSettings(text)) {
      const why = await judge(folder, name, value, takeOver);
      if (why !== undefined) found.push({ file, name, value, why });
    }
  }
  return found;
}

async function judge(folder: string, name: string, value: string, takeOver: boolean): Promise<string | undefined> {
  if (places.includes(name) && value.startsWith('/') && !isBelow(value, folder)) {
    return 'it leads out of the restored folder, perhaps into a live cluster: override it when you start the server';
  }
  if (
    takeOver &&
    (name === 'archive_command' || name === 'archive_library') &&
    value !== '' &&
    !value.includes('wal-push')
  ) {
    return 'it is not of WAL-T: what the restored server writes would not come into this archive';
  }
  if (takeOver && name === 'synchronous_standby_names' && value !== '') {
    return 'commits wait for standbys that may not be there: empty it until they are';
  }
  if (!isPlace(name)) return undefined;
  for (const path of value.split(',').map((one) => one.trim())) {
    if (
      !path.startsWith('/') ||
      (await stat(path).then(
        () => true,
        () => false,
      ))
    )
      continue;
    return `"${path}" does not exist on this host`;
  }
  return undefined;
}

function isBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

/** Names and values of a postgresql.conf, the last one of a name alone. */
function parseSettings(text: string): Map<string, string> {
  const settings = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|\s)\s*(?:'((?:[^']|'')*)'|([^\s#]+))/.exec(line);
    const name = match?.[1]?.toLowerCase();
    if (name !== undefined) settings.set(name, match?.[2]?.replaceAll("''", "'") ?? match?.[3] ?? '');
  }
  return settings;
}
