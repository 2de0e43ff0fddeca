/** Settings that came along with a backup and point to the host that it was taken on. Named, never changed: they may be meant. */
import { access } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type ConfiguredSetting, readConfigurationFiles } from './configuration-files.ts';

export interface ForeignSetting {
  /** Relative to the folder; absolute where it lies elsewhere and is included. */
  readonly file: string;
  readonly name: string;
  readonly value: string;
  readonly why: string;
}

/** Those that make PostgreSQL use another folder than the one that it is started in. */
const places: readonly string[] = ['data_directory', 'hba_file', 'ident_file'];
/** A setting that names a place in the file system. */
const isPlace = (name: string) => /(?:_file|_directory|_directories|keyfile)$/.test(name);

/**
 * Looks at what is in force by the configuration files of a restored folder, given relative to it, and by those that they include.
 * A file that is to be included and is not there keeps PostgreSQL from starting.
 */
export async function findForeignSettings(
  folder: string,
  files: readonly string[],
  { takeOver }: { readonly takeOver: boolean },
): Promise<ForeignSetting[]> {
  const settings = await readConfigurationFiles(files.map((file) => `${folder}/${file}`));
  const isInForce = ({ name }: ConfiguredSetting, index: number) =>
    name.startsWith('include') || settings.findLastIndex((one) => one.name === name) === index;
  const found: ForeignSetting[] = [];
  for (const { file, name, value } of settings.filter(isInForce)) {
    const why = await judge(folder, { file, name, value }, takeOver);
    if (why !== undefined)
      found.push({ file: isBelow(file, folder) ? file.slice(folder.length + 1) : file, name, value, why });
  }
  return found;
}

async function judge(
  folder: string,
  { file, name, value }: ConfiguredSetting,
  takeOver: boolean,
): Promise<string | undefined> {
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
  if (name === 'include' || name === 'include_dir') {
    const path = resolve(dirname(file), value);
    return (await isThere(path)) ? undefined : `"${path}" does not exist on this host: PostgreSQL does not start`;
  }
  if (!isPlace(name)) return undefined;
  for (const path of value.split(',').map((one) => one.trim())) {
    if (!path.startsWith('/') || (await isThere(path))) continue;
    return `"${path}" does not exist on this host`;
  }
  return undefined;
}

function isBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
