/** Base backups and their manifests made by the server itself, over the replication protocol: for versions whose pg_basebackup is not at hand. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import type { PostgresServer } from '../support/postgres.ts';

/** Takes the messages of `BASE_BACKUP`, each of which begins with a letter that tells what it is. @see PostgreSQL manual "Streaming Replication Protocol" */
class BaseBackupQuery extends pg.Query {
  /** By the archive's name, `base.tar` or `<oid>.tar`; '' is the manifest. */
  readonly contents = new Map<string, Buffer[]>();
  #current: Buffer[] = [];

  handleCopyData({ chunk }: { readonly chunk: Buffer }): void {
    const kind = String.fromCharCode(chunk[0] ?? 0);
    if (kind === 'd') this.#current.push(Buffer.from(chunk.subarray(1)));
    if (kind !== 'n' && kind !== 'm') return;
    const name = kind === 'm' ? '' : chunk.toString('latin1', 1, chunk.indexOf(0, 1));
    this.#current = [];
    this.contents.set(name, this.#current);
  }
}

/** A backup of a running server, unpacked into `folder`, its tablespaces into `<folder>-<oid>`, without WAL. @returns the manifest. */
export async function takeBaseBackup(server: PostgresServer, folder: string, checksums = 'CRC32C'): Promise<Buffer> {
  const client = new pg.Client({ ...server.connection, replication: 'true' } as pg.ClientConfig);
  await client.connect();
  const options = `CHECKPOINT 'fast', WAIT false, MANIFEST 'yes', MANIFEST_CHECKSUMS '${checksums}'`;
  const contents = await new Promise<BaseBackupQuery['contents']>((resolve, reject) => {
    const query = new BaseBackupQuery(`BASE_BACKUP (${options}, TABLESPACE_MAP true)`);
    query.on('end', () => resolve(query.contents));
    query.on('error', reject);
    client.query(query);
  });
  await client.end();
  for (const [name, chunks] of contents) {
    const oid = /^(\d+)\.tar$/.exec(name)?.[1];
    if (name === '') writeFileSync(join(folder, 'backup_manifest'), Buffer.concat(chunks));
    else unpack(oid === undefined ? folder : `${folder}-${oid}`, Buffer.concat(chunks));
  }
  for (const name of contents.keys()) {
    const oid = /^(\d+)\.tar$/.exec(name)?.[1];
    if (oid === undefined) continue;
    rmSync(join(folder, 'pg_tblspc', oid), { force: true, recursive: true });
    symlinkSync(`${folder}-${oid}`, join(folder, 'pg_tblspc', oid));
  }
  return Buffer.concat(contents.get('') ?? []);
}

function unpack(folder: string, archive: Buffer): void {
  mkdirSync(folder, { recursive: true });
  const { status, stderr } = spawnSync('tar', ['-x', '-C', folder, '--no-same-owner'], { input: archive });
  if (status !== 0) throw new Error(`tar: ${stderr}`);
}
