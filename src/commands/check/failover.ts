/** Does PostgreSQL call WAL archived that the archive does not have, as after a failover? It is in pg_wal, for a while. */
import { findMissingWal } from '../missing-wal.ts';
import { expectArchiving } from './archiving.ts';
import { type Check, failed, NotLookedAt, ok } from './finding.ts';

const named = 3;

export const failover: Check = {
  name: 'failover',
  about: 'what PostgreSQL calls archived in pg_wal is in the archive',
  async look(subject) {
    const { context } = subject;
    const server = await subject.server.get();
    expectArchiving(server);
    if (server.inRecovery) throw new NotLookedAt('a standby calls archived what its primary is to archive');
    const { dataDirectory, segmentSizeBytes } = server;
    if (dataDirectory === undefined) throw new NotLookedAt('pg_wal cannot be seen from here: give the data directory');
    const options = { dataDirectory, segmentSizeBytes, signal: context.signal };
    const { looked, missing } = await findMissingWal(await subject.place.get(), options);
    const figures = { missing_wal_files: missing.length };
    if (missing.length === 0) return ok(`all ${looked} finished files of pg_wal are archived`, { figures });
    const first = missing.slice(0, named).map(({ name }) => `"${name}"`);
    const more = missing.length > named ? ` and ${missing.length - named} more` : '';
    const [what, are] = missing.length === 1 ? ['one file', 'is'] : [`${missing.length} files`, 'are'];
    return failed(`${what} of pg_wal that PostgreSQL calls archived ${are} not in the archive`, {
      detail: `${first.join(', ')}${more}`,
      hint: `Push what is there before it is recycled: wal-push --missing ${dataDirectory}`,
      figures,
    });
  },
};
