/** New clusters as copies of one that initdb has made: once in a run of the tests for each kind, since it takes ten times as long. Each has a system identifier of its own. */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { crc32c } from '@node-rs/crc32';
import { giveAway } from './account.ts';

/** How global setup tells the test processes. Without it, as in the demo, each cluster is made by initdb. */
const folderVariable = 'TEST_CLUSTERS';

/** Where what is made once in a run of the tests lies, to be copied; undefined where nothing is. */
export function templatesFolder(): string | undefined {
  return process.env[folderVariable];
}

/** Makes the place for the clusters that are copied. @returns the undoing. */
export function prepareTemplates(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'clusters-'));
  giveAway(folder);
  process.env[folderVariable] = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}

export interface ClusterKind {
  /** The path of initdb, and its words but for the data directory. */
  readonly initdb: string;
  readonly words: readonly string[];
  /** With database `postgres` alone: a third of the files. */
  readonly isSmall?: boolean;
}

/** In single-user mode, of which each line is a statement. */
const dropTemplates = `
update pg_database set datistemplate = false
drop database template0
drop database template1
`;

type Call = (command: string, words: readonly string[]) => void;

/** Makes a cluster in `dataDirectory`, which is not there yet. `call` runs a command as the servers' account. */
export function makeCluster(clusterKind: ClusterKind, dataDirectory: string, call: Call): void {
  const { initdb, words, isSmall = false } = clusterKind;
  const folder = templatesFolder();
  if (folder === undefined) {
    initialize(clusterKind, dataDirectory, call);
    return;
  }
  const kind = createHash('sha256').update([initdb, ...words, isSmall].join(' '));
  const template = join(folder, kind.digest('hex'));
  if (!existsSync(template)) {
    const made = `${template}.${process.pid}`;
    initialize(clusterKind, made, call);
    try {
      renameSync(made, template);
    } catch (error) {
      if (!existsSync(template)) throw error;
      rmSync(made, { recursive: true }); // another process was faster
    }
  }
  call('cp', ['-a', template, dataDirectory]);
  giveIdentifier(dataDirectory);
}

function initialize({ initdb, words, isSmall = false }: ClusterKind, dataDirectory: string, call: Call): void {
  call(initdb, ['-D', dataDirectory, ...words]);
  if (!isSmall) return;
  const script = 'printf %s "$1" | "$2" --single -F -D "$3" postgres >&2';
  call('sh', ['-c', script, 'sh', dropTemplates, join(dirname(initdb), 'postgres'), dataDirectory]);
}

/** Seconds, microseconds and the process, as PostgreSQL makes it: into the control file and the first page of the WAL. */
function giveIdentifier(dataDirectory: string): void {
  const microseconds = BigInt(Math.floor((performance.timeOrigin + performance.now()) * 1000));
  const identifier =
    ((microseconds / 1_000_000n) << 32n) | ((microseconds % 1_000_000n) << 12n) | BigInt(process.pid & 0xfff);
  const path = join(dataDirectory, 'global/pg_control');
  const control = readFileSync(path);
  const crcAt = [288, 292].find((offset) => crc32c(control.subarray(0, offset)) === control.readUInt32LE(offset));
  if (crcAt === undefined) throw new Error(`${path} has no CRC where versions 15 to 18 have it`);
  control.writeBigUInt64LE(identifier, 0);
  control.writeUInt32LE(crc32c(control.subarray(0, crcAt)), crcAt);
  writeFileSync(path, control);
  for (const name of readdirSync(join(dataDirectory, 'pg_wal')).filter((name) => /^[0-9A-F]{24}$/.test(name))) {
    const segment = readFileSync(join(dataDirectory, 'pg_wal', name));
    segment.writeBigUInt64LE(identifier, 24); // xlp_sysid
    writeFileSync(join(dataDirectory, 'pg_wal', name), segment);
  }
}
