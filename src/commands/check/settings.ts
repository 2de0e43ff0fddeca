/** Are the settings complete? That they can be read, and none is misspelled, was seen before any command runs. */
import { type Check, ok } from './finding.ts';

export const settings: Check = {
  name: 'settings',
  about: 'the settings can be read, are known, and name a repository',
  async look({ url }) {
    return ok(`the repository is ${await url.own()}`);
  },
};
