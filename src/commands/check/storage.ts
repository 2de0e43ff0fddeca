/** Can the storage be reached, read, written, listed and deleted from, and does it still do what it did when the repository was made? */
import { probeStorage, type StorageFindings } from '../../storage/probe.ts';
import { type Check, type Finding, failed, ok, warning } from './finding.ts';

export const storage: Check = {
  name: 'storage',
  about: 'the storage can be reached, read, written, listed and deleted from',
  async look(subject) {
    const { storage, repository } = await subject.storage.own();
    const recorded = repository.storage;
    const where = `${storage.url}, repository ${repository.repository}`;
    const startedMs = performance.now();
    await subject.listing.own();
    const found = (await subject.mayDelete.own())
      ? await probeStorage(storage)
      : ({ ...recorded, delete: 'denied' } as const);
    const figures = { storage_probe_seconds: (performance.now() - startedMs) / 1000 };
    return { ...judge(where, recorded, found), figures };
  },
};

function judge(where: string, recorded: StorageFindings, found: StorageFindings): Finding {
  if (recorded.conditionalPut === 'honoured' && found.conditionalPut !== 'honoured') {
    return failed(`the storage no longer refuses to overwrite: conditional writes are ${found.conditionalPut}`, {
      detail: `${where}; they were honoured when the repository was made, and every push relies on it`,
      hint: 'Find out what changed between this host and the storage (a proxy, a gateway, a migration), and undo it.',
    });
  }
  if (recorded.delete === 'allowed' && found.delete === 'denied') {
    return warning('these credentials may not delete any more', {
      detail: where,
      hint: 'Archiving goes on, "wal-t delete" cannot. If it is meant, run "wal-t delete" with other credentials.',
    });
  }
  const deleting =
    recorded.delete === 'denied' ? ', but not deleted from, as when the repository was made' : ' and deleted from';
  return ok(`read, written, listed${deleting}`, { detail: where });
}
