/** Is this cluster archived in the repository, and is it the repository that it was archived into before? */
import { join } from 'node:path';
import { checkSameRepository, readCluster } from '../../archive/repository.ts';
import { readKnownRepository } from '../../cluster/known-repository.ts';
import { NothingArchivedError } from '../../errors.ts';
import { type Check, ok } from './finding.ts';

export const archive: Check = {
  name: 'archive',
  about: 'the cluster is archived in this repository, and in no other',
  async look({ place, dataDirectory, context: { signal } }) {
    const known = dataDirectory === undefined ? undefined : await readKnownRepository(join(dataDirectory, 'pg_wal'));
    const { storage, systemIdentifier } = await place.own().catch((error: unknown) => {
      throw known === undefined && error instanceof NothingArchivedError ? notYet(error) : error;
    });
    const { repository } = await readCluster(storage, systemIdentifier, { signal });
    if (known !== undefined) checkSameRepository(known, repository, storage);
    return ok(`system ${systemIdentifier} is archived here`);
  },
};

/** No push has remembered a repository in pg_wal either. */
function notYet(error: NothingArchivedError): NothingArchivedError {
  return new NothingArchivedError(error.message, {
    detail: error.detail,
    hint: 'If archiving was only set up now, "select pg_switch_wal()" and check again. Else correct WALT_REPO: the repository that this cluster archived into is needed.',
    cause: error,
  });
}
