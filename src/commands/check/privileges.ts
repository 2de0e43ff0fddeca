/** May the role that this host connects as take a base backup, and see what the other checks look at? */
import { checkPrivileges } from '../../cluster/privileges.ts';
import { type Check, ok } from './finding.ts';

export const privileges: Check = {
  name: 'privileges',
  about: 'the role may take a base backup',
  async look(subject) {
    const { session, major, inRecovery, mayRead, dataDirectory } = await subject.server.get();
    await checkPrivileges(session, { major, inRecovery });
    const unseen = mayRead.processes && (mayRead.folders || dataDirectory !== undefined) ? [] : ['pg_monitor'];
    return ok(`role ${session.user} may take base backups`, {
      detail:
        unseen.length === 0
          ? undefined
          : `with GRANT pg_monitor TO ${session.user} it would see the archiver's process as well`,
    });
  },
};
