/** Is the server there that is to be archived, and is it the one of the data directory? */
import { type Check, ok, warning } from './finding.ts';
import { NoServerError } from './running-server.ts';

export const server: Check = {
  name: 'server',
  about: 'the server runs, answers, and is the one of the data directory',
  async look(subject) {
    try {
      const { session, version, inRecovery, dataDirectory } = await subject.server.own();
      const where = dataDirectory === undefined ? 'its data directory cannot be seen from here' : `"${dataDirectory}"`;
      return ok(`PostgreSQL ${version} runs as a ${inRecovery ? 'standby' : 'primary'}`, {
        detail: `${session.place}, as ${session.user}; ${where}`,
      });
    } catch (error) {
      if (!(error instanceof NoServerError)) throw error;
      return warning(error.message, { detail: error.detail, hint: error.hint });
    }
  },
};
