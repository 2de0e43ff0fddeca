/** Are the settings complete? That they can be read, and none is misspelled, was seen before any command runs. */
import { repositoryUrl } from '../context.ts';
import { type Check, ok } from './finding.ts';

export const settings: Check = {
  name: 'settings',
  about: 'the settings can be read, are known, and name a repository',
  async look({ context }) {
    const url = repositoryUrl(context);
    return ok(`the repository is ${url}`);
  },
};
