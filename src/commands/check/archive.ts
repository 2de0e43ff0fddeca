/** Is this cluster archived in the repository, and is it the repository that it was archived into before? */
import { join } from 'node:path';
import { checkSameRepository, readCluster } from '../../archive/repository.ts';
import { readKnownRepository } from '../../cluster/known-repository.ts';
import { type Check, ok } from './finding.ts';

export const archive: Check = {
  name: 'archive',
  about: 'the cluster is archived in this repository, and in no other',
  async look({ place, dataDirectory, context: { signal } }) {
    const { storage, systemIdentifier } = await place.own();
    const { repository } = await readCluster(storage, systemIdentifier, { signal });
    const known = dataDirectory === undefined ? undefined : await readKnownRepository(join(dataDirectory, 'pg_wal'));
    if (known !== undefined) checkSameRepository(known, repository, storage);
    return ok(`system ${systemIdentifier} is archived here`);
  },
};
