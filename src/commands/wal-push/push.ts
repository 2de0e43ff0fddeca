/** One file's way into the archive: compressed, encrypted, stored. What PostgreSQL asked for and what is pushed ahead take the same. */
import type { Archive } from '../../archive/archive.ts';
import { isConditional } from '../../archive/repository.ts';
import { besideName, storeWalFile, walIdentity } from '../../archive/wal-archive.ts';
import { spent } from '../../bytes.ts';
import type { WalFile } from '../../cluster/wal-file.ts';
import { manifestKeys } from '../../codec/keys.ts';
import { type SealedObject, sealObject } from '../../codec/object.ts';
import { ConflictError } from '../../errors.ts';
import type { WalFileName } from '../../postgres/wal-file-name.ts';
import type { StorageFindings } from '../../storage/probe.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Context } from '../context.ts';

export interface Push extends Context {
  readonly storage: Storage;
  /** `%p`, absolute. */
  readonly path: string;
}

export interface Source {
  readonly file: WalFileName;
  readonly source: WalFile;
}

export async function seal(push: Push, archive: Archive, { file, source }: Source): Promise<SealedObject> {
  const sealed = await sealObject(() => spent(source.read()), {
    ...walIdentity(archive, file),
    // who may list and delete must know where timelines begin
    keys: file.kind === 'history' ? manifestKeys(archive.keys) : archive.keys,
    level: push.settings.compressionLevel,
    pushedAt: new Date(),
    host: push.host,
  });
  push.signal.throwIfAborted();
  return sealed;
}

export interface Sealed extends Source {
  readonly sealed: SealedObject;
  readonly findings: StorageFindings;
}

export async function store(push: Push, archive: Archive, { file, source, sealed, findings }: Sealed): Promise<void> {
  const options = { signal: push.signal, conditionalPut: isConditional(findings) };
  try {
    await storeWalFile(archive, file, sealed, options);
  } catch (error) {
    if (!(error instanceof ConflictError)) throw error;
    if (file.kind === 'segment') {
      const { acceptBeginning } = await import('./left-timeline.ts');
      return acceptBeginning(push, archive, { file, source, sealed, findings, conflict: error });
    }
    if (file.kind !== 'partial') throw error;
    // two standbys promoted out of one segment leave two different ones, and both are right (H12)
    const beside = besideName(file, sealed.header.sha256);
    await storeWalFile(archive, beside, await seal(push, archive, { file: beside, source }), options);
    push.log.info(`another "${file.name}" is archived already; this one is kept beside it as "${beside.name}"`);
  }
}
